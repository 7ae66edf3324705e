"""The layout of the design: imports go down only, and heavy libraries stay where they belong."""

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from builders import SHAPE, saliency_of
from rooms import PACKAGE, ROOMS

HEAVY = frozenset({"torch", "transformers", "optuna", "mlflow"})
LIGHT = ("errors", "data", "candidate")  # rooms that are read before a model is: no heavy library at all
WITH_OPTUNA = ("search", "report")
WITH_MLFLOW = "search.tracking"
EMBEDDED = "tiny_omni"  # the embedded model: a path to its checkpoint, and no code


@dataclass(frozen=True)
class Import:
    """One import: the dotted module, the names taken from it, and whether it runs (if at all) only when called for."""

    module: str
    names: tuple[str, ...]
    line: int
    deferred: bool

    @property
    def library(self) -> str:
        return self.module.partition(".")[0]

    @property
    def own_modules(self) -> tuple[str, ...]:
        """What it names of the package, without the package's own name: `plan`, `families.family`."""
        if self.library != "autoreap":
            return ()
        inner = self.module.partition(".")[2]
        if inner:
            return (inner,)
        return tuple(name for name in self.names if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file())


def modules() -> list[str]:
    """Every module outside the recipe: `plan`, `families.qwen3_omni`, `families` for its __init__."""
    paths = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
    dotted = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [name for name in dotted if name != "__init__" and name.partition(".")[0] != EMBEDDED]


def unit(module: str) -> str:
    """The file or folder at the top of the package that `module` belongs to."""
    return module.partition(".")[0]


def place(module: str) -> int:
    """The place of the module's room in the list."""
    return next(number for number, units in enumerate(ROOMS) if unit(module) in units)


def is_package(module: str) -> bool:
    return PACKAGE.joinpath(*module.split(".")).is_dir()


def imports(module: str) -> list[Import]:
    path = PACKAGE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return list(_imports(ast.parse(path.read_text(encoding="utf-8")), deferred=False))


def _imports(node: ast.AST, *, deferred: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, (), node.lineno, deferred) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield Import(node.module or "", tuple(alias.name for alias in node.names), node.lineno, deferred)
    only_typed = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    later = deferred or only_typed or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, deferred=later)


def test_every_module_belongs_to_exactly_one_room() -> None:
    placed = [name for units in ROOMS for name in units]
    assert len(placed) == len(set(placed))
    assert {unit(module) for module in modules()} == set(placed)


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_none_of_a_later_room(module: str) -> None:
    upward = [
        f"line {found.line}: {name}"
        for found in imports(module)
        for name in found.own_modules
        if unit(name) != EMBEDDED and place(name) > place(module)
    ]
    assert upward == []


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_no_library_that_its_room_must_not_know(module: str) -> None:
    found = {found.library for found in imports(module)}
    if place(module) in {place(name) for name in LIGHT}:
        assert not found & HEAVY
    if unit(module) not in WITH_OPTUNA:
        assert "optuna" not in found
    if module != WITH_MLFLOW:
        assert "mlflow" not in found


def test_no_modules_import_one_another_in_a_circle() -> None:
    """For their types neither, nor within functions."""
    known = set(modules())
    needs: dict[str, set[str]] = {}
    for module in known:
        needs[module] = set()
        for found in imports(module):
            for name in found.own_modules:
                inner = {f"{name}.{each}" for each in found.names} & known
                needs[module] |= inner or {name} & known
    assert list(TopologicalSorter(needs).static_order())


def test_no_two_modules_have_one_name() -> None:
    names = Counter(module.rpartition(".")[2] for module in modules() if not is_package(module))
    assert [name for name, count in names.items() if count > 1] == []


def test_only_the_path_of_the_embedded_model_is_imported_and_only_to_resolve_a_model() -> None:
    users = {
        (module, found.module, found.names)
        for module in modules()
        for found in imports(module)
        if any(unit(name) == EMBEDDED for name in found.own_modules)
    }
    assert users == {("models.checkpoint", "autoreap.tiny_omni", ("CHECKPOINT",))}


def test_the_package_imports_nothing_that_is_not_installed_with_it() -> None:
    outside = {found.library for module in modules() for found in imports(module)} & {"tools", "tests", "benchmarks"}
    assert outside == set()


def test_the_command_line_imports_only_light_modules_before_a_command_is_chosen() -> None:
    for module in modules():
        if place(module) == place("cli"):
            at_once = [found for found in imports(module) if not found.deferred]
            assert not HEAVY & {found.library for found in at_once}


def test_the_first_rooms_load_no_heavy_library() -> None:
    light = [f"autoreap.{module}" for module in modules() if place(module) <= place("candidate")]
    assert loaded_by(f"import {', '.join(light)}") == set()


@pytest.mark.parametrize(
    "statement",
    ["import autoreap.cli", "from autoreap.cli import main\nassert main(['--help']) == 0"],
)
def test_the_command_line_and_its_help_load_no_heavy_library(statement: str) -> None:
    assert loaded_by(statement) == set()


@pytest.mark.parametrize("options", [["plan", "-o", "plan.json"], ["plan", "--json"], ["saliency"]], ids=" ".join)
def test_what_a_saliency_file_answers_needs_no_heavy_library(options: list[str], tmp_path: Path) -> None:
    known = {"model": "gone/model", "shape": json.dumps(asdict(SHAPE))}
    saliency = saliency_of(SHAPE)
    replace(saliency, provenance={**saliency.provenance, **known}).save(tmp_path / "saliency.safetensors")
    if options[0] == "plan":
        options = [*options, "--retention", "0.5", "--layers-cut", "1"]
    arguments = [options[0], str(tmp_path / "saliency.safetensors"), *options[1:]]
    root = PACKAGE.parent
    program = f"import os, sys\nsys.path.insert(0, {str(root)!r})\nos.chdir({str(tmp_path)!r})\n"
    assert loaded_by(f"{program}from autoreap.cli import main\nassert main({arguments!r}) == 0") == set()


def loaded_by(statement: str) -> set[str]:
    """Which heavy libraries a fresh interpreter has loaded after `statement`."""
    program = f"import sys\n{statement}\nprint('\\nloaded', *sorted({set(HEAVY)!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split()[1:])
