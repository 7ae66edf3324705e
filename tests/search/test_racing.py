"""A race changes what a search costs, never what it finds: the front is that of a search which scores everything."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from builders import as_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreap import jobs
from autoreap.data.eval_set import open_evals
from autoreap.errors import InputError
from autoreap.evaluation import evaluator as evaluate
from autoreap.evaluation.evaluator import CHUNKED_FROM, Evaluator, random_chunks
from autoreap.evaluation.outcomes import Evaluation, Outcome
from autoreap.models.loading import load, open_model
from autoreap.scores import Counts, Metric
from autoreap.search.front import front_of, pareto
from autoreap.search.racing import (
    ALPHA,
    MIN_POPULATION,
    CandidatePruned,
    Domination,
    Incumbent,
    Limit,
    Numerators,
    Race,
    lower_bound,
)
from autoreap.search.records import StudyRecord, TrialRecord, TrialStatus
from autoreap.search.storage import default_storage, open_study

WER = {"size_bytes": "minimize", "wer": "minimize"}
SEVERAL = {"size_bytes": "minimize", "wer": "minimize", "wer.noisy": "minimize", "accuracy": "maximize"}
NUM_WORDS = 5

Numbers = Sequence[int]


def outcomes_of(metric: str, numerators: Numbers) -> tuple[Outcome, ...]:
    denominator = 1 if metric == "accuracy" else NUM_WORDS
    return tuple(
        Outcome(f"u{place}", "", "", Counts(numerator, denominator), failed=numerator == 0)
        for place, numerator in enumerate(numerators)
    )


def point_of(number: int, size: int, answers: Mapping[str, Numbers]) -> TrialRecord:
    """Scored to the end, as a search does it."""
    metrics = Evaluation({name: outcomes_of(name, listed) for name, listed in answers.items()}, 0.0).metrics()
    values = {"size_bytes": float(size)} | {name: metric.value for name, metric in metrics.items()}
    return TrialRecord(
        number,
        TrialStatus.SCORED,
        {},
        values=values,
        metrics=metrics,
        size_bytes=size,
        plan_digest=f"plan {number}",
    )


def incumbent_of(point: TrialRecord, answers: Mapping[str, Numbers]) -> Incumbent:
    numerators: Numerators = {
        name: {f"u{place}": numerator for place, numerator in enumerate(listed)} for name, listed in answers.items()
    }
    return Incumbent(point.number, point.values, point.metrics, numerators)


def race_against(
    objectives: Mapping[str, str], size: int, answers: Mapping[str, Numbers], incumbents: Sequence[Incumbent]
) -> Domination | None:
    """Why the candidate was stopped; None where it was scored to the end."""
    race = Race(objectives, {"size_bytes": size}, incumbents)
    try:
        race.check()
        for name, listed in answers.items():
            for outcome in outcomes_of(name, listed):
                race.count(name, outcome)
    except CandidatePruned as pruned:
        return pruned.domination
    return None


def against_one(
    candidate: Mapping[str, Numbers],
    member: Mapping[str, Numbers],
    *,
    sizes: tuple[int, int] = (10, 10),
    objectives: Mapping[str, str] = WER,
) -> Domination | None:
    """Sizes: the candidate's, the member's."""
    return race_against(objectives, sizes[0], candidate, [incumbent_of(point_of(7, sizes[1], member), member)])


errors = st.lists(st.integers(0, 9), min_size=4, max_size=4)  # of 5 words each: WER may exceed 100%
answers = st.fixed_dictionaries(
    {"wer": errors, "wer.noisy": errors, "accuracy": st.lists(st.integers(0, 1), min_size=4, max_size=4)}
)


def test_what_may_be_the_smallest_non_inferior_one_is_scored_on_though_it_is_dominated() -> None:
    member = point_of(7, 10, {"wer": [1, 0, 0, 0], "accuracy": [1, 1, 1, 1]})
    incumbents = [incumbent_of(member, {})]
    limits = {"wer": Limit(0.10, "minimize", 4 * NUM_WORDS), "accuracy": Limit(0.5, "maximize", 4)}

    def stopped(candidate: Mapping[str, Numbers]) -> int | None:
        race = Race(WER, {"size_bytes": 10}, incumbents, limits)
        num_scored = 0
        try:
            for name, listed in candidate.items():
                for outcome in outcomes_of(name, listed):
                    num_scored += 1
                    race.count(name, outcome)
        except CandidatePruned:
            return num_scored
        return None

    # Two errors in twenty words: dominated, and within the limit.
    assert stopped({"wer": [1, 1, 0, 0], "accuracy": [1, 1, 0, 1]}) is None
    # The third error is beyond it; so is the third wrong answer.
    assert stopped({"wer": [1, 1, 1, 0], "accuracy": [1, 1, 1, 1]}) == 3
    assert stopped({"wer": [1, 1, 0, 0], "accuracy": [0, 0, 0, 1]}) == 7
    assert stopped({"wer": [0, 0, 0, 0], "accuracy": [0, 0, 0, 0]}) is None, "not dominated"


@settings(max_examples=300, deadline=None)
@given(
    trials=st.lists(st.tuples(st.integers(1, 3), answers), max_size=10),
    chosen=st.sets(st.sampled_from(sorted(SEVERAL)), min_size=1),
)
@pytest.mark.slow
def test_a_search_that_races_ends_with_the_front_of_one_that_scores_everything(
    trials: list[tuple[int, Mapping[str, Numbers]]], chosen: set[str]
) -> None:
    objectives = {name: direction for name, direction in SEVERAL.items() if name in chosen}
    every = [
        replace(point, values={name: point.values[name] for name in objectives})
        for point in (point_of(number, *trial) for number, trial in enumerate(trials))
    ]
    scored: list[TrialRecord] = []
    for point, (size, listed) in zip(every, trials, strict=True):
        incumbents = [incumbent_of(member, trials[member.number][1]) for member in pareto(scored, objectives)]
        if race_against(objectives, size, listed, incumbents) is None:
            scored.append(point)
    assert pareto(scored, objectives) == pareto(every, objectives)


def test_it_is_stopped_with_the_error_that_makes_it_worse_whatever_comes() -> None:
    verdict = against_one({"wer": [0, 2, 1, 0, 0]}, {"wer": [0, 1, 1, 0, 0]}, sizes=(11, 10))
    assert verdict is not None
    assert (verdict.num_scored, verdict.num_utterances, verdict.incumbent) == (2, 5, 7)
    assert verdict.counts == {"wer": {"numerator": 2, "denominator": 10, "num_samples": 2}}


def test_its_reason_names_the_rival_and_compares_in_every_objective() -> None:
    verdict = against_one(
        {"wer": [3, 0], "accuracy": [0, 1]},
        {"wer": [2, 0], "accuracy": [1, 1]},
        sizes=(12_000_000, 10_000_000),
        objectives={**WER, "accuracy": "maximize"},
    )
    assert verdict is not None
    assert verdict.reason == (
        "dominated by trial 7: size_bytes 10.00 MB, this one 12.00 MB, "
        "WER 20.00%, this one at least 30.00%, accuracy 100.00%, this one at most 100.00%"
    )


def test_equals_share_the_front() -> None:
    assert against_one({"wer": [1, 1]}, {"wer": [2, 0]}) is None


def test_of_two_with_equal_errors_the_larger_one_is_stopped() -> None:
    assert against_one({"wer": [1, 1]}, {"wer": [2, 0]}, sizes=(11, 10))


def test_a_smaller_one_is_never_stopped_however_badly_it_hears() -> None:
    assert against_one({"wer": [9, 9]}, {"wer": [0, 0]}, sizes=(9, 10)) is None


def test_a_rival_without_an_error_stops_a_larger_one_before_it_is_heard() -> None:
    verdict = against_one({"wer": [0, 0]}, {"wer": [0, 0]}, sizes=(11, 10))
    assert verdict is not None
    assert verdict.num_scored == 0


def test_one_rival_must_be_better_in_everything() -> None:
    objectives = {"wer": "minimize", "accuracy": "maximize"}
    members: list[Mapping[str, Numbers]] = [
        {"wer": [0, 0], "accuracy": [0, 0]},
        {"wer": [9, 9], "accuracy": [1, 1]},
    ]
    incumbents = [incumbent_of(point_of(number, 1, member), member) for number, member in enumerate(members)]
    assert race_against(objectives, 1, {"wer": [3, 3], "accuracy": [1, 0]}, incumbents) is None


def test_with_an_empty_front_nobody_is_stopped() -> None:
    assert race_against(WER, 10, {"wer": [9, 9]}, []) is None


def test_what_is_no_objective_neither_saves_nor_stops() -> None:
    member = {"wer": [1, 0], "accuracy": [1, 1]}
    assert against_one({"accuracy": [0, 0], "wer": [0, 0]}, member, sizes=(11, 10)) is None
    assert against_one({"accuracy": [1, 1], "wer": [2, 0]}, member, sizes=(11, 10))


@pytest.mark.parametrize("measured", [Metric.static(50.0), Metric(50.0, 49.0, 51.0, numerator=1, denominator=1)])
def test_what_is_neither_known_beforehand_nor_a_rate_of_counts_is_not_held_against_a_candidate(
    measured: Metric,
) -> None:
    member = point_of(7, 10, {"wer": [0, 0]})
    metrics = {**member.metrics, "speed": measured}
    incumbent = Incumbent(7, {**member.values, "speed": 50.0}, metrics, {})
    assert race_against({**WER, "speed": "maximize"}, 11, {"wer": [9, 9]}, [incumbent]) is None


def sampled(candidate: Numbers, member: Numbers, *, seed: int = 0, num_chunks: int = 10) -> Domination | None:
    """As the evaluator decodes a large set: chunks drawn at random, a look after each."""
    incumbent = incumbent_of(point_of(7, 10, {"wer": member}), {"wer": member})
    race = Race(WER, {"size_bytes": 11}, [incumbent])
    listed = outcomes_of("wer", candidate)
    try:
        for chunk in np.array_split(np.random.default_rng(seed).permutation(len(listed)), num_chunks):
            for place in chunk:
                race.count("wer", listed[place])
            race.check_sample("wer")
    except CandidatePruned as pruned:
        return pruned.domination
    return None


def drawn(rate: float, num_utterances: int, seed: int) -> list[int]:
    return [int(n) for n in np.random.default_rng(seed).poisson(rate, num_utterances)]


def test_a_sample_says_earlier_than_a_bound_that_a_candidate_is_far_worse() -> None:
    worse, better = drawn(0.9, 1000, 0), drawn(0.4, 1000, 1)
    verdict, bounded = sampled(worse, better), against_one({"wer": worse}, {"wer": better}, sizes=(11, 10))
    assert verdict is not None
    assert bounded is not None
    assert 100 <= verdict.num_scored < bounded.num_scored
    assert f"this one higher in a sample of {verdict.num_scored}" in verdict.reason


def test_a_rival_that_seldom_runs_away_is_not_better_because_a_sample_has_not_seen_it() -> None:
    member = [20 * (place % 200 == 0) for place in range(1000)]  # 0.1 errors an utterance, all of them in five
    candidate = [int(place % 12 == 1) for place in range(1000)]  # 0.084, evenly spread
    seen = [sampled(candidate, member, seed=seed) for seed in range(20)]
    assert seen == [None] * 20


def test_of_fewer_utterances_no_sample_is_believed() -> None:
    worse, better = drawn(0.9, MIN_POPULATION - 1, 0), drawn(0.4, MIN_POPULATION - 1, 1)
    verdict = sampled(worse, better)
    assert verdict is not None
    assert "in a sample" not in verdict.reason


def test_one_rival_must_be_better_by_what_samples_say_too() -> None:
    objectives = {"wer": "minimize", "accuracy": "maximize"}
    member = {"wer": drawn(0.1, 1000, 0), "accuracy": [0] * 1000}
    race = Race(objectives, {}, [incumbent_of(point_of(7, 1, member), member)])
    for outcome in outcomes_of("wer", drawn(0.9, 1000, 1))[:500]:
        race.count("wer", outcome)
    race.check_sample("wer")  # worse in one, but not yet in the other


def test_the_whole_overrules_a_sample() -> None:
    member = {"wer": [0, 2] * 500, "accuracy": [0, 1] * 500}
    candidate = outcomes_of("wer", [1, 0] * 500)
    race = Race({"wer": "minimize", "accuracy": "maximize"}, {}, [incumbent_of(point_of(7, 1, member), member)])
    for outcome in (*candidate[::2], *candidate[1::2]):
        race.count("wer", outcome)
        if outcome is candidate[-2]:
            race.check_sample(
                "wer"
            )  # half of the utterances, and worse in each: no fair sample, to be sure to be misled
    for outcome in outcomes_of("accuracy", [0] * 1000):
        race.count("accuracy", outcome)


def test_without_the_outcomes_of_the_rival_only_the_bound_stops() -> None:
    member = {"wer": drawn(0.4, 1000, 0)}
    incumbent = Incumbent(7, point_of(7, 10, member).values, point_of(7, 10, member).metrics, {})
    race = Race(WER, {"size_bytes": 11}, [incumbent])
    for outcome in outcomes_of("wer", drawn(0.5, 1000, 1))[:700]:
        race.count("wer", outcome)
    race.check_sample("wer")


@pytest.mark.parametrize("alpha", [ALPHA, ALPHA / 10])
def test_the_bound_is_below_the_mean_at_all_sizes_at_once_as_often_as_it_says(alpha: float) -> None:
    population, repeats = 1000, 4000
    rng = np.random.default_rng(0)
    skewed = rng.poisson(0.6, population) - rng.poisson(0.5, population)
    rows = rng.permuted(np.broadcast_to(skewed, (repeats, population)), axis=1)
    sizes = np.arange(100, population, 10)
    means = np.cumsum(rows, axis=1)[:, sizes - 1] / sizes
    deviations = np.sqrt(np.cumsum(rows**2, axis=1)[:, sizes - 1] / sizes - means**2)
    bounds = lower_bound(sizes, means, deviations, alpha=alpha, population=population)
    assert np.mean((bounds > skewed.mean()).any(axis=1)) <= alpha
    clearly = lower_bound(500, skewed.std(), skewed.std(), alpha=alpha, population=population)
    assert clearly > 0  # and not so far below that it would never say anything


@pytest.mark.parametrize(("num_rows", "batch_size", "num_chunks"), [(1000, 32, 7), (2600, 64, 10), (1000, 512, 1)])
def test_a_large_set_is_decoded_in_the_same_random_chunks_each_time(
    num_rows: int, batch_size: int, num_chunks: int
) -> None:
    chunks = random_chunks(num_rows, batch_size)
    assert chunks == random_chunks(num_rows, batch_size)
    assert sorted(row for chunk in chunks for row in chunk) == list(range(num_rows))
    assert len(chunks) == num_chunks
    assert all(len(chunk) >= min(4 * batch_size, num_rows) for chunk in chunks)
    assert abs(np.mean(chunks[0]) / num_rows - 0.5) < 0.1


def test_a_small_set_is_decoded_at_once() -> None:
    assert random_chunks(CHUNKED_FROM - 1, 1) == [list(range(CHUNKED_FROM - 1))]


def write_rows(path: Path, source: Path, limit: int) -> None:
    """The first rows of a shipped file, for use from elsewhere."""
    rows = [json.loads(line) for line in source.read_text().splitlines()[:limit]]
    for row in rows:
        row |= {key: str(source.parent / row[key]) for key in ("audio", "image") if key in row}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def evals(tmp_path: Path) -> Path:
    write_rows(tmp_path / "qa.jsonl", as_jsonl("evals/tiny") / "qa_search.jsonl", 4)
    write_rows(tmp_path / "asr.jsonl", as_jsonl("evals/tiny") / "asr_search.jsonl", 12)
    (tmp_path / "evals.yaml").write_text(
        "search:\n  - {task: audio_qa, dataset_path: qa.jsonl}\n"
        "  - {task: asr, dataset_path: asr.jsonl, doc_to_text: transcribe}\n"
    )
    return tmp_path / "evals.yaml"


def test_the_evaluator_begins_with_what_comes_first_and_allows_a_look_after_each_random_chunk(
    evals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(open_model("tiny"))
    whole = Evaluator(loaded.model, loaded.inputs, open_evals(evals).search, batch_size=1).run()
    monkeypatch.setattr(evaluate, "CHUNKED_FROM", 12)
    evaluator = Evaluator(loaded.model, loaded.inputs, open_evals(evals).search, batch_size=1)
    seen: list[tuple[str, str]] = []
    looks: list[int] = []
    chunked = evaluator.run(
        on_outcome=lambda metric, outcome: seen.append((metric, outcome.id)),
        on_sample=lambda metric: looks.append(len(seen)) if metric == "wer" else pytest.fail("too few rows"),
        first=["wer"],
    )
    assert [metric for metric, _ in seen] == ["wer"] * 12 + ["accuracy"] * 4
    assert looks == [4, 8, 12]
    rows = [outcome.id for outcome in whole.outcomes["wer"]]
    drawn_rows = [{rows[place] for place in chunk} for chunk in random_chunks(12, 1)]
    assert [{row for _, row in seen[end - 4 : end]} for end in looks] == drawn_rows
    assert chunked.outcomes == whole.outcomes
    assert list(chunked.outcomes) == list(whole.outcomes)


SPACE = """\
calibration: {{audio: audio.jsonl}}
evals: evals.yaml
parameters:
  retention: {{low: 0.25, high: 1.0, step: 0.0625}}
  saliency: [affinity, random]
  layers_cut: {{low: 0, high: 2}}
  strip_vision: true
