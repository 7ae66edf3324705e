"""What calibration measured, and the rankings of experts that follow from it. NumPy alone.

Shape legend: L layers, E experts, S spans (S = 1..8 layers). Modalities: audio (S1), video (S2), mixed (S3).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from autoreap.data.samples import MODALITIES
from autoreap.errors import InputError
from autoreap.files import atomic_write

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_FORMAT = "autoreap.saliency.1"
_AGAIN = "calibrate again"
_ROUNDING = 1e-4  # a cosine that was summed in low precision may be above 1
_PROVENANCE = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class ModalitySums:
    """Sums over the calibration tokens of one modality.

    Attributes:
        gate_norm_sum: [L, E] sum of g_e(x) * ||h_e(x)||_2 over the tokens x routed to e.
        routed_tokens: [L, E] how many tokens were routed to e.
        tokens: |D|, how many tokens were seen.
    """

    gate_norm_sum: FloatArray
    routed_tokens: IntArray
    tokens: int

    def per_token(self) -> FloatArray:
        """S(e, D) = 1/|D| * sum_x g_e(x) * ||h_e(x)||_2, shape [L, E]: the mean over *all* tokens."""
        return self.gate_norm_sum / max(self.tokens, 1)

    def per_routed_token(self) -> FloatArray:
        """REAP's saliency (Lasby et al., ICLR 2026): the mean over tokens routed to e, [L, E]; 0 where none was."""
        return self.gate_norm_sum / np.maximum(self.routed_tokens, 1)


@dataclass(frozen=True)
class LayerOrder:
    """Layers in the order in which the answers lose least by their cuts, one after the other.

    Attributes:
        layers: the first to be cut comes first; layers at the edges (`planning.edges`) are never among them.
        losses: after each cut the mean negative log-likelihood of the answers' tokens, in nats.
    """

    layers: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()

    @property
    def description(self) -> str:
        """Each layer with the loss after its cut."""
        pairs = zip(self.layers, self.losses, strict=True)
        return ", ".join(f"{layer} (NLL {loss:.3f})" for layer, loss in pairs)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"layers": [*self.layers], "losses": [*self.losses]}

    def first(self, num_layers: int) -> "LayerOrder":
        """The same as far as `num_layers` cuts: they do not depend on those after them."""
        return LayerOrder(self.layers[:num_layers], self.losses[:num_layers])


@dataclass(frozen=True)
class ComponentSaliency:
    """The measurements of one decoder (thinker or talker).

    Attributes:
        modalities: the sums of each modality that was measured; `audio` is always there.
        layer_cosine: [S, L]; row n-1 holds cos(h_l, h_{l+n}), the mean over audio tokens of the cosine between the
            input of layer l and the output of layer l+n-1; NaN where l+n exceeds the depth.
        layer_order: of no layer, unless it was asked for.
    """

    modalities: Mapping[str, ModalitySums]
    layer_cosine: FloatArray
    layer_order: LayerOrder = LayerOrder()

    @property
    def num_layers(self) -> int:
        """L, the depth of the decoder that was measured."""
        return int(self.modalities["audio"].gate_norm_sum.shape[0])

    @property
    def num_experts(self) -> int:
        """E, the number of experts in each layer."""
        return int(self.modalities["audio"].gate_norm_sum.shape[1])

    def affinity(self, lambda_: float, beta: float) -> FloatArray:
        """A(e) = S1(e) + lambda * ReLU(S3(e) - beta * S2(e)), [L, E]; an unmeasured modality counts as 0."""
        s1, s2, s3 = self._per_token("audio"), self._per_token("video"), self._per_token("mixed")
        return s1 + lambda_ * np.maximum(s3 - beta * s2, 0)

    def scores(self, ranking: str, *, lambda_: float, beta: float, seed: int) -> FloatArray:
        """The scores [L, E] by which experts are ranked, higher is kept; `ranking` is one of `candidate.RANKINGS`."""
        audio = self.modalities["audio"]
        if ranking == "affinity":
            return self.affinity(lambda_, beta)
        if ranking == "reap":
            return audio.per_routed_token()
        if ranking == "frequency":
            return audio.routed_tokens / max(audio.tokens, 1)
        if ranking == "random":
            return random_scores(self.num_layers, self.num_experts, seed)
        raise InputError(f"unknown ranking {ranking!r}", where="saliency")

    def _per_token(self, modality: str) -> FloatArray:
        if modality not in self.modalities:
            return np.zeros((self.num_layers, self.num_experts))
        return self.modalities[modality].per_token()


