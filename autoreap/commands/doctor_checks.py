"""What works on a machine, and what is broken: judged from what `machine` found and what a model needs. No torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from autoreap.commands.machine import Machine, installed
from autoreap.commands.needs import Need
from autoreap.formatting import size_text

GOOD, NOTE, BROKEN = "good", "note", "broken"
MIN_PYTHON = "3.11"
_FEW_BYTES = 10e9  # of disk: a night's logs and pictures are megabytes, a checkpoint is not


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


def examine(machine: Machine, requirements: Iterable[str], constraints: Path) -> list[Finding]:
    """What was found, judged; `constraints` pins the versions that were tested, where there is such a file."""
    return [
        _python(machine),
        *_packages(requirements, constraints),
        *_libraries(machine),
        _accelerator(machine),
        Finding("memory", GOOD, f"{size_text(machine.memory_bytes)} of RAM are free"),
        *(_disk(folder, free) for folder, free in machine.free_bytes.items()),
        _threads(machine),
        Finding("hub", NOTE if "can't" in machine.hub else GOOD, machine.hub),
    ]


def _python(machine: Machine) -> Finding:
    if Version(machine.python) < Version(MIN_PYTHON):
        return Finding("python", BROKEN, f"{machine.python}, {MIN_PYTHON} or later is needed", f"use {MIN_PYTHON}")
    return Finding("python", GOOD, machine.python)


def _packages(requirements: Iterable[str], constraints: Path) -> list[Finding]:
    """Whether the versions are those that are needed, and those that were tested."""
    known = [Requirement(text) for text in requirements]
    needed = [each for each in known if each.marker is None or each.marker.evaluate({"extra": ""})]
    if not needed:
        return [Finding("packages", NOTE, "not checked: autoreap is not installed here", "pip install .")]
    versions = {requirement.name: installed(requirement.name) for requirement in needed}
    findings = [
        Finding("packages", BROKEN, f"{each.name} {versions[each.name] or 'is missing'}", f"pip install '{each}'")
        for each in needed
        if not each.specifier.contains(versions[each.name] or "0", prereleases=True) or versions[each.name] is None
    ]
    if others := _untested(versions, constraints):
        fix = f"pip install -c {constraints.name}"
        findings.append(Finding("packages", NOTE, f"not the tested versions: {', '.join(others)}", fix))
    return findings or [Finding("packages", GOOD, f"{len(needed)} that are needed are there")]


def _untested(versions: Mapping[str, str | None], constraints: Path) -> list[str]:
    """Packages whose version is not the pinned one, with that one in brackets."""
    lines = constraints.read_text(encoding="utf-8").split() if constraints.is_file() else []
    pins = dict(line.split("==") for line in lines if "==" in line)
    return [
        f"{name} {version} ({pins[name]})"
        for name, version in versions.items()
        if version and name in pins and Version(version).public != pins[name]
    ]


def _libraries(machine: Machine) -> list[Finding]:
    """What can't be imported."""
    errors, findings = machine.errors, []
    vision = errors.get("torchvision")
    used = {"torch": "loads models", "transformers": "loads models", "soundfile": "reads recordings"}
    for name, what in (used | {"matplotlib": "draws pictures"}).items():
        if name in errors:
            fix = f"pip install --force-reinstall {name}"
            if name == "transformers" and vision:
                fix = "pip uninstall torchvision: it does not match torch, and autoreap needs none"
            findings.append(Finding(name, BROKEN, f"{what}, but can't be imported: {errors[name] or 'missing'}", fix))
        else:
            findings.append(Finding(name, GOOD, installed(name) or "there"))
    if vision and "transformers" not in errors:
        text = f"does not match torch ({vision}); autoreap needs none"
        findings.append(Finding("torchvision", NOTE, text, "pip uninstall torchvision"))
    if "av" in errors:
        text = errors["av"] or "not installed"
        findings.append(Finding("video files", NOTE, f"can't be read: {text}", "pip install 'autoreap[video]'"))
    else:
        findings.append(Finding("video files", GOOD, f"read by av {installed('av')}"))
    return findings


def _accelerator(machine: Machine) -> Finding:
    if machine.accelerators:
        each = [
            f"{gpu.name}, {size_text(gpu.free_bytes)} of {size_text(gpu.total_bytes)} free"
            for gpu in machine.accelerators
        ]
        return Finding("accelerator", GOOD, "; ".join(each))
    if machine.has_driver and "torch" not in machine.errors:
        fix = "install the torch for your driver: https://pytorch.org/get-started/locally"
        return Finding("accelerator", NOTE, "a GPU's driver is there, but torch sees no GPU", fix)
    return Finding("accelerator", NOTE, "none: everything runs on the CPU, in float32")


