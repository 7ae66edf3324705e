"""What the embedded model can do, and what its experts, modalities and layers are worth: the figures of docs/.

    python benchmarks/embedded_model.py [MODEL]

About ten minutes on two cores. WER of pruned models is measured on the 600 clean utterances of both splits, none of
which the model was trained on.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from autoreap.candidate import Candidate
from autoreap.data.eval_set import Evals, open_evals
from autoreap.evaluation.evaluator import Evaluator
from autoreap.jobs import calibrated, read_calibration
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import ComponentPlan, PruningPlan
from autoreap.planning import make_plan, num_retained, retained_experts
from autoreap.saliency import Saliency
from autoreap.scores import Metric

ROOT = Path(__file__).parent.parent
CALIBRATION = {modality: ROOT / f"calibration/tiny/{modality}.parquet" for modality in ("audio", "video", "mixed")}
RETENTIONS = (0.75, 0.5, 0.375, 0.25)
SEEDS = range(5)
BATCH_SIZE = 64


def main() -> None:
    loaded = load(open_model(sys.argv[1] if len(sys.argv) > 1 else "tiny"))
    evals = open_evals(ROOT / "evals/tiny.yaml")
    saliency = calibrated(loaded, read_calibration(CALIBRATION))
    print_abilities(loaded, evals)
    clean = [task for task in (*evals.search.tasks, *evals.report.tasks) if task.metric == "wer"]
    labelled = [replace(task, config=replace(task.config, label=str(number))) for number, task in enumerate(clean)]
    both = replace(evals.search, tasks=tuple(labelled))
    evaluator = Evaluator(loaded.model, loaded.inputs, both, batch_size=BATCH_SIZE)
    wer = Wer(evaluator)
    unpruned = wer.of(None)
    print(f"\nUnpruned, {wer.num_utterances} clean utterances: WER {unpruned:.2%}")
    print_experts(loaded, saliency, wer)
    print_modalities(saliency)
    print_lambda_and_beta(loaded, saliency, wer)
    print_layers(loaded, saliency, wer)


class Wer:
    """WER over all tasks of one evaluator."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.num_utterances = 0

    def of(self, plan: PruningPlan | None) -> float:
        scores: list[Metric] = list(self._evaluator.run(plan).metrics().values())
        self.num_utterances = sum(score.num_samples or 0 for score in scores)
        return sum(score.numerator or 0 for score in scores) / sum(score.denominator or 0 for score in scores)


def print_abilities(loaded: Loaded, evals: Evals) -> None:
    evaluation = Evaluator(loaded.model, loaded.inputs, evals.report, batch_size=BATCH_SIZE).run()
    print("| report split | value | 95% interval | samples |\n|---|---|---|---|")
    for metric, score in evaluation.metrics().items():
        print(f"| {metric} | {score.value:.2%} | {score.low:.2%} to {score.high:.2%} | {score.num_samples} |")
    kinds: dict[str, list[int]] = {}
    for outcome in evaluation.outcomes["accuracy"]:
        kinds.setdefault(outcome.id.split("-")[2], []).append(outcome.counts.numerator)
    print("\n| question | accuracy | questions |\n|---|---|---|")
    for kind, right in kinds.items():
        print(f"| {kind} | {np.mean(right):.1%} | {len(right)} |")


def print_experts(loaded: Loaded, saliency: Saliency, wer: Wer) -> None:
    print("\n| retention | affinity | reap | frequency | random, mean (range) | worst |\n|---|---|---|---|---|---|")
    for retention in RETENTIONS:
        ranked = [wer.of(_plan(loaded, saliency, retention, ranking)) for ranking in ("affinity", "reap", "frequency")]
        random = [wer.of(_plan(loaded, saliency, retention, "random", seed)) for seed in SEEDS]
        worst = wer.of(_worst(loaded, saliency, retention))
        cells = [f"{value:.2%}" for value in ranked]
        cells += [f"{np.mean(random):.2%} ({min(random):.2%} to {max(random):.2%})", f"{worst:.2%}"]
        print(f"| {retention:g} | {' | '.join(cells)} |", flush=True)


def print_modalities(saliency: Saliency) -> None:
    measured = saliency.components["thinker"].modalities
    audio, video = measured["audio"].per_token(), measured["video"].per_token()
    correlations = [spearmanr(a, v).statistic for a, v in zip(audio, video, strict=True)]
    print("\nSpearman of S1 and S2 in each layer:", ", ".join(f"{value:.2f}" for value in correlations))


def print_lambda_and_beta(loaded: Loaded, saliency: Saliency, wer: Wer) -> None:
    print("\n| lambda | beta | experts moved against lambda 1, beta 1 | WER at .375 |\n|---|---|---|---|")
    reference = _plan(loaded, saliency, 0.375, "affinity").thinker.experts
    for lambda_, beta in ((0, 0), (0.5, 0), (1, 0), (2, 0), (4, 0), (1, 1), (4, 0.5), (4, 1), (4, 2)):
        candidate = Candidate(retention=0.375, lambda_=float(lambda_), beta=float(beta))
        plan = make_plan(candidate, saliency, loaded.model_info.shape, loaded.model_info.base_model)
        moved = sum(len(set(a) - set(b)) for a, b in zip(plan.thinker.experts, reference, strict=True))
        print(f"| {lambda_:g} | {beta:g} | {moved} of {sum(map(len, reference))} | {wer.of(plan):.2%} |", flush=True)


def print_layers(loaded: Loaded, saliency: Saliency, wer: Wer) -> None:
    print("\n| layers cut | which | WER |\n|---|---|---|")
    for num_cut in range(1, 6):
        plan = make_plan(Candidate(layers_cut=num_cut), saliency, loaded.model_info.shape, loaded.model_info.base_model)
        cut = sorted(set(range(len(plan.thinker.experts))) - set(plan.thinker.layers))
        print(f"| {num_cut} | {', '.join(map(str, cut))} | {wer.of(plan):.2%} |", flush=True)


def _plan(loaded: Loaded, saliency: Saliency, retention: float, ranking: str, seed: int = 0) -> PruningPlan:
    candidate = Candidate(retention=retention, saliency=ranking, seed=seed)
    return make_plan(candidate, saliency, loaded.model_info.shape, loaded.model_info.base_model)


def _worst(loaded: Loaded, saliency: Saliency, retention: float) -> PruningPlan:
    """The control that keeps the experts with the lowest affinity."""
    shape = loaded.model_info.shape.components["thinker"]
    affinity = saliency.components["thinker"].affinity(1.0, 1.0)
    kept = retained_experts(-affinity, num_retained(retention, shape))
    return PruningPlan(
        loaded.model_info.base_model, False, ComponentPlan(experts=kept, layers=tuple(range(shape.num_layers)))
    )


if __name__ == "__main__":
    main()
