"""What scoring with drafts costs against stock generation, in CPU time on one thread.

    OMP_NUM_THREADS=1 python benchmarks/decoding.py [--limit 200] [--part tiny|edits|differences] [--dtype bfloat16]

First the embedded model answers the search split of evals/tiny.yaml: as it is, with half and a quarter of its experts,
and without two of its layers, at several batch sizes. The arms take turns: stock `generate` from the features (it hears
everything again), stock `generate` from embeddings that were computed once, and decoding with the unpruned model's
answers, or with the references, as drafts. Then a random model writes 30 tokens for each prompt, from drafts of which a
share is edited. Everywhere the answers are compared with stock's. About twenty minutes.

The part `differences` measures no time: it is a table of the share of answers that differ from stock's at the same
batch size, beside the share in which stock differs from itself at another.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig

from autoreap.candidate import Candidate
from autoreap.data.eval_set import read_task
from autoreap.data.evals_config import load_evals
from autoreap.data.tasks import task_named
from autoreap.evaluation.draft_limits import Limits
from autoreap.evaluation.draft_rows import Prompt
from autoreap.evaluation.drafting import DraftedDecoder, Embed
from autoreap.jobs import calibrated, read_calibration
from autoreap.masking import masked
from autoreap.models.families.encoded import Encoded
from autoreap.models.families.qwen3_omni import QWEN3_OMNI
from autoreap.models.loading import Loaded, load, open_model
from autoreap.models.prompts import audio_of, embedded
from autoreap.plan import PruningPlan
from autoreap.planning import make_plan

ROOT = Path(__file__).parent.parent
EVALS = ROOT / "evals" / "tiny.yaml"
CALIBRATION = {modality: ROOT / f"calibration/tiny/{modality}.parquet" for modality in ("audio", "video", "mixed")}
BATCH_SIZES = (1, 8, 64)
EDITED = (0.0, 0.03, 0.1, 0.3, 1.0)
ANSWER_TOKENS = 30

Answers = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["tiny", "edits", "differences"], help="one table alone")
    parser.add_argument("--limit", type=int, default=200, help="utterances or questions of each task")
    parser.add_argument("--repetitions", type=int, default=3, help="rounds of all arms; the median counts")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the models")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {options.dtype}, median of {options.repetitions}\n", flush=True)
    if options.part == "differences":
        print_differences(Bench.of_tiny(options.limit, options.dtype))
        return
    if options.part != "edits":
        print_tiny(Bench.of_tiny(options.limit, options.dtype), options.repetitions)
    if options.part != "tiny":
        print_edits(options.dtype, options.repetitions)


@dataclass
class Bench:
    """A model and what it is asked: the arms, each of which gives the answers cut to their bounds and ends."""

    model: Any
    end_token: int
    pad_token: int
    lengths: Sequence[int]
    bounds: Sequence[int]
    embed: Embed
    heard: Embed | None = None
    loaded: Loaded | None = None
    references: Sequence[Sequence[int]] = ()

    @staticmethod
    def of_tiny(limit: int, dtype: str) -> "Bench":
        loaded = load(open_model("tiny"), dtype=dtype)
        inputs, running = loaded.inputs, loaded.model_info.family.running
        encoded: list[Encoded] = []
        references: list[list[int]] = []
        for config in load_evals(EVALS).splits["search"]:
            task = task_named(config.task)
            for sample in read_task(config, EVALS.parent)[:limit]:
                encoded.append(inputs.encode(sample, task.question(sample, config.doc_to_text or task.QUESTION)))
                references.append(inputs.text_tokens(task.reference(sample)))
        with torch.inference_mode():
            audio = [audio_of(running, loaded.model, one) for one in encoded]

        def embed(numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
            return embedded(running, loaded.model, inputs, [encoded[i] for i in numbers], [audio[i] for i in numbers])

        return Bench(
            model=loaded.model,
            end_token=inputs.end_token_id,
            pad_token=inputs.pad_token_id,
            lengths=[len(one.input_ids) for one in encoded],
            bounds=[2 * len(reference) + 8 for reference in references],
            embed=embed,
            heard=lambda numbers: inputs.collate([encoded[i] for i in numbers]),
            loaded=loaded,
            references=references,
        )

    @staticmethod
    def of_random(num_prompts: int, dtype: str) -> "Bench":
        """As wide as the embedded model; no answer ends by itself."""
        torch.manual_seed(0)
        text = {
            "num_hidden_layers": 8, "num_experts": 16, "num_experts_per_tok": 2, "norm_topk_prob": True,
            "hidden_size": 128, "moe_intermediate_size": 64, "intermediate_size": 64, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5]},
        }  # fmt: skip
        audio = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
        vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 128}
        config = Qwen3OmniMoeThinkerConfig(
            text_config=text,
            audio_config=audio | {"output_dim": 128},
            vision_config=vision | {"deepstack_visual_indexes": []},
            vision_start_token_id=501,
            audio_token_id=502,
            image_token_id=503,
            video_token_id=504,
        )
        model: Any = Qwen3OmniMoeThinkerForConditionalGeneration._from_config(
            config, dtype=getattr(torch, dtype)
        ).eval()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.data.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
        rng = random.Random(0)
        prompts = [[rng.randrange(500) for _ in range(rng.randint(30, 50))] for _ in range(num_prompts)]

        def embed(numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
            width = max(len(prompts[i]) for i in numbers)
            ids = torch.tensor([[0] * (width - len(prompts[i])) + prompts[i] for i in numbers])
            starts = torch.tensor([[width - len(prompts[i])] for i in numbers])
            mask = (torch.arange(width) >= starts).long()
            return {"input_ids": ids, "attention_mask": mask, "inputs_embeds": model.get_input_embeddings()(ids)}

        bounds = [ANSWER_TOKENS] * num_prompts
        return Bench(model, 511, 0, [len(prompt) for prompt in prompts], bounds, embed)

    @torch.inference_mode()
    def stock(self, batch_size: int, inputs_of: Embed) -> Answers:
        order = sorted(range(len(self.lengths)), key=lambda i: (self.lengths[i], self.bounds[i]))
        answers: Answers = [[] for _ in order]
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            inputs = inputs_of(numbers)
            sequences = QWEN3_OMNI.running.thinker(self.model).generate(
                **inputs,
                do_sample=False,
                max_new_tokens=max(self.bounds[i] for i in numbers),
                eos_token_id=self.end_token,
                pad_token_id=self.pad_token,
            )
            for number, row in zip(numbers, sequences[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                answers[number] = list(_cut(row[: self.bounds[number]], self.end_token))
        return answers

    def drafted(self, batch_size: int, drafts: Sequence[Sequence[int]]) -> Answers:
        decoder = DraftedDecoder(
            QWEN3_OMNI.running, self.model, end_token=self.end_token, limits=Limits(rows=batch_size)
        )
        prompts = [
            Prompt(length, bound, tuple(draft))
            for length, bound, draft in zip(self.lengths, self.bounds, drafts, strict=True)
        ]
        return [list(answer.tokens) for answer in decoder.decode(prompts, self.embed)]

    def conditions(self) -> dict[str, PruningPlan | None]:
        assert self.loaded is not None
        model_info = self.loaded.model_info
        saliency = calibrated(self.loaded, read_calibration(CALIBRATION))

        def plan(**values: Any) -> PruningPlan:
            return make_plan(Candidate(**values), saliency, model_info.shape, model_info.base_model)

        return {
            "unpruned": None,
            "retention .5": plan(retention=0.5),
            "retention .25": plan(retention=0.25),
            "2 layers cut": plan(layers_cut=2),
        }


def _cut(tokens: Sequence[int], end_token: int) -> Iterator[int]:
    for token in tokens:
        yield token
        if token == end_token:
            return


def timed(arms: Mapping[str, Callable[[], Answers]], repetitions: int) -> tuple[dict[str, float], dict[str, Answers]]:
    """Median CPU seconds of each arm, the arms taking turns, and its answers."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    answers: dict[str, Answers] = {}
    for _ in range(repetitions):
        for name, arm in arms.items():
            started = time.process_time()
            answers[name] = arm()
            seconds[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}, answers


