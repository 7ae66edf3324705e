"""A folder of data files with a manifest: what every file is, how it was made, and its digest."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from autoreap.tiny_omni.speech import SAMPLE_RATE, Voice, Waveform, write_opus
from autoreap.tiny_omni.words import Sentence

Row = dict[str, Any]
LICENCE = (
    "Machine-made for this repository and under its licence. The synthesisers' own licences (eSpeak NG: "
    "GPL-3.0-or-later; Flite: BSD-like) cover the programs and not the speech they put out. "
    "The images are drawn by code."
)


@dataclass
class MediaFolder:
    """Writes audio, images and JSONL below ``root`` and remembers what the manifest has to say about each."""

    root: Path
    seed: int
    files: list[Row] = field(default_factory=list)

    def audio(self, name: str, samples: Waveform, sentence: Sentence, voice: Voice, how: str = "") -> str:
        """Store one utterance as audio/NAME.ogg; returns its path relative to the folder."""
        path = f"audio/{name}.ogg"
        write_opus(self.root / path, samples)
        made = f"{voice.engine} voice {voice.name}: {' '.join(sentence)}{how}; Ogg Opus"
        self._record(
            path, made, seconds=round(len(samples) / SAMPLE_RATE, 2), synthesiser=voice.engine, voice=voice.name
        )
        return path

    def image(self, name: str, image: Image.Image, what: str) -> str:
        """Store one image as images/NAME.png; returns its path relative to the folder."""
        path = f"images/{name}.png"
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(self.root / path, optimize=True)
        self._record(path, f"drawn: {what}")
        return path

    def rows(self, name: str, rows: list[Row], how: str) -> None:
        """Store rows as NAME.jsonl."""
        path = f"{name}.jsonl"
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._record(path, how, rows=len(rows))
        print(f"{self.root / path}: {len(rows)} rows", flush=True)

    def write_manifest(self) -> None:
        """Write MANIFEST.json, one entry a file."""
        manifest = {
            "made_by": "python -m autoreap.tiny_omni.data",
            "seed": self.seed,
            "licence": LICENCE,
            "bytes": sum(entry["bytes"] for entry in self.files),
            "files": self.files,
        }
        (self.root / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")

    def _record(self, path: str, made: str, **more: object) -> None:
        content = (self.root / path).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self.files.append({"path": path, "sha256": digest, "bytes": len(content), "made": made, **more})
