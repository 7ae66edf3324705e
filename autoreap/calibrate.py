"""Stream calibration data through the model once -> `Saliency`."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby

import torch
from transformers import PreTrainedModel

from autoreap import __version__
from autoreap.batching import START, Batch, Position, batches
from autoreap.config import DEFAULT_MAX_UNREADABLE, CalibrationConfig
from autoreap.errors import InputError, SilenceError
from autoreap.families import Family
from autoreap.families.chat_inputs import ChatInputs
from autoreap.families.family import Decoder
from autoreap.measuring import DEFAULT_GATES, DEFAULT_TOKENS
from autoreap.meter import Meter, State
from autoreap.plan import BaseModel, ComponentShape, ModelShape
from autoreap.progress import Progress, log
from autoreap.prompts import audio_of, embedded
from autoreap.saliency import MODALITIES, ComponentSaliency, Saliency
from autoreap.samples import Sample, digest

MAX_SPAN = 8
DEFAULT_BATCH_TOKENS = 8192
_SPEECH_STEPS = 512  # what the talker says of one sample at most, while it is calibrated on its own speech
_MAX_SILENT = 0.5  # the share of rows that may be answered with nothing; a talker is not known by its silence
_NAMED = 5  # silent rows in a message


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        tokens: which tokens of the thinker count: `prompt` (media included), `answer`, or `both`. All that the talker
            says counts.
        gates: which router weight g is; see `Meter`.
        batch_tokens: tokens of a batch, padding included.
        max_unreadable: the share of a modality's rows whose media may be broken; they are left out.
        shape: of the checkpoint, to be kept with the measurements; a model in memory may lack the talker.
    """

    tokens: str = DEFAULT_TOKENS
    gates: str = DEFAULT_GATES
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    max_unreadable: float = DEFAULT_MAX_UNREADABLE
    shape: ModelShape | None = None

    @classmethod
    def of(cls, calibration: CalibrationConfig) -> "Options":
        """As `calibration` says."""
        return cls(tokens=calibration.tokens, gates=calibration.gates, max_unreadable=calibration.max_unreadable)


def calibrate(
    model: PreTrainedModel,
    family: Family,
    inputs: ChatInputs,
    base_model: BaseModel,
    data: Mapping[str, Sequence[Sample]],
    *,
    components: Sequence[str] = ("thinker",),
    options: Options = Options(),
) -> Saliency:
    """Measure `components` on `data` (samples by modality; audio is needed), one forward pass over each.

    Padding never counts. The talker is measured on the speech that the model itself makes of the samples; those it
    answers with nothing are left out. Sums are kept in float64.

    Raises:
        InputError: a component is missing from the model, there is no audio data, nothing of a modality counts, or too
            many of its rows can't be read or are answered with nothing.
    """
    if "audio" not in data:
        raise InputError("calibration needs audio data", where="--audio", fix="give a JSONL file of audio rows")
    subject = _Subject(model, family, inputs)
    decoders = {component: subject.decoder(component) for component in components}
    measured = {}
    skipped: dict[str, int] = {}
    silent: dict[str, int] = {}
    for component in components:
        results = {
            modality: _measured(subject, component, data[modality], options, MAX_SPAN if modality == "audio" else 0)
            for modality in MODALITIES
            if modality in data
        }
        measured[component] = ComponentSaliency(
            modalities={modality: meter.sums() for modality, (meter, _) in results.items()},
            layer_cosine=results["audio"][0].layer_cosine(),
        )
        skipped |= {modality: len(end.unreadable) for modality, (_, end) in results.items()}
        if component == "talker":
            silent = {modality: len(end.silent) for modality, (_, end) in results.items()}
    provenance = {
        "model": base_model.name,
        "model_fingerprint": base_model.fingerprint,
        "autoreap": __version__,
        "transformers": importlib.metadata.version("transformers"),
        "torch": torch.__version__,
        "dtype": str(model.dtype),
        "experts_implementation": ",".join(sorted({_experts_implementation(each) for each in decoders.values()})),
        "tokens": options.tokens,
        "gates": options.gates,
        **({"shape": json.dumps(asdict(options.shape))} if options.shape is not None else {}),
        **{f"data.{modality}": digest(samples) for modality, samples in data.items()},
        **{f"data.{modality}.skipped": str(number) for modality, number in skipped.items()},
        **{f"data.{modality}.silent": str(number) for modality, number in silent.items()},
    }
    return Saliency(components=measured, provenance=provenance)


