from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import planned
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from autoreap.errors import InputError
from autoreap.plan import PruningPlan
from autoreap.report.table import front_table, plot_front
from autoreap.scores import exact
from autoreap.study.front import drawn_metric, empty_front, nearest, pareto
from autoreap.study.trials import (
    ERROR,
    INFEASIBLE,
    PLAN,
    RESULT,
    Point,
    default_storage,
    open_study,
    plan_of,
    points_of,
)

OBJECTIVES = {"size_bytes": "minimize", "wer": "minimize"}
BASELINE_WER = 0.1
# (size in GB, WER) of trials 0 to 5; 5 repeats 2.
TRIALS = [(60, 0.10), (40, 0.11), (30, 0.12), (20, 0.30), (45, 0.20), (30, 0.12)]
FAILED, RUNNING = 6, 7


def plan_for(trial: int) -> PruningPlan:
    return planned(retention=0.5, saliency="random", seed=trial)


def write_study(storage: str) -> None:
    study = optuna.create_study(storage=storage, study_name="night", directions=["minimize", "minimize"])
    study.set_user_attr("objectives", OBJECTIVES)
    baseline = {"value": BASELINE_WER, "low": BASELINE_WER - 0.01, "high": BASELINE_WER + 0.01}
    study.set_user_attr("baseline", {"metrics": {"wer": baseline}, "size_bytes": 70_000_000_000})
    for number, (size, wer) in enumerate(TRIALS):
        study.enqueue_trial({"retention": 1 / (number + 1)})
        trial = study.ask()
        trial.suggest_float("retention", 0, 1)
        plan = plan_for(2 if number == 5 else number)
        metrics = {"wer": {"value": wer, "low": wer - 0.01, "high": wer + 0.01, "denominator": 1000}}
        result: dict[str, Any] = {"metrics": metrics, "size_bytes": size * 10**9, "plan_digest": plan.digest()}
        trial.set_user_attr(PLAN, plan.as_dict())
        trial.set_user_attr(RESULT, result | ({"duplicate_of": 2} if number == 5 else {}))
        study.tell(trial, (size * 1e9, wer))
    failed = study.ask()
    failed.set_user_attr(PLAN, plan_for(FAILED).as_dict())
    failed.set_user_attr(ERROR, "ScoringError: nothing was scored")
    study.tell(failed, state=TrialState.FAIL)
    study.ask()
    other = optuna.create_study(storage=storage, study_name="empty", directions=["minimize", "minimize"])
    other.set_user_attr("objectives", OBJECTIVES)


def write_constrained_study(storage: str, name: str, bound: float, objectives: Mapping[str, str]) -> optuna.Study:
    """The same trials; those above `bound` (a WER) break a constraint, and one was ruled out before it was scored."""
    directions: list[Any] = list(objectives.values())
    study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    study.set_user_attr("objectives", dict(objectives))
    study.set_user_attr("baseline", {"metrics": {"wer": exact(BASELINE_WER)}, "size_bytes": 70_000_000_000})
    for number, (size, wer) in enumerate(TRIALS):
        trial = study.ask()
        metrics = {"wer": {"value": wer}, "accuracy": {"value": 1 - wer, "denominator": 10}}
        values = {"size_bytes": size * 1e9, "wer": wer, "accuracy": 1 - wer}
        result = {"metrics": metrics, "size_bytes": size * 10**9, "plan_digest": f"plan {number}"}
        trial.set_user_attr(RESULT, result)
        trial.set_constraint("size <= 90 GB", size / 90 - 1)
        trial.set_constraint("wer <= bound", wer / bound - 1)
        study.tell(trial, [values[name] for name in objectives])
    ruled_out = study.ask()
    ruled_out.set_constraint("size <= 90 GB", 0.1)
    ruled_out.set_user_attr(INFEASIBLE, "size <= 90 GB (it is 99.00 GB)")
    study.tell(ruled_out, state=TrialState.PRUNED)
    return study


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = default_storage(tmp_path_factory.mktemp("mlruns"))
    write_study(url)
    return url


@pytest.fixture(scope="module")
def study(storage: str) -> optuna.Study:
    return open_study("night", storage)


def test_every_scored_trial_is_a_point_with_what_was_measured(study: optuna.Study) -> None:
    points = points_of(study)
    assert [point.trial for point in points] == [0, 1, 2, 3, 4, 5]
    assert points[1].as_dict() == {
        "trial": 1,
        "params": {"retention": 0.5},
        "metrics": {
            "wer": {"value": 0.11, "low": pytest.approx(0.1), "high": pytest.approx(0.12), "denominator": 1000}
        },
        "size_bytes": 40 * 10**9,
    }
    assert points[1].values == {"size_bytes": 40e9, "wer": 0.11}
    assert points[5].duplicate_of == 2


def test_the_front_leaves_out_dominated_and_repeated_points_and_starts_with_the_smallest(study: optuna.Study) -> None:
    assert [point.trial for point in pareto(points_of(study), OBJECTIVES)] == [3, 2, 1, 0]


def point(trial: int, values: Sequence[float], names: Sequence[str], duplicate_of: int | None = None) -> Point:
    named = dict(zip(names, values, strict=True))
    metrics = {name: {"value": value} for name, value in named.items() if name != "size_bytes"}
    return Point(
        trial,
        {},
        named,
        metrics,
        int(named["size_bytes"]),
        f"plan {trial if duplicate_of is None else duplicate_of}",
        duplicate_of,
    )


