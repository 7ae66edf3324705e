"""What is installed: the package, the files that it reads, and every library that it imports."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.slow
def test_a_wheel_holds_the_package_with_its_files_and_not_the_recipe_of_the_embedded_model(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("autoreap", "benchmarks", "tools"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("autoreap-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {path.relative_to(source).as_posix() for path in (source / "autoreap").rglob("*") if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == files
    assert "autoreap/tiny_omni/checkpoint/model.safetensors" in names
    assert "autoreap/py.typed" in names
    assert [name for name in names if name.startswith("autoreap/tiny_omni/") and name.endswith(".py")] == [
        "autoreap/tiny_omni/__init__.py"
    ]


def imported() -> set[str]:
    """The libraries that the modules of the package import, at once or within a function."""
    found: set[str] = set()
    for path in (ROOT / "autoreap").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(name.name.partition(".")[0] for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"autoreap"}


def declared(*, dev: bool) -> list[Requirement]:
    """What the package requires, its extras included; those of `dev` are for who works on it."""
    listed = list(PROJECT["dependencies"])
    for name, extra in PROJECT["optional-dependencies"].items():
        if dev or name != "dev":
            listed += extra
    return [Requirement(each) for each in listed]


def test_every_library_that_is_imported_is_declared() -> None:
    names = {canonicalize_name(requirement.name) for requirement in declared(dev=False)}
    distributions = packages_distributions()
    for library in imported():
        provided_by = {canonicalize_name(name) for name in distributions.get(library, [library])}
        assert provided_by & names, library


def test_every_library_that_is_declared_has_a_pinned_version_that_it_allows() -> None:
    pinned: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pinned[canonicalize_name(name)] = version
    for requirement in declared(dev=True):
        if requirement.name != "autoreap":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_what_is_installed_has_the_pinned_versions_and_checksums() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    hashed: dict[str, int] = {}
    for line in (ROOT / "tools" / "hashed-pins.txt").read_text().splitlines():
        if "==" in line:
            pin = line.removesuffix(" \\")
            hashed[pin] = 0
        elif line.strip().startswith("--hash=sha256:"):
            hashed[pin] += 1
    fix = "run tools/hash_pins.py"
    assert list(hashed) == [pin for pin in pins if not pin.startswith("torch==")], fix
    assert min(hashed.values()) > 0, fix
