"""Stream calibration data through the model once -> `Saliency`."""

import importlib.metadata
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path

import torch

from autoreap import __version__
from autoreap.calibration.batching import Batch, batches
from autoreap.calibration.meter import Meter, State
from autoreap.calibration.resume import Part, ResumeFile
from autoreap.data.calibration_choices import DEFAULT_GATES, DEFAULT_TOKENS
from autoreap.data.calibration_config import DEFAULT_MAX_UNREADABLE, CalibrationConfig
from autoreap.data.samples import MODALITIES, Sample, digest
from autoreap.errors import InputError, SilenceError
from autoreap.models.families.encoded import Encoded, mark_tokens
from autoreap.models.families.running import Decoder
from autoreap.models.loading import Loaded
from autoreap.models.prompts import audio_of, embedded
from autoreap.plan import BaseModel, ComponentShape
from autoreap.progress import Progress
from autoreap.saliency import ComponentSaliency, Saliency

logger = logging.getLogger(__name__)

MAX_SPAN = 8
DEFAULT_BATCH_TOKENS = 8192
SPEECH_STEPS = 512  # what the talker says of one sample at most, while it hears itself
# The share of rows that may be answered with nothing; a talker is not known by its silence.
_MAX_SILENT = 0.5
_NAMED = 5  # silent rows in a message
_ROW = re.compile(r"(:| row )\d+$")  # the end of `Sample.where`


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        tokens: which tokens of the thinker count: `prompt` (media included), `answer`, or `both`. All that the talker
            says counts.
        gates: which router weight g is; see `Meter`.
        batch_tokens: tokens of a batch, padding included.
        max_unreadable: the share of a modality's rows whose media may be broken; they are left out.
        resume: a file for what is measured so far, saved now and then; what it holds of the same measurement is not
            measured again. Who names it removes it.
        spool: a folder for hidden states, where a model is measured layer by layer; see `streaming`.
    """

    tokens: str = DEFAULT_TOKENS
    gates: str = DEFAULT_GATES
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    max_unreadable: float = DEFAULT_MAX_UNREADABLE
    resume: Path | None = field(default=None, compare=False)
    spool: Path | None = field(default=None, compare=False)

    @classmethod
    def of(cls, calibration: CalibrationConfig) -> "Options":
        """As `calibration` says."""
        return cls(tokens=calibration.tokens, gates=calibration.gates, max_unreadable=calibration.max_unreadable)


def calibrate(
    loaded: Loaded,
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
    measurement = identity(loaded, data, components=components, options=options)
    file = ResumeFile(options.resume, measurement)
    measured = {}
    skipped = {}
    silent = {}
    for component in components:
        meters = {}
        for modality in MODALITIES:
            if modality not in data:
                continue
            meters[modality] = _measure(loaded, component, data[modality], options, file)
            position = file.part(f"{component}.{modality}").position
            skipped[modality] = len(position.unreadable)
            if component == "talker":
                silent[modality] = len(position.silent)
        measured[component] = sum_meters(meters)
    return Saliency(measured, measurement | origin(loaded.model_info.base_model, data, skipped, silent))


def sum_meters(meters: Mapping[str, Meter]) -> ComponentSaliency:
    """The measurement of one component, from the meters of its modalities."""
    sums = {modality: meter.sums() for modality, meter in meters.items()}
    return ComponentSaliency(sums, meters["audio"].layer_cosine())


def identity(
    loaded: Loaded, data: Mapping[str, Sequence[Sample]], *, components: Sequence[str], options: Options
) -> dict[str, str]:
    """All that the numbers of a measurement follow from: two with the same identity have the same bits.

    Also the shape of the checkpoint, which says more than the model in memory: that may lack the talker.

    Raises:
        InputError: a component is missing from the model, or there is no audio data.
    """
    if "audio" not in data:
        raise InputError("calibration needs audio data", where="--audio", fix="give a JSONL file of audio rows")
    model_info, model = loaded.model_info, loaded.model
    # Now, before any row is read: it raises where the model lacks a component.
    decoders = [loaded.decoder(component) for component in components]
    digests = {f"data.{modality}": digest(samples) for modality, samples in data.items()}
    return {
        "model_fingerprint": model_info.checkpoint.fingerprint,
        "components": ",".join(sorted(components)),
        "autoreap": __version__,
        "transformers": importlib.metadata.version("transformers"),
        "torch": torch.__version__,
        # From here to the implementations: what decides how numbers are rounded.
        "device": loaded.running.device(model).type,
        "dtype": str(model.dtype),
        "experts_implementation": _implementations(decoders, "_experts_implementation"),
        "attention_implementation": _implementations(decoders, "_attn_implementation"),
        "tokens": options.tokens,
        "gates": options.gates,
        "batch_tokens": str(options.batch_tokens),
        "max_unreadable": str(options.max_unreadable),
        "shape": json.dumps(asdict(model_info.shape)),
        **digests,
    }


def origin(
    base_model: BaseModel, data: Mapping[str, Sequence[Sample]], skipped: Mapping[str, int], silent: Mapping[str, int]
) -> dict[str, str]:
    """Where a measurement came from, for people: names of model and sets, and how many rows were left out."""
    facts = {"model": base_model.name}
    for modality, samples in data.items():
        # Rows of one file or data set are told together.
        num_rows = Counter((_ROW.sub("", sample.where), sample.weight) for sample in samples)
        sets = [{"set": name, "weight": weight, "rows": rows} for (name, weight), rows in num_rows.items()]
        facts[f"data.{modality}.sets"] = json.dumps(sets, ensure_ascii=False)
    for modality, number in skipped.items():
        facts[f"data.{modality}.skipped"] = str(number)
    for modality, number in silent.items():
        facts[f"data.{modality}.silent"] = str(number)
    return facts


def _implementations(decoders: Sequence[Decoder], attribute: str) -> str:
    names = {str(getattr(decoder.config, attribute, None) or "eager") for decoder in decoders}
    return ",".join(sorted(names))


def spans_of(modality: str, shape: ComponentShape) -> int:
    """For how many spans of layers the cosine is measured: on audio alone, by which layers are ranked."""
    return min(MAX_SPAN, shape.num_layers) if modality == "audio" else 0


def new_meter(loaded: Loaded, component: str, modality: str, options: Options, state: State | None = None) -> Meter:
    """A meter of a decoder on rows of one modality; `state` is what was measured before."""
    shape, device = loaded.model_info.shape.components[component], loaded.running.device(loaded.model)
    spans = spans_of(modality, shape)
    return Meter(loaded.running, shape, device, spans=spans, gates=options.gates, state=state)


def _measure(loaded: Loaded, component: str, samples: Sequence[Sample], options: Options, file: ResumeFile) -> Meter:
    """What `component` does with the samples of one modality; `file` knows what was measured of them before."""
    modality = samples[0].modality
    name = f"{component}.{modality}"
    part = file.part(name)
    budget = options.batch_tokens
    if component == "talker":
        budget = 1  # one row at a time: the stock class speaks for one
    sequence = batches(
        loaded.inputs,
        samples,
        budget,
        with_answer=component == "thinker",
        max_unreadable=options.max_unreadable,
        start=part.position,
    )
    with Progress(f"calibrating {component} on {modality}", len(samples) - part.position.num_rows) as progress:
        for weight, of_weight in groupby(sequence, key=lambda batch: batch.weight):
            # A meter adds each token once; rows of a weight have a sum of their own, which is multiplied afterwards.
            part = part.before(weight)
            meter = new_meter(loaded, component, modality, options, part.state)
            with meter.attach(loaded.decoder(component).layers):
                for batch in of_weight:
                    silent = part.position.silent
                    if component == "talker":
                        silent += _speak(loaded, batch, meter)
                    else:
                        meter.count(mark_tokens(batch.encoded, options.tokens))
                        listen(loaded, batch)
                    _check_silent(silent, len(samples))
                    progress.advance(batch.position.num_rows - part.position.num_rows)
                    part = replace(part, position=replace(batch.position, silent=silent))
                    # Between batches alone: the sums within one could not be gone on from.
                    if file.is_due:
                        file.keep(name, replace(part, state=meter.state()))
                        file.save()
            part = replace(part, state=meter.state())
    file.keep(name, part)
    return new_meter(loaded, component, modality, options, sum_part(part, samples, options))


def sum_part(part: Part, samples: Sequence[Sample], options: Options) -> State:
    """The sums of a finished part; `InputError` if no token counts."""
    total = part.sums()
    assert total is not None  # `batches` refuses data of which nothing can be read
    if not total["tokens"]:
        raise InputError(f"rows have no tokens of kind {options.tokens!r}", where=samples[0].where)
    return total


def _check_silent(silent: Sequence[str], num_rows: int) -> None:
    if len(silent) > _MAX_SILENT * num_rows or len(silent) == num_rows:
        problem = f"{len(silent)} of {num_rows} rows so far were answered with nothing: {'; '.join(silent[:_NAMED])}"
        raise InputError(problem, fix="give rows that the model answers in speech, or measure the thinker alone")


@torch.inference_mode()
def listen(loaded: Loaded, batch: Batch) -> None:
    """One forward pass of the thinker, but for its head, over prompts and answers."""
    running, model = loaded.running, loaded.model
    audio = [audio_of(running, model, encoded) for encoded in batch.encoded]
    inputs = embedded(running, model, loaded.inputs, batch.encoded, audio)
    # Not the head: logits of 8,192 tokens over 150,000 words would take 2.5 GB, and nothing needs them.
    running.thinker(model).base_model(**inputs, use_cache=False)


def _speak(loaded: Loaded, batch: Batch, meter: Meter) -> tuple[str, ...]:
    """Let the model answer one sample aloud; every step of the talker counts.

    Returns the row, with the reason, if it was answered with nothing; then no step counts.
    """
    try:
        with meter.all_or_nothing():
            speak(loaded, batch.encoded[0])
    except SilenceError as error:
        reason = f"{batch.encoded[0].where}: {error}"
        logger.info(f"left out: {reason}")
        return (reason,)
    return ()


@torch.inference_mode()
def speak(loaded: Loaded, encoded: Encoded) -> None:
    """Let the model answer one sample aloud, seeded each time; `SilenceError` if it says nothing."""
    # What is said must depend neither on the rows before nor on where a measurement went on.
    torch.manual_seed(0)
    voice, device = loaded.model_info.family.voice, loaded.running.device(loaded.model)
    assert voice is not None  # it has a talker
    tensors = {name: tensor.to(device) for name, tensor in loaded.inputs.collate([encoded]).items()}
    voice.speak(loaded.model, tensors, loaded.inputs.end_token_id, SPEECH_STEPS)
