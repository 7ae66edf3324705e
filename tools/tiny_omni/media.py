"""Sets of rows as Parquet files, in the form of data sets on the hub, with a manifest that says what each is."""

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import soundfile
from PIL import Image

from tools.tiny_omni.speech import SAMPLE_RATE, Waveform

Row = dict[str, Any]
LICENCE = (
    "Machine-made for this repository and under its licence. The synthesisers' own licences (eSpeak NG: "
    "GPL-3.0-or-later; Flite: BSD-like) cover the programs and not the speech they put out. "
    "The images are drawn by code."
)
TYPES = {
    "audio": datasets.Audio(sampling_rate=SAMPLE_RATE),
    "image": datasets.Image(),
    "video": datasets.List({"bytes": datasets.Value("binary"), "path": datasets.Value("string")}),
    "choices": datasets.List(datasets.Value("string")),
    "snr_db": datasets.Value("float64"),
}
TEXT = datasets.Value("string")  # the type of every other column
# Rows that share a recording store it once, as long as the dictionary of the column can hold all recordings.
DICTIONARY_BYTES = 16 * 1024 * 1024


def encode_audio(name: str, samples: Waveform) -> Row:
    """An utterance [num_samples] at 16 kHz as a row holds it: Ogg Opus."""
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE, format="OGG", subtype="OPUS")
    return {"bytes": encoded.getvalue(), "path": f"{name}.ogg"}


def encode_image(name: str, image: Image.Image) -> Row:
    """An image as a row holds it: PNG."""
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", optimize=True)
    return {"bytes": encoded.getvalue(), "path": f"{name}.png"}


def write_parquet(path: Path, rows: list[Row]) -> None:
    """Write `rows`; a key that a row lacks is null in its column."""
    columns = dict.fromkeys(key for row in rows for key in row)
    features = datasets.Features({key: TYPES.get(key, TEXT) for key in columns})
    table = pyarrow.Table.from_pylist(rows, schema=features.arrow_schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `Dataset.to_parquet`, which stores a recording again for each row that has it.
    pyarrow.parquet.write_table(table, path, dictionary_pagesize_limit=DICTIONARY_BYTES)


@dataclass
class DataFolder:
    """Writes sets below `root` and remembers what the manifest says about each."""

    root: Path
    seed: int
    files: list[Row] = field(default_factory=list)

    def write(self, name: str, rows: list[Row], made: str) -> None:
        """Store rows as NAME.parquet."""
        path = self.root / f"{name}.parquet"
        write_parquet(path, rows)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self.files.append({"path": path.name, "sha256": digest, "bytes": len(content), "rows": len(rows), "made": made})
        print(f"{path}: {len(rows)} rows", flush=True)

    def write_manifest(self) -> None:
        """Write MANIFEST.json, one entry a file."""
        manifest = {
            "made_by": "python -m tools.tiny_omni.data",
            "seed": self.seed,
            "licence": LICENCE,
            "audio": "16 kHz mono, Ogg Opus; `speaker` names synthesiser and voice",
            "bytes": sum(entry["bytes"] for entry in self.files),
            "files": self.files,
        }
        (self.root / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")
