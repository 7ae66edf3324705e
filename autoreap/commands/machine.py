"""What there is on this machine, and whether it works: nothing is changed or fetched. Loads no heavy library itself.

Libraries are imported in a child process: a torchvision of another torch breaks transformers, a broken driver ends the
process, and both are to be told.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.version import Version

from autoreap.candidate import BITS
from autoreap.commands.needs import Need
from autoreap.formatting import size_text

GOOD, NOTE, BROKEN = "good", "note", "broken"
MIN_PYTHON = "3.11"
_FEWEST_BITS = min(BITS)
_FEW_BYTES = 10e9  # of disk: a night's logs and pictures are megabytes, a checkpoint is not
_USED = {
    "torch": "loads models",
    "transformers": "loads models",
    "soundfile": "reads recordings",
    "matplotlib": "draws pictures",
}
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
print(json.dumps([errors, accelerators]))
"""


@dataclass(frozen=True)
class Accelerator:
    """A GPU as torch sees it."""

    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Machine:
    """What there is."""

    python: str
    # Why a library can't be imported, by name; empty text where it is not installed.
    errors: Mapping[str, str]
    accelerators: tuple[Accelerator, ...]
    has_driver: bool  # of a GPU, whatever torch says
    memory_bytes: int  # that a process may still take
    free_bytes: Mapping[str, int]  # on the disks of these folders
    num_cores: int
    load: float  # how many processes want a core, the mean of a minute
    threads: str  # OMP_NUM_THREADS, empty if it is not set
    hub: str  # whether models could be fetched, and where they would lie


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `state` is good, note or broken; `fix` says what to do about it."""

    subject: str
    state: str
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Ability:
    """Whether a command will work, and why or how."""

    command: str
    works: bool
    text: str


def look(*, ask_network: bool = False) -> Machine:
    """At this machine, and with `ask_network` at whether the hub can be reached."""
    # -P: a file of the current folder must not be taken for a library, as it is not when `autoreap` runs.
    probe = subprocess.run([sys.executable, "-P", "-c", _PROBE], capture_output=True, text=True)
    # The last line: a library may print something of its own when it is imported.
    try:
        errors, accelerators = json.loads(probe.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        errors, accelerators = dict.fromkeys(("torch", "transformers"), f"importing it ends the process: {last}"), []
    studies = "."  # the disk that will hold mlruns
    if Path("mlruns").exists():
        studies = "mlruns"
    # Those cores that this process may use: a container or a batch system may give it fewer than there are.
    if hasattr(os, "sched_getaffinity"):  # not on a Mac
        num_cores = len(os.sched_getaffinity(0))
    else:
        num_cores = os.cpu_count() or 1
    return Machine(
        python=platform.python_version(),
        errors=errors,
        accelerators=tuple(Accelerator(*entry) for entry in accelerators),
        has_driver=shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists(),
        memory_bytes=psutil.virtual_memory().available,
        free_bytes={
            "mlruns": psutil.disk_usage(studies).free,
            tempfile.gettempdir(): psutil.disk_usage(tempfile.gettempdir()).free,
        },
        num_cores=num_cores,
        load=psutil.getloadavg()[0],
        threads=os.environ.get("OMP_NUM_THREADS", ""),
        hub=_hub(ask_network=ask_network),
    )


def _hub(*, ask_network: bool) -> str:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    lies = f"cache {cache}"
    if not cache.is_dir():
        lies += " (empty)"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return f"not asked: HF_HUB_OFFLINE is set; {lies}"
    if not ask_network:
        return f"not asked: --network asks it; {lies}"
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=3).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        return f"{address} can't be reached ({getattr(error, 'reason', error)}); {lies}"
    return f"{address} can be reached; {lies}"


def examine(machine: Machine, requirements: Iterable[str], constraints: Path) -> list[Finding]:
    """What there is, judged; `constraints` pins the versions that were tested, where there is such a file."""
    if Version(machine.python) < Version(MIN_PYTHON):
        findings = [Finding("python", BROKEN, f"{machine.python} is too old", f"use {MIN_PYTHON} or later")]
    else:
        findings = [Finding("python", GOOD, machine.python)]
    findings += _packages(requirements, constraints)
    findings += _libraries(machine.errors)
    findings.append(_accelerator(machine))
    findings.append(Finding("memory", GOOD, f"{size_text(machine.memory_bytes)} of RAM are free"))
    for folder, free in machine.free_bytes.items():
        text = f"{size_text(free)} are free for {folder}"
        if free < _FEW_BYTES:
            fix = f"a checkpoint is written beside {folder} at its full size; free some"
            findings.append(Finding("disk", NOTE, text, fix))
        else:
            findings.append(Finding("disk", GOOD, text))
    # Threads that wait for each other on busy cores make torch slow.
    text = f"{machine.num_cores} cores, {machine.load:.1f} busy, OMP_NUM_THREADS {machine.threads or 'not set'}"
    if not machine.threads and machine.load >= machine.num_cores / 2:
        findings.append(Finding("threads", NOTE, f"{text}: CPU oversubscribed", "set OMP_NUM_THREADS=1"))
    else:
        findings.append(Finding("threads", GOOD, text))
    state = GOOD
    if "can't" in machine.hub:
        state = NOTE
    findings.append(Finding("hub", state, machine.hub))
    return findings


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages(requirements: Iterable[str], constraints: Path) -> list[Finding]:
    """Whether the versions are those that are needed, and those that were tested."""
    needed = []
    for text in requirements:
        requirement = Requirement(text)
        # Without those of an extra, such as video or dev, which need not be there.
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed.append(requirement)
    if not needed:
        return [Finding("packages", NOTE, "not checked: autoreap is not installed here", "pip install .")]
    pins: dict[str, str] = {}
    if constraints.is_file():
        for word in constraints.read_text(encoding="utf-8").split():
            name, is_pin, version = word.partition("==")
            if is_pin:
                pins[name] = version
    findings, others = [], []
    for each in needed:
        installed = _version(each.name)
        if installed is None or not each.specifier.contains(installed, prereleases=True):
            text = f"{each.name} {installed or 'is missing'}"
            findings.append(Finding("packages", BROKEN, text, f"pip install '{each}'"))
        # `public`: torch 2.9.1+cu128 is the tested 2.9.1, built for another driver.
        if installed and Version(installed).public != pins.get(each.name, Version(installed).public):
            others.append(f"{each.name} {installed} ({pins[each.name]})")
    if others:
        text = f"not the tested versions: {', '.join(others)}"
        findings.append(Finding("packages", NOTE, text, f"pip install -c {constraints.name}"))
    return findings or [Finding("packages", GOOD, f"{len(needed)} that are needed are there")]


def _libraries(errors: Mapping[str, str]) -> list[Finding]:
    findings = []
    vision = errors.get("torchvision")
    for name, use in _USED.items():
        fix = f"pip install --force-reinstall {name}"
        if name == "transformers" and vision:
            fix = "pip uninstall torchvision: it does not match torch, and autoreap needs none"
        if name in errors:
            findings.append(Finding(name, BROKEN, f"{use}, but can't be imported: {errors[name] or 'missing'}", fix))
        else:
            findings.append(Finding(name, GOOD, _version(name) or "there"))
    if vision and "transformers" not in errors:
        text = f"does not match torch ({vision}); autoreap needs none"
        findings.append(Finding("torchvision", NOTE, text, "pip uninstall torchvision"))
    if "av" in errors:
        text = f"can't be read: {errors['av'] or 'not installed'}"
        return [*findings, Finding("video files", NOTE, text, "pip install 'autoreap[video]'")]
    return [*findings, Finding("video files", GOOD, f"read by av {_version('av')}")]


def _accelerator(machine: Machine) -> Finding:
    if machine.accelerators:
        texts = []
        for gpu in machine.accelerators:
            texts.append(f"{gpu.name}, {size_text(gpu.free_bytes)} of {size_text(gpu.total_bytes)} free")
        return Finding("accelerator", GOOD, "; ".join(texts))
    if machine.has_driver and "torch" not in machine.errors:
        fix = "install the torch for your driver: https://pytorch.org/get-started/locally"
        return Finding("accelerator", NOTE, "a GPU's driver is there, but torch sees no GPU", fix)
    return Finding("accelerator", NOTE, "none: everything runs on the CPU, in float32")


def abilities(machine: Machine, need: Need, findings: Sequence[Finding]) -> list[Ability]:
    """What will work with the model of `need`."""
    broken = dict.fromkeys(finding.subject for finding in findings if finding.state == BROKEN)
    if broken:
        text = f"fix first: {', '.join(broken)}"
        return [
            Ability("calibrate", False, text),
            Ability("search, evaluate", False, text),
            Ability("materialise", False, text),
        ]
    # As the model is stored; where that does not fit, layer by layer to calibrate, and packed to search.
    on_gpu, on_cpu = need.memory(on_cpu=False), need.memory(on_cpu=True)
    fits, text = _fit(machine, on_gpu, on_cpu, several=True)
    calibrate = Ability("calibrate", fits, text)
    search = Ability("search, evaluate", fits, text)
    if not fits:
        on_gpu, on_cpu = need.memory(on_cpu=False, streamed=True), need.memory(on_cpu=True, streamed=True)
        fits, text = _fit(machine, on_gpu, on_cpu)
        if fits:
            calibrate = Ability("calibrate", True, f"with --stream-layers, {text}")
        on_gpu = need.packed_memory(_FEWEST_BITS, on_cpu=False)
        fits, text = _fit(machine, on_gpu, need.packed_memory(_FEWEST_BITS, on_cpu=True))
        if fits and need.num_experts:
            search = Ability("search, evaluate", True, f"search with --base-bits {_FEWEST_BITS}, {text}")
    folder, free = next(iter(machine.free_bytes.items()))
    room = f"{size_text(need.total_bytes)} at most, {size_text(free)} free for {folder}; it needs little memory"
    return [
        calibrate,
        search,
        Ability("materialise", free >= need.total_bytes, f"{room}, with --skip-behaviour no GPU"),
        Ability("inspect, plan", True, "from headers and measurements, without the model"),
        Ability("pareto, report, select", True, "from a study, without the model; front.png too"),
    ]


def _fit(machine: Machine, on_gpu: int, on_cpu: int, *, several: bool = False) -> tuple[bool, str]:
    """Whether so many bytes fit into memory, and into which; `several` accelerators may share them."""
    gpus = [gpu.free_bytes for gpu in machine.accelerators]
    if gpus and on_gpu <= gpus[0]:
        return True, f"on the first accelerator: {size_text(on_gpu)} of {size_text(gpus[0])}"
    if on_gpu <= sum(gpus) and several:
        return True, f"with --device auto, over {len(gpus)} accelerators: {size_text(on_gpu)}"
    memory = size_text(machine.memory_bytes)
    where, found = "on the CPU", "there is no accelerator"
    if gpus:
        where, found = "with --device cpu", f"{size_text(sum(gpus))} of accelerator memory are free"
    if on_cpu <= machine.memory_bytes:
        return True, f"{where}, in float32: {size_text(on_cpu)} of {memory}"
    cpu = f"{size_text(on_cpu)} on the CPU, in float32, {memory} are free"
    return False, f"{size_text(on_gpu)} needed, {found}; {cpu}"