def _disk(folder: str, free: int) -> Finding:
    few = free < _FEW_BYTES
    fix = f"a checkpoint is written beside {folder} at its full size; free some" if few else ""
    return Finding("disk", NOTE if few else GOOD, f"{size_text(free)} are free for {folder}", fix)


def _threads(machine: Machine) -> Finding:
    text = f"{machine.num_cores} cores, {machine.load:.1f} busy, OMP_NUM_THREADS {machine.threads or 'not set'}"
    if not machine.threads and machine.load >= machine.num_cores / 2:
        return Finding("threads", NOTE, f"{text}: waiting threads will be what is slow", "set OMP_NUM_THREADS=1")
    return Finding("threads", GOOD, text)


def abilities(machine: Machine, need: Need, findings: Sequence[Finding]) -> list[Ability]:
    """What will work with the model of `need`."""
    broken = [finding.subject for finding in findings if finding.state == BROKEN]
    folder, free = next(iter(machine.free_bytes.items()))
    fits = free >= need.total_bytes
    room = f"{size_text(need.total_bytes)} at most, {size_text(free)} free for {folder}"
    if broken:
        texts = f"mend first: {', '.join(dict.fromkeys(broken))}"
        return [Ability(command, False, texts) for command in ("calibrate", "search, evaluate", "materialise")]
    whole, streamed = _held(machine, need, streamed=False), _held(machine, need, streamed=True)
    calibrate = whole
    if not whole.works and streamed.works:
        calibrate = Ability("", True, f"with --stream-layers, {streamed.text}")
    return [
        Ability("calibrate", calibrate.works, calibrate.text),
        Ability("search, evaluate", whole.works, whole.text),
        Ability("materialise", fits, f"{room}; it needs little memory, with --skip-behaviour no GPU"),
        Ability("inspect, plan", True, "from headers and measurements, without the model"),
        Ability("pareto, report, select", True, "from a study, without the model; front.png too"),
    ]


def _held(machine: Machine, need: Need, *, streamed: bool) -> Ability:
    """Whether the model can be held in memory, and in which."""
    size = need.streamed_bytes if streamed else need.loaded_bytes
    gpus = [gpu.free_bytes for gpu in machine.accelerators]
    wanted, wanted_on_cpu = size(on_cpu=False), size(on_cpu=True)
    if gpus and wanted <= gpus[0]:
        return Ability("", True, f"on the first accelerator: {size_text(wanted)} of {size_text(gpus[0])}")
    if wanted <= sum(gpus) and not streamed:
        return Ability("", True, f"with --device auto, over {len(gpus)} accelerators: {size_text(wanted)}")
    if wanted_on_cpu <= machine.memory_bytes:
        where = "with --device cpu" if gpus else "on the CPU"
        text = f"{where}, in float32: {size_text(wanted_on_cpu)} of {size_text(machine.memory_bytes)}"
        return Ability("", True, text)
    found = f"{size_text(sum(gpus))} of accelerator memory are free" if gpus else "there is no accelerator"
    on_cpu = f"{size_text(wanted_on_cpu)} on the CPU, in float32, {size_text(machine.memory_bytes)} are free"
    return Ability("", False, f"{size_text(wanted)} needed, {found}; {on_cpu}")


def as_text(findings: Sequence[Finding], able: Sequence[Ability], need: Need) -> str:
    """For people: what was found, then what works."""
    lines = [f"{f.state:<7} {f.subject}: {f.text}{f' ({f.fix})' if f.fix else ''}" for f in findings]
    works = [f"{'yes' if ability.works else 'no':<7} {ability.command}: {ability.text}" for ability in able]
    return "\n".join([*lines, "", f"{need.model}: {need.arithmetic()}", *works])


def as_dict(findings: Sequence[Finding], able: Sequence[Ability], need: Need) -> dict[str, Any]:
    """For JSON."""
    needs = {
        "loaded_bytes": round(need.loaded_bytes(on_cpu=False)),
        "loaded_cpu_bytes": round(need.loaded_bytes(on_cpu=True)),
        "streamed_bytes": round(need.streamed_bytes(on_cpu=False)),
        "arithmetic": need.arithmetic(),
    }
    return {
        "healthy": all(finding.state != BROKEN for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "model": need.model,
        "needs": needs,
        "abilities": [asdict(ability) for ability in able],
    }
