"""What healing gives back, on how many rows, and what it costs.

    OMP_NUM_THREADS=1 python benchmarks/healing.py [--part scores|cuts|sweeps|noise|rows|seen|cost]

All but the last part score plans of the embedded model (affinity, no vision but in `seen`) on the report split of
evals/tiny.yaml. `scores`: a quarter to a half of the experts, unhealed and healed; `cuts`: with layers cut; `sweeps`:
one, three and ten sweeps over the experts, of which ten reach the joint solution; `noise`: healed while it hears noise;
`rows`: healed on some of the calibration rows, five draws, mean and range; `seen`: with vision kept, healed on what is
heard alone and on all. `cost`: a random thinker of 128 experts with a top-k of 8, fitted and scored, in CPU time on one
thread, and the growth with tokens, experts and layers.
"""

import argparse
import ctypes
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig

from autoreap.candidate import Candidate
from autoreap.data.eval_set import EvalSet, open_evals
from autoreap.data.samples import Sample, digest
from autoreap.evaluation.evaluator import Evaluator
from autoreap.healing import ridge
from autoreap.healing.healer import Healer
from autoreap.jobs import measure_saliency, read_calibration
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import ComponentPlan, Healing, PruningPlan
from autoreap.planning import make_plan
from autoreap.tiny_omni import CHECKPOINT

ROOT = Path(__file__).parent.parent
EVALS = ROOT / "evals" / "tiny.yaml"
CALIBRATION = {modality: ROOT / f"calibration/tiny/{modality}.parquet" for modality in ("audio", "video", "mixed")}
NOISE = "noise: brown, snr_db: 5"
SEEDS = 5
NUM_CLIPS = 200

