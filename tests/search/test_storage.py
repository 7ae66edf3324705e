"""Where studies are kept: opened patiently, led by one process, shown without passwords."""

import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from postgres import Postgres, postgres_server
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from autoreap.errors import InputError
from autoreap.search.storage import leading, open_storage, public_url, retry_while_away

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a storage."""
    return f"sqlite:///{tmp_path}/studies.db" if request.param == "sqlite" else request.getfixturevalue("server").url


def _lead(study: str, storage: str, root: Path, leads: Any) -> None:
    with leading(study, storage, root):
        leads.set()
        time.sleep(60)


def test_a_study_has_one_leader_until_that_process_ends(storage: str, tmp_path: Path) -> None:
    leads = FORK.Event()
    leader = FORK.Process(target=_lead, args=("night", storage, tmp_path, leads))
    leader.start()
    assert leads.wait(30)
    refused = pytest.raises(InputError, match=r"another search of this study is running \(wait, or use --study\)")
    with refused, leading("night", storage, tmp_path):
        pass
    with leading("another study", storage, tmp_path):
        assert leader.is_alive()
    leader.kill()
    leader.join()
    deadline = time.monotonic() + 30
    while True:  # a server may take a moment to notice
        try:
            with leading("night", storage, tmp_path):
                break
        except InputError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_database_that_is_away_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})

    def write() -> None:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS t (x)"))

    with closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OperationalError, match="database is locked"):
            retry_while_away(write, outage_seconds=0.5)
        threading.Timer(0.5, other.rollback).start()
        retry_while_away(write, outage_seconds=30)
        time.sleep(0.1)


def test_a_server_that_went_down_is_waited_for_and_nothing_that_was_told_is_lost(server: Postgres) -> None:
    study = optuna.create_study(study_name="outage", storage=open_storage(server.url))
    trial = study.ask()
    trial.suggest_float("retention", 0.25, 1.0)
    server.stop()
    back = threading.Timer(3, server.start)
    back.start()
    study.tell(trial, 0.5)
    back.join()
    assert [(trial.state, trial.value) for trial in study.trials] == [(TrialState.COMPLETE, 0.5)]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@localhost:1/x", r"me:\*\*\*@localhost:1/x: can't be opened: .*refused"),
        ("nonsense://x", "can't be opened: Can't load plugin"),
        ("not a url", "can't be opened: Could not parse"),
    ],
)
def test_a_storage_that_cant_be_opened_is_named_without_its_password(url: str, message: str) -> None:
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg")
    with pytest.raises(InputError, match=message) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_password_is_never_public_url() -> None:
    assert public_url("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert public_url("sqlite:///mlruns/studies.db") == "sqlite:///mlruns/studies.db"
