"""Stream calibration data through the model once -> `Saliency`.

Shape legend: B batch, T tokens of a batch (padding included), E experts, K = top-k, H hidden.
"""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from autoreap import __version__
from autoreap.errors import InputError
from autoreap.families import Family
from autoreap.families.chat_inputs import ChatInputs, Encoded
from autoreap.families.family import Decoder
from autoreap.plan import BaseModel
from autoreap.progress import Progress
from autoreap.prompts import audio_of, embedded
from autoreap.saliency import MODALITIES, ComponentSaliency, ModalitySums, Saliency
from autoreap.samples import Sample, digest

MAX_SPAN = 8
DEFAULT_BATCH_TOKENS = 8192
DEFAULT_QUESTIONS = {
    "audio": "Transcribe the audio into text.",
    "video": "Describe what is seen.",
    "mixed": "Describe what is heard and seen.",
}
_SPEECH_STEPS = 512  # what the talker says of one sample at most, while it is calibrated on its own speech


def calibrate(
    model: PreTrainedModel,
    family: Family,
    inputs: ChatInputs,
    base_model: BaseModel,
    data: Mapping[str, Sequence[Sample]],
    *,
    components: Sequence[str] = ("thinker",),
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Saliency:
    """Measure `components` on `data` (samples by modality; audio is needed), one forward pass over each.

    Every token counts: prompt, media and answer; padding does not. The talker is measured on the speech that the model
    itself makes of the audio and mixed samples. Sums are kept in float64.

    Raises:
        InputError: a component is missing from the model, or there is no audio data.
    """
    if "audio" not in data:
        raise InputError("calibration needs audio data", where="--audio", fix="give a JSONL file of audio rows")
    measured = {}
    for component in components:
        decoder = family.decoder(model, component)
        if decoder is None:
            raise InputError(f"this model has no {component}", where="--component")
        modalities, cosines = {}, None
        for modality in MODALITIES:
            if modality not in data:
                continue
            meter = _Meter(family, decoder)
            if component == "thinker":
                _listen(model, family, inputs, data[modality], meter, batch_tokens)
            else:
                _speak(model, family, inputs, data[modality], meter)
            modalities[modality] = meter.sums()
            cosines = meter.layer_cosine() if modality == "audio" else cosines
        assert cosines is not None
        measured[component] = ComponentSaliency(modalities=modalities, layer_cosine=cosines)
    provenance = {
        "model": base_model.name,
        "model_fingerprint": base_model.fingerprint,
        "autoreap": __version__,
        "transformers": importlib.metadata.version("transformers"),
        "torch": torch.__version__,
        "dtype": str(model.dtype),
        **{f"data.{modality}": digest(samples) for modality, samples in data.items()},
    }
    return Saliency(components=measured, provenance=provenance)


@torch.inference_mode()
def _listen(
    model: PreTrainedModel,
    family: Family,
    inputs: ChatInputs,
    samples: Sequence[Sample],
    meter: "_Meter",
    batch_tokens: int,
) -> None:
    """One forward pass of the thinker over prompts and answers, batched up to `batch_tokens` padded tokens."""
    thinker = family.thinker(model)
    with meter.attached(), Progress(f"calibrating {samples[0].modality}", len(samples)) as progress:
        for batch in _batches(inputs, samples, batch_tokens):
            audio = [audio_of(family, model, encoded) for encoded in batch]
            tensors = embedded(family, model, inputs, batch, audio)
            meter.valid_tokens = tensors["attention_mask"].flatten().bool()
            thinker(**tensors, use_cache=False)
            progress.advance(len(batch))


@torch.inference_mode()
def _speak(
    model: PreTrainedModel,
    family: Family,
    inputs: ChatInputs,
    samples: Sequence[Sample],
    meter: "_Meter",
) -> None:
    """Let the model answer each sample aloud, seeded; every step of the talker counts."""
    torch.manual_seed(0)
    with meter.attached(), Progress(f"calibrating speech on {samples[0].modality}", len(samples)) as progress:
        for sample in samples:
            tensors = inputs.collate([encode(inputs, sample, with_answer=False)])
            tensors = {name: tensor.to(model.device) for name, tensor in tensors.items()}
            family.speak(model, tensors, inputs.end_token_id, _SPEECH_STEPS)
            progress.advance()


def _batches(inputs: ChatInputs, samples: Sequence[Sample], batch_tokens: int) -> Iterator[list[Encoded]]:
    batch: list[Encoded] = []
    for sample in samples:
        encoded = encode(inputs, sample, with_answer=True)
        longest = max(len(other.input_ids) for other in (*batch, encoded))
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(encoded)
    if batch:
        yield batch


def encode(inputs: ChatInputs, sample: Sample, *, with_answer: bool) -> Encoded:
    """A calibration row as tensors; a row without media is its text."""
    if sample.audio is None and sample.image is None and not sample.video:
        if not sample.text:
            raise InputError("row has neither media nor text", where=sample.where)
        return inputs.encode_text(sample.text, sample.where)
    question = sample.question or DEFAULT_QUESTIONS[sample.modality]
    return inputs.encode(sample, question, sample.text if with_answer else None)


@dataclass
class _LayerSums:
    """Running sums of one layer, each [E] in float64 or int64."""

    gate_norm: torch.Tensor
    routed: torch.Tensor


class _Meter:
    """Measures one decoder while it runs, without changing what it computes beyond rounding."""

    def __init__(self, family: Family, decoder: Decoder) -> None:
        self.valid_tokens: torch.Tensor | None = None  # [T] of the batch under way; None: all are
        self._family = family
        self._decoder = decoder
        self._tokens = 0
        self._layers: list[_LayerSums] = []
        span, depth = min(MAX_SPAN, len(decoder.layers)), len(decoder.layers)
        self._cosines = np.full((span, depth), np.nan)
        self._cosine_sums = np.zeros((span, depth))
        self._recent: list[torch.Tensor] = []  # inputs of the last layers, [B, T/B, H] each

    def sums(self) -> ModalitySums:
        """What was measured, [L, E]."""
        return ModalitySums(
            gate_norm_sum=torch.stack([layer.gate_norm for layer in self._layers]).cpu().numpy(),
            routed_tokens=torch.stack([layer.routed for layer in self._layers]).cpu().numpy(),
            tokens=self._tokens,
        )

    def layer_cosine(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """[S, L]; see `ComponentSaliency.layer_cosine`."""
        depth = self._cosines.shape[1]
        for span, row in enumerate(self._cosines, start=1):
            measured = depth - span + 1
            row[:measured] = self._cosine_sums[span - 1, :measured] / max(self._tokens, 1)
        return self._cosines

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Measure every forward pass within the context."""
        with ExitStack() as stack:
            layers = list(self._decoder.layers)
            for number, layer in enumerate(layers):
                stack.enter_context(self._measured_experts(layer))
                handle = layer.register_forward_pre_hook(self._before_layer(number))
                stack.callback(handle.remove)
            stack.callback(layers[-1].register_forward_hook(self._after_last_layer(len(layers))).remove)
            yield

    @contextmanager
    def _measured_experts(self, layer: nn.Module) -> Iterator[None]:
        experts, router = self._family.experts(layer), self._family.router(layer)
        assert experts is not None
        assert router is not None
        shape, device = (router.num_experts,), router.weight.device
        sums = _LayerSums(
            gate_norm=torch.zeros(shape, dtype=torch.float64, device="cpu" if device.type == "mps" else device),
            routed=torch.zeros(shape, dtype=torch.int64, device=device),
        )
        self._layers.append(sums)
        original: Callable[..., torch.Tensor] = experts.forward

        def measuring(hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
            """Each (token, expert) pair as a row of its own: with weight 1 the experts return h_e(x) itself."""
            num_top_k = top_k_index.shape[1]
            pairs = hidden.repeat_interleave(num_top_k, dim=0)  # [T*K, H]
            experts_of_pairs = top_k_index.reshape(-1, 1)
            outputs = original(pairs, experts_of_pairs, torch.ones_like(experts_of_pairs, dtype=top_k_weights.dtype))
            self._accumulate(sums, top_k_index, top_k_weights, outputs)
            weighted = outputs * top_k_weights.reshape(-1, 1)
            return weighted.view(-1, num_top_k, hidden.shape[-1]).sum(dim=1).to(hidden.dtype)

        experts.forward = measuring
        try:
            yield
        finally:
            del experts.forward

    def _accumulate(
        self, sums: _LayerSums, top_k_index: torch.Tensor, top_k_weights: torch.Tensor, outputs: torch.Tensor
    ) -> None:
        norms = torch.linalg.vector_norm(outputs, dim=-1, dtype=torch.float32).view_as(top_k_index)  # [T, K]
        gate_norms = (top_k_weights.float() * norms).to(sums.gate_norm.dtype)
        valid = slice(None) if self.valid_tokens is None else self.valid_tokens
        chosen = top_k_index[valid].flatten()
        sums.gate_norm.index_add_(0, chosen, gate_norms[valid].flatten())
        sums.routed.index_add_(0, chosen, torch.ones_like(chosen))

    def _before_layer(self, number: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(_layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            self._compare(arguments[0], number)

        return hook

    def _after_last_layer(self, depth: int) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def hook(_layer: nn.Module, _arguments: Any, output: torch.Tensor) -> None:
            self._compare(output, depth)
            self._recent.clear()

        return hook

    def _compare(self, hidden: torch.Tensor, number: int) -> None:
        """Cosines between `hidden`, the input of layer `number`, and the inputs of the layers before it."""
        hidden = hidden.flatten(0, -2)  # [T, H]
        if self.valid_tokens is not None:
            hidden = hidden[self.valid_tokens]
        if number == 0:
            self._tokens += hidden.shape[0]
        for back, earlier in enumerate(reversed(self._recent)):
            cosine = torch.nn.functional.cosine_similarity(earlier.float(), hidden.float(), dim=-1)
            self._cosine_sums[back, number - 1 - back] += cosine.double().sum().item()
        self._recent = [*self._recent, hidden][-len(self._cosines) :]
