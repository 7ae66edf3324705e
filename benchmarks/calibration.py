"""What calibration costs against a plain forward pass, and how time and memory grow with the data.

    python benchmarks/calibration.py [--dtype bfloat16] [--experts batched_mm]

A random thinker of the stock class runs on random tokens in padded batches: 128 experts, top-8, eight layers, widths in
the proportions of the real model. First the data grows, in batches of one size. Then the same batch passes in four
ways, taking turns: plain; with the experts measured; with the experts and the similarity of layers measured, as on
audio; and with every expert run on every token, as observers outside the experts do. CPU time, on one thread; about
six minutes.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig

from autoreap.calibration.meter import Meter
from autoreap.models.families.qwen3_omni import QWEN3_OMNI
from autoreap.plan import ComponentShape

SHAPE = ComponentShape(num_layers=8, num_experts=128, top_k=8)
TEXT = {
    "num_hidden_layers": SHAPE.num_layers, "num_experts": SHAPE.num_experts, "num_experts_per_tok": SHAPE.top_k,
    "norm_topk_prob": True, "hidden_size": 384, "moe_intermediate_size": 144, "intermediate_size": 144,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [12, 10, 10]},
}  # fmt: skip
SMALL = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "output_dim": 384}
BATCH_SIZE = 8
SPANS = 8

Batch = Mapping[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the model")
    parser.add_argument("--experts", default="grouped_mm", help="implementation of the experts")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens of a batch, padding included")
    parser.add_argument("--most", type=int, default=65536, help="tokens that the data grows to")
    parser.add_argument("--repetitions", type=int, default=9, help="of the arms")
    parser.add_argument("--repetitions-of-all", type=int, default=2, help="of every expert on every token")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bench = Bench(getattr(torch, options.dtype), options.experts)
    print(f"torch {torch.__version__}, {options.dtype}, {options.experts}, batches of {options.batch_tokens} tokens\n")
    print_growth(bench, options.batch_tokens, options.most)
    print_arms(bench, options.batch_tokens, options.repetitions, options.repetitions_of_all)


class Bench:
    """A random thinker, and the ways to run it."""

    def __init__(self, dtype: torch.dtype, experts: str) -> None:
        vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 384}
        config = Qwen3OmniMoeThinkerConfig(
            text_config=TEXT,
            audio_config=SMALL,
            vision_config=vision | {"deepstack_visual_indexes": []},
            vision_start_token_id=1001,
            audio_token_id=1002,
            image_token_id=1003,
            video_token_id=1004,
        )
        self.thinker: Any = Qwen3OmniMoeThinkerForConditionalGeneration._from_config(config, dtype=dtype).eval()
        self.thinker.set_experts_implementation(experts)
        self.layers = self.thinker.model.language_model.layers
        for layer in self.layers:
            layer.mlp.gate.weight.data.normal_(std=0.05)

    @torch.inference_mode()
    def run(self, batch: Batch) -> None:
        """As calibration does: no head, no cache."""
        self.thinker.base_model(**batch, use_cache=False)

    def measured(self, mask: torch.Tensor, *, spans: int) -> AbstractContextManager[None]:
        meter = Meter(QWEN3_OMNI.running, SHAPE, spans=spans)
        return self._measured(meter, mask)

    @contextmanager
    def _measured(self, meter: Meter, mask: torch.Tensor) -> Iterator[None]:
        with meter.attach(self.layers):
            meter.count(mask.bool())
            yield

    @contextmanager
    def all_experts(self, mask: torch.Tensor) -> Iterator[None]:
        """Beside the forward pass, run each expert on all tokens, and pick from its outputs those that were routed."""
        sums = torch.zeros(SHAPE.num_layers, SHAPE.num_experts, dtype=torch.float64)

        def observe(block: Any, arguments: tuple[torch.Tensor], number: int) -> None:
            hidden = arguments[0].flatten(0, 1)
            _, weights, indices = block.gate(hidden)
            for expert in range(SHAPE.num_experts):
                gate, up = (hidden @ block.experts.gate_up_proj[expert].T).chunk(2, dim=-1)
                norms = ((block.experts.act_fn(gate) * up) @ block.experts.down_proj[expert].T).norm(dim=-1)
                gates = (weights * (indices == expert)).sum(dim=-1) * mask.flatten()
                sums[number, expert] += (gates.double() * norms.double()).sum()

        with ExitStack() as stack:
            for number, layer in enumerate(self.layers):
                hook = layer.mlp.register_forward_hook(
                    lambda block, arguments, _output, number=number: observe(block, arguments, number)
                )
                stack.callback(hook.remove)
            yield


def random_batch(num_tokens: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tokens, `num_tokens` with the padding: the rows are half to wholly full, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    length = num_tokens // BATCH_SIZE
    lengths = torch.randint(length // 2, length + 1, (BATCH_SIZE, 1), generator=generator)
    mask = (torch.arange(length) >= length - lengths).long()
    return {"input_ids": torch.randint(1000, (BATCH_SIZE, length), generator=generator), "attention_mask": mask}


def print_growth(bench: Bench, batch_tokens: int, most: int) -> None:
    print("| tokens | CPU ms a token | peak memory, MB |\n|---|---|---|")
    bench.run(random_batch(batch_tokens))
    num_tokens = 1024
    while num_tokens <= most:
        meter = Meter(QWEN3_OMNI.running, SHAPE, spans=SPANS)
        started = time.process_time()
        with meter.attach(bench.layers):
            for number in range(-(-num_tokens // batch_tokens)):
                batch = random_batch(min(batch_tokens, num_tokens), seed=number)
                meter.count(batch["attention_mask"].bool())
                bench.run(batch)
            meter.sums()
        per_token = (time.process_time() - started) / num_tokens * 1000
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {num_tokens} | {per_token:.3f} | {peak:.0f} |", flush=True)
        num_tokens *= 2


def print_arms(bench: Bench, batch_tokens: int, repetitions: int, repetitions_of_all: int) -> None:
    batch = random_batch(batch_tokens)
    mask = batch["attention_mask"]
    arms: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "plain": nullcontext,
        "experts measured": lambda: bench.measured(mask, spans=0),
        "experts and layers measured": lambda: bench.measured(mask, spans=SPANS),
        "every expert on every token": lambda: bench.all_experts(mask),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for repetition in range(repetitions):
        for name, arm in arms.items():
            if name == "every expert on every token" and repetition >= repetitions_of_all:
                continue
            with arm():
                started = time.process_time()
                bench.run(batch)
                seconds[name].append(time.process_time() - started)
    print(f"\n{int(mask.sum())} of {mask.numel()} tokens count.\n")
    print("| | CPU s, median | least to most | times plain, median of rounds | least to most |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [one / plain for one, plain in zip(times, seconds["plain"], strict=False)]
        cells = [
            f"{statistics.median(values):.3f} | {min(values):.3f} to {max(values):.3f}" for values in (times, ratios)
        ]
        print(f"| {name}, {len(times)} times | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