Data = Mapping[str, Sequence[Sample]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {
        "scores": print_scores,
        "cuts": print_cuts,
        "sweeps": print_sweeps,
        "noise": print_noise,
        "rows": print_rows,
        "seen": print_seen,
    }
    parser.add_argument("--part", choices=[*parts, "cost"], help="one table alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.part != "cost":
            bench = Bench(Path(folder))
            for name, part in parts.items():
                if options.part in (None, name):
                    part(bench)
        if options.part in (None, "cost"):
            print_cost(Path(folder))


class Bench:
    """The embedded model, its measurement, and what scores it."""

    def __init__(self, folder: Path) -> None:
        self.loaded = load(open_model("tiny"))
        self.data = read_calibration(CALIBRATION)
        self.saliency = measure_saliency(self.loaded, self.data)
        self._folder = folder
        report = open_evals(EVALS).report
        self._evaluator = Evaluator(self.loaded.model, self.loaded.inputs, heard(report), batch_size=64)
        self._evaluator.run()  # its answers are the drafts of all others
        self._healer = Healer(self.loaded, self.data, folder)

    def plan(self, heal: str = "none", **values: Any) -> PruningPlan:
        """Of a candidate without vision, unless `values` say otherwise."""
        candidate = Candidate(**{"strip_vision": True, "heal": heal, **values})
        model_info = self.loaded.model_info
        return make_plan(candidate, self.saliency, model_info.shape, model_info.base_model)

    def fitted_on(self, plan: PruningPlan, rows: Sequence[Sample]) -> PruningPlan:
        """`plan` healed on these audio rows."""
        assert plan.heal is not None
        plan = replace(plan, heal=replace(plan.heal, data={"audio": digest(rows)}))
        return Healer(self.loaded, {"audio": rows}, self._folder).fit(plan)

    def fitted(self, plan: PruningPlan) -> PruningPlan:
        """`plan` healed on the rows that it names."""
        return self._healer.fit(plan)

    def scores(self, plan: PruningPlan | None) -> dict[str, float]:
        """Each metric in percent, and the ends of the WER's interval."""
        metrics = self._evaluator.run(self.fitted(plan) if plan and not plan.fitted else plan).metrics()
        values = {name: 100 * metric.value for name, metric in metrics.items()}
        wer = metrics["wer"]
        return {**values, "low": 100 * wer.low, "high": 100 * wer.high}

    def print_row(self, label: str, plan: PruningPlan | None) -> None:
        """A line of a table."""
        scores = self.scores(plan)
        print(
            f"| {label} | {scores['wer']:.2f} [{scores['low']:.2f}, {scores['high']:.2f}] | {scores['wer.voices']:.2f} "
            f"| {scores['wer.noisy']:.2f} | {scores['accuracy']:.2f} |",
            flush=True,
        )


def heard(evals: EvalSet) -> EvalSet:
    """The tasks without pictures."""
    return evals.without(evals.visual_metrics())


def print_head(title: str) -> None:
    print(f"\n| {title} | wer | wer.voices | wer.noisy | accuracy |\n|---|---|---|---|---|", flush=True)


def print_scores(bench: Bench) -> None:
    print_head("experts kept, healing")
    bench.print_row("16 of 16", None)
    for num_experts in (8, 6, 5, 4, 3):
        retention = num_experts / 16
        bench.print_row(f"{num_experts}, none", bench.plan(retention=retention))
        for heal in ("block", "stream"):
            for strength in (0.001, 0.01):
                plan = bench.plan(heal, retention=retention, heal_ridge=strength)
                bench.print_row(f"{num_experts}, {heal}, ridge {strength:g}", plan)
    plan = bench.plan("stream", retention=6 / 16, heal_ridge=0.001, saliency="random")
    bench.print_row("6 at random, none", plan.unhealed())
    bench.print_row("6 at random, stream, ridge 0.001", plan)


def print_cuts(bench: Bench) -> None:
    print_head("experts kept, layers cut, healing")
    for num_experts, cut in ((16, 2), (8, 1), (6, 1), (6, 2)):
        values: dict[str, Any] = {"retention": num_experts / 16, "layers_cut": cut}
        bench.print_row(f"{num_experts}, {cut}, none", bench.plan(**values))
        for heal, strength in (("block", 0.001), ("stream", 0.001), ("stream", 0.1), ("cuts", 0.1), ("cuts", 1.0)):
            label = f"{num_experts}, {cut}, {heal}, ridge {strength:g}"
            bench.print_row(label, bench.plan(heal, heal_ridge=strength, **values))


def print_sweeps(bench: Bench) -> None:
    print_head("experts kept, sweeps (stream, ridge 0.001)")
    default = ridge.NUM_SWEEPS
    for num_experts in (6, 4):
        for ridge.NUM_SWEEPS in (1, 3, 10):
            plan = bench.plan("stream", retention=num_experts / 16, heal_ridge=0.001)
            bench.print_row(f"{num_experts}, {ridge.NUM_SWEEPS}", plan)
    ridge.NUM_SWEEPS = default


def print_noise(bench: Bench) -> None:
    print_head(f"experts kept, healed while it hears (stream, ridge 0.001; noise is `{NOISE}`)")
    for num_experts in (8, 6, 4):
        for label, condition in (("clean", "none"), ("noise", NOISE)):
            values: dict[str, Any] = {"retention": num_experts / 16, "heal_ridge": 0.001}
            values["heal_condition"] = condition
            bench.print_row(f"{num_experts}, {label}", bench.plan("stream", **values))


def print_rows(bench: Bench) -> None:
    print(
        "\n| rows | ridge | wer, mean (range) of 5 draws | wer.voices | accuracy |\n|---|---|---|---|---|", flush=True
    )
    rows = bench.data["audio"]
    for num_rows in (10, 25, 50, len(rows)):
        for strength in (0.001, 0.01, 0.1):
            found = []
            for seed in range(SEEDS if num_rows < len(rows) else 1):
                drawn = random.Random(seed).sample(list(rows), num_rows)
                plan = bench.plan("stream", retention=6 / 16, heal_ridge=strength)
                found.append(bench.scores(bench.fitted_on(plan, drawn)))
            cells = []
            for metric in ("wer", "wer.voices", "accuracy"):
                values = [scores[metric] for scores in found]
                cells.append(f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
            print(f"| {num_rows} | {strength:g} | {' | '.join(cells)} |", flush=True)


def print_seen(bench: Bench) -> None:
    """What is seen, too, by plans that keep all layers and the eyes."""
    names = ("wer", "accuracy", "accuracy.caption", "accuracy.mixed")
    print(f"\n| experts kept, healed on | {' | '.join(names)} |\n|---|---|---|---|---|", flush=True)
    loaded = bench.loaded
    evaluator = Evaluator(loaded.model, loaded.inputs, open_evals(EVALS).report, batch_size=64)
    cases: list[tuple[str, PruningPlan | None]] = [("16 of 16, nothing", None)]
    for num_experts in (6, 4):
        plan = bench.plan("stream", retention=num_experts / 16, heal_ridge=0.001, strip_vision=False)
        cases += [
            (f"{num_experts}, nothing", plan.unhealed()),
            (f"{num_experts}, audio", bench.fitted_on(plan, bench.data["audio"])),
            (f"{num_experts}, audio, video and mixed", bench.fitted(plan)),
        ]
    for label, case in cases:
        metrics = evaluator.run(case).metrics()
        cells = [
            f"{100 * metrics[name].value:.2f} [{100 * metrics[name].low:.2f}, {100 * metrics[name].high:.2f}]"
            for name in names
        ]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def print_cost(folder: Path) -> None:
    """The embedded model's rows, heard by random thinkers of 128 experts."""
    data = read_calibration({"audio": CALIBRATION["audio"]})
    print(
        "\n| layers | kept of 128 | rows | fit, CPU s | score of 200 clips, CPU s | peak memory grew by, MB |"
        "\n|---|---|---|---|---|---|",
        flush=True,
    )
    for num_layers in (4, 8):
        path = save_thinker(folder / f"{num_layers}", num_layers)
        loaded = load(open_model(str(path)))
        search = open_evals(EVALS).search
        task = next(task for task in search.tasks if task.metric == "wer")
        clips = replace(search, tasks=(replace(task, samples=task.samples[:NUM_CLIPS]),))
        evaluator = Evaluator(loaded.model, loaded.inputs, clips, batch_size=32)
        evaluator.run()
        cases = [(64, 100)] if num_layers == 4 else [(64, 25), (64, 50), (64, 100), (32, 100), (96, 100)]
        for kept, num_rows in cases:
            rows = data["audio"][:num_rows]
            plan = random_plan(loaded, kept, rows)
            healer = Healer(loaded, {"audio": rows}, folder / "streams")
            healer.fit(plan)  # takes the unpruned model's streams
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed goes back, or the next fit would use it unseen
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            before = peak_bytes()
            seconds = time.process_time()
            fitted = healer.fit(plan)
            fit = time.process_time() - seconds
            grown = peak_bytes() - before
            seconds = time.process_time()
            evaluator.run(fitted)
            score = time.process_time() - seconds
            print(f"| {num_layers} | {kept} | {num_rows} | {fit:.1f} | {score:.1f} | {grown / 1e6:.0f} |", flush=True)


def peak_bytes() -> int:
    """The most memory that this process has held (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def random_plan(loaded: Loaded, kept: int, rows: Sequence[Sample]) -> PruningPlan:
    """Other experts in each layer."""
    shape = loaded.model_info.shape.components["thinker"]
    draws = [random.Random(layer).sample(range(shape.num_experts), kept) for layer in range(shape.num_layers)]
    thinker = ComponentPlan(tuple(tuple(sorted(draw)) for draw in draws), tuple(range(shape.num_layers)))
    heal = Healing(method="stream", ridge=0.01, data={"audio": digest(rows)}, tokens="both")
    return PruningPlan(loaded.model_info.base_model, strip_vision=True, thinker=thinker, heal=heal)


def save_thinker(path: Path, num_layers: int) -> Path:
    """A random thinker alone, of 128 experts, with the embedded model's tokenizer and encoders."""
    config = Qwen3OmniMoeThinkerConfig.from_pretrained(CHECKPOINT)
    text = deepcopy(config.text_config)
    text.num_hidden_layers, text.num_experts, text.num_experts_per_tok = num_layers, 128, 8
    text.moe_intermediate_size = 96
    config.text_config = text
    torch.manual_seed(0)
    Qwen3OmniMoeThinkerForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(path)
    for source in CHECKPOINT.iterdir():
        if source.suffix in (".json", ".jinja") and not (path / source.name).exists():
            (path / source.name).write_bytes(source.read_bytes())
    return path


if __name__ == "__main__":
    main()