def beats(first: Point, second: Point, objectives: Mapping[str, str]) -> bool:
    signs = {name: 1 if direction == "minimize" else -1 for name, direction in objectives.items()}
    gaps = [signs[name] * (second.values[name] - first.values[name]) for name in objectives]
    return min(gaps) >= 0 and max(gaps) > 0


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.integers(0, 4)] * 3, st.booleans()), max_size=12),
    directions=st.tuples(*[st.sampled_from(["minimize", "maximize"])] * 2),
)
def test_the_front_is_what_no_point_beats(rows: list[tuple[int, int, int, bool]], directions: tuple[str, str]) -> None:
    objectives = {"size_bytes": "minimize", "wer": directions[0], "accuracy": directions[1]}
    points = [
        point(number, values, list(objectives), duplicate_of=0 if repeated and number else None)
        for number, (*values, repeated) in enumerate(rows)
    ]
    distinct = [each for each in points if each.duplicate_of is None]
    unbeaten = [each for each in distinct if not any(beats(other, each, objectives) for other in distinct)]
    assert pareto(points, objectives) == sorted(unbeaten, key=lambda each: (each.size_bytes, each.trial))


def test_only_points_that_keep_every_constraint_are_on_the_front(tmp_path: Path) -> None:
    study = write_constrained_study(default_storage(tmp_path), "bound", 0.115, OBJECTIVES)
    points = points_of(study)
    assert [point.trial for point in points] == [0, 1, 2, 3, 4, 5]
    assert points[2].broken == {"wer <= bound": pytest.approx(0.12 / 0.115 - 1)}
    assert points[2].as_dict()["broken"] == points[2].broken
    assert "broken" not in points[1].as_dict()
    assert [point.trial for point in pareto(points, OBJECTIVES)] == [1, 0]
    with pytest.raises(InputError, match=r"trial 6 was not scored: size <= 90 GB \(it is 99.00 GB\)"):
        plan_of(study, 6)


def test_where_no_trial_keeps_the_constraints_the_nearest_is_named(tmp_path: Path) -> None:
    study = write_constrained_study(default_storage(tmp_path), "bound", 0.05, OBJECTIVES)
    assert pareto(points_of(study), OBJECTIVES) == []
    assert [point.trial for point in nearest(points_of(study), 3)] == [0, 1, 2]
    reason = "no trial keeps every constraint; nearest is trial 0, which breaks wer <= bound by 100% of the bound"
    assert empty_front(study) == reason


def test_where_every_candidate_was_ruled_out_before_scoring_the_nearest_is_named(tmp_path: Path) -> None:
    study = optuna.create_study(storage=default_storage(tmp_path), directions=["minimize", "minimize"])
    study.set_user_attr("objectives", OBJECTIVES)
    for gigabytes in (99, 91, 95):
        trial = study.ask()
        trial.set_user_attr(INFEASIBLE, f"size <= 90 GB (it is {gigabytes}.00 GB)")
        trial.set_constraint("size <= 90 GB", gigabytes / 90 - 1)
        study.tell(trial, state=TrialState.PRUNED)
    assert empty_front(study) == (
        "no trial is scored; of 3 that a constraint ruled out beforehand the nearest is trial 1, "
        "which breaks size <= 90 GB (it is 91.00 GB)"
    )


def test_a_study_without_a_plain_wer_is_drawn_by_what_it_weighs(tmp_path: Path) -> None:
    study = labelled_study(default_storage(tmp_path), ("size_bytes", "wer.car"))
    assert drawn_metric(study) == "wer.car"
    plot_front(study, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_controls_are_shown_by_name_between_the_front_and_the_baseline(tmp_path: Path) -> None:
    study = labelled_study(default_storage(tmp_path), ("size_bytes", "wer.car"))
    baseline = study.user_attrs["baseline"]
    lines = front_table(points_of(study), baseline, {"random": {**baseline, "size_bytes": 3_000_000}}).splitlines()
    assert [line.split()[0] for line in lines] == ["trial", "0", "1", "random", "baseline"]
    assert "3.00 MB" in lines[3]


def labelled_study(storage: str, names: Sequence[str]) -> optuna.Study:
    """Two trials; the first is better by the last of the names, the second by the others."""
    study = optuna.create_study(storage=storage, study_name="labelled", directions=["minimize"] * len(names))
    study.set_user_attr("objectives", dict.fromkeys(names, "minimize"))
    unpruned = {name: {"value": 0.1, "low": 0.0, "high": 1.0} for name in names[1:]}
    study.set_user_attr("baseline", {"metrics": unpruned, "size_bytes": 4})
    for number, wers in enumerate(((0.2, 0.1), (0.1, 0.2))):
        trial = study.ask()
        values = dict(zip(names, (number + 2, *wers), strict=False))
        metrics = {name: {"value": values[name], "low": 0.0, "high": 1.0} for name in names[1:]}
        trial.set_user_attr(RESULT, {"metrics": metrics, "size_bytes": number + 2, "plan_digest": str(number)})
        study.tell(trial, list(values.values()))
    return study


def test_the_plan_of_a_scored_trial_is_the_one_that_was_scored(study: optuna.Study) -> None:
    assert plan_of(study, 3) == plan_for(3)
    assert plan_of(study, 5) == plan_for(2)


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        (FAILED, "study night: trial 6 was not scored: ScoringError: nothing was scored"),
        (RUNNING, "study night: trial 7 was not scored: running"),
        (99, "study night: has no trial 99"),
    ],
)
def test_a_trial_that_was_not_scored_has_no_plan_to_build(trial: int, message: str, study: optuna.Study) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(study, trial)


def test_an_unknown_study_is_refused_with_the_known_ones(storage: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no study 'day' \(known: (empty, night|night, empty)\)"):
        open_study("day", storage)
    with pytest.raises(InputError, match=r"no studies here .*autoreap search"):
        open_study("night", default_storage(tmp_path))
    assert not (tmp_path / "studies.db").exists()