@dataclass(frozen=True)
class _Subject:
    """What is measured, and how to talk to it."""

    model: PreTrainedModel
    family: Family
    inputs: ChatInputs

    def decoder(self, component: str) -> Decoder:
        """The decoder of `component`."""
        decoder = self.family.decoder(self.model, component)
        if decoder is None:
            raise InputError(f"this model has no {component}", where="--component")
        return decoder

    def meter(self, component: str, options: Options, spans: int, state: State | None = None) -> Meter:
        """A meter of the decoder as it is in memory; `state` is what was measured before."""
        layers = self.decoder(component).layers
        routers = (self.family.router(layer) for layer in layers)
        router = next(router for router in routers if router is not None)
        shape = ComponentShape(len(layers), router.num_experts, router.top_k)
        return Meter(self.family, shape, self.model.device, spans=spans, gates=options.gates, state=state)


def _experts_implementation(decoder: Decoder) -> str:
    return str(getattr(decoder.config, "_experts_implementation", None) or "eager")


def _measured(
    subject: _Subject, component: str, samples: Sequence[Sample], options: Options, spans: int
) -> tuple[Meter, Position]:
    """What `component` does with the samples of one modality, and which of them were left out."""
    budget = options.batch_tokens if component == "thinker" else 1
    sequence = batches(
        subject.inputs,
        samples,
        budget,
        with_answer=component == "thinker",
        max_unreadable=options.max_unreadable,
    )
    run = _listen if component == "thinker" else _speak
    total: State | None = None
    end = START
    with Progress(f"calibrating {component} on {samples[0].modality}", len(samples)) as progress:
        for weight, of_weight in groupby(sequence, key=lambda batch: batch.weight):
            meter = subject.meter(component, options, spans)
            with meter.attached(subject.decoder(component).layers):
                for batch in of_weight:
                    silent = end.silent + run(subject, batch, meter, options)
                    _check_silent(silent, len(samples))
                    progress.advance(batch.position.num_rows - end.num_rows)
                    end = replace(batch.position, silent=silent)
            total = _plus(total, weight, meter.state())
    assert total is not None  # `batches` refuses data of which nothing can be read
    if not total["tokens"]:
        raise InputError(f"rows hold no tokens of kind {options.tokens!r}", where=samples[0].where)
    return subject.meter(component, options, spans, total), end


def _plus(total: State | None, weight: float, state: State) -> State:
    """`total` and `state`, each of whose tokens counts `weight` times; whole numbers stay whole."""
    weighted = {
        name: tensor * weight if tensor.is_floating_point() else (tensor.double() * weight).round().to(tensor.dtype)
        for name, tensor in state.items()
    }
    return weighted if total is None else {name: total[name] + tensor for name, tensor in weighted.items()}


def _check_silent(silent: Sequence[str], num_rows: int) -> None:
    if len(silent) <= _MAX_SILENT * num_rows and len(silent) < num_rows:
        return
    raise InputError(
        f"{len(silent)} of {num_rows} rows so far were answered with nothing: {'; '.join(silent[:_NAMED])}",
        fix="ask in the rows what is answered aloud, or measure the thinker alone",
    )


@torch.inference_mode()
def _listen(subject: _Subject, batch: Batch, meter: Meter, options: Options) -> tuple[str, ...]:
    """One forward pass of the thinker, but for its head, over prompts and answers; no row is left out."""
    model, family, inputs = subject.model, subject.family, subject.inputs
    audio = [audio_of(family, model, encoded) for encoded in batch.encoded]
    meter.count(inputs.counted(batch.encoded, options.tokens))
    family.thinker(model).base_model(**embedded(family, model, inputs, batch.encoded, audio), use_cache=False)
    return ()


@torch.inference_mode()
def _speak(subject: _Subject, batch: Batch, meter: Meter, _options: Options) -> tuple[str, ...]:
    """Let the model answer one sample aloud, seeded each time; every step of the talker counts.

    Returns the row, with the reason, if it was answered with nothing; then no step counts.
    """
    torch.manual_seed(0)  # what is said must depend neither on the rows before nor on where a measurement went on
    tensors = subject.inputs.collate(batch.encoded)
    tensors = {name: tensor.to(subject.model.device) for name, tensor in tensors.items()}
    try:
        with meter.all_or_nothing():
            subject.family.speak(subject.model, tensors, subject.inputs.end_token_id, _SPEECH_STEPS)
    except SilenceError as error:
        reason = f"{batch.encoded[0].where}: {error}"
        log(f"left out: {reason}")
        return (reason,)
    return ()
