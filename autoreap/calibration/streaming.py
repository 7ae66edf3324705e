"""Calibrate a thinker that does not fit: one decoder layer in memory at a time, hidden states on disk in between.

Each layer runs within the decoder's own forward pass, between stand-ins for the others, so masks, rotary embedding and
what vision adds between layers are the stock class's own, and the sums are those of the plain pass bit for bit.

Shape legend: B rows of a batch, T tokens of each (padding included), H hidden, L layers, S spans; h_l is the input
[B, T, H] of layer l.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, cast

import torch
from torch import nn

from autoreap.calibration.batching import Batch, batches, estimated_tokens
from autoreap.calibration.calibrator import MAX_SPAN, Options, counted_sums, decoder_of, identity, listen, origin
from autoreap.calibration.layer_weights import read_layer
from autoreap.calibration.meter import Meter
from autoreap.calibration.resume import Part
from autoreap.calibration.spool import Spool, spooled
from autoreap.data.samples import MODALITIES, Sample
from autoreap.errors import InputError
from autoreap.models.families.encoded import mark_tokens
from autoreap.models.loading import Loaded
from autoreap.plan import ComponentShape
from autoreap.progress import Progress
from autoreap.saliency import ComponentSaliency, Saliency

logger = logging.getLogger(__name__)


def calibrate_by_layer(
    loaded: Loaded, data: Mapping[str, Sequence[Sample]], *, components: Sequence[str], options: Options
) -> Saliency:
    """What `calibrate.calibrate` measures of the thinker, of a model that was loaded without its layers.

    Every row is embedded first; then each layer is read from the checkpoint once. Between layers, S + 1 hidden states
    of each token lie in the folder `options.spool`, which is removed at the end, after an error too.

    Raises:
        InputError: as `calibrate` does; there is too little room for the hidden states; the folder is in use; or a
            tensor of a layer is missing.
    """
    known = identity(loaded, data, components=components, options=options)
    if options.spool is None:
        raise InputError("calibration layer by layer needs a folder for hidden states", where="spool")
    shape = loaded.described.shape.components["thinker"]
    with spooled(options.spool) as spool:
        _check_estimate(loaded, data, shape, spool)
        groups = [
            group
            for modality in MODALITIES
            if modality in data
            for group in _embedded(loaded, data[modality], options, shape, spool)
        ]
        logger.info(
            f"going through {shape.num_layers} layers one by one, {spool.most_bytes / 1e9:.2f} GB beside the output"
        )
        num_batches = sum(len(group.batches) for group in groups)
        with Progress("calibrating thinker, batches of layers", shape.num_layers * num_batches) as progress:
            for number in range(shape.num_layers):
                _through_layer(loaded, number, groups, spool, progress)
    meters = {
        modality: _total(loaded, [group for group in groups if group.modality == modality], data[modality], options)
        for modality in MODALITIES
        if modality in data
    }
    skipped = {group.modality: len(group.part.position.unreadable) for group in groups}
    measured = ComponentSaliency(
        modalities={modality: meter.sums() for modality, meter in meters.items()},
        layer_cosine=meters["audio"].layer_cosine(),
    )
    return Saliency({"thinker": measured}, known | origin(loaded.described.base_model, data, skipped, silent={}))


def _spans(modality: str, shape: ComponentShape) -> int:
    return min(MAX_SPAN, shape.num_layers) if modality == "audio" else 0


def _check_estimate(loaded: Loaded, data: Mapping[str, Sequence[Sample]], shape: ComponentShape, spool: Spool) -> None:
    """Find a lack of room before the first row is embedded."""
    per_token = decoder_of(loaded, "thinker").config.hidden_size * loaded.model.dtype.itemsize
    num_states = sum(
        estimated_tokens(loaded.inputs, samples) * (_spans(modality, shape) + 1) for modality, samples in data.items()
    )
    spool.check(int(num_states * per_token))


@dataclass(frozen=True)
class _Stored:
    """A batch in the spool.

    Attributes:
        name: of its files.
        counted: which tokens count; bool [B, T].
        plain: arguments of the decoder that are no tensors.
        lists: lengths of those that are lists of tensors.
    """

    name: str
    counted: torch.Tensor
    plain: Mapping[str, Any]
    lists: Mapping[str, int]

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
    spans: int
    meter: Meter
    batches: list[_Stored]
    part: Part


def _embedded(
    loaded: Loaded, samples: Sequence[Sample], options: Options, shape: ComponentShape, spool: Spool
) -> Iterator[_Group]:
    """Spool what the decoder is given of each batch of one modality."""
    running, device = loaded.described.family.running, loaded.model.device
    modality = samples[0].modality
    spans = _spans(modality, shape)
    sequence = batches(loaded.inputs, samples, options.batch_tokens, max_unreadable=options.max_unreadable)
    with Progress(f"embedding {modality}", len(samples)) as progress:
        position = Part().position
        for weight, of_weight in groupby(sequence, key=lambda batch: batch.weight):
            meter = Meter(running, shape, device, spans=spans, gates=options.gates)
            group = _Group(modality, spans, meter, [], Part(weight=weight))
            for batch in of_weight:
                counted = mark_tokens(batch.encoded, options.tokens)
                group.batches.append(_stored(loaded, batch, counted, group, spool))
                progress.advance(batch.position.num_rows - position.num_rows)
                position = batch.position
            group.part = replace(group.part, position=position)
            yield group


def _stored(loaded: Loaded, batch: Batch, counted: torch.Tensor, group: _Group, spool: Spool) -> _Stored:
    """Spool h_0 and what else the decoder is given."""
    given = _given_to_decoder(loaded, batch)
    hidden = given.pop("inputs_embeds")
    lists = {key: value for key, value in given.items() if isinstance(value, list | tuple)}
    tensors = {key: value for key, value in given.items() if isinstance(value, torch.Tensor)}
    stored = _Stored(
        name=f"{group.modality}-{batch.position.num_rows}",
        counted=counted,
        plain={key: value for key, value in given.items() if key not in lists and key not in tensors},
        lists={key: len(parts) for key, parts in lists.items()},
    )
    for key, parts in lists.items():
        tensors |= {f"{key}.{number}": part for number, part in enumerate(parts)}
    spool.reserve((group.spans + 1) * hidden.nbytes + sum(tensor.nbytes for tensor in tensors.values()))
    spool.save(stored.hidden_file(0), {"hidden": hidden})
    spool.save(stored.arguments_file, tensors)
    return stored


def _given_to_decoder(loaded: Loaded, batch: Batch) -> dict[str, Any]:
    """The arguments with which the thinker calls its decoder, here one of no layers."""
    given: dict[str, Any] = {}

    def hook(_decoder: nn.Module, _arguments: Any, options: dict[str, Any]) -> None:
        given.update(options)

    handle = cast(nn.Module, decoder_of(loaded, "thinker")).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        listen(loaded, batch)
    finally:
        handle.remove()
    return given


def _loaded_arguments(stored: _Stored, spool: Spool, device: torch.device) -> dict[str, Any]:
    tensors = spool.load(stored.arguments_file, device)
    arguments = dict(stored.plain)
    for name, length in stored.lists.items():
        arguments[name] = [tensors.pop(f"{name}.{number}") for number in range(length)]
    return arguments | tensors


class _StandIn(nn.Module):
    """In the place of a layer; keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor, **_options: Any) -> torch.Tensor:
        self.hidden = hidden
        return hidden