trials: 12
presets: []
batch_size: 16
racing: {racing}
sampler: {sampler}
"""


def search(folder: Path, study: str, *, racing: bool, trials: int = 12, sampler: str = "tpe") -> StudyRecord:
    (folder / "space.yaml").write_text(SPACE.format(racing=str(racing).lower(), sampler=sampler))
    options = jobs.SearchOptions(model="tiny", study=study, trials=trials, root=folder / "mlruns", confirm=False)
    return jobs.search(folder / "space.yaml", options).study


@pytest.mark.slow
def test_a_search_with_and_without_racing(evals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One test, for the searches take seconds each."""
    folder = evals.parent
    write_rows(folder / "audio.jsonl", as_jsonl("calibration/tiny") / "audio.jsonl", 8)
    plain = search(folder, "plain", racing=False)
    assert all(trial.is_scored for trial in plain.trials)

    # The same candidates again, in two sessions.
    storage = default_storage(folder / "mlruns")
    again = optuna.create_study(study_name="raced", storage=storage, directions=["minimize", "minimize"])
    for trial in plain.trials:
        again.enqueue_trial(dict(trial.params))
    search(folder, "raced", racing=True, trials=6)
    resumed = search(folder, "raced", racing=True)
    log = capsys.readouterr().err

    digests = [[point.plan_digest for point in front_of(study)] for study in (plain, resumed)]
    assert digests[0] == digests[1]
    pruned = [trial for trial in resumed.trials if trial.status is TrialStatus.PRUNED]
    assert pruned
    num_trials = len(plain.trials)
    assert len(resumed.trials) == num_trials
    assert sum(trial.is_spent for trial in resumed.trials) == 12
    assert all((trial.values, trial.metrics) == ({}, {}) for trial in pruned)
    first = pruned[0]
    assert first.num_scored <= 12 < first.num_utterances == 16
    assert f"pruned: {first.reason}; {first.num_scored} of 16 utterances" in log
    with pytest.raises(InputError, match=f"trial {first.number} was not scored: dominated by trial"):
        resumed.plan(first.number)

    stored = open_study("raced", storage)
    stored.enqueue_trial(dict(first.params))
    stored.enqueue_trial(dict(first.params), user_attrs={"preset": "to compare with"})
    repeated, preset = search(folder, "raced", racing=True, trials=13).trials[num_trials:]
    assert (repeated.status, repeated.duplicate_of) == (TrialStatus.PRUNED, first.number)
    assert f"pruned: same plan as trial {first.number}" in capsys.readouterr().err
    assert (preset.origin, preset.is_scored) == ("to compare with", True)

    # A sampler that would learn nothing of it does without.
    for trial in pruned:
        stored.enqueue_trial(dict(trial.params))
    by_gp = search(folder, "raced", racing=True, trials=13 + len(pruned), sampler="gp").trials[num_trials + 2 :]
    assert all(trial.is_scored for trial in by_gp)
