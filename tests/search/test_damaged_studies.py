"""A database of studies that is damaged, in whatever way, ends a command in one line, and is left as it was."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from studies import add_trial, new_study

from autoreap.cli import main

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


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_database_ends_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mlruns" / "studies.db"
    path.parent.mkdir()
    study = new_study(storage=f"sqlite:///{path}")
    add_trial(study, [10.0**9, 0.1])
    DAMAGES[name](path)
    before = path.read_bytes() if path.is_file() else b""
    for command in (["show", "night"], ["pareto", "night"], ["show", "night", "--trial", "0"], ["select", "night"]):
        code = main(command)
        said = capsys.readouterr().err
        assert code in (0, 2), said
        assert code == 0 or said.startswith("autoreap: ")
        assert said.count("\n") <= 1
        assert "Traceback" not in said
    assert not path.is_file() or path.read_bytes() == before