class _Replay(nn.Module):
    """A layer that is given `hidden`, whatever the stand-ins before it hand on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.hidden: torch.Tensor | None = None

    def forward(self, _hidden: torch.Tensor, **options: Any) -> torch.Tensor:
        output: torch.Tensor = self.layer(self.hidden, **options)
        return output


@torch.inference_mode()
def _through_layer(loaded: Loaded, number: int, groups: Sequence[_Group], spool: Spool, progress: Progress) -> None:
    """h_l to h_{l+1} of every batch; the layer is in memory no longer than this takes."""
    decoder, device = decoder_of(loaded, "thinker"), loaded.model.device
    is_last = number + 1 == loaded.described.shape.components["thinker"].num_layers
    replay, after = _Replay(read_layer(loaded, number)), _StandIn()
    decoder.layers = nn.ModuleList([*(_StandIn() for _ in range(number)), replay, *([] if is_last else [after])])
    decoder.config.num_hidden_layers = len(decoder.layers)  # some decoders run as many as it says
    try:
        for group in groups:
            with group.meter.layer(number, replay.layer):
                for stored in group.batches:
                    first = max(0, number - group.spans)
                    *earlier, replay.hidden = (
                        spool.load(stored.hidden_file(each), device)["hidden"] for each in range(first, number + 1)
                    )
                    group.meter.count(stored.counted, earlier)
                    cast(Any, decoder)(inputs_embeds=replay.hidden, **_loaded_arguments(stored, spool, device))
                    if number >= group.spans:
                        spool.remove(stored.hidden_file(number - group.spans))
                    if after.hidden is not None:
                        spool.save(stored.hidden_file(number + 1), {"hidden": after.hidden})
                    progress.advance()
            group.meter.count(None)
    finally:
        decoder.layers, decoder.config.num_hidden_layers = nn.ModuleList(), 0


def _total(loaded: Loaded, groups: Sequence[_Group], samples: Sequence[Sample], options: Options) -> Meter:
    """The weighted sums of one modality."""
    described = loaded.described
    part = Part()
    for group in groups:
        assert group.part.weight is not None
        part = replace(part.before(group.part.weight), state=group.meter.state())
    shape = described.shape.components["thinker"]
    state = counted_sums(part, samples, options)
    return Meter(described.family.running, shape, spans=groups[0].spans, gates=options.gates, state=state)
