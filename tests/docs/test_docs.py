"""What the documentation says is so: links lead somewhere, commands parse, examples load or run, what is named exists.

A block of YAML, JSON or Python says behind its fence what it is: `yaml space`, `yaml evals`, `yaml calibration`,
`json rows`, `json outcomes`; Python is a doctest, all of a page in one namespace. A block that names a file is of
docs/extending.md's kind, which test_docs_extending.py carries out, as test_docs_adding_a_family.py does.
"""

import doctest
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from builders import identity_plan, parse
from extended import changes
from pages import ROOT, Block, anchors, blocks, links, name_of, pages, spans
from rooms import PACKAGE, ROOMS

from autoreap.cli import app
from autoreap.data.calibration_config import load_calibration
from autoreap.data.evals_config import load_evals
from autoreap.data.samples import read_samples
from autoreap.evaluation.outcomes import load_outcomes
from autoreap.masking import masked as masked_in_readme
from autoreap.models.loading import load, open_model
from autoreap.search.space import load_space

COMMANDS: dict[str, set[str]] = {}  # name -> flags
for _name, _command in typer.main.get_group(app).commands.items():
    COMMANDS[_name] = {flag for parameter in _command.params for flag in parameter.opts}
CHECKED = ("yaml", "json", "python", "diff")
README = ROOT / "README.md"
# Folders of the repository; of mlruns/ the pages name what a search will write.
_FOLDERS = "autoreap|benchmarks|calibration|docs|evals|examples|search_spaces|tests"
_PATH = re.compile(rf"(?<![\w./-])(?:{_FOLDERS})/[\w./*-]*[\w/*]")
_COMMAND = re.compile(r"(?:\.venv/bin/|srun )?(autoreap .*)")
_REDIRECTION = re.compile(r"\d?>.*")
_ATTRIBUTE = re.compile(r"([a-z_]+)\.([A-Za-z_]+)(?:\(\))?")
_NAMES_CODE = re.compile(
    r"CONTRIBUTING.md|docs/(decisions/.*|how-it-works.md|extending.md|adding-a-family.md|calibration.md)"
)

by_page = pytest.mark.parametrize("page", pages(), ids=name_of)


def examples() -> list[Block]:
    return [block for page in pages() for block in blocks(page) if block.language in CHECKED]


def names_a_file(block: Block) -> bool:
    return "/" in block.kind or block.language == "diff"


@by_page
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    broken = []
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_file_of_the_documentation_is_reached_from_the_readme() -> None:
    reached, ahead = set(), [README]
    while ahead:
        page = ahead.pop()
        if page in reached:
            continue
        reached.add(page)
        if page.is_dir():
            ahead.extend(page.iterdir())
        elif page.suffix == ".md":
            local = [link.partition("#")[0] for link in links(page) if "://" not in link]
            ahead.extend((page.parent / link).resolve() for link in local if link)
    assert [name_of(path) for path in sorted(ROOT.glob("docs/**/*")) if path.is_file() and path not in reached] == []


