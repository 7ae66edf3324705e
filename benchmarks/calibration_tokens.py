"""Which calibration tokens rank experts best, and which router weights: what docs/decisions/0005 rests on.

    python benchmarks/calibration_tokens.py [MODEL]

Calibrates on the prompt's tokens, on the answer's, and on both, and on both with raw gates. Each ranking is then scored
at four retentions: WER on the 600 clean utterances of both splits, accuracy of audio questions on the search split at
.5. Differences are against both with normalised gates, paired over utterances. Their intervals know nothing of the
calibration data, so all is measured again on rows drawn with replacement, at two retentions. About ten minutes on one
core.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoreap.calibration.calibrator import Options
from autoreap.candidate import Candidate
from autoreap.data.eval_set import EvalSet, EvalTask, open_evals
from autoreap.data.samples import Sample
from autoreap.evaluation.evaluator import Evaluator
from autoreap.jobs import calibrated, read_calibration
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import PruningPlan
from autoreap.planning import make_plan
from autoreap.scores import Counts, paired_difference, score

ROOT = Path(__file__).parent.parent
CALIBRATION = {modality: ROOT / f"calibration/tiny/{modality}.parquet" for modality in ("audio", "video", "mixed")}
REFERENCE = "both"
ARMS = {
    REFERENCE: Options(tokens="both"),
    "prompt": Options(tokens="prompt"),
    "answer": Options(tokens="answer"),
    "both, raw gates": Options(tokens="both", gates="raw"),
}
RANKINGS = ("affinity", "reap", "frequency")
RETENTIONS = (0.75, 0.5, 0.375, 0.25)
QA_RETENTION = 0.5
RETENTIONS_OF_DRAWS = (0.5, 0.375)
NUM_DRAWS = 6
BATCH_SIZE = 64

Plans = Mapping[tuple[str, str, float], PruningPlan]  # by arm, ranking and retention


def main() -> None:
    loaded = load(open_model(sys.argv[1] if len(sys.argv) > 1 else "tiny"))
    data = read_calibration(CALIBRATION)
    print_tokens(loaded, data)
    plans = all_plans(loaded, data, RETENTIONS)
    evals = open_evals(ROOT / "evals/tiny.yaml")
    clean = [task for task in (*evals.search.tasks, *evals.report.tasks) if task.metric == "wer"]
    questions = [task for task in evals.search.tasks if task.metric == "accuracy"]
    words = Outcomes(loaded, evals.search, clean)
    print_comparison("WER", plans, RETENTIONS, words)
    print_comparison("accuracy", plans, (QA_RETENTION,), Outcomes(loaded, evals.search, questions))
    print_draws(loaded, data, words)


class Outcomes:
    """Counts of every utterance of some tasks; a plan that comes again is not scored again."""

    def __init__(self, loaded: Loaded, evals: EvalSet, tasks: Sequence[EvalTask]) -> None:
        labelled = [replace(task, config=replace(task.config, label=str(number))) for number, task in enumerate(tasks)]
        evals = replace(evals, tasks=tuple(labelled))
        self._evaluator = Evaluator(loaded.model, loaded.inputs, evals, batch_size=BATCH_SIZE)
        self._known: dict[PruningPlan, list[Counts]] = {}

    def of(self, plan: PruningPlan) -> list[Counts]:
        if plan not in self._known:
            outcomes = self._evaluator.run(plan).outcomes.values()
            self._known[plan] = [outcome.counts for task in outcomes for outcome in task]
        return self._known[plan]


def all_plans(
    loaded: Loaded, data: Mapping[str, Sequence[Sample]], retentions: Sequence[float]
) -> dict[tuple[str, str, float], PruningPlan]:
    plans = {}
    for arm, options in ARMS.items():
        saliency = calibrated(loaded, data, options=options)
        for ranking in RANKINGS:
            for retention in retentions:
                if ranking != "frequency" or options.gates == ARMS[REFERENCE].gates:  # frequency knows no gates
                    candidate = Candidate(retention=retention, saliency=ranking)
                    plan = make_plan(candidate, saliency, loaded.model_info.shape, loaded.model_info.base_model)
                    plans[arm, ranking, retention] = plan
    return plans


def print_tokens(loaded: Loaded, data: Mapping[str, Sequence[Sample]]) -> None:
    print("| tokens | audio | video | mixed |\n|---|---|---|---|")
    for arm, options in ARMS.items():
        modalities = calibrated(loaded, data, options=options).components["thinker"].modalities
        print(f"| {arm} | {' | '.join(str(modalities[modality].tokens) for modality in CALIBRATION)} |", flush=True)


def print_comparison(metric: str, plans: Plans, retentions: Sequence[float], outcomes: Outcomes) -> None:
    """Each arm against the reference, and how many retained experts are others; * where the interval leaves out 0."""
    print(f"\n| ranking | retention | {metric}, {REFERENCE} | against it | moved | difference | 95% interval |")
    print("|---|---|---|---|---|---|---|")
    for ranking in RANKINGS:
        for retention in retentions:
            reference = plans[REFERENCE, ranking, retention]
            value = score(outcomes.of(reference))
            cells = f"{ranking} | {retention:g} | {value.value:.2%} ({value.low:.2%} to {value.high:.2%})"
            for arm in ARMS:
                plan = plans.get((arm, ranking, retention), reference)
                if plan is reference:
                    continue
                difference, low, high = paired_difference(outcomes.of(plan), outcomes.of(reference))
                interval = f"{difference:+.2%} | {low:+.2%} to {high:+.2%}{' *' if low > 0 or high < 0 else ''}"
                print(f"| {cells} | {arm} | {moved(plan, reference)} | {interval} |", flush=True)


def print_draws(loaded: Loaded, data: Mapping[str, Sequence[Sample]], outcomes: Outcomes) -> None:
    """WER of each arm had the calibration rows been others, drawn from the same: mean, and least to most."""
    rates: dict[tuple[str, str, float], list[float]] = {}
    for seed in range(NUM_DRAWS):
        rng = np.random.default_rng(seed)
        drawn = {modality: [rows[n] for n in rng.integers(0, len(rows), len(rows))] for modality, rows in data.items()}
        for key, plan in all_plans(loaded, drawn, RETENTIONS_OF_DRAWS).items():
            rates.setdefault(key, []).append(score(outcomes.of(plan)).value)
    print(f"\n| ranking | retention | tokens | WER over {NUM_DRAWS} draws | minus {REFERENCE} | worse in |")
    print("|---|---|---|---|---|---|")
    for (arm, ranking, retention), values in sorted(rates.items(), key=lambda entry: entry[0][1:]):
        pairs = zip(values, rates[REFERENCE, ranking, retention], strict=True)
        differences = [value - reference for value, reference in pairs]
        cells = f"{spread(values, '.2%')} | {spread(differences, '+.2%')} | {sum(each > 0 for each in differences)}"
        print(f"| {ranking} | {retention:g} | {arm} | {cells} |")


def spread(values: Sequence[float], form: str) -> str:
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def moved(plan: PruningPlan, reference: PruningPlan) -> int:
    pairs = zip(plan.thinker.experts, reference.thinker.experts, strict=True)
    return sum(len(set(experts) - set(others)) for experts, others in pairs)


if __name__ == "__main__":
    main()
