"""Where studies are kept: opened patiently, led by one process, shown without passwords."""

import multiprocessing
import re
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

from autoreap.commands import options
from autoreap.errors import InputError
from autoreap.search.addresses import public_url, without_secrets
from autoreap.search.storage import default_storage, leading, open_storage, retry_while_away

FORK = multiprocessing.get_context("fork")
ODD_NAMES = ("a?b", "a%20b", "a#b", "a{b}", "a b", "ä&=;")


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


@pytest.mark.slow
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
        ("postgresql://me:secret@localhost:1/x", r"postgresql://\*\*\*@localhost:1/x: can't be opened: .*refused"),
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


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_of_any_name_holds_its_own_studies_and_no_other_folder_is_made(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name / "mlruns"
    url = default_storage(folder)
    optuna.create_study(study_name="night", storage=open_storage(url))
    assert optuna.get_all_study_names(open_storage(url)) == ["night"]
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert [path.name for path in folder.iterdir()] == ["studies.db"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_shell_offers_the_studies_of_a_folder_of_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    optuna.create_study(study_name="night", storage=open_storage(default_storage()))
    assert options.study_names() == ["night"]


def test_a_question_mark_within_the_path_of_an_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="write it as %3F"):
        open_storage(f"sqlite:///{tmp_path}/a?b/studies.db")
    assert list(tmp_path.iterdir()) == []


def _create(storage: str, name: str, together: Any) -> None:
    together.wait()
    optuna.create_study(study_name=name, storage=open_storage(storage))


def test_studies_that_start_at_once_in_a_new_folder_all_start(tmp_path: Path) -> None:
    url, number = default_storage(tmp_path / "mlruns"), 6
    together = FORK.Barrier(number)
    processes = [FORK.Process(target=_create, args=(url, f"night {each}", together)) for each in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * number
    assert len(optuna.get_all_study_names(open_storage(url))) == number


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("postgresql://me:secret@host/db", "postgresql://***@host/db"),
        ("postgresql://me:s%40crét@host/db?sslpassword=hush&x=1", "postgresql://***@host/db?sslpassword=***&x=1"),
        ("http://token@host:5000/path", "http://***@host:5000/path"),
        ("sqlite:///mlruns/studies.db", "sqlite:///mlruns/studies.db"),
        ("sqlite:////home/me@work/studies.db", "sqlite:////home/me@work/studies.db"),
    ],
)
def test_neither_user_nor_password_is_in_a_public_url(url: str, public: str) -> None:
    assert public_url(url) == public


@pytest.mark.parametrize(
    "text",
    [
        'FATAL: password authentication failed for user "me"',
        "Access denied for user 'me'@'localhost' (using password: YES)",
        "API request to postgresql://me:s%40cret@host/db failed",
        "could not sign in with s@cret",
    ],
)
def test_what_drivers_say_is_shown_without_user_and_password(text: str) -> None:
    shown = without_secrets(text, "postgresql://me:s%40cret@host/db")
    assert not re.search(r"\bme\b|s@cret|s%40cret", shown)
    assert "***" in shown
