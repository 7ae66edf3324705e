"""A fuzz of all readers and of the command line: seeded, bounded, each input in a process of its own.

    PYTHONPATH=.:tests/helpers .venv/bin/python -m fuzzing --inputs 10000

An input is a small project of valid files of which some are damaged, and a command or reader that is given them. What
must hold: it ends with 0 or 2, says at 2 in lines that begin with `autoreap: ` and at 0 nothing but its log, prints no
traceback and no control character, and takes less than 5 seconds and 1 GB. `--only NUMBER` runs one input in the open.
"""

import argparse
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_SECONDS = 5.0
MAX_BYTES = 1 << 30
_MAX_LINE = 1100
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_LOG = re.compile(r"\d\d:\d\d:\d\d ")

# What a person or a tool may have written where a value is, as JSON and YAML both read it.
_VALUES = (
    *("0", "-1", "1", "1e999", "1e300", "0.5", "NaN", "Infinity", ".nan", ".inf", "-.inf", "true", "null", "~", "[]"),
    *("{}", '""', '" "', '"a"', '".."', '"."', '"/dev/zero"', '"/dev/null"', '"../../etc/passwd"', '"https://a/b"'),
    *("1" * 5000, "1" + "0" * 400, "-" + "9" * 30, "0x" + "f" * 5000, '"' + "n" * 300 + '"', '"' + "x" * 100_000 + '"'),
    *('"\\u0000"', '"a\\u0000b.wav"', '"\\u001b[2J\\u001b]0;x\\u0007"', '"\\ud800"', '"\\u202eabc"', '"a\\nb"'),
    *("[" * 100_000, "[" * 200 + "]" * 200, '{"a":' * 100_000, "[1, [2, [3]]]", '{"a": {"b": [1]}}', "2024-13-45"),
    *("!!python/object:os.system x", "!!binary =", "!!timestamp x", "!!set {a, b}", "&a [*a]", "*b", "<<", "1:2:3.5"),
    *('"{question.__class__}"', '"{question:>1000000000}"', "\"{{ 'a' * 1000000000 }}\"", '"{{ text.__class__ }}"'),
    *('"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"', '"{{ 9 ** 9 ** 9 }}"'),
    *("\"{{ text|replace('e', text)|replace('e', text)|replace('e', text) }}\"", '"{{ text|center(10**9) }}"'),
    *("1000000000", "999999999999", "[0, 0, 0]", "[-1]", '"F8_E4M3"', "[1000000000, 1000000000, 1000000000]"),
)
_BOMB = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else ['x'] * 9)}]" for n in range(12))
_BYTES = (b"\0", b"\xff", b"\x1b[2J", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\n", b'"', b"[", b"{", b"}", b": ", b"- ")
_NAMES = ("study", "night", "..", ".", "", "a/b", "n" * 300, "\x1b[2J", "\u202ex", "tiny", "model", "space.yaml", "-1")
_NUMBERS = ("0", "-1", "1", "1e400", "nan", "inf", "9" * 400, "x", "", "0.5")


# ---------------------------------------------------------------- a valid project


def make_seed(folder: Path) -> None:
    """A project in which every reader finds a valid file of its kind."""
    import numpy as np
    import soundfile
    from builders import saliency_of
    from measured import encode_video
    from PIL import Image
    from studies import add_trial, new_study

    from autoreap.candidate import Candidate
    from autoreap.commands.starter import write_starter
    from autoreap.evaluation.outcomes import Evaluation, Outcome
    from autoreap.models.loading import open_model
    from autoreap.planning import make_plan
    from autoreap.scores import Counts
    from autoreap.tiny_omni import CHECKPOINT
    from autoreap.writing.materialiser import materialise

    write_starter(folder)
    shutil.copytree(CHECKPOINT, folder / "model", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    model = open_model(str(folder / "model"))
    saliency = saliency_of(model.shape, fingerprint=model.checkpoint.fingerprint)
    saliency.save(folder / "saliency.safetensors")
    make_plan(Candidate(retention=0.5), saliency, model.shape, model.base_model).save(folder / "plan.json")
    small = Candidate(retention=0.125, strip_vision=True, drop_speech=True)
    materialise(folder / "model", make_plan(small, saliency, model.shape, model.base_model), folder / "pruned")
    outcome = Outcome("a", "red", "red", Counts(0, 1), failed=False)
    Evaluation({"wer": (outcome,)}, 0.0).save_outcomes(folder / "outcomes.jsonl")
    (folder / "mlruns").mkdir()
    study = new_study(storage=f"sqlite:///{folder / 'mlruns' / 'studies.db'}")
    add_trial(study, [10.0**9, 0.1])
    soundfile.write(folder / "a.wav", 0.1 * np.sin(np.arange(16_000) / 20), 16_000)
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    (folder / "a.mp4").write_bytes(encode_video(8))
    row: dict[str, Any] = {"id": "a", "text": "red", "audio": "a.wav", "question": "Which?", "answer": "red"}
    row |= {"choices": ["red", "blue"]}
    rows = [row, {**row, "id": "b", "modality": "mixed", "image": "a.png"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    template = "{% for c in choices %}{{ loop.index }}. {{ c }} {% endfor %}{{ text|upper }}"
    task = "{task: asr, dataset_path: rows.jsonl, doc_to_text: transcribe}"
    asked = f'{{task: audio_qa, dataset_path: rows.jsonl, doc_to_text: "{template}", condition: {{snr_db: 10}}}}'
    (folder / "tasks.yaml").write_text(f"search:\n  - {task}\n  - {asked}\nreport:\n  - {task}\n")
    (folder / "sets.yaml").write_text("audio: [{dataset_path: rows.jsonl, weight: 2}]\nmax_unreadable: 0.5\n")


# ---------------------------------------------------------------- damage


def damage(path: Path, rng: random.Random) -> None:
    """Change the file `path` in some way that happens to files."""
    content = path.read_bytes()
    is_text = path.suffix in (".yaml", ".json", ".jsonl", ".md")
    kinds: list[Callable[[bytes, random.Random], bytes]] = [_cut, _flip, _insert, _repeat, _empty]
    if is_text:
        kinds += [_replace_value] * 12 + [_drop_line, _double_line]
        if path.suffix == ".yaml":
            kinds.append(_add_bomb)
    if path.suffix == ".safetensors":
        kinds += [_change_header] * 6
    if path.suffix == ".wav":
        kinds += [_change_head] * 6
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        content = rng.choice(kinds)(content, rng)
    path.write_bytes(content)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    end = len(changed) if rng.random() < 0.3 else min(len(changed), 400)
    for _ in range(rng.choice((1, 3, 20))):
        if end:
            changed[rng.randrange(end)] = rng.randrange(256)
    return bytes(changed)


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(_BYTES) * rng.choice((1, 2, 300)) + content[place:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content + content[start : start + 1000] * rng.choice((1, 10))


def _empty(_content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\n", b"[]", b"{}", b"null", b"\0" * 5000, b"PK\x03\x04", b"#EXTM3U\n/etc/passwd\n"))


def _replace_value(content: bytes, rng: random.Random) -> bytes:
    """One value, or a key, by one of `_VALUES`; values are found by what stands around them in JSON and YAML."""
    places = list(re.finditer(rb'"[^"]*"|(?<=[:\-\[,]) *[^\s,\[\]{}"]+', content[:20_000]))
    if not places:
        return content
    place = rng.choice(places)
    return content[: place.start()] + b" " + rng.choice(_VALUES).encode() + content[place.end() :]


def _drop_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    lines.pop(rng.randrange(len(lines)))
    return b"\n".join(lines)


def _double_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return b"\n".join(lines)


def _add_bomb(content: bytes, rng: random.Random) -> bytes:
    bomb = _BOMB.encode()
    return bomb + b"\n" + content if rng.random() < 0.5 else content + b"\n" + bomb


def _change_header(content: bytes, rng: random.Random) -> bytes:
    """The JSON at the head of a safetensors file, its length kept right."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    change: Callable[[bytes, random.Random], bytes] = rng.choice((_replace_value, _replace_value, _cut, _insert))
    changed = bytes(change(header, rng))
    return len(changed).to_bytes(8, "little") + changed + content[8 + length :]


def _change_head(content: bytes, rng: random.Random) -> bytes:
    """A number of a WAV's head: its channels, rate, width or length."""
    place, size = rng.choice(((4, 4), (20, 2), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (40, 4)))
    number: int = rng.choice((0, 1, 2, 255, 65535, 2**31 - 1, 2**32 - 1, rng.randrange(2**32))) % int(256**size)
    return content[:place] + number.to_bytes(size, "little") + content[place + size :]


# ---------------------------------------------------------------- what is run


@dataclass(frozen=True)
class Case:
    """What is damaged, and what is run on it: words of the command line, or a reader."""

    damaged: tuple[str, ...]
    words: tuple[str, ...] = ()
    reader: str = ""

    @property
    def name(self) -> str:
        """For the figures."""
        return self.reader or next(iter(self.words), "no command")


def case_of(number: int, seed: int) -> tuple[Case, random.Random]:
    """Input `number`: the same one each time."""
    rng = random.Random(f"{seed}/{number}")
    cases = [*_COMMANDS, *(Case(files, reader=name) for name, (files, _) in _READERS.items())]
    case = rng.choice(cases)
    if rng.random() < 0.15:
        return _odd_words(rng), rng
    return case, rng


_MODEL_FILES = ("model/config.json", "model/model.safetensors")
_PRUNED_FILES = (
    "pruned/plan.json",
    "pruned/verification/record.json",
    "pruned/config.json",
    "pruned/model.safetensors",
)
_STUDY = ("mlruns/studies.db",)
_COMMANDS = (
    Case(_MODEL_FILES, ("inspect", "model")),
    Case(("plan.json", *_MODEL_FILES), ("inspect", "model", "--plan", "plan.json", "--json")),
    Case(("plan.json", *_MODEL_FILES), ("materialise", "model", "--plan", "plan.json", "--dry-run")),
    Case(("saliency.safetensors",), ("plan", "saliency.safetensors", "--model", "model", "-o", "new.json")),
    Case(("saliency.safetensors",), ("saliency", "saliency.safetensors", "--json")),
    Case(("saliency.safetensors",), ("saliency", "saliency.safetensors", "--retention", "0.3")),
    Case(("outcomes.jsonl",), ("compare", "outcomes.jsonl", "outcomes.jsonl")),
    Case(("outcomes.jsonl",), ("compare", "outcomes.jsonl", "outcomes.jsonl", "--html", "page.html", "--json")),
    Case(_STUDY, ("show", "night")),
    Case(_STUDY, ("show", "night", "--trial", "0", "--json")),
    Case(_STUDY, ("pareto", "night", "--csv", "front.csv")),
    Case(_STUDY, ("select", "night", "--rule", "smallest", "--max-wer-increase", "1")),
    Case(_STUDY, ("report", "night")),
    Case(("space.yaml",), ("search", "space.yaml", "--model", "gone")),
    Case(("tasks.yaml", "rows.jsonl"), ("evaluate", "gone", "--evals", "tasks.yaml")),
    Case(("model/config.json",), ("verify", "model", "--skip-behaviour")),
    Case((*_PRUNED_FILES, *_MODEL_FILES), ("heal", "pruned", "--base", "model", "--audio", "rows.jsonl", "--dry-run")),
    Case((*_PRUNED_FILES, "rows.jsonl"), ("heal", "pruned", "--base", "model", "--audio", "rows.jsonl", "-o", "new")),
)


def _read_rows() -> None:
    from autoreap.data.samples import load_audio, load_frames, read_samples

    for sample in read_samples(Path("rows.jsonl")):
        if sample.audio:
            load_audio(sample)
        load_frames(sample)


def _read_media() -> None:
    from autoreap.data.audio_files import seconds_from_header
    from autoreap.data.samples import Sample, load_audio, load_frames

    seconds_from_header(Path("a.wav"), "a.wav")
    load_audio(Sample(id="a", where="a.wav", audio=Path("a.wav")))
    load_frames(Sample(id="a", where="a.png", image=Path("a.png")))


def _read_video() -> None:
    from autoreap.data.video_files import sampled_frames, size_from_header

    size_from_header(Path("a.mp4"), "a.mp4")
    sampled_frames(Path("a.mp4"), "a.mp4")


def _read_evals() -> None:
    from autoreap.data.eval_set import open_evals
    from autoreap.data.samples import load_audio

    for task in open_evals(Path("tasks.yaml")).search.tasks:
        for sample in task.samples:
            task.task.question(sample, task.config.doc_to_text or task.task.QUESTION)
            load_audio(sample)


def _read_starter() -> None:
    from autoreap.data.evals_config import load_evals
    from autoreap.search.space import load_space

    load_space(Path("space.yaml"))
    load_evals(Path("evals.yaml"))


def _read_sets() -> None:
    from autoreap.calibration.measure import read_calibration
    from autoreap.data.calibration_config import calibration_of

    config = calibration_of(Path("sets.yaml"), {}, max_unreadable=None, tokens=None, gates=None)
    read_calibration(config)


def _read_model() -> None:
    from autoreap.models.loading import open_model
    from autoreap.writing.verification import structure_fault

    checkpoint = open_model("model").checkpoint
    structure_fault(checkpoint.config, checkpoint.tensors.values())


def _read_card() -> None:
    from autoreap.writing.model_card import _front_matter

    _front_matter(Path("README.md"))


_READERS: dict[str, tuple[tuple[str, ...], Callable[[], None]]] = {
    "rows": (("rows.jsonl",), _read_rows),
    "media": (("a.wav", "a.png"), _read_media),
    "video": (("a.mp4",), _read_video),
    "evals": (("tasks.yaml", "rows.jsonl", "a.wav"), _read_evals),
    "starter": (("space.yaml", "evals.yaml"), _read_starter),
    "sets": (("sets.yaml", "rows.jsonl"), _read_sets),
    "model": (_MODEL_FILES, _read_model),
    "card": (("README.md",), _read_card),
}


def _odd_words(rng: random.Random) -> Case:
    """A command line that nobody would type, or many would."""
    options = [
        *("--trial", "--storage", "--json", "--max-size", "-o", "--study", "--plan", "--evals", "--retention"),
        *("--hours", "--worst", "--html", "--png", "--seed", "--model", "--dry-run", "--help", "--rule", "--trials"),
    ]
    commands = ("inspect", "show", "pareto", "select", "compare", "report", "saliency", "plan", "verify", "gone")
    words = [rng.choice(commands)]
    for _ in range(rng.randrange(4)):
        words.append(rng.choice((*options, *_NAMES, *_NUMBERS, "saliency.safetensors", "outcomes.jsonl", "plan.json")))
    if rng.random() < 0.1:
        name = rng.choice(("..", ".", "a/b", "\x1b", "n" * 300))
        words = ["search", "space.yaml", "--model", "model", "--study", name]
    return Case((), tuple(words))


# ---------------------------------------------------------------- running


@dataclass(frozen=True)
class Result:
    """How an input ended; `fault` is what must not be."""

    number: int
    case: Case
    code: int
    seconds: float
    grown_bytes: int
    said: str
    fault: str


def _run_here(case: Case) -> int:
    from autoreap import cli
    from autoreap.errors import AutoreapError

    if case.words:
        return cli.main(list(case.words))
    try:
        _READERS[case.reader][1]()
    except AutoreapError as error:
        return cli._fail(str(error), error.exit_code)
    return 0


def _memory() -> int:
    """Bytes of addresses of this process, and so the least limit."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _most_memory() -> int:
    found = re.search(r"VmPeak:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def run_case(number: int, seed: int, project: Path) -> Result:
    """Run input `number` on a copy of `project`, in a child process."""
    case, rng = case_of(number, seed)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name) / "project"
        shutil.copytree(project, folder, copy_function=_link)
        if case.damaged:
            for victim in rng.sample(case.damaged, rng.choice((1, 1, 1, len(case.damaged)))):
                content = (folder / victim).read_bytes()
                (folder / victim).unlink()  # it is a link to the seed's
                (folder / victim).write_bytes(content)
                damage(folder / victim, rng)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _be_child(case, folder)
        code = _wait(child, began + 2 * MAX_SECONDS)
        seconds = time.monotonic() - began
        said = (folder.parent / "said").read_text(encoding="utf-8", errors="replace")
        grown = int((folder.parent / "grown").read_text()) if (folder.parent / "grown").exists() else 0
    return Result(number, case, code, seconds, grown, said, _fault(code, seconds, grown, said))


def _link(source: str, target: str) -> None:
    os.link(source, target) if Path(source).suffix != ".db" else shutil.copyfile(source, target)


def _be_child(case: Case, folder: Path) -> None:
    code = 99
    try:
        os.chdir(folder)
        start = _memory()
        limit = start + MAX_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        written = os.open(folder.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, 2)
        os.dup2(os.open(folder.parent / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # pytest has put files of its own in their places.
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        code = _run_here(case)
        sys.stdout.flush()
        out = (folder.parent / "out").read_text(encoding="utf-8")
        if _CONTROL.search(out):
            print(f"FUZZ: a control character on stdout: {_CONTROL.search(out)!r}", file=sys.stderr)
            code = 98
        (folder.parent / "grown").write_text(str(max(_most_memory() - start, 0)))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, deadline: float) -> int:
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


def _fault(code: int, seconds: float, grown: int, said: str) -> str:
    if code not in (0, 2):
        return f"exit code {code}"
    if seconds > MAX_SECONDS:
        return f"{seconds:.1f} seconds"
    if grown > MAX_BYTES:
        return f"{grown / 1e9:.2f} GB"
    if "Traceback" in said:
        return "a traceback"
    if _CONTROL.search(said):
        return "a control character"
    lines = [line for line in said.splitlines() if not _LOG.match(line)]
    if any(len(line) > _MAX_LINE for line in lines):
        return "a line too long to read"
    if code == 2 and not (lines and lines[0].startswith("autoreap: ")):
        return "no clear line"
    return ""


def prepare(project: Path) -> None:
    """Make the seed, and import once what every child needs."""
    make_seed(project)
    import datasets  # noqa: F401
    import librosa
    import numpy as np

    librosa.resample(np.zeros(100, dtype=np.float32), orig_sr=8000, target_sr=16000)
    here = Path.cwd()
    os.chdir(project)
    try:
        for case in (*_COMMANDS, *(Case((), reader=name) for name in _READERS)):
            _run_quietly(case)
    finally:
        os.chdir(here)


def _run_quietly(case: Case) -> None:
    from contextlib import redirect_stderr, redirect_stdout

    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = _run_here(case)
    # What is damaged must be right before it is; `gone` is a model that is not there, asked for last, and `new` needs
    # more rows than there are.
    if code and not {"gone", "verify", "new"} & {*case.words}:
        print(f"the seed is not right for {case}: {said.getvalue()}", file=sys.stderr)


def fuzz(num_inputs: int, seed: int, *, first: int = 0) -> Iterator[Result]:
    """Run inputs `first` to `first + num_inputs - 1`."""
    with tempfile.TemporaryDirectory(prefix="fuzz-seed-") as name:
        project = Path(name) / "project"
        prepare(project)
        for number in range(first, first + num_inputs):
            yield run_case(number, seed, project)


def main(words: Sequence[str] | None = None) -> int:
    """Run the fuzz and print its figures; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description="Fuzz all readers and the command line.")
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this input alone, and show what it says")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    given = parser.parse_args(words)
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries that read it are imported
    from autoreap.cli import quiet_libraries

    quiet_libraries()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    first, num_inputs = (given.only, 1) if given.only is not None else (given.first, given.inputs)
    began = time.monotonic()
    codes: Counter[int] = Counter()
    faults, slowest, largest = 0, 0.0, 0
    for result in fuzz(num_inputs, given.seed, first=first):
        codes[result.code] += 1
        slowest, largest = max(slowest, result.seconds), max(largest, result.grown_bytes)
        if given.only is not None:
            print(result.case, result.said, sep="\n")
        if result.fault:
            faults += 1
            last = (result.said.strip().splitlines() or [""])[-1][:300]
            print(f"{result.number} {result.case.name}: {result.fault}: {last!r}", flush=True)
        if time.monotonic() - began > given.seconds:
            break
    counts = ", ".join(f"{number:,} ended with {code}" for code, number in sorted(codes.items()))
    print(f"{codes.total():,} inputs, seed {given.seed}: {counts}; {faults} faults; slowest {slowest:.2f} s, "
          f"most memory {largest / 1e6:,.0f} MB; {time.monotonic() - began:.0f} s in all")  # fmt: skip
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
