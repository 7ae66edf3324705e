"""What a first card tells in some eight minutes, with random weights of the published 30B that are made on it.

    python benchmarks/gpu_night.py [--parts experts,memory] > night.jsonl
    python benchmarks/gpu_night.py --layers 2 --device cpu --parts memory    # true shapes, without a card
    python benchmarks/gpu_night.py --small --device cpu                      # a model a few units wide

Nothing is downloaded. Each result is a line of JSON as soon as it is known, the cheapest part first; a part that fails
is a line with its error, and the others go on.

`experts`: kernels of a layer that are given all 128 groups, of which a mask uses K, against those of K groups.
`layers`: some layers under a mask against layers that were cut out of them. `generate`: drafted decoding against stock
`generate`. `memory`: passes with the memory of an 80 GB card and with all of it, against the bytes a column that the
decoder measures. `healing`, `bits`: one plan's weights put in place, and taken back. `calibration`: twice. `drafts`:
500 clips as `night.py` draws them, with drafts of which a share is edited. `long`: one clip of up to forty minutes
beside the others. `shipping`: a trial with the memory of an 80 GB card, its checkpoint verified with all of it; four
layers.
"""

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from healing import random_plan
from night import EDITS, TEMPLATE_TOKENS, TOKENS_A_SECOND, Clips
from random_thinker import Bench, Facts, heard, random_tokens, sliced_experts, sliced_layer, written_evals
from torch import nn

from autoreap.calibration.calibrator import calibrate
from autoreap.data.eval_set import EvalSet
from autoreap.errors import first_line
from autoreap.evaluation.device_limits import PassCost
from autoreap.evaluation.draft_rows import Answer, Prompt
from autoreap.evaluation.drafting import DraftedDecoder
from autoreap.evaluation.evaluator import Evaluator
from autoreap.healing.healer import Healer
from autoreap.masking import masked
from autoreap.models.faults import is_out_of_memory
from autoreap.models.loading import open_model, release
from autoreap.plan import Bits, ComponentPlan, PruningPlan, Quantisation
from autoreap.writing.behaviour import Expected, check_behaviour
from autoreap.writing.materialiser import materialise

FEW_LAYERS = 4
LONGEST_ANSWER = 120
BITS: tuple[tuple[Bits, Bits], ...] = ((8, 16), (4, 8))  # of experts, and of the rest


