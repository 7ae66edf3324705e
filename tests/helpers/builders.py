"""Small inputs to build tests from: measurements, shapes, recordings, and checkpoints that are headers alone."""

import io
import json
import math
import struct
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import soundfile
import typer
from pages import ROOT

from autoreap.candidate import Candidate
from autoreap.cli import app
from autoreap.data.samples import MODALITIES
from autoreap.plan import BaseModel, ComponentPlan, ComponentShape, ModelShape, PruningPlan
from autoreap.planning import make_plan
from autoreap.saliency import ComponentSaliency, ModalitySums, Saliency
from autoreap.tiny_omni import CHECKPOINT

FINGERPRINT = "0123456789abcdef"
BASE_MODEL = BaseModel(name="test/model", fingerprint=FINGERPRINT)
SHAPE = ModelShape(
    components={"thinker": ComponentShape(8, 8, 2), "talker": ComponentShape(5, 6, 2)}, deepstack_layers=2, speech_tap=4
)


def measured(num_layers: int, num_experts: int, *, num_spans: int = 3, seed: int = 0) -> ComponentSaliency:
    """Random measurements of one decoder, all three modalities."""
    rng = np.random.default_rng(seed)
    cosine = rng.random((num_spans, num_layers))
    for span in range(num_spans):
        cosine[span, num_layers - span :] = np.nan
    return ComponentSaliency(
        modalities={
            modality: ModalitySums(
                gate_norm_sum=rng.random((num_layers, num_experts)) * 100,
                routed_tokens=rng.integers(0, 50, (num_layers, num_experts)),
                tokens=100 + extra,
            )
            for extra, modality in enumerate(("audio", "video", "mixed"))
        },
        layer_cosine=cosine,
    )


def saliency_of(shape: ModelShape, *, fingerprint: str = FINGERPRINT, seed: int = 0) -> Saliency:
    """Random measurements of every decoder of `shape`."""
    components = {
        name: measured(decoder.num_layers, decoder.num_experts, seed=seed) for name, decoder in shape.components.items()
    }
    rows = {f"data.{modality}": f"digest of {modality}" for modality in MODALITIES}
    return Saliency(components=components, provenance={"model_fingerprint": fingerprint, "tokens": "answer", **rows})


def planned(**values: Any) -> PruningPlan:
    """The plan of a candidate of these values, on random measurements of `SHAPE`."""
    return make_plan(Candidate(**values), saliency_of(SHAPE), SHAPE, BASE_MODEL)


def wav_bytes(num_samples: int = 1600, sampling_rate: int = 16_000) -> bytes:
    """A sine as an encoded WAV file."""
    encoded = io.BytesIO()
    waveform = 0.5 * np.sin(np.arange(num_samples) * 2 * np.pi * 440 / sampling_rate)
    soundfile.write(encoded, waveform, sampling_rate, format="WAV")
    return encoded.getvalue()


def write_sparse_checkpoint(
    folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], *, num_shards: int = 1
) -> Path:
    """A bf16 checkpoint of full length whose tensors are holes in sparse files: all zeros, no disk."""
    (folder / "config.json").write_text(json.dumps(config))
    names = list(shapes)
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        header, end = {}, 0
        for name in names[shard::num_shards]:
            start, end = end, end + 2 * math.prod(shapes[name])
            header[name] = {"dtype": "BF16", "shape": list(shapes[name]), "data_offsets": [start, end]}
            weight_map[name] = file_name
        encoded = json.dumps(header).encode()
        with (folder / file_name).open("wb") as file:
            file.write(struct.pack("<Q", len(encoded)) + encoded)
            file.truncate(file.tell() + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def identity_plan(fingerprint: str, shape: ModelShape) -> PruningPlan:
    """The plan that keeps everything."""
    return PruningPlan(BaseModel("random", fingerprint), False, ComponentPlan.identity(shape.components["thinker"]))


def random_component(
    shape: ComponentShape, *, num_experts: int | None = None, layers: tuple[int, ...] | None = None, seed: int = 0
) -> ComponentPlan:
    """`num_experts` experts drawn for each layer, `layers` retained; None keeps all."""
    rng = np.random.default_rng(seed)
    draws = [rng.permutation(shape.num_experts)[: num_experts or shape.num_experts] for _ in range(shape.num_layers)]
    experts = tuple(tuple(sorted(int(expert) for expert in draw)) for draw in draws)
    return ComponentPlan(experts=experts, layers=layers or tuple(range(shape.num_layers)))


def copy_tokenizer(folder: Path, renamed: Mapping[str, str]) -> None:
    """The embedded model's tokenizer, chat template and preprocessor beside the weights in `folder`.

    `renamed` maps its special tokens to those of the family.
    """
    for source in CHECKPOINT.iterdir():
        if source.suffix in (".json", ".jinja") and source.name not in ("config.json", "generation_config.json"):
            text = source.read_text()
            for old, new in renamed.items():
                text = text.replace(old, new)
            (folder / source.name).write_text(text)


def copy_rows(source: Path, target: Path, num_rows: int) -> None:
    """The first rows of a JSONL file; their media stay where they are."""
    rows = [json.loads(line) for line in source.read_text().splitlines()[:num_rows]]
    for row in rows:
        row |= {key: str((source.parent / row[key]).resolve()) for key in ("audio", "image") if key in row}
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_few_rows(path: Path, limit: int) -> None:
    """The evals of the embedded model with at most `limit` rows a task."""
    path.write_text((ROOT / "evals" / "tiny.yaml").read_text().replace("}", f", limit: {limit}}}"))


@cache
def as_jsonl(name: str) -> Path:
    """A folder with the sets of `evals/tiny` or `calibration/tiny` as JSONL files, their media beside them.

    It is made once in each process, and removed at its end.
    """
    folder = Path(_TEMPORARY.name) / name
    for kind in ("audio", "images"):
        (folder / kind).mkdir(parents=True)
    for path in (ROOT / name).glob("*.parquet"):
        rows = [_with_files(row, folder) for row in pyarrow.parquet.read_table(path).to_pylist()]
        (folder / f"{path.stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


_TEMPORARY = tempfile.TemporaryDirectory(prefix="autoreap-jsonl-")


def _with_files(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A row of Parquet as JSONL has it: media are written to files, and named by their paths in `folder`."""
    written: dict[str, Any] = {}
    for key, value in row.items():
        if key in ("audio", "image") and value:
            written[key] = _write_media(value, folder)
        elif key == "video" and value:
            written[key] = [_write_media(frame, folder) for frame in value]
        elif value is not None:
            written[key] = value
    return written


def _write_media(media: Mapping[str, Any], folder: Path) -> str:
    kind = "audio" if media["path"].endswith(".ogg") else "images"
    (folder / kind / media["path"]).write_bytes(media["bytes"])
    return f"{kind}/{media['path']}"


def parse(words: Sequence[str]) -> dict[str, Any]:
    """The arguments and options that a command line gives its command; `typer.TyperException` where it takes none."""
    command = typer.main.get_group(app).commands[words[0]]
    return command.make_context(words[0], list(words[1:])).params
