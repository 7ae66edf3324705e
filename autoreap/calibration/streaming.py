"""Calibrate a thinker that does not fit: one decoder layer in memory at a time, hidden states on disk in between.

Each layer runs within the decoder's own forward pass, so the sums are those of the plain pass bit for bit.

Shape legend: B rows of a batch, T tokens of each (padding included), H hidden, L layers, S spans; h_l is the input
[B, T, H] of layer l.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from autoreap.calibration.batching import START, Batch, Position, batches, estimate_tokens
from autoreap.calibration.calibrator import Options, identity, listen, new_meter, origin, spans_of, sum_meters, sum_part
from autoreap.calibration.meter import Meter
from autoreap.calibration.resume import Part
from autoreap.calibration.spool import Spool, open_spool
from autoreap.data.samples import MODALITIES, Sample
from autoreap.errors import InputError
from autoreap.models.decoder_calls import catch_arguments, only_layer
from autoreap.models.families.encoded import mark_tokens
from autoreap.models.loading import Loaded
from autoreap.plan import ComponentShape
from autoreap.progress import Progress
from autoreap.saliency import Saliency

logger = logging.getLogger(__name__)


def calibrate_by_layer(
    loaded: Loaded, data: Mapping[str, Sequence[Sample]], *, components: Sequence[str], options: Options
) -> Saliency:
    """What `calibrator.calibrate` measures of the thinker, of a model that was loaded without its layers.

    Every row is embedded first; then each layer is read from the checkpoint once. Between layers, S + 1 hidden states
    of each token lie in the folder `options.spool`, which is removed at the end, after an error too.

    Raises:
        InputError: as `calibrate` does; there is too little room for the hidden states; the folder is in use; or a
            tensor of a layer is missing.
    """
    measurement = identity(loaded, data, components=components, options=options)
    if options.spool is None:
        raise InputError("calibration layer by layer needs a folder for hidden states", where="spool")
    shape = loaded.model_info.shape.components["thinker"]
    groups: dict[str, list[_Group]] = {}  # by modality
    with open_spool(options.spool) as spool:
        _check_estimate(loaded, data, shape, spool)
        for modality in MODALITIES:
            if modality in data:
                groups[modality] = _embed(loaded, data[modality], options, shape, spool)
        logger.info(
            f"reading {shape.num_layers} layers one by one; "
            f"hidden states take up to {spool.most_bytes / 1e9:.2f} GB on disk"
        )
        every_group = [*itertools.chain(*groups.values())]
        num_batches = sum(len(group.batches) for group in every_group)
        with Progress("calibrating thinker, batches of layers", shape.num_layers * num_batches) as progress:
            for number in range(shape.num_layers):
                _run_layer(loaded, number, every_group, spool, progress)
    meters = {}
    skipped = {}
    for modality, of_modality in groups.items():
        meters[modality] = _add_up(loaded, of_modality, data[modality], options)
        skipped[modality] = len(of_modality[-1].position.unreadable)
    provenance = measurement | origin(loaded.model_info.base_model, data, skipped, silent={})
    return Saliency({"thinker": sum_meters(meters)}, provenance)


def _check_estimate(loaded: Loaded, data: Mapping[str, Sequence[Sample]], shape: ComponentShape, spool: Spool) -> None:
    """Find a lack of room before the first row is embedded."""
    state_bytes = loaded.decoder("thinker").config.hidden_size * loaded.model.dtype.itemsize
    num_states = 0.0
    for modality, samples in data.items():
        num_states += estimate_tokens(loaded.inputs, samples) * (spans_of(modality, shape) + 1)
    spool.check(int(num_states * state_bytes))


@dataclass(frozen=True)
class _Stored:
    """A batch in the spool.

    Attributes:
        name: of its files.
        counted: which tokens count; bool [B, T].
        plain: arguments of the decoder that are no tensors.
        lengths: of those that are lists of tensors.
    """

    name: str
    counted: torch.Tensor
    plain: Mapping[str, Any]
    lengths: Mapping[str, int]

    @property
    def arguments_file(self) -> str:
        return f"{self.name}-arguments.safetensors"

    def hidden_file(self, number: int) -> str:
        """Of h_l, l = `number`."""
        return f"{self.name}-{number}.safetensors"


@dataclass
class _Group:
    """Batches of one modality and weight in a row, and their meter."""

    modality: str
    weight: float
    spans: int
    meter: Meter
    batches: list[_Stored]
    position: Position = START


def _embed(
    loaded: Loaded, samples: Sequence[Sample], options: Options, shape: ComponentShape, spool: Spool
) -> list[_Group]:
    """Spool what the decoder is given of each batch of one modality."""
    modality = samples[0].modality
    groups = []
    sequence = batches(loaded.inputs, samples, options.batch_tokens, max_unreadable=options.max_unreadable)
    with Progress(f"embedding {modality}", len(samples)) as progress:
        position = START
        for weight, of_weight in itertools.groupby(sequence, key=lambda batch: batch.weight):
            meter = new_meter(loaded, "thinker", modality, options)
            group = _Group(modality, weight, spans_of(modality, shape), meter, [])
            for batch in of_weight:
                counted = mark_tokens(batch.encoded, options.tokens)
                group.batches.append(_store(loaded, batch, counted, group, spool))
                progress.advance(batch.position.num_rows - position.num_rows)
                position = batch.position
            group.position = position
            groups.append(group)
    return groups


def _store(loaded: Loaded, batch: Batch, counted: torch.Tensor, group: _Group, spool: Spool) -> _Stored:
    """Spool h_0 and what else the decoder is given."""
    given = catch_arguments(loaded.decoder("thinker"), lambda: listen(loaded, batch))
    hidden = given.pop("inputs_embeds")
    # A safetensors file holds tensors by name and nothing else; the rest is small, and stays in memory.
    tensors: dict[str, torch.Tensor] = {}
    plain = {}
    lengths = {}
    for key, value in given.items():
        if isinstance(value, torch.Tensor):
            tensors[key] = value
        elif isinstance(value, list | tuple):
            lengths[key] = len(value)
            for number, part in enumerate(value):
                tensors[f"{key}.{number}"] = part
        else:
            plain[key] = value
    stored = _Stored(f"{group.modality}-{batch.position.num_rows}", counted, plain, lengths)
    # Of h_0 to h_L so many are on disk at once: those that the next layers are compared with, and the newest.
    arguments_bytes = sum(tensor.nbytes for tensor in tensors.values())
    spool.reserve((group.spans + 1) * hidden.nbytes + arguments_bytes)
    spool.save(stored.hidden_file(0), {"hidden": hidden})
    spool.save(stored.arguments_file, tensors)
    return stored


def _load_arguments(stored: _Stored, spool: Spool, device: torch.device) -> dict[str, Any]:
    tensors = spool.load(stored.arguments_file, device)
    arguments = dict(stored.plain)
    for name, length in stored.lengths.items():
        arguments[name] = [tensors.pop(f"{name}.{number}") for number in range(length)]
    return arguments | tensors


@torch.inference_mode()
def _run_layer(loaded: Loaded, number: int, groups: Sequence[_Group], spool: Spool, progress: Progress) -> None:
    """h_l to h_{l+1} of every batch; the layer is in memory no longer than this takes."""
    decoder, device = loaded.decoder("thinker"), loaded.model.device
    is_last = number + 1 == loaded.model_info.shape.components["thinker"].num_layers
    layer = loaded.layer_reader.read(number)
    with only_layer(decoder, number, layer, is_last=is_last) as run:
        for group in groups:
            with group.meter.layer(number, layer):
                for stored in group.batches:
                    states = []
                    # h_l, and the earlier states that the meter compares it with.
                    for each in range(max(0, number - group.spans), number + 1):
                        states.append(spool.load(stored.hidden_file(each), device)["hidden"])
                    *earlier, hidden = states
                    # The meter has forgotten them: since this batch ran last, it has seen all others.
                    group.meter.count(stored.counted, earlier)
                    output = run(hidden, _load_arguments(stored, spool, device))
                    if number >= group.spans:  # no later layer is compared with it
                        spool.remove(stored.hidden_file(number - group.spans))
                    if not is_last:
                        spool.save(stored.hidden_file(number + 1), {"hidden": output})
                    progress.advance()
            # Else it would keep the last hidden states of this group on the device.
            group.meter.count(None)


def _add_up(loaded: Loaded, groups: Sequence[_Group], samples: Sequence[Sample], options: Options) -> Meter:
    """The weighted sums of one modality."""
    part = Part()
    for group in groups:
        part = replace(part.before(group.weight), state=group.meter.state())
    return new_meter(loaded, "thinker", groups[0].modality, options, sum_part(part, samples, options))