def differing(one: Answers, other: Answers) -> float:
    return sum(a != b for a, b in zip(one, other, strict=True)) / len(one)


def print_tiny(bench: Bench, repetitions: int) -> None:
    heard = bench.heard
    assert heard is not None
    own = bench.stock(64, bench.embed)
    columns = "stock | cached audio | drafted | from references | stock / drafted | cached / drafted | differ"
    print(f"{len(own)} prompts; CPU s\n\n| | batch | {columns} |\n{'|---' * 9}|", flush=True)
    for name, plan in bench.conditions().items():
        best: dict[str, float] = {}
        stock: dict[int, Answers] = {}
        under: AbstractContextManager[None] = masked(bench.model, plan) if plan else nullcontext()
        with under:
            changed = differing(own, bench.stock(64, bench.embed))
            for batch_size in BATCH_SIZES:
                arms: dict[str, Callable[[], Answers]] = {
                    "stock": lambda size=batch_size: bench.stock(size, heard),  # type: ignore[misc]
                    "cached": lambda size=batch_size: bench.stock(size, bench.embed),  # type: ignore[misc]
                    "drafted": lambda size=batch_size: bench.drafted(size, own),  # type: ignore[misc]
                    "references": lambda size=batch_size: bench.drafted(size, bench.references),  # type: ignore[misc]
                }
                seconds, answers = timed(arms, repetitions)
                best = {arm: min(value, best.get(arm, value)) for arm, value in seconds.items()}
                if batch_size > 1:
                    stock[batch_size] = answers["cached"]
                different = differing(answers["cached"], answers["drafted"])
                print(_line(f"{name} ({changed:.0%} change)", str(batch_size), seconds, f"{different:.2%}"), flush=True)
        print(_line(name, "best", best, f"stock at 8 and at 64: {differing(*stock.values()):.2%}"), flush=True)