@torch.inference_mode()
def experts(bench: Bench) -> Iterator[Facts]:
    module: Any = bench.running.experts(bench.decoder.layers[0])
    num_experts, hidden_size = module.down_proj.shape[:2]
    for num_kept in (num_experts // 2, num_experts // 4):
        kept = torch.arange(0, num_experts, num_experts // num_kept, device=bench.device)
        few = sliced_experts(bench, module, kept)
        for num_tokens in bench.scale.tokens:
            options: dict[str, Any] = {"device": bench.device, "dtype": bench.model.dtype}
            hidden = torch.randn((num_tokens, hidden_size), **options)
            scores = torch.rand((num_tokens, num_kept), **options).softmax(dim=-1)
            gates, chosen = scores.topk(min(num_kept, bench.decoder.config.num_experts_per_tok))
            of_all, of_few = partial(module, hidden, kept[chosen], gates), partial(few, hidden, chosen, gates)
            facts = {"of": num_experts, "kept": num_kept, "tokens": num_tokens, **compared(of_all(), of_few())}
            seconds = {"all_seconds": bench.best_seconds(of_all), "few_seconds": bench.best_seconds(of_few)}
            yield facts | seconds


def layers(bench: Bench) -> Iterator[Facts]:
    plan = bench.plan()
    depth = len(bench.decoder.layers)
    retained = [layer for layer in range(min(FEW_LAYERS + 1, depth)) if layer != 1 or depth == 1]
    plan = replace(plan, thinker=replace(plan.thinker, layers=tuple(retained)))
    whole = ComponentPlan.identity(bench.loaded.model_info.shape.components["thinker"])
    written = [sliced_layer(bench, number, plan.thinker.experts[number]) for number in retained]
    num_rows, width = bench.scale.shapes[0]
    work = partial(bench.states, num_rows, width)
    with masked(bench.model, plan):
        under_mask, mask_seconds = work(), bench.best_seconds(work)
    with masked(bench.model, replace(plan, thinker=replace(whole, layers=plan.thinker.layers))):
        for number, layer in enumerate(written):
            bench.running.number_layer(layer, number)
        bench.decoder.layers = nn.ModuleList(written)  # the mask puts the model's own back
        facts = compared(under_mask, work())
        cut_seconds = bench.best_seconds(work)
    yield {"layers": len(written), **facts, "mask_seconds": mask_seconds, "cut_seconds": cut_seconds}


@torch.inference_mode()
def generate(bench: Bench) -> Iterator[Facts]:
    prompts, bounds = drawn(bench.scale.num_generated, None)
    inputs = bench.embed(prompts, range(len(prompts)))
    end = bench.loaded.inputs.end_token_id
    options = {"do_sample": False, "max_new_tokens": max(bounds), "eos_token_id": end, "pad_token_id": 0}
    rows, stock = bench.measured(lambda: bench.thinker.generate(**inputs, **options))
    width = inputs["input_ids"].shape[1]
    answers = [row[width : width + bound].tolist() for row, bound in zip(rows, bounds, strict=True)]
    yield {"arm": "stock", "answers": len(answers), **stock}
    for arm, drafts in (("no drafts", [[]] * len(prompts)), ("drafts", answers)):
        found, facts = decoded(bench, prompts, bounds, drafts)
        num_equal = sum(list(answer.tokens) == other for answer, other in zip(found, answers, strict=True))
        yield {"arm": arm, "equal": num_equal, **facts}


def memory(bench: Bench) -> Iterator[Facts]:
    few, many = (partial(bench.states, num_rows, 256) for num_rows in (1, 16))
    seconds = bench.best_seconds(few), bench.best_seconds(many)
    peaks = bench.measured(few)[1]["peak_bytes"], bench.measured(many)[1]["peak_bytes"]
    cost = PassCost((256, 4096), seconds, peaks)
    yield {"bytes_a_column": cost.bytes_a_column, "pass_tokens": cost.pass_tokens}
    for is_capped in (True, False) if bench.on_card else (False,):
        with bench.as_80_gb() if is_capped else nullcontext():
            for num_rows, width in bench.scale.shapes:
                facts = {"as_80_gb": is_capped, "rows": num_rows, "width": width}
                facts["predicted_bytes"] = round(num_rows * width * cost.bytes_a_column)
                try:
                    facts |= bench.measured(partial(bench.states, num_rows, width))[1]
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    facts["out_of_memory"] = True
                yield facts


def healing(bench: Bench) -> Iterator[Facts]:
    rows = heard(bench)
    plan = random_plan(bench.loaded, bench.plan().thinker.num_retained_experts, rows)
    healer = Healer(bench.loaded, {"audio": rows}, bench.folder / "streams")
    for has_streams in (False, True):
        fitted, facts = bench.measured(lambda: healer.fit(plan))
        yield {"rows": len(rows), "has_streams": has_streams, **facts}
    yield switched(bench, fitted)


def bits(bench: Bench) -> Iterator[Facts]:
    for of_experts, of_rest in BITS:
        plan = replace(bench.plan(), bits=Quantisation(of_experts, of_rest, bench.scale.group))
        yield {"bits": of_experts, "bits_rest": of_rest, **switched(bench, plan)}


def calibration(bench: Bench) -> Iterator[Facts]:
    rows = heard(bench)
    sums = []
    for _ in range(2):
        saliency, facts = bench.measured(lambda: calibrate(bench.loaded, {"audio": rows}))
        sums.append(saliency.components["thinker"].modalities["audio"].gate_norm_sum)
        yield {"rows": len(rows), **facts}
    yield {"same_bits": np.array_equal(sums[0], sums[1])}


def drafts(bench: Bench) -> Iterator[Facts]:
    prompts, bounds = drawn(bench.scale.num_clips, None)
    answers, facts = decoded(bench, prompts, bounds, [[]] * len(prompts))
    yield {"answers": len(answers), **facts}
    for edits in EDITS:
        rng = random.Random(1)
        edited: list[list[int]] = []
        for answer in answers:
            wrong = [rng.random() < edits for _ in answer.tokens]
            others = random_tokens(len(edited), len(wrong))
            edited.append(np.where(wrong, others, answer.tokens).tolist())
        with bench.as_80_gb():
            found, facts = decoded(bench, prompts, bounds, edited)
        num_equal = sum(answer.tokens == other.tokens for answer, other in zip(found, answers, strict=True))
        yield {"edited": edits, "equal": num_equal, **facts}


def long(bench: Bench) -> Iterator[Facts]:
    for seconds in bench.scale.long_clips:
        prompts, bounds = drawn(bench.scale.num_clips // 5, seconds)
        with bench.as_80_gb():
            yield {"clip_seconds": seconds, **decoded(bench, prompts, bounds, [[]] * len(prompts))[1]}


def shipping(bench: Bench) -> Iterator[Facts]:
    source = bench.folder / "shallow"
    evals = written_evals(bench)
    expected, plan, facts = trial(bench, source, evals)
    yield {"layers": FEW_LAYERS, "refused": len(expected.passes.refused), **facts}
    release()
    check = partial(check_behaviour, expected=expected, carried=0)
    written, facts = bench.measured(lambda: materialise(source, plan, bench.folder / "pruned", behaviour=check))
    verified = written.record.behaviour
    yield {"equal": verified.num_compared, "different": verified.num_different, "detail": verified.detail, **facts}


def trial(bench: Bench, source: Path, evals: EvalSet) -> tuple[Expected, PruningPlan, Facts]:
    """What half of the experts of a shallow model, written to `source`, answer with the memory of an 80 GB card."""
    shallow = bench.model_of(FEW_LAYERS, source)
    for path in source.glob("*.safetensors*"):
        path.unlink()  # headers alone
    shallow.model.save_pretrained(source)
    shallow = replace(shallow, model_info=open_model(str(source)))
    plan = bench.plan(shallow)
    with bench.as_80_gb():
        evaluator = Evaluator(shallow.model, shallow.inputs, evals)
        drafts = evaluator.run().outcomes
        evaluation, facts = bench.measured(partial(evaluator.run, plan))
    assert evaluation.passes is not None
    return Expected(evals, evaluation.outcomes, evaluation.passes, drafts), plan, facts


PARTS = (experts, layers, generate, memory, healing, bits, calibration, drafts, long, shipping)


def compared(ours: torch.Tensor, other: torch.Tensor) -> Facts:
    """Whether all bits agree, and by how much the values differ, as a share of the largest."""
    difference = (ours.float() - other.float()).abs().max() / other.float().abs().max()
    return {"same_bits": torch.equal(ours, other), "largest_difference": float(difference)}


def drawn(num_clips: int, long_clip: float | None) -> tuple[list[list[int]], list[int]]:
    """Random tokens in place of clips, and how long each answer may be."""
    clips = Clips.of(num_clips, long_clip)
    prompts, bounds = [], []
    for number, (seconds, answer) in enumerate(zip(clips.seconds, clips.answers, strict=True)):
        prompts.append(random_tokens(number, int(seconds * TOKENS_A_SECOND) + TEMPLATE_TOKENS))
        bounds.append(min(len(answer), LONGEST_ANSWER))
    return prompts, bounds


def decoded(
    bench: Bench, prompts: Sequence[Sequence[int]], bounds: Sequence[int], drafts: Sequence[Sequence[int]]
) -> tuple[list[Answer], Facts]:
    """The answers, and what they took."""
    end = bench.loaded.inputs.end_token_id
    decoder = DraftedDecoder(bench.running, bench.model, end_token=end, limits=bench.limits)
    asked = []
    for prompt, bound, draft in zip(prompts, bounds, drafts, strict=True):
        asked.append(Prompt(len(prompt), bound, tuple(draft)))
    masks: list[torch.Tensor] = []  # of first passes
    num_passes = 0

    def note_first(_module: Any, _arguments: Any, options: Mapping[str, Any]) -> None:
        masks.append(options["attention_mask"])

    def note(*_: Any) -> None:
        nonlocal num_passes
        num_passes += 1

    hooks = [bench.thinker.model.register_forward_pre_hook(note_first, with_kwargs=True)]
    hooks.append(bench.decoder.register_forward_pre_hook(note))
    try:
        answers, facts = bench.measured(lambda: decoder.decode(asked, partial(bench.embed, prompts)))
    finally:
        for hook in hooks:
            hook.remove()
    padded, real = sum(mask.numel() for mask in masks), sum(int(mask.sum()) for mask in masks)
    counts = {"first_passes": len(masks), "rounds": num_passes - len(masks), "columns": padded, "real": real}
    return answers, facts | counts | {"refused": len(decoder.refused)}


def switched(bench: Bench, plan: PruningPlan) -> Facts:
    """What it takes to put a plan's weights in place and to take them back, and whether every bit is as it was."""
    before = sums_of_bits(bench.model)
    mask = masked(bench.model, plan)
    _, facts = bench.measured(mask.__enter__)
    seconds_back = bench.seconds(lambda: mask.__exit__(None, None, None))
    pairs = zip(before, sums_of_bits(bench.model), strict=True)
    return {**facts, "seconds_back": seconds_back, "restored": all(torch.equal(ours, other) for ours, other in pairs)}


def sums_of_bits(model: nn.Module) -> list[torch.Tensor]:
    """Of each row of each weight, its bits as integers, added up."""
    return [parameter.detach().view(torch.int16).sum(dim=-1) for parameter in model.parameters()]


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.__name__ for part in PARTS]
    parser.add_argument("--parts", default=",".join(names), help="some of them, with commas between")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--layers", type=int, help="so many of 48")
    parser.add_argument("--small", action="store_true", help="a model a few units wide, for a CPU")
    options = parser.parse_args()
    chosen = options.parts.split(",")
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        parser.error(f"--parts: no part is called {', '.join(unknown)}; known: {', '.join(names)}")
    num_failed = 0
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        bench = Bench(options, Path(folder))
        say("model", bench.facts() | {"seconds": time.monotonic() - started})
        for part in PARTS:
            if part.__name__ not in chosen:
                continue
            try:
                for facts in part(bench):
                    say(part.__name__, facts)
            except Exception as error:  # the other parts may still tell something
                num_failed += 1
                traceback.print_exc()
                say(part.__name__, {"error": f"{type(error).__name__}: {first_line(error)}"})
            release()
    sys.exit(int(num_failed > 0))


def say(part: str, facts: Facts) -> None:
    """One line, with four digits of what is measured."""
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in facts.items()}
    print(json.dumps({"part": part, **rounded}), flush=True)


if __name__ == "__main__":
    main()
