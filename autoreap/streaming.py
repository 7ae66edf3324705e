"""Calibrate a thinker that does not fit: one decoder layer in memory at a time, hidden states on disk in between.

Each layer runs within the decoder's own forward pass, between stand-ins for the others, so masks, rotary embedding and
what vision adds between layers are the stock class's own, and the sums are those of the plain pass bit for bit.

Shape legend: B rows of a batch, T tokens of each (padding included), H hidden, L layers, S spans; h_l is the input
[B, T, H] of layer l.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from autoreap.batching import Batch, batches, estimated_tokens
from autoreap.calibrate import MAX_SPAN, Options, counted_sums, identity, listen, origin
from autoreap.checkpoint import TensorInfo
from autoreap.described import Described, Loaded
from autoreap.errors import AutoreapError, InputError
from autoreap.families.family import Decoder
from autoreap.lock import exclusive
from autoreap.meter import Meter
from autoreap.plan import ComponentShape
from autoreap.progress import Progress, log
from autoreap.resume import Part
from autoreap.saliency import MODALITIES, ComponentSaliency, Saliency
from autoreap.samples import Sample

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


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
    if "audio" not in data:
        raise InputError("calibration needs audio data", where="--audio", fix="give a JSONL file of audio rows")
    if options.spool is None:
        raise InputError("calibration layer by layer needs a folder for hidden states", where="spool")
    described, model = loaded.described, loaded.model
    base_model = described.base_model
    known = identity(model, described.family, base_model, data, components=components, options=options)
    shape = described.shape.components["thinker"]
    with _spool(options.spool) as spool:
        _check_estimate(loaded, data, shape, spool)
        groups = [
            group
            for modality in MODALITIES
            if modality in data
            for group in _embedded(loaded, data[modality], options, shape, spool)
        ]
        log(f"going through {shape.num_layers} layers one by one, {spool.most_bytes / 1e9:.2f} GB beside the output")
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
    return Saliency({"thinker": measured}, known | origin(base_model, data, skipped, silent={}))


def spool_beside(output: Path) -> Path:
    """The folder for the hidden states of a measurement for `output`."""
    return output.with_name(f".{output.name}.spool")


class _Spool:
    """Hidden states, and what else the decoder was given, in files of a folder."""

    def __init__(self, folder: Path, free_bytes: int) -> None:
        self._folder = folder
        self._free_bytes = free_bytes  # when it was empty
        self.most_bytes = 0

    def reserve(self, num_bytes: int) -> None:
        """Count on `num_bytes` more; `InputError` if they are not free."""
        self.most_bytes += num_bytes
        self.check(self.most_bytes)

    def check(self, num_bytes: int) -> None:
        """`InputError` if the spool has no room for `num_bytes` in all."""
        if num_bytes > self._free_bytes:
            raise InputError(
                f"hidden states need {num_bytes / 1e9:.2f} GB on disk, {self._free_bytes / 1e9:.2f} GB are free",
                where=self._folder.parent,
                fix="free some space, or calibrate on fewer rows",
            )

    def save(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        try:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, self._folder / name)
        except (SafetensorError, OSError) as error:
            raise AutoreapError(f"{self._folder}: hidden states can't be written: {error}") from None

    def load(self, name: str, device: torch.device) -> dict[str, torch.Tensor]:
        return load_file(self._folder / name, device=str(device))

    def remove(self, name: str) -> None:
        (self._folder / name).unlink()


@contextmanager
def _spool(folder: Path) -> Iterator[_Spool]:
    """An empty spool; what a killed process left there goes, and so does everything at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder, "another calibration keeps its hidden states here", fix="wait for it, or use another -o"):
        try:
            for left in folder.iterdir():
                left.unlink()
            yield _Spool(folder, shutil.disk_usage(folder).free)
        finally:
            shutil.rmtree(folder)


def _spans(modality: str, shape: ComponentShape) -> int:
    return min(MAX_SPAN, shape.num_layers) if modality == "audio" else 0