def random_scores(num_layers: int, num_experts: int, seed: int) -> FloatArray:
    """Scores [L, E] that know nothing: the control that every measured ranking must beat."""
    return np.random.default_rng(seed).random((num_layers, num_experts))


@dataclass(frozen=True)
class Saliency:
    """All that one calibration measured: `components` by name, and where the numbers come from.

    `provenance` holds strings: the model's name and fingerprint, the digest of each calibration set, versions.
    """

    components: Mapping[str, ComponentSaliency]
    provenance: Mapping[str, str]

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the model that was measured (see `checkpoint.Checkpoint.fingerprint`)."""
        return self.provenance["model_fingerprint"]

    @property
    def shown_provenance(self) -> dict[str, str]:
        """What people read of it. `shape` is for `plan`, which needs no model then."""
        return {key: value for key, value in self.provenance.items() if key != "shape"}

    def component(self, name: str) -> ComponentSaliency:
        """The measurements of `name`; `InputError` if it was not calibrated."""
        if name not in self.components:
            raise InputError(
                f"holds no measurements of the {name}",
                where="saliency",
                fix=f"calibrate with --component {name}, or leave the {name} unpruned",
            )
        return self.components[name]

    def with_layer_order(self, order: LayerOrder) -> "Saliency":
        """The same, with `order` of the thinker's layers."""
        thinker = replace(self.component("thinker"), layer_order=order)
        return replace(self, components={**self.components, "thinker": thinker})

    def digest(self) -> str:
        """Sixteen hex digits of everything measured, however many layers are in order."""
        digest = hashlib.sha256()
        for name, array in sorted(self._arrays().items()):
            if name.endswith((".layer_order", ".layer_order_loss")):
                array = array[:1]  # whose loss tells two sets of answers apart
            digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()[:16]

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        arrays: dict[str, NDArray[np.generic]] = {}
        for component, measured in self.components.items():
            arrays[f"{component}.layer_cosine"] = np.ascontiguousarray(measured.layer_cosine)
            if measured.layer_order.layers:
                arrays[f"{component}.layer_order"] = np.array(measured.layer_order.layers, dtype=np.int64)
                arrays[f"{component}.layer_order_loss"] = np.array(measured.layer_order.losses, dtype=np.float64)
            for modality, sums in measured.modalities.items():
                arrays[f"{component}.{modality}.gate_norm_sum"] = sums.gate_norm_sum
                arrays[f"{component}.{modality}.routed_tokens"] = sums.routed_tokens
                arrays[f"{component}.{modality}.tokens"] = np.array([sums.tokens], dtype=np.int64)
        return arrays

    def save(self, path: Path) -> None:
        """Write `path` whole or not at all."""
        metadata = {"format": _FORMAT, "provenance": json.dumps(dict(self.provenance))}
        with atomic_write(path) as partial:
            # `save_file` has no OSError for a full disk.
            partial.write_bytes(save(self._arrays(), metadata))


