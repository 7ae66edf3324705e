"""What a study is taken up again as: the same one, or not at all."""

from pathlib import Path

import optuna
import pytest

from autoreap.errors import InputError
from autoreap.search.space import SpaceConfig, load_space
from autoreap.search.storage import default_storage, open_storage
from autoreap.search.study import Identity, open_or_create_study

FACTS = {"model": "m1", "code": "c1", "evals": "e1"}


@pytest.fixture
def space(tmp_path: Path) -> SpaceConfig:
    (tmp_path / "audio.jsonl").touch()
    path = tmp_path / "space.yaml"
    path.write_text("calibration: {audio: audio.jsonl}\nevals: evals.yaml\nparameters: {retention: [0.5, 0.75]}\n")
    return load_space(path)


def begun(space: SpaceConfig, folder: Path) -> optuna.Study:
    """A study with a trial, and who it is."""
    study = open_or_create_study(space, open_storage(default_storage(folder)), "night", Identity(FACTS))
    study.ask()
    return study


def test_a_refusal_changes_nothing_of_the_study(space: SpaceConfig, tmp_path: Path) -> None:
    before = begun(space, tmp_path).user_attrs
    changed = Identity({**FACTS, "code": "c2", "evals": "e2"}, may_change=("code",))
    with pytest.raises(InputError, match="study night: was started with evals e1, now it is e2"):
        open_or_create_study(space, open_storage(default_storage(tmp_path)), "night", changed)
    storage = open_storage(default_storage(tmp_path))
    assert optuna.load_study(study_name="night", storage=storage).user_attrs == before


def test_what_may_change_is_said_and_kept(
    space: SpaceConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(space, tmp_path)
    changed = Identity({**FACTS, "code": "c2"}, may_change=("code",))
    study = open_or_create_study(space, open_storage(default_storage(tmp_path)), "night", changed)
    assert study.user_attrs["code"] == "c2"
    assert "study night resumes with code c2, it was c1" in capsys.readouterr().err
