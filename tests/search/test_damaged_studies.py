"""A database of studies that is damaged, in whatever way, ends a command in one line, and is left as it was."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from studies import add_trial, new_study

from autoreap.cli import main
from autoreap.errors import InputError
from autoreap.search.space import load_space
from autoreap.search.storage import damage_in_one_line, default_storage, open_storage
from autoreap.search.study import Identity, check_stored_study

SPACE = Path(__file__).parents[2] / "search_spaces" / "tiny.yaml"

Damage = Callable[[Path], None]


def _run_sql(*statements: str) -> Damage:
    def damage(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            for statement in statements:
                connection.execute(statement)

    return damage


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _write(content: bytes) -> Damage:
    def damage(path: Path) -> None:
        path.write_bytes(content)

    return damage


def _head(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _other_tables(path: Path) -> None:
    path.unlink()
    _run_sql("CREATE TABLE studies (a TEXT)")(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _zeros(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    path.write_bytes(content)


DAMAGES: dict[str, Damage] = {
    "empty": _write(b""),
    "half": _half,
    "header alone": _head,
    "text": _write(b"a text\n" * 1000),
    "zeros": _zeros,
    "folder": _folder,
    "other tables": _other_tables,
    "no trials": _run_sql("DROP TABLE trials"),
    "no values": _run_sql("DROP TABLE trial_values"),
    "no directions": _run_sql("DELETE FROM study_directions"),
    "no baseline": _run_sql("UPDATE study_user_attributes SET value_json = 'null'"),
    "attributes of studies": _run_sql("UPDATE study_user_attributes SET value_json = '{\"a\": [1]}'"),
    "attributes of trials": _run_sql("UPDATE trial_user_attributes SET value_json = '[1]'"),
    "no json": _run_sql("UPDATE trial_user_attributes SET value_json = '{'"),
    "deep json": _run_sql(f"UPDATE trial_user_attributes SET value_json = '{'[' * 100_000}'"),
    "nan": _run_sql("UPDATE trial_user_attributes SET value_json = 'NaN'"),
    "states": _run_sql("UPDATE trials SET state = 'ASLEEP'"),
    "parameters": _run_sql("UPDATE trial_params SET distribution_json = '{}'"),
    "version": _run_sql("UPDATE version_info SET schema_version = 99"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one study of one trial."""
    path: Path = tmp_path_factory.mktemp("whole") / "studies.db"
    add_trial(new_study(storage=f"sqlite:///{path}"), [10.0**9, 0.1])
    return path


def _damaged(name: str, whole: Path) -> Path:
    """A damaged copy, where commands look for it."""
    path = Path("mlruns/studies.db")
    path.parent.mkdir()
    shutil.copy(whole, path)
    DAMAGES[name](path)
    return path


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.slow
def test_a_damaged_database_ends_in_one_line(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _damaged(name, whole)
    before = path.read_bytes() if path.is_file() else b""
    for command in (["show", "night"], ["pareto", "night"], ["show", "night", "--trial", "0"], ["select", "night"]):
        code = main(command)
        said = capsys.readouterr().err
        assert code in (0, 2), said
        assert code == 0 or said.startswith("autoreap: ")
        assert said.count("\n") <= 1
        assert "Traceback" not in said
    assert not path.is_file() or path.read_bytes() == before


# An empty file is one to begin in, and Optuna does not read its own version number.
@pytest.mark.parametrize("name", sorted(DAMAGES.keys() - {"empty", "version"}))
def test_a_search_refuses_a_damaged_database_before_the_model_is_loaded(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _damaged(name, whole)
    before = path.read_bytes() if path.is_file() else b""
    space = load_space(SPACE)
    with pytest.raises(InputError), damage_in_one_line("night", default_storage()):
        check_stored_study(space, open_storage(default_storage()), "night", Identity({}))
    assert not path.is_file() or path.read_bytes() == before


@pytest.mark.parametrize("name", ["other tables", "attributes of trials"])
def test_a_search_in_a_damaged_database_ends_in_one_line(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _damaged(name, whole)
    assert main(["search", str(SPACE), "--model", "tiny", "--study", "night"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("autoreap: ")
    assert said.count("\n") == 1


def test_a_kill_while_the_database_is_made_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    code = f"""
import os
import optuna.storages._rdb.models as models
make = models.BaseModel.metadata.create_all
def killed(*args, **kwargs):
    make(*args, **kwargs)
    os._exit(9)
models.BaseModel.metadata.create_all = killed
from autoreap.search.storage import open_storage
open_storage("sqlite:///{path}")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert not path.exists()
    assert optuna.get_all_study_names(open_storage(f"sqlite:///{path}")) == []
