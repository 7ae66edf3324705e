"""What the options of several commands have in common. Light: nothing here imports a heavy library."""

import inspect
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from typer import Argument, BadParameter, Option

from autoreap.data.calibration_choices import DEFAULT_GATES, DEFAULT_TOKENS, Gates, Tokens
from autoreap.errors import InputError, printable

if TYPE_CHECKING:
    from autoreap.data.calibration_config import CalibrationConfig
    from autoreap.models.loading import Loaded, ModelInfo
    from autoreap.search.records import StudyRecord

COMPONENTS = {"thinker": ("thinker",), "talker": ("talker",), "both": ("thinker", "talker")}


def print_result(document: dict[str, Any], text: str, *, as_json: bool, is_coloured: bool = False) -> None:
    """What a command found, as one JSON object or as text for people; an `is_coloured` text is printable already."""
    if as_json:  # in JSON, too, an escape stands for its character
        text = printable(json.dumps(document, ensure_ascii=False, allow_nan=False), as_json=True)
    elif not is_coloured:
        text = printable(text)
    if text:
        print(text, flush=True)


def load_study(name: str, storage: str | None) -> "StudyRecord":
    """What a study recorded; `InputError` where there is none of this name."""
    from autoreap.search.storage import read_stored

    return read_stored(name, storage)


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as typer takes it: an option for each field of a parameter whose type is a dataclass."""
    signature = inspect.signature(command)
    bundles: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation):
            bundles[parameter.name] = parameter.annotation
            parameters += inspect.signature(parameter.annotation).parameters.values()
        else:
            parameters.append(parameter)

    @wraps(command)
    def run(**given: Any) -> None:
        for name, bundle in bundles.items():
            values = {field.name: given.pop(field.name) for field in fields(bundle)}
            given[name] = bundle(**values)
        command(**given)

    # A bundle's fields have defaults, and may stand before an argument without one: by name the order does not matter.
    by_name = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    # typer looks at the signature, and `wraps` would show it that of `command`.
    run.__dict__["__signature__"] = signature.replace(parameters=by_name)
    return run


def terminal_width() -> int:
    """Columns of the terminal; 100 where there is none, such as in a file."""
    return shutil.get_terminal_size((100, 0)).columns


# ---------------------------------------------------------------- what a shell may offer


def study_names() -> list[str]:
    """As Optuna stores them: to ask it would take a second at each press of a key. None where they can't be read."""
    path = Path("mlruns/studies.db")
    # Read alone, and not for long: the shell waits, and a search may be writing.
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2)) as connection:
            return [str(name) for (name,) in connection.execute("SELECT study_name FROM studies ORDER BY study_name")]
    except sqlite3.Error:
        return []


def model_names(incomplete: str) -> list[str]:
    """`tiny`, beside the files that fit; where it does not fit a shell offers files by itself."""
    if not "tiny".startswith(incomplete):
        return []
    return ["tiny", *glob(f"{incomplete}*")]


def source_names(incomplete: str) -> list[str]:
    """Studies and models."""
    return [*study_names(), *model_names(incomplete)]


# ---------------------------------------------------------------- values


class WeightedSet(NamedTuple):
    """A set of rows, and how much it counts."""

    name: str
    weight: float


def weighted_set(text: str) -> WeightedSet:
    """A set and its weight; 1 where none is given. A name that ends in `=` and a number needs a weight after it."""
    name, _, ending = text.rpartition("=")
    try:
        weight = float(ending)
    except ValueError:
        name = ""
    if not name:
        return WeightedSet(text, 1.0)
    if not 0 < weight < float("inf"):
        raise BadParameter(f"a weight must be a finite number above 0, got {ending!r}")
    return WeightedSet(name, weight)


# ---------------------------------------------------------------- options of several commands

_DEVICE = "cuda, cuda:1, cpu, or auto: all accelerators (default: an accelerator if there is one)"
_MAX_UNREADABLE = "fraction of recordings that may be broken; they are left out (default 0.01)"
_GATES = f"weights the block multiplies by, or raw probabilities (default {DEFAULT_GATES})"
_STREAM_LAYERS = "calibrate with one layer in memory at a time, the rest on disk"
_MODEL = "a directory, a hub name, or tiny"
ComponentName = Literal["thinker", "talker", "both"]
DtypeName = Literal["auto", "bfloat16", "float16", "float32"]

