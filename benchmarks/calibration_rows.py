"""How many calibration rows are enough: do two disjoint halves of them keep the same experts?

    python benchmarks/calibration_rows.py [MODEL] [--calibration FILE] [--evals FILE] [--retention R] [--saliency NAME]

Every row is measured once, by itself: sums over a set are the sums of its rows. Then, for several numbers of rows of
each modality, two sets that share no row are drawn, ten times over. The table says how far the two agree on the experts
to keep and on the layers to cut and, with --evals, what WER the plan of either comes to on the search split.
docs/calibration.md shows what this says of the embedded model: about four minutes on one core.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from autoreap.calibration.calibrator import Options
from autoreap.calibration.summary import cut_order, turnover
from autoreap.candidate import RANKINGS, Candidate
from autoreap.data.calibration_config import load_calibration
from autoreap.data.eval_set import open_evals
from autoreap.data.samples import Sample
from autoreap.evaluation.evaluator import Evaluator
from autoreap.jobs import calibrated, read_calibration
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import PruningPlan
from autoreap.planning import make_plan, pinned_layers
from autoreap.saliency import ComponentSaliency, ModalitySums, Saliency

ROOT = Path(__file__).parent.parent
NUM_DRAWS = 10
SHARES = (0.02, 0.05, 0.1, 0.25, 0.5)  # of the rows, in each of the two sets
NUM_LAYERS = 2  # the first so many that would be cut
METRIC = "wer"
BATCH_SIZE = 64

Rows = Mapping[str, Sequence[ComponentSaliency]]  # each row by itself, by modality


@dataclass(frozen=True)
class Pair:
    """Two disjoint sets of rows: the audio tokens of one, how far they agree, and the plans that follow."""

    tokens: int
    experts: float
    ranks: float
    layers: float
    plans: tuple[PruningPlan, PruningPlan]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--calibration", type=Path, default=ROOT / "search_spaces/tiny.yaml")
    parser.add_argument("--evals", type=Path)
    parser.add_argument("--retention", type=float, default=0.5)
    parser.add_argument("--saliency", choices=RANKINGS, default="affinity")
    arguments = parser.parse_args()
    candidate = Candidate(retention=arguments.retention, saliency=arguments.saliency)
    calibration = load_calibration(arguments.calibration)
    loaded = load(open_model(arguments.model))
    rows = measured_rows(loaded, read_calibration(calibration), Options.of(calibration))
    evaluator = evaluator_of(loaded, arguments.evals) if arguments.evals else None
    print(f"| rows of each half | audio tokens | experts | rank correlation | layers |{' WER |' if evaluator else ''}")
    print("|---|---|---|---|---|" + ("---|" if evaluator else ""))
    for share in SHARES:
        pairs = [drawn_pair(loaded, rows, share, candidate, seed) for seed in range(NUM_DRAWS)]
        cells = [
            str(size_of_half(len(rows["audio"]), share)),
            f"{np.mean([pair.tokens for pair in pairs]):,.0f}",
            spread([pair.experts for pair in pairs], ".0%"),
            spread([pair.ranks for pair in pairs], ".3f"),
            spread([pair.layers for pair in pairs], ".0%"),
        ]
        if evaluator:
            rates = [evaluator.run(plan).metrics()[METRIC].value for pair in pairs for plan in pair.plans]
            cells.append(spread(rates, ".2%"))
        print(f"| {' | '.join(cells)} |", flush=True)


def measured_rows(loaded: Loaded, data: Mapping[str, Sequence[Sample]], options: Options) -> Rows:
    """The thinker's measurements of every row; those of video and mixed rows are taken as if they were audio."""
    return {
        modality: [calibrated(loaded, {"audio": [row]}, options=options).components["thinker"] for row in samples]
        for modality, samples in data.items()
    }


def evaluator_of(loaded: Loaded, evals: Path) -> Evaluator:
    return Evaluator(loaded.model, loaded.inputs, open_evals(evals).search, batch_size=BATCH_SIZE)


def size_of_half(num_rows: int, share: float) -> int:
    return max(1, round(share * num_rows))


def drawn_pair(loaded: Loaded, rows: Rows, share: float, candidate: Candidate, seed: int) -> Pair:
    rng = np.random.default_rng(seed)
    drawn: tuple[dict[str, list[ComponentSaliency]], ...] = ({}, {})
    for modality, each in rows.items():
        order, size = rng.permutation(len(each)), size_of_half(len(each), share)
        for half, numbers in zip(drawn, (order[:size], order[size : 2 * size]), strict=True):
            half[modality] = [each[number] for number in numbers]
    halves = [summed(half) for half in drawn]
    plans = [planned(loaded, half, candidate) for half in halves]
    one, other = (half.modalities["audio"].per_token() for half in halves)
    ranks = [spearmanr(*pair).statistic for pair in zip(one, other, strict=True)]
    pinned = pinned_layers(loaded.model_info.shape, strip_vision=True)
    first, second = (set(cut_order(half.layer_cosine, pinned, NUM_LAYERS)) for half in halves)
    return Pair(
        tokens=halves[0].modalities["audio"].tokens,
        experts=1 - float(turnover(plans[0].thinker.experts, plans[1].thinker.experts).mean()),
        ranks=float(np.mean(ranks)),
        layers=len(first & second) / NUM_LAYERS,
        plans=(plans[0], plans[1]),
    )


def summed(rows: Mapping[str, Sequence[ComponentSaliency]]) -> ComponentSaliency:
    """The measurements of a set, from those of its rows."""
    sums = {
        modality: ModalitySums(
            gate_norm_sum=np.sum([row.modalities["audio"].gate_norm_sum for row in each], axis=0),
            routed_tokens=np.sum([row.modalities["audio"].routed_tokens for row in each], axis=0),
            tokens=sum(row.modalities["audio"].tokens for row in each),
        )
        for modality, each in rows.items()
    }
    audio = rows["audio"]
    tokens = [row.modalities["audio"].tokens for row in audio]
    return ComponentSaliency(sums, np.average([row.layer_cosine for row in audio], axis=0, weights=tokens))


def planned(loaded: Loaded, measured: ComponentSaliency, candidate: Candidate) -> PruningPlan:
    base_model = loaded.model_info.base_model
    saliency = Saliency({"thinker": measured}, {"model_fingerprint": base_model.fingerprint})
    return make_plan(candidate, saliency, loaded.model_info.shape, base_model)


def spread(values: Sequence[float], form: str) -> str:
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
