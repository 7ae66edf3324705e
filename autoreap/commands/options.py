"""What the options of several commands have in common. Light: nothing here imports a heavy library."""

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoreap.data.measuring import DEFAULT_GATES, DEFAULT_TOKENS, GATES, TOKENS
from autoreap.errors import InputError

if TYPE_CHECKING:
    from autoreap.data.calibration_config import CalibrationConfig

Arguments = argparse.Namespace
Add = Callable[..., Any]  # argparse's add_argument
Result = tuple[dict[str, Any], str]  # the JSON object, and the text for people
DTYPES = ("auto", "bfloat16", "float16", "float32")
COMPONENTS = {"thinker": ("thinker",), "talker": ("talker",), "both": ("thinker", "talker")}


def add_model(add: Add) -> None:
    """MODEL."""
    add("model", metavar="MODEL", help="a directory, a hub name, or tiny")


def add_study_options(add: Add) -> None:
    """STUDY, and where it lies."""
    add("study", metavar="STUDY", help="name of a study")
    add("--storage", metavar="URL", help="Optuna storage URL (default: sqlite:///mlruns/studies.db)")


def add_tracking_option(add: Add) -> None:
    """Where MLflow is."""
    add("--tracking-uri", metavar="URI", help="MLflow server or database (default: MLFLOW_TRACKING_URI, or mlruns/)")


def add_calibration_options(add: Add) -> None:
    """What to measure, on what."""
    several = {"metavar": "SET[=WEIGHT]", "type": weighted_set, "action": "append", "default": []}
    add("--audio", help="JSONL of audio rows, or a data set of the hub; may be given several times", **several)
    add("--video", help="the same of video or image rows", **several)
    add("--mixed", help="the same of rows with both", **several)
    add("--calibration", type=Path, metavar="FILE", help="YAML of sets, with splits and columns (docs/calibration.md)")
    add("--calibration-samples", type=positive, metavar="N", help="at most the first N rows of each set")
    add(
        "--max-unreadable",
        type=share,
        metavar="SHARE",
        help="of recordings that may be broken; they are left out (default 0.01)",
    )
    add("--tokens", choices=TOKENS, help=f"which tokens of the thinker count (default {DEFAULT_TOKENS})")
    add(
        "--gates",
        choices=GATES,
        help=f"weights the block multiplies by, or raw probabilities (default {DEFAULT_GATES})",
    )
    add("--component", choices=tuple(COMPONENTS), default="thinker", help="default: thinker")


def calibration_config(options: Arguments) -> "CalibrationConfig":
    """The sets of the file and of the options, by modality; `InputError` where there is none of audio."""
    from autoreap.data.calibration_config import calibration_of

    named = {"audio": options.audio, "video": options.video, "mixed": options.mixed}
    config = calibration_of(
        options.calibration,
        named,
        max_unreadable=options.max_unreadable,
        tokens=options.tokens,
        gates=options.gates,
    )
    return config.limited(options.calibration_samples)


def gives_calibration(options: Arguments) -> bool:
    """Whether the options name anything to measure on."""
    return bool(options.audio or options.video or options.mixed or options.calibration)


def add_loading_options(add: Add) -> None:
    """Where and in which type a model computes."""
    add(
        "--device", help="cuda, cuda:1, cpu, or auto: over all that there are (default: an accelerator if there is one)"
    )
    add("--dtype", choices=DTYPES, default="auto", help="default: auto, the stored type, float32 on a CPU")


def add_streaming_option(add: Add) -> None:
    """How a model that does not fit is calibrated."""
    add("--stream-layers", action="store_true", help="calibrate with one layer in memory at a time, the rest on disk")


def weighted_set(text: str) -> tuple[str, float]:
    """A set and its weight; 1 where none is given. A name that ends in `=` and a number needs a weight after it."""
    name, _, ending = text.rpartition("=")
    try:
        weight = float(ending)
    except ValueError:
        return text, 1.0
    if not name:
        return text, 1.0
    if not 0 < weight < float("inf"):
        raise argparse.ArgumentTypeError(f"a weight must be a finite number above 0, got {ending!r}")
    return name, weight


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return number


def positive(text: str) -> int:
    """An integer above 0."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be an integer above 0, got {text!r}")
    return int(text)


def at_least_zero(text: str) -> int:
    """An integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, got {text!r}")
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


def check_output(path: Path, option: str, formats: Sequence[str] = ()) -> None:
    """Raise `InputError` where a file can't be written, before any work is done for it; `formats` are endings."""
    where = f"{option} {path}"
    if formats and path.suffix.removeprefix(".").lower() not in formats:
        raise InputError(f"is in no format that can be drawn: {path.suffix or 'no ending'}", where=where,
            fix=f"end it in .{', .'.join(formats)}")  # fmt: skip
    if path.is_dir():
        raise InputError("is a directory", where=where, fix="name a file in it")
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if nearest != path and not nearest.is_dir():
        raise InputError(f"can't be made: {nearest} is a file", where=where, fix="name another folder")
    if not os.access(nearest, os.W_OK):
        raise InputError(f"can't be written: no permission for {nearest}", where=where, fix="name another place")
