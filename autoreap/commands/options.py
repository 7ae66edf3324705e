"""What the options of several commands have in common. Light: nothing here imports a heavy library."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Arguments = argparse.Namespace
Add = Callable[..., Any]  # argparse's add_argument
Result = tuple[dict[str, Any], str]  # the JSON object, and the text for people
COMPONENTS = {"thinker": ("thinker",), "talker": ("talker",), "both": ("thinker", "talker")}


def add_model(add: Add) -> None:
    """MODEL."""
    add("model", metavar="MODEL", help="a directory, a hub name, or tiny")


def add_study_options(add: Add) -> None:
    """STUDY, and where it lies."""
    add("study", metavar="STUDY", help="name of a study")
    add("--storage", help="Optuna storage URL (default: sqlite:///mlruns/studies.db)")


def add_calibration_options(add: Add, *, required: bool = True) -> None:
    """What to measure, on what."""
    add("--audio", type=Path, required=required, help="JSONL of audio rows")
    add("--video", type=Path, help="JSONL of video or image rows")
    add("--mixed", type=Path, help="JSONL of rows with both")
    add("--component", choices=tuple(COMPONENTS), default="thinker", help="default: thinker")


def calibration_files(options: Arguments) -> dict[str, Path]:
    """The files given, by modality."""
    files = {"audio": options.audio, "video": options.video, "mixed": options.mixed}
    return {modality: path for modality, path in files.items() if path is not None}


def positive(text: str) -> int:
    """An integer above 0."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be an integer above 0, got {text!r}")
    return int(text)


def hours(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


def indices(text: str) -> list[int]:
    """Layer numbers separated by commas."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"must be layer numbers such as 12,16, got {text!r}")
    return [int(part) for part in text.split(",")]
