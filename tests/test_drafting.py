"""Decoding with drafts against stock `generate`, token for token."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from builders import random_component
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import END, save_random_model, small_config

from autoreap.drafting import Answer, DraftedDecoder, Prompt
from autoreap.families.qwen3_omni import Qwen3Omni
from autoreap.masking import masked
from autoreap.plan import BaseModel, ModelShape, PruningPlan

SHAPE: ModelShape = Qwen3Omni().shape(small_config())
THINKER = SHAPE.components["thinker"]
LONGEST = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Random, in float32; its answers end now and then."""
    path = save_random_model(tmp_path_factory.mktemp("random") / "model", speech=False)
    model = Qwen3Omni().load(path, dtype=torch.float32, device="cpu", speech=False)
    weight = model.thinker.lm_head.weight
    weight.data[END] = weight.data[END] * 2.5
    return model


def embedder(model: Any, prompts: Sequence[Sequence[int]]) -> Any:
    """As the evaluator pads and embeds, on the left."""

    def embed(numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
        width = max(len(prompts[number]) for number in numbers)
        ids = torch.tensor([[0] * (width - len(prompts[number])) + list(prompts[number]) for number in numbers])
        mask = torch.tensor([[number >= width - len(prompts[i]) for number in range(width)] for i in numbers]).long()
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "inputs_embeds": model.thinker.get_input_embeddings()(ids),
        }

    return embed


@torch.inference_mode()
def stock(model: Any, prompts: Sequence[Sequence[int]], bounds: Sequence[int]) -> list[list[int]]:
    """What `generate` answers, all in one batch, each cut to its bound and after its end."""
    inputs = embedder(model, prompts)(range(len(prompts)))
    width = inputs["input_ids"].shape[1]
    sequences = model.thinker.generate(
        **inputs, do_sample=False, max_new_tokens=max(bounds), eos_token_id=END, pad_token_id=0
    )
    answers = [row[width:].tolist()[:bound] for row, bound in zip(sequences, bounds, strict=True)]
    return [answer[: answer.index(END) + 1] if END in answer else answer for answer in answers]


def drafted(
    model: Any,
    prompts: Sequence[Sequence[int]],
    bounds: Sequence[int],
    drafts: Sequence[Sequence[int]],
    *,
    batch_size: int = 4,
    **options: Any,
) -> list[Answer]:
    decoder = DraftedDecoder(Qwen3Omni(), model, end_token=END, batch_size=batch_size)
    asked = [
        Prompt(f"row {number}", len(prompt), bound, tuple(draft))
        for number, (prompt, bound, draft) in enumerate(zip(prompts, bounds, drafts, strict=True))
    ]
    return decoder.decode(asked, embedder(model, prompts), **options)


def edited(rng: random.Random, tokens: Sequence[int], rate: float) -> list[int]:
    """`tokens` with a share of them replaced, left out, or with others put before them."""
    result: list[int] = []
    for token in tokens:
        kind = rng.choice("rid") if rng.random() < rate else ""
        result += {"r": [rng.randrange(512)], "i": [rng.randrange(512), token], "d": [], "": [token]}[kind]
    return result


@dataclass(frozen=True)
class Case:
    """Prompts with bounds, under a plan."""

    seed: int
    num_rows: int
    num_experts: int
    layers: tuple[int, ...]

    def plan(self) -> PruningPlan:
        thinker = random_component(THINKER, num_experts=self.num_experts, layers=self.layers, seed=self.seed)
        return PruningPlan(BaseModel("random", "0"), False, thinker)

    def prompts(self) -> list[list[int]]:
        rng = random.Random(self.seed)
        return [[rng.randrange(100, 400) for _ in range(rng.randint(1, 20))] for _ in range(self.num_rows)]

    def bounds(self) -> list[int]:
        rng = random.Random(self.seed + 1)
        return [rng.randint(1, LONGEST) for _ in range(self.num_rows)]


cases = st.builds(
    Case,
    seed=st.integers(0, 10**6),
    num_rows=st.integers(1, 9),
    num_experts=st.integers(1, THINKER.num_experts),
    layers=st.lists(st.integers(0, THINKER.num_layers - 1), min_size=1, unique=True).map(lambda n: tuple(sorted(n))),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    case=cases,
    rate=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    batch_size=st.sampled_from([1, 2, 3, 8, 64]),
    likelihoods=st.booleans(),
)
def test_answers_equal_stock_greedy_generation_whatever_the_drafts(
    model: Any, case: Case, rate: float, batch_size: int, likelihoods: bool
) -> None:
    prompts, bounds = case.prompts(), case.bounds()
    rng = random.Random(case.seed + 2)
    with masked(model, case.plan()):
        longest = stock(model, prompts, [LONGEST] * len(prompts))
        drafts = [edited(rng, answer, rate) for answer in longest]
        answers = drafted(model, prompts, bounds, drafts, batch_size=batch_size, likelihoods=likelihoods)
        assert [list(answer.tokens) for answer in answers] == stock(model, prompts, bounds)