def print_differences(bench: Bench) -> None:
    own = bench.stock(64, bench.embed)
    pairs = list(combinations(BATCH_SIZES, 2))
    columns = [*(f"drafted, {size}" for size in BATCH_SIZES), *(f"stock, {one} and {two}" for one, two in pairs)]
    print(f"{len(own)} prompts\n\n| | {' | '.join(columns)} |\n{'|---' * (len(columns) + 1)}|", flush=True)
    for name, plan in bench.conditions().items():
        under: AbstractContextManager[None] = masked(bench.model, plan) if plan else nullcontext()
        with under:
            stock = {size: bench.stock(size, bench.embed) for size in BATCH_SIZES}
            shares = [differing(stock[size], bench.drafted(size, own)) for size in BATCH_SIZES]
            shares += [differing(stock[one], stock[other]) for one, other in pairs]
            print(f"| {name} | {' | '.join(f'{share:.2%}' for share in shares)} |", flush=True)


def _line(name: str, batch: str, seconds: Mapping[str, float], last: str) -> str:
    values = [f"{value:.2f}" for value in seconds.values()]
    ratios = [f"{seconds[arm] / seconds['drafted']:.2f}" for arm in ("stock", "cached")]
    return f"| {' | '.join([name, batch, *values, *ratios, last])} |"


def print_edits(dtype: str, repetitions: int, num_prompts: int = 128) -> None:
    bench = Bench.of_random(num_prompts, dtype)
    own = bench.stock(64, bench.embed)
    rng = random.Random(0)
    drafts = {rate: [[rng.randrange(500) if rng.random() < rate else t for t in a] for a in own] for rate in EDITED}
    print(f"\n{num_prompts} prompts of 30 to 50 tokens, answers of {ANSWER_TOKENS}; CPU s\n")
    print("| batch | stock | " + " | ".join(f"{rate:.0%} edited" for rate in EDITED) + " | differ |")
    print("|---" * (len(EDITED) + 3) + "|", flush=True)
    for batch_size in BATCH_SIZES:
        arms: dict[str, Callable[[], Answers]] = {"stock": lambda size=batch_size: bench.stock(size, bench.embed)}  # type: ignore[misc]
        arms |= {
            f"{rate}": lambda size=batch_size, rate=rate: bench.drafted(size, drafts[rate])  # type: ignore[misc]
            for rate in EDITED
        }
        seconds, answers = timed(arms, repetitions)
        stock = seconds.pop("stock")
        cells = [f"{value:.2f} ({stock / value:.2f}x)" for value in seconds.values()]
        worst = max(differing(answers["stock"], answers[f"{rate}"]) for rate in EDITED)
        print(f"| {batch_size} | {stock:.2f} | {' | '.join(cells)} | {worst:.2%} |", flush=True)


if __name__ == "__main__":
    main()
