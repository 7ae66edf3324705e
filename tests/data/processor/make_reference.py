"""What the real Qwen3OmniMoeProcessor makes of a few conversations; run as a script, writes it to reference.npz.

    python tests/data/processor/make_reference.py

It needs the torchvision that goes with the installed torch (0.28 with torch 2.13). A torchvision built for CUDA can't
load its compiled operators beside a CPU torch, and then fails to import because nobody has declared them. The processor
calls none of them, so declaring the two that the import asks for is enough. Such a torchvision breaks any other use of
transformers: keep it apart (`pip install --no-deps --target FOLDER torchvision==0.28.0`), with FOLDER on PYTHONPATH.

Run it again when the embedded checkpoint gets another tokenizer, chat template or preprocessor.
"""

import importlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from autoreap.data.samples import SAMPLING_RATE, Sample
from autoreap.tiny_omni import CHECKPOINT

REFERENCE = Path(__file__).with_name("reference.npz")
CONVERSATIONS = (
    "short clip",
    "clip",
    "long clip",
    "text",
    "bare text",
    "image",
    "transparent image",
    "clip and image",
    "video",
)


def conversation(name: str, folder: Path) -> tuple[Sample, str | None]:
    """The sample and the question of that name, pictures written into `folder`; without a question it is bare text."""
    media: dict[str, Any] = {}
    question: str | None = "Transcribe the audio into text."
    match name:
        case "short clip":
            media = {"audio": _clip(0.7)}
        case "clip":
            media = {"audio": _clip(1.9)}
            question = "What is the second word?\nA. naïve\nB. 你好"
        case "long clip":
            media = {"audio": _clip(3.2)}
        case "text":
            question = "  how many words, or which?  \n"
        case "bare text":
            media, question = {"text": "The quick brown fox\njumps over 13 dogs."}, None
        case "image" | "transparent image":
            media = {"image": _picture(folder / "image.png", transparent=name != "image")}
            question = "describe the image"
        case "clip and image":
            media = {"audio": _clip(1.234), "image": _picture(folder / "image.png")}
        case "video":
            media = {"video": tuple(_picture(folder / f"frame{i}.png", shift=40 * i) for i in range(4))}
    return Sample(id=name, where=f"conversations:{name}", **media), question


def real_processor() -> Any:
    """The real processor of the embedded checkpoint."""
    from transformers import Qwen3OmniMoeProcessor

    return Qwen3OmniMoeProcessor.from_pretrained(CHECKPOINT)


def real_inputs(processor: Any, sample: Sample, question: str | None) -> dict[str, torch.Tensor]:
    """What the real processor makes of one conversation; it is given the size limits of images for videos too."""
    content: list[dict[str, str]] | str = sample.text or ""
    media: dict[str, Any] = {}
    if question is not None:
        kinds = [kind for kind in ("audio", "video", "image") if getattr(sample, kind)]
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": question}]
    if isinstance(sample.audio, bytes):
        media["audio"] = [soundfile.read(io.BytesIO(sample.audio), dtype="float32")[0]]
    if sample.image is not None:
        media["images"] = [Image.open(sample.image)]
    if sample.video:
        assert isinstance(sample.video, tuple)
        media["videos"] = [[Image.open(frame) for frame in sample.video]]
        media["videos_kwargs"] = {"size": dict(processor.image_processor.size), "cap_pixels_per_frame": False}
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=question is not None
    )
    return dict(processor(text=[text], return_tensors="pt", **media))


def _clip(seconds: float) -> bytes:
    """A WAV file: a rising chord with noise, different for every length."""
    num_samples = round(seconds * SAMPLING_RATE)
    time = np.arange(num_samples) / SAMPLING_RATE
    chord = sum(level * np.sin(2 * np.pi * (pitch + 60 * time) * time) for level, pitch in ((0.3, 220), (0.1, 1870)))
    noise = np.random.RandomState(num_samples).standard_normal(num_samples)
    file = io.BytesIO()
    soundfile.write(file, chord + 0.02 * noise, SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _picture(path: Path, *, shift: int = 0, transparent: bool = False) -> Path:
    """64 x 64 pixels of colour gradients."""
    rows, columns = np.indices((64, 64))
    channels = [3 * rows + shift, 2 * columns + 5 * rows, 250 - 4 * columns + shift, 4 * rows]
    picture = np.stack(channels[: 4 if transparent else 3], axis=-1) % 256
    Image.fromarray(picture.astype(np.uint8)).save(path)
    return path


def _import_torchvision() -> None:
    """Import it, if need be with its operators declared but not defined."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


def main() -> None:
    _import_torchvision()
    processor = real_processor()
    arrays: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in CONVERSATIONS:
            inputs = real_inputs(processor, *conversation(name, Path(folder)))
            arrays |= {f"{name}/{key}": tensor.numpy() for key, tensor in inputs.items()}
    np.savez_compressed(REFERENCE, **arrays)


if __name__ == "__main__":
    main()
