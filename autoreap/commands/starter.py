"""A project to start from: a space, evals and calibration data that run as they are."""

import shutil
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from autoreap.errors import InputError

_EMBEDDED = "tiny"
# The embedded model knows 42 words; this is what it was taught to be asked. Others are asked as people do.
_PROMPTS = {_EMBEDDED: "transcribe"}
_PROMPT = "Transcribe the audio into text."
_TEXTS = (".yaml", ".md")


def write_starter(folder: Path, model: str = _EMBEDDED) -> list[Path]:
    """Write the project for `model` into `folder`; its files, without the recordings, in order.

    Raises:
        InputError: there is something in `folder` already, or `model` can't be written into a file as a name.
    """
    if model not in ("", _EMBEDDED) and Path(model).is_dir():
        model = str(Path(model).resolve())  # the project's commands are run in its own directory
    # It goes into YAML, and into commands that are copied into a shell.
    if not model or any(not letter.isprintable() or letter in " `'\"$" for letter in model):
        raise InputError(f"must be a directory or a name, without spaces and quotes, got {model!r}", where="--model")
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file", where=folder, fix="name a new directory")
    if folder.exists() and any(folder.iterdir()):
        raise InputError("is not empty", where=folder, fix="name a new directory")
    names = {"model": model, "study": f"space-{Path(model).name}", "prompt": _PROMPTS.get(model, _PROMPT)}
    _copy(resources.files("autoreap") / "starter_files", folder, names)
    return sorted(path for path in folder.rglob("*") if path.suffix in (*_TEXTS, ".jsonl"))


def _copy(source: Traversable, target: Path, names: dict[str, str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        path = target / entry.name
        if entry.is_dir():
            _copy(entry, path, names)
        elif path.suffix in _TEXTS:
            path.write_text(Template(entry.read_text(encoding="utf-8")).substitute(names), encoding="utf-8")
        else:
            with entry.open("rb") as recording, path.open("wb") as copy:
                shutil.copyfileobj(recording, copy)