def command_lines(page: Path) -> Iterator[str]:
    """The calls of autoreap in a page's blocks, fenced or indented, or in a script; a continued line is one."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        indented = [line for line in text.splitlines(keepends=True) if line.startswith("    ")]
        text = "\n".join([*(block.text for block in blocks(page) if block.language != "diff"), "".join(indented)])
    for line in text.replace("\\\n", " ").splitlines():
        if command := _COMMAND.fullmatch(line.strip()):
            yield command[1]


@pytest.mark.parametrize("page", [*pages(), *sorted(ROOT.glob("docs/slurm/*.sbatch"))], ids=name_of)
def test_every_command_is_one_that_the_command_line_takes(page: Path) -> None:
    for line in command_lines(page):
        words = shlex.split(line, comments=True)[1:]
        redirected = next((place for place, word in enumerate(words) if _REDIRECTION.fullmatch(word)), len(words))
        try:
            parse(words[:redirected])
        except typer.TyperException as error:
            pytest.fail(f"{name_of(page)}: {line}: {error.format_message()}")


@by_page
def test_what_is_said_of_a_command_in_passing_names_its_own_options(page: Path) -> None:
    unknown = []
    for span in spans(page):
        command, *words = span.removeprefix("autoreap ").split() or [""]
        if span.startswith("autoreap ") and command not in COMMANDS:
            unknown.append(span)
        flags = COMMANDS.get(command, set())
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        unknown += [f"{span}: {option}" for option in options if command in COMMANDS and option not in flags]
    assert unknown == []


def test_the_commands_of_the_readme_are_found() -> None:
    found = list(command_lines(README))
    assert len(found) > 8
    assert any(line.startswith("autoreap search search_spaces/overnight-30b.yaml") for line in found)


@pytest.mark.parametrize("block", examples(), ids=str)
def test_every_example_says_what_it_is(block: Block) -> None:
    if block.language == "python" and block.page.startswith("README"):
        return
    known = {("yaml", "space"), ("yaml", "evals"), ("yaml", "calibration"), ("json", "rows"), ("json", "outcomes")}
    is_doctest = block.language == "python" and not block.kind and ">>>" in block.text
    assert names_a_file(block) or is_doctest or (block.language, block.kind) in known, __doc__


LOADERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "space": ("space.yaml", load_space),
    "evals": ("evals.yaml", load_evals),
    "calibration": ("calibration.yaml", load_calibration),
    "rows": ("rows.jsonl", read_samples),
    "outcomes": ("outcomes.jsonl", load_outcomes),
}


@pytest.mark.parametrize("block", [block for block in examples() if block.kind in LOADERS], ids=str)
def test_every_example_of_a_file_loads(block: Block, tmp_path: Path) -> None:
    for name in re.findall(r"[\w.-]+\.(?:jsonl|ogg|png|mp4|yaml)\b", block.text):
        (tmp_path / name).touch()
    name, loader = LOADERS[block.kind]
    (tmp_path / name).write_text(block.text, encoding="utf-8")
    assert loader(tmp_path / name)


def doctests(page: Path) -> str:
    return "\n".join(block.text for block in blocks(page) if block.language == "python" and ">>>" in block.text)


@pytest.mark.parametrize("page", [page for page in pages() if doctests(page)], ids=name_of)
def test_the_python_of_a_page_prints_what_it_says(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(doctest.DocTestParser().get_doctest(doctests(page), {}, name_of(page), str(page), 0))
    assert runner.failures == 0


@pytest.mark.parametrize(("path", "found", "_placed"), [change for page in pages() for change in changes(page)])
def test_every_change_is_of_lines_that_are_there_once(path: str, found: str, _placed: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8").count(found) == 1


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = (block.text for block in blocks(README) if block.language == "python")
    model_info = open_model("tiny")
    identity_plan(model_info.base_model.fingerprint, model_info.shape).save(tmp_path / "plan.json")
    monkeypatch.chdir(tmp_path)
    inputs = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones((1, 3), dtype=torch.long)}
    names: dict[str, Any] = {"model": load(model_info).model, "inputs": inputs | {"return_audio": False}}
    exec(example, names)
    assert names["masked"] is masked_in_readme


@by_page
def test_every_path_of_the_repository_that_is_named_exists(page: Path) -> None:
    text = "\n".join([*spans(page), *(block.text for block in blocks(page) if not names_a_file(block))])
    made_here = {block.kind for block in blocks(page)}
    named = [path.rstrip("/") for path in _PATH.findall(text) if path not in made_here]
    # The package has a room `calibration` as the repository has a folder.
    assert [path for path in named if not any(list(root.glob(path)) for root in (ROOT, PACKAGE))] == []


@pytest.mark.parametrize("page", [page for page in pages() if _NAMES_CODE.fullmatch(name_of(page))], ids=name_of)
def test_every_module_and_every_name_in_one_that_is_named_exists(page: Path) -> None:
    files = {path.name for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("*.py")}
    files |= {Path(block.kind).name for block in blocks(page)}
    unknown = [span for span in spans(page) if re.fullmatch(r"\w+\.py", span) and span not in files]
    for module, name in (match.groups() for span in spans(page) if (match := _ATTRIBUTE.fullmatch(span))):
        is_ours = (PACKAGE / f"{module}.py").is_file() or (PACKAGE / module / "__init__.py").is_file()
        if is_ours and name not in ("py", "json", "jsonl", "html", "yaml"):
            unknown += [] if hasattr(importlib.import_module(f"autoreap.{module}"), name) else [f"{module}.{name}"]
    assert unknown == []


def test_the_table_of_rooms_is_the_order_that_is_enforced() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[
        text.index("| room, in the order of the pipeline |") : text.index("A module imports what stands before")
    ]
    cells = [line.split("|")[1] for line in table.splitlines()[2:] if line]
    listed = [name for cell in cells for name in re.findall(r"`(\w+)/?`", cell)]
    assert listed == [name for units in ROOMS for name in units]
