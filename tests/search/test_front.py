"""The Pareto front: which points are on it, how it is shown, and what is said where it is empty."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import OBJECTIVES, add_ends, add_trial, new_study, plan_of, rate, read

from autoreap.errors import InputError
from autoreap.report.front_table import front_table, plot_front
from autoreap.scores import NO_DIFFERENCE, WORSE, Difference
from autoreap.search import records
from autoreap.search.front import drawn_metric, explain_empty_front, front_of, nearest, pareto, worse_elsewhere
from autoreap.search.records import ScoredModel, StudyRecord, TrialRecord, TrialStatus
from autoreap.search.storage import default_storage, open_study

# (size in GB, WER) of trials 0 to 5; 5 repeats 2.
TRIALS = [(60, 0.10), (40, 0.11), (30, 0.12), (20, 0.30), (45, 0.20), (30, 0.12)]
FAILED, RUNNING = 8, 10


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = default_storage(tmp_path_factory.mktemp("mlruns"))
    study = new_study(storage=url)
    for number, values in enumerate(TRIALS):
        repeated = 2 if number == 5 else None
        add_trial(study, values, plan=plan_of(2 if number == 5 else number), duplicate_of=repeated)
    add_ends(study)
    study.ask()
    new_study(name="empty", storage=url)
    return url


@pytest.fixture(scope="module")
def study(storage: str) -> StudyRecord:
    return read(open_study("night", storage))


def numbers(points: Sequence[TrialRecord]) -> list[int]:
    return [point.number for point in points]


def test_every_scored_trial_is_a_point_with_what_was_measured(study: StudyRecord) -> None:
    assert numbers(study.points) == [0, 1, 2, 3, 4, 5]
    point = study.points[1]
    document = point.as_dict()
    assert (document["trial"], document["size_bytes"], document["params"]) == (1, 40 * 10**9, point.params)
    assert document["metrics"]["wer"] == rate(0.11).as_dict()
    assert point.values == {"size_bytes": 40e9, "wer": 0.11}
    assert study.points[5].duplicate_of == 2


def test_the_front_leaves_out_dominated_and_repeated_points_and_starts_with_the_smallest(study: StudyRecord) -> None:
    assert numbers(front_of(study)) == [3, 2, 1, 0]


def point(number: int, values: Sequence[float], names: Sequence[str], same_plan_as: int | None = None) -> TrialRecord:
    named = dict(zip(names, values, strict=True))
    digest = f"plan {number if same_plan_as is None else same_plan_as}"
    return TrialRecord(
        number, TrialStatus.SCORED, {}, values=named, size_bytes=int(named["size_bytes"]), plan_digest=digest
    )


def beats(first: TrialRecord, second: TrialRecord, objectives: Mapping[str, str]) -> bool:
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
    points, distinct = [], []
    for number, (*values, repeated) in enumerate(rows):
        is_duplicate = repeated and number > 0
        points.append(point(number, values, list(objectives), same_plan_as=0 if is_duplicate else None))
        if not is_duplicate:
            distinct.append(points[-1])
    unbeaten = [each for each in distinct if not any(beats(other, each, objectives) for other in distinct)]
    assert pareto(points, objectives) == sorted(unbeaten, key=lambda each: (each.size_bytes, each.number))


def constrained(bound: float) -> StudyRecord:
    """The same trials; those above `bound` (a WER) violate a constraint, and one was ruled out before scoring."""
    study = new_study(constraints=["size <= 90 GB", "wer <= bound"])
    for size, wer in TRIALS:
        add_trial(study, (size, wer), violations={"size <= 90 GB": size / 90 - 1, "wer <= bound": wer / bound - 1})
    rule_out(study, 99)
    return read(study)


def rule_out(study: optuna.Study, gigabytes: int) -> None:
    trial = study.ask()
    trial.set_constraint("size <= 90 GB", gigabytes / 90 - 1)
    records.record_infeasible(study, trial, f"size <= 90 GB (it is {gigabytes}.00 GB)")


def test_only_points_that_keep_every_constraint_are_on_the_front() -> None:
    study = constrained(0.115)
    assert numbers(study.points) == [0, 1, 2, 3, 4, 5]
    assert study.points[2].violations == {"wer <= bound": pytest.approx(0.12 / 0.115 - 1)}
    assert study.points[2].as_dict()["broken"] == study.points[2].violations
    assert "broken" not in study.points[1].as_dict()
    assert numbers(front_of(study)) == [1, 0]
    with pytest.raises(InputError, match=r"trial 6 was not scored: size <= 90 GB \(it is 99.00 GB\)"):
        study.plan(6)


def test_where_no_trial_keeps_the_constraints_the_nearest_is_named() -> None:
    study = constrained(0.05)
    assert front_of(study) == []
    assert numbers(nearest(study.points, 3)) == [0, 1, 2]
    assert explain_empty_front(study) == (
        "no trial keeps every constraint; the nearest is trial 0, which violates wer <= bound by 100% of the bound"
    )


def test_where_every_candidate_was_ruled_out_before_scoring_the_nearest_is_named() -> None:
    study = new_study()
    for gigabytes in (99, 91, 95):
        rule_out(study, gigabytes)
    assert explain_empty_front(read(study)) == (
        "no trial was scored; of 3 that a constraint ruled out before scoring, the nearest is trial 1, "
        "which violates size <= 90 GB (it is 91.00 GB)"
    )


def test_a_study_without_a_plain_wer_is_drawn_by_what_it_weighs(tmp_path: Path) -> None:
    study = labelled_study()
    assert drawn_metric(read(study)) == "wer.car"
    plot_front(read(study), tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_controls_are_shown_by_name_between_the_front_and_the_baseline() -> None:
    study = labelled_study()
    records.record_control(study, "random", ScoredModel(read(study).baseline.metrics, 3_000_000))
    lines = front_table(read(study), read(study).points).splitlines()
    assert [line.split()[0] for line in lines] == ["trial", "0", "1", "random", "baseline"]
    assert "3.00 MB" in lines[3]


def labelled_study() -> optuna.Study:
    """Two trials; the first is smaller, the second hears better."""
    study = new_study(dict.fromkeys(("size_bytes", "wer.car"), "minimize"), name="labelled")
    for values in ((20, 0.2), (30, 0.1)):
        add_trial(study, values)
    return study


def test_the_plan_of_a_scored_trial_is_the_one_that_was_scored(study: StudyRecord) -> None:
    assert study.plan(3) == plan_of(3)
    assert study.plan(5) == plan_of(2)


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        (FAILED, "study night: trial 8 was not scored: ScoringError: <b>nothing</b> was scored"),
        (RUNNING, "study night: trial 10 was not scored: running"),
        (99, "study night: has no trial 99"),
    ],
)
def test_a_trial_that_was_not_scored_has_no_plan_to_build(trial: int, message: str, study: StudyRecord) -> None:
    with pytest.raises(InputError, match=message):
        study.plan(trial)


def test_an_unknown_study_is_refused_with_the_known_ones(storage: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no study 'day' \(known: (empty, night|night, empty)\)"):
        open_study("day", storage)
    with pytest.raises(InputError, match=r"no studies here .*autoreap search"):
        open_study("night", default_storage(tmp_path))
    assert not (tmp_path / "studies.db").exists()


def test_a_study_of_another_format_is_refused(tmp_path: Path) -> None:
    storage = default_storage(tmp_path)
    tmp_path.mkdir(exist_ok=True)
    old = optuna.create_study(study_name="old", storage=storage, directions=["minimize", "minimize"])
    old.set_user_attr("objectives", OBJECTIVES)  # as 0.3 wrote it
    with pytest.raises(InputError, match=r"study old: was written by another version of autoreap \(format 1, not 2\)"):
        open_study("old", storage)
    optuna.create_study(study_name="foreign", storage=storage)
    with pytest.raises(InputError, match="study foreign: is not an autoreap study"):
        open_study("foreign", storage)


def test_what_is_no_objective_and_got_significantly_worse_is_named() -> None:
    study = new_study(baseline={"wer": rate(0.1), "accuracy": rate(0.9)})
    lost, kept = Difference(-0.1, -0.15, -0.05, WORSE), Difference(-0.01, -0.05, 0.02, NO_DIFFERENCE)
    measured = {"wer": rate(0.1), "accuracy": rate(0.8)}
    add_trial(study, (30, 0.1), metrics=measured, against_baseline={"wer": lost, "accuracy": lost})
    add_trial(study, (40, 0.09), metrics=measured, against_baseline={"accuracy": kept})
    record = read(study)
    assert [worse_elsewhere(record, trial) for trial in record.points] == [["accuracy"], []]
    table = front_table(record, front_of(record))
    assert "accuracy, no objective, is significantly worse than unpruned: trials 0" in table.splitlines()