def load_saliency(path: Path) -> Saliency:
    """Read what `Saliency.save` wrote; `InputError` names the file and what is wrong with it."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {}
            if metadata.get("format") == _FORMAT:  # another file may hold types that NumPy lacks
                names = file.keys()  # the file itself can't be iterated over
                arrays = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise InputError("no such saliency file", where=path, fix="make one with `autoreap calibrate`") from None
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two: a type that NumPy lacks
        raise InputError(f"not a readable safetensors file: {error}", where=path) from None
    if metadata.get("format") != _FORMAT:
        raise InputError("not a saliency file", where=path, fix="make one with `autoreap calibrate`")
    measured = {name.split(".")[0] for name in arrays}
    components = {name: _component(name, arrays, path) for name in sorted(measured)}
    try:
        provenance = _PROVENANCE.validate_json(metadata.get("provenance", ""), strict=True)
    except ValidationError:
        provenance = {}
    if "model_fingerprint" not in provenance:
        raise InputError("does not say which model was measured", where=path, fix="calibrate again")
    return Saliency(components, provenance)


def _component(name: str, arrays: Mapping[str, NDArray[np.generic]], path: Path) -> ComponentSaliency:
    reader = _Reader(arrays, path)
    modalities = {}
    for modality in MODALITIES:
        prefix = f"{name}.{modality}"
        if f"{prefix}.tokens" in arrays:
            # Another program may have written narrower types; sums and ranks are made in these.
            gate_norm_sum = reader.numbers(f"{prefix}.gate_norm_sum", np.floating, 2)
            modalities[modality] = ModalitySums(
                gate_norm_sum=gate_norm_sum.astype(np.float64),
                routed_tokens=reader.numbers(f"{prefix}.routed_tokens", np.integer, 2).astype(np.int64),
                tokens=int(reader.numbers(f"{prefix}.tokens", np.integer, 1, (1,))[0]),
            )
    if "audio" not in modalities:
        raise InputError(f"no audio measurements of the {name}", where=path, fix="calibrate with --audio")
    measured = ComponentSaliency(modalities=modalities, layer_cosine=reader.cosine(f"{name}.layer_cosine"))
    for modality in modalities:
        for sums in ("gate_norm_sum", "routed_tokens"):
            reader.check_shape(f"{name}.{modality}.{sums}", (measured.num_layers, measured.num_experts))
    num_spans = len(measured.layer_cosine)
    reader.check_shape(f"{name}.layer_cosine", (num_spans, measured.num_layers))
    if f"{name}.layer_order" not in arrays:  # not asked for
        return measured
    return replace(measured, layer_order=reader.layer_order(name, measured.num_layers))


@dataclass(frozen=True)
class _Reader:
    """The tensors of a file, checked: of a number that is none, a ranking would still be made."""

    arrays: Mapping[str, NDArray[np.generic]]
    path: Path

    def numbers(self, name: str, kind: type, dimensions: int, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """The tensor `name`, of finite numbers of `kind` that are not negative."""
        array = self._array(name, kind, dimensions)
        if shape is not None:
            self.check_shape(name, shape)
        self._refuse(name, array, ~np.isfinite(array) | (array < 0), "a finite number of at least 0")
        return array

    def cosine(self, name: str) -> FloatArray:
        """The tensor `name` of cosines [S, L]; NaN where the layers end."""
        array = self._array(name, np.floating, 2).astype(np.float64)
        self._refuse(name, array, np.abs(array) > 1 + _ROUNDING, "from -1 to 1")
        missing = np.isnan(array)
        # Behind the first NaN of a row all are, and no row that the depth has room for begins with one.
        misplaced = missing & ~np.logical_and.accumulate(missing[:, ::-1], axis=1)[:, ::-1]
        num_spans, num_layers = array.shape
        misplaced[: min(num_spans, num_layers), :1] |= missing[: min(num_spans, num_layers), :1]
        self._refuse(name, array, misplaced, "a number")
        return array

    def layer_order(self, component: str, num_layers: int) -> LayerOrder:
        """The order of the `component`'s layers, each of them at most once."""
        name, name_of_losses = f"{component}.layer_order", f"{component}.layer_order_loss"
        layers = self.numbers(name, np.integer, 1)
        is_repeated = np.ones(len(layers), dtype=bool)
        is_repeated[np.unique(layers, return_index=True)[1]] = False
        self._refuse(name, layers, is_repeated | (layers >= num_layers), f"each layer below {num_layers} once")
        losses = self.numbers(name_of_losses, np.floating, 1, layers.shape)
        return LayerOrder(tuple(layers.tolist()), tuple(losses.astype(np.float64).tolist()))

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise `InputError` where the tensor is of another shape."""
        stored = self.arrays[name].shape
        if stored != shape:
            raise InputError(f"tensor {name} is of shape {stored}, expected {shape}", where=self.path, fix=_AGAIN)

    def _array(self, name: str, kind: type, dimensions: int) -> NDArray[Any]:
        array = self.arrays.get(name)
        if array is None:
            raise InputError(f"tensor {name!r} is missing", where=self.path, fix=_AGAIN)
        if not np.issubdtype(array.dtype, kind) or array.ndim != dimensions:
            stored = f"{array.dtype} in {array.ndim} dimensions"
            problem = f"tensor {name} holds {stored}, expected {kind.__name__} in {dimensions}"
            raise InputError(problem, where=self.path, fix=_AGAIN)
        return array

    def _refuse(self, name: str, array: NDArray[Any], wrong: NDArray[np.bool_], expected: str) -> None:
        """Raise `InputError` with the first value that is `wrong`."""
        places = np.argwhere(wrong)
        if len(places):
            first = tuple(places[0].tolist())
            problem = f"tensor {name} holds {array[first]} at {list(first)}, expected {expected}"
            raise InputError(problem, where=self.path, fix=_AGAIN)