def _check_estimate(loaded: Loaded, data: Mapping[str, Sequence[Sample]], shape: ComponentShape, spool: _Spool) -> None:
    """Find a lack of room before the first row is embedded."""
    per_token = _decoder(loaded).config.hidden_size * loaded.model.dtype.itemsize
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
    loaded: Loaded, samples: Sequence[Sample], options: Options, shape: ComponentShape, spool: _Spool
) -> Iterator[_Group]:
    """Spool what the decoder is given of each batch of one modality."""
    family, device = loaded.described.family, loaded.model.device
    modality = samples[0].modality
    spans = _spans(modality, shape)
    sequence = batches(loaded.inputs, samples, options.batch_tokens, max_unreadable=options.max_unreadable)
    with Progress(f"embedding {modality}", len(samples)) as progress:
        position = Part().position
        for weight, of_weight in groupby(sequence, key=lambda batch: batch.weight):
            meter = Meter(family, shape, device, spans=spans, gates=options.gates)
            group = _Group(modality, spans, meter, [], Part(weight=weight))
            for batch in of_weight:
                counted = loaded.inputs.counted(batch.encoded, options.tokens)
                group.batches.append(_stored(loaded, batch, counted, group, spool))
                progress.advance(batch.position.num_rows - position.num_rows)
                position = batch.position
            group.part = replace(group.part, position=position)
            yield group


def _stored(loaded: Loaded, batch: Batch, counted: torch.Tensor, group: _Group, spool: _Spool) -> _Stored:
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

    handle = cast(nn.Module, _decoder(loaded)).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        listen(loaded.model, loaded.described.family, loaded.inputs, batch)
    finally:
        handle.remove()
    return given


def _loaded_arguments(stored: _Stored, spool: _Spool, device: torch.device) -> dict[str, Any]:
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
def _through_layer(loaded: Loaded, number: int, groups: Sequence[_Group], spool: _Spool, progress: Progress) -> None:
    """h_l to h_{l+1} of every batch; the layer is in memory no longer than this takes."""
    decoder, device = _decoder(loaded), loaded.model.device
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


def read_layer(loaded: Loaded, number: int) -> nn.Module:
    """Layer `number` of the thinker with its weights from the checkpoint, in the model's type and on its device.

    One stored tensor is in memory beside it at a time.

    Raises:
        InputError: a tensor of it is missing, of another shape, or of a type that is no floating-point number.
    """
    described, model = loaded.described, loaded.model
    layer = described.family.new_layer(model, number).to_empty(device=model.device)
    parameters = dict(layer.named_parameters())
    missing = {name: parameter.numel() for name, parameter in parameters.items()}
    for info in _tensors_of_layer(described, number):
        name, index = described.family.slot(info.name, info.shape)
        if name not in parameters or parameters[name][index].shape != info.shape:
            raise InputError(f"tensor {info.name} of shape {info.shape} fits no parameter", where=info.shard)
        with torch.no_grad():
            parameters[name][index].copy_(_tensor(info))
        missing[name] -= info.num_parameters
    if incomplete := [name for name, left in missing.items() if left]:
        raise InputError(
            f"tensors of {incomplete[0]} of layer {number} are missing",
            where=described.checkpoint.path,
            fix="fetch the checkpoint again",
        )
    return layer


def _tensors_of_layer(described: Described, number: int) -> list[TensorInfo]:
    """In the order of their bytes."""
    roles = {name: described.family.role(name) for name in described.checkpoint.tensors}
    own = [
        info
        for name, info in described.checkpoint.tensors.items()
        if (roles[name].part, roles[name].layer) == ("thinker", number)
    ]
    return sorted(own, key=lambda info: (info.shard, info.offset))


def _tensor(info: TensorInfo) -> torch.Tensor:
    if info.dtype not in _DTYPES:
        raise InputError(f"tensor {info.name} is of type {info.dtype}", where=info.shard)
    buffer = bytearray(info.num_bytes)
    with info.shard.open("rb") as file:
        file.seek(info.offset)
        if file.readinto(buffer) != info.num_bytes:
            raise InputError(f"ends in the middle of {info.name}", where=info.shard, fix="fetch it again")
    return torch.frombuffer(buffer, dtype=_DTYPES[info.dtype]).view(info.shape)


def _total(loaded: Loaded, groups: Sequence[_Group], samples: Sequence[Sample], options: Options) -> Meter:
    """The weighted sums of one modality."""
    described = loaded.described
    part = Part()
    for group in groups:
        assert group.part.weight is not None
        part = replace(part.before(group.part.weight), state=group.meter.state())
    shape = described.shape.components["thinker"]
    state = counted_sums(part, samples, options)
    return Meter(described.family, shape, spans=groups[0].spans, gates=options.gates, state=state)


def _decoder(loaded: Loaded) -> Decoder:
    decoder = loaded.described.family.decoder(loaded.model, "thinker")
    assert decoder is not None  # every family has a thinker
    return decoder
