"""What there is on this machine, looked at without changing or fetching anything. Loads no heavy library itself.

Libraries are imported in a child process: a torchvision of another torch breaks transformers, a broken driver ends the
process, and both are to be told.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

_PROBE = """
import importlib, json
errors, accelerators = {}, []
used = {"transformers": ("Qwen3OmniMoeForConditionalGeneration", "Qwen3OmniMoeProcessor")}
for name in ("soundfile", "matplotlib", "torchvision", "av", "torch", "transformers"):
    try:
        module = importlib.import_module(name)
        for wanted in used.get(name, ()):
            getattr(module, wanted)
    except BaseException as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        errors[name] = "" if missing else f"{type(error).__name__}: {error}".splitlines()[0]
if "torch" not in errors:
    import torch
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        accelerators.append([torch.cuda.get_device_name(number), total, free])
print(json.dumps({"errors": errors, "accelerators": accelerators}))
"""
_HUB_SECONDS = 3


@dataclass(frozen=True)
class Accelerator:
    """A GPU as torch sees it."""

    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Machine:
    """What was found.

    Attributes:
        python: version.
        errors: why a library can't be imported, by name; empty text where it is not installed.
        accelerators: those that torch can use.
        has_driver: whether a GPU's driver is there, whatever torch says.
        memory_bytes: that a process may still take.
        free_bytes: on the disks of these folders.
        num_cores, load: cores, and how many processes want one (mean of a minute).
        threads: OMP_NUM_THREADS, empty if it is not set.
        hub: what is known of the hub, in words.
    """

    python: str
    errors: Mapping[str, str]
    accelerators: tuple[Accelerator, ...]
    has_driver: bool
    memory_bytes: int
    free_bytes: Mapping[str, int]
    num_cores: int
    load: float
    threads: str
    hub: str


def look(folder: Path) -> Machine:
    """At this machine; `folder` is where the states of studies go."""
    errors, accelerators = _imports()
    return Machine(
        python=".".join(map(str, sys.version_info[:3])),
        errors=errors,
        accelerators=accelerators,
        has_driver=shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists(),
        memory_bytes=int(psutil.virtual_memory().available),
        free_bytes={str(place): _free(place) for place in (folder, Path(tempfile.gettempdir()))},
        num_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        threads=os.environ.get("OMP_NUM_THREADS", ""),
        hub=_hub(),
    )


def _imports() -> tuple[dict[str, str], tuple[Accelerator, ...]]:
    """Which libraries can't be imported and why, and the accelerators."""
    # -P: a file of the current folder must not be taken for a library, as it is not when `autoreap` runs.
    result = subprocess.run([sys.executable, "-P", "-c", _PROBE], capture_output=True, text=True)
    try:
        found = json.loads(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        return dict.fromkeys(("torch", "transformers"), f"importing it ends the process: {said}"), ()
    return found["errors"], tuple(Accelerator(*entry) for entry in found["accelerators"])


def _free(folder: Path) -> int:
    """Bytes free where `folder` is, or will be made."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def _hub() -> str:
    """Whether models could be fetched, and where they would lie; nothing is."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    lies = f"cache {cache}{'' if cache.is_dir() else ' (empty)'}"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return f"not asked: HF_HUB_OFFLINE is set; {lies}"
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_HUB_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        return f"{address} can't be reached ({getattr(error, 'reason', error)}); {lies}"
    return f"{address} can be reached; {lies}"


def installed(name: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> list[str]:
    """What autoreap needs, as its own metadata says; none where it runs without being installed."""
    try:
        return metadata.requires("autoreap") or []
    except metadata.PackageNotFoundError:
        return []