Json = Annotated[bool, Option("--json", help="one JSON object on stdout, nothing else there")]
Model = Annotated[str, Argument(metavar="MODEL", help=_MODEL, autocompletion=model_names)]
ModelOption = Annotated[str, Option(metavar="MODEL", help=_MODEL, autocompletion=model_names)]
ModelNow = Annotated[
    str | None,
    Option(metavar="MODEL", help="where the base model is now (default: where it was)", autocompletion=model_names),
]
Plan = Annotated[Path | None, Option(metavar="FILE", help="a plan.json: what the model is pruned to")]
Study = Annotated[str, Argument(metavar="STUDY", help="name of a study", autocompletion=study_names)]
Storage = Annotated[str | None, Option(metavar="URL", help="Optuna storage URL (default: sqlite:///mlruns/studies.db)")]
TrackingUri = Annotated[
    str | None, Option(metavar="URI", help="MLflow server or database (default: MLFLOW_TRACKING_URI, or mlruns/)")
]
Component = Annotated[ComponentName, Option(help="component whose experts and layers are meant")]
Device = Annotated[str | None, Option(metavar="DEVICE", help=_DEVICE)]
Dtype = Annotated[DtypeName, Option(help="auto: the stored type, float32 on a CPU")]
Sets = list[WeightedSet] | None


def _sets(rows: str) -> Any:
    return Option(metavar="SET[=WEIGHT]", parser=weighted_set, help=rows)


@dataclass(frozen=True)
class Calibration:
    """What to measure, on what."""

    audio: Annotated[Sets, _sets("JSONL of audio rows, or a data set of the hub; may be given several times")] = None
    video: Annotated[Sets, _sets("the same of video or image rows")] = None
    mixed: Annotated[Sets, _sets("the same of rows with both")] = None
    calibration: Annotated[
        Path | None, Option(metavar="FILE", help="YAML of sets with columns (docs/calibration.md)")
    ] = None
    calibration_samples: Annotated[
        int | None, Option(metavar="N", min=1, help="use only the first N rows of each set")
    ] = None
    max_unreadable: Annotated[float | None, Option(metavar="NUMBER", min=0, max=1, help=_MAX_UNREADABLE)] = None
    tokens: Annotated[Tokens | None, Option(help=f"which tokens of the thinker count (default {DEFAULT_TOKENS})")] = (
        None
    )
    gates: Annotated[Gates | None, Option(help=_GATES)] = None

    @property
    def is_given(self) -> bool:
        """Whether the options name anything to measure on."""
        return bool(self.audio or self.video or self.mixed or self.calibration)

    def config(self) -> "CalibrationConfig":
        """The sets of the file and of the options, by modality; `InputError` where there is none of audio."""
        from autoreap.data.calibration_config import calibration_of

        named = {"audio": self.audio or [], "video": self.video or [], "mixed": self.mixed or []}
        config = calibration_of(
            self.calibration, named, max_unreadable=self.max_unreadable, tokens=self.tokens, gates=self.gates
        )
        return config.limited(self.calibration_samples)

    def config_if_given(self) -> "CalibrationConfig | None":
        """The same; None where the options name nothing."""
        if not self.is_given:
            return None
        return self.config()


@dataclass(frozen=True)
class Loading:
    """Where, in which type, and how much at a time a model that is calibrated is loaded."""

    device: Device = None
    dtype: Dtype = "auto"
    stream_layers: Annotated[bool, Option("--stream-layers", help=_STREAM_LAYERS)] = False

    def load(self, model_info: "ModelInfo", component: str) -> "Loaded":
        """The model, with what speaks where that is calibrated."""
        from autoreap.models.loading import load

        speech = "talker" in COMPONENTS[component]
        return load(model_info, speech=speech, device=self.device, dtype=self.dtype, stream_layers=self.stream_layers)


def check_output(path: Path, option: str, formats: Sequence[str] = ()) -> None:
    """Raise `InputError` where a file can't be written, before any work is done for it; `formats` are endings."""
    where = f"{option} {path}"
    if formats and path.suffix.removeprefix(".").lower() not in formats:
        problem = f"is in no format that can be drawn: {path.suffix or 'no ending'}"
        raise InputError(problem, where=where, fix=f"end it in .{', .'.join(formats)}")
    if path.is_dir():
        raise InputError("is a directory", where=where, fix="name a file in it")
    # Folders that are missing will be made; whether that can be done the nearest one that is there says.
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if nearest != path and not nearest.is_dir():
        raise InputError(f"can't be made: {nearest} is a file", where=where, fix="name another folder")
    if not os.access(nearest, os.W_OK):
        raise InputError(f"can't be written: no permission for {nearest}", where=where, fix="name another place")
