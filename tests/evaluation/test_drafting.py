"""Decoding with drafts against stock `generate`, token for token."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from builders import random_component
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import END, save_random_model, small_config
from torch.utils._python_dispatch import TorchDispatchMode

from autoreap.evaluation.draft_limits import Limits, next_batch
from autoreap.evaluation.draft_rows import NO_TOKEN, Answer, Prompt, Row
from autoreap.evaluation.drafting import DraftedDecoder
from autoreap.masking import masked
from autoreap.models.families.qwen3_omni import QWEN3_OMNI
from autoreap.plan import BaseModel, ModelShape, PruningPlan

SHAPE: ModelShape = QWEN3_OMNI.layout.shape(small_config())
THINKER = SHAPE.components["thinker"]
LONGEST = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Random, in float32; its answers end now and then."""
    path = save_random_model(tmp_path_factory.mktemp("random") / "model", speech=False)
    model = QWEN3_OMNI.running.load(path, dtype=torch.float32, device="cpu", speech=False)
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
    decoder = DraftedDecoder(QWEN3_OMNI.running, model, end_token=END, limits=Limits(rows=batch_size))
    asked = [
        Prompt(len(prompt), bound, tuple(draft)) for prompt, bound, draft in zip(prompts, bounds, drafts, strict=True)
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


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
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


def test_answers_that_stock_batches_would_cut_at_other_places_are_each_cut_at_their_own_bound(model: Any) -> None:
    case = Case(seed=7, num_rows=6, num_experts=8, layers=(0, 1, 2))
    prompts = case.prompts()
    longest = stock(model, prompts, [LONGEST] * 6)
    for bounds in ([1] * 6, [1, 2, 3, 4, 5, LONGEST]):
        answers = drafted(model, prompts, bounds, longest)
        assert [list(answer.tokens) for answer in answers] == stock(model, prompts, bounds)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(seed=3, num_rows=7, num_experts=THINKER.num_experts, layers=tuple(range(THINKER.num_layers)))


def num_passes(model: Any, ask: Any) -> int:
    """How many forward passes of the decoder `ask` takes."""
    shapes: list[Any] = []
    handle = model.thinker.model.language_model.register_forward_pre_hook(lambda *_: shapes.append(None))
    ask()
    handle.remove()
    return len(shapes)


def test_drafts_that_hold_take_one_pass_a_batch_and_are_accepted_whole(model: Any, case: Case) -> None:
    prompts, bounds = case.prompts(), [LONGEST] * case.num_rows
    longest = stock(model, prompts, bounds)
    answers: list[Answer] = []
    passes = num_passes(model, lambda: answers.extend(drafted(model, prompts, bounds, longest, batch_size=4)))
    assert passes == 2
    for answer, expected in zip(answers, longest, strict=True):
        assert answer.num_accepted == answer.num_drafted == len(expected) - 1


def test_without_drafts_a_token_of_every_row_takes_one_pass(model: Any, case: Case) -> None:
    prompts, bounds = case.prompts(), [LONGEST] * case.num_rows
    longest = stock(model, prompts, bounds)
    answers: list[Answer] = []
    nothing: list[list[int]] = [[]] * case.num_rows
    passes = num_passes(model, lambda: answers.extend(drafted(model, prompts, bounds, nothing, batch_size=64)))
    assert passes == max(map(len, longest))
    assert [list(answer.tokens) for answer in answers] == longest
    assert all(answer.num_drafted == 0 for answer in answers)


@pytest.mark.parametrize("change", [[], [100], [100, 101]], ids=["left out", "replaced", "put in"])
def test_what_follows_one_edit_is_still_accepted(model: Any, case: Case, change: list[int]) -> None:
    prompts, bounds = case.prompts(), [LONGEST] * case.num_rows
    longest = stock(model, prompts, bounds)
    number = max(range(case.num_rows), key=lambda i: len(longest[i]))
    draft = [*longest[number][:4], *change, *longest[number][5:]]
    (answer,) = drafted(model, [prompts[number]], [LONGEST], [draft])
    assert list(answer.tokens) == longest[number]
    assert answer.num_accepted >= len(longest[number]) - 4


@torch.inference_mode()
def test_the_likelihood_is_that_of_the_whole_draft_with_its_end(model: Any, case: Case) -> None:
    prompts, bounds = case.prompts(), [3] * case.num_rows
    rng = random.Random(0)
    drafts = [[rng.randrange(100, 400) for _ in range(length)] for length in range(case.num_rows)]
    answers = drafted(model, prompts, bounds, drafts, likelihoods=True)
    assert [list(answer.tokens) for answer in answers] == stock(model, prompts, bounds)
    for answer, prompt, draft in zip(answers, prompts, drafts, strict=True):
        logits = model.thinker(input_ids=torch.tensor([prompt + draft])).logits[0, len(prompt) - 1 :]
        wanted = logits.log_softmax(dim=-1)[range(len(draft) + 1), [*draft, END]].sum()
        assert answer.draft_log_likelihood == pytest.approx(float(wanted), rel=1e-4)


def test_no_likelihood_is_given_where_none_was_asked_for(model: Any, case: Case) -> None:
    answers = drafted(model, case.prompts(), case.bounds(), [[100]] * case.num_rows)
    assert {answer.draft_log_likelihood for answer in answers} == {None}


def test_no_prompts_have_no_answers(model: Any) -> None:
    assert drafted(model, [], [], []) == []


# ---------------------------------------------------------------- faults


@contextmanager
def short_of_memory(model: Any, most: int) -> Iterator[list[tuple[int, int]]]:
    """The decoder runs out of memory in its last layer where rows times columns, those of the cache too, are more than
    `most`; rows and columns of each pass.
    """
    passes: list[tuple[int, int]] = []

    def refuse(_module: Any, _arguments: Any, options: Mapping[str, Any], output: torch.Tensor) -> None:
        num_columns = options["past_key_values"].layers[-1].get_seq_length()
        passes.append((len(output), num_columns))
        if len(output) * num_columns > most:
            raise torch.OutOfMemoryError("not enough memory")

    handle = model.thinker.model.language_model.layers[-1].register_forward_hook(refuse, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


@pytest.mark.parametrize("most", [60, 100, 200])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.slow
def test_out_of_memory_lowers_what_was_too_large_and_changes_no_answer(model: Any, most: int, rate: float) -> None:
    case = Case(seed=5, num_rows=20, num_experts=6, layers=(0, 2, 3, 5))
    prompts, bounds = case.prompts(), case.bounds()
    rng = random.Random(1)
    expected = stock(model, prompts, bounds)
    drafts = [edited(rng, answer, rate) for answer in expected]
    with short_of_memory(model, most) as passes:
        answers = drafted(model, prompts, bounds, drafts, batch_size=8)
    assert [list(answer.tokens) for answer in answers] == expected
    refused = [rows * columns for rows, columns in passes if rows * columns > most]
    assert 1 <= len(refused) <= 10  # each is remembered


def test_one_long_recording_slows_that_recording_alone(model: Any) -> None:
    """It has a pass of its own; where memory allows no second row beside it, the others stay together."""
    rng = random.Random(2)
    prompts = [[rng.randrange(100, 400) for _ in range(length)] for length in (300, 250, *[20] * 12)]
    bounds = [4] * len(prompts)
    decoder = DraftedDecoder(QWEN3_OMNI.running, model, end_token=END, limits=Limits(rows=64, pass_tokens=2000))
    asked = [Prompt(len(prompt), 4) for prompt in prompts]
    with short_of_memory(model, 320) as passes:
        decoder.decode(asked, embedder(model, prompts))
    first_passes = [rows for rows, columns in passes if columns in (20, 250, 300)]
    assert first_passes == [8, 4, 2, 1, 1, 12]
    answers = drafted(model, prompts, bounds, [[]] * len(prompts), batch_size=64)
    assert [list(answer.tokens) for answer in answers] == stock(model, prompts, bounds)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_a_run_can_be_replayed_where_there_is_more_memory(model: Any, rate: float) -> None:
    case = Case(seed=6, num_rows=30, num_experts=6, layers=(0, 2, 5))
    prompts, bounds = case.prompts(), case.bounds()
    rng = random.Random(1)
    drafts = [edited(rng, answer, rate) for answer in stock(model, prompts, bounds)]
    asked = [Prompt(len(p), bound, tuple(d)) for p, bound, d in zip(prompts, bounds, drafts, strict=True)]

    def shapes(replayed: Sequence[int], most: int) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
        decoder = DraftedDecoder(QWEN3_OMNI.running, model, end_token=END, limits=Limits(rows=16))
        decoder.begin_run(replayed)
        with short_of_memory(model, most) as passes:
            decoder.decode(asked, embedder(model, prompts))
        return [(rows, columns) for rows, columns in passes if rows * columns <= most], decoder.refused

    run, refused = shapes((), 100)
    assert refused
    assert shapes(refused, 10**9) == (run, refused)
    assert shapes((), 10**9) != (run, ())


def taken(draft: Sequence[int], chosen: Sequence[int]) -> Row:
    """A row after a round that fed its whole draft."""
    row = Row(0, Prompt(10, 100), tuple(draft))
    row.take(draft, chosen, end_token=0)
    return row


def test_what_the_model_chose_in_later_places_corrects_the_rest_of_a_rejected_draft() -> None:
    row = taken([1, 9, 3, 4, 9, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8, 0])
    assert row.answer == [1, 2]
    assert row.draft_tokens(9) == [3, 4, 5, 6, 7, 8]  # one more round, where each wrong token took one


def test_a_model_that_one_wrong_token_leads_elsewhere_corrects_nothing() -> None:
    row = taken([1, 9, 3, 4, 5, 6, 7, 8], [1, 2, 31, 41, 51, 61, 71, 81, 0])
    assert row.answer == [1, 2]
    assert row.draft_tokens(9) == [3, 4, 5, 6, 7, 8]


def test_a_correction_that_ends_the_answer_ends_the_draft_and_one_that_is_no_number_is_none() -> None:
    assert taken([1, 9, 3, 4, 5, 6], [1, 2, 3, 4, 5, 0, 0]).draft_tokens(9) == [3, 4, 5]
    assert taken([1, 9, 3, 4, 5, 6], [1, 2, 3, NO_TOKEN, 5, 7, 0]).draft_tokens(9) == [3, 4, 5, 6]


def of_columns(lengths: Sequence[int]) -> list[Row]:
    return [Row(number, Prompt(length, 8), ()) for number, length in enumerate(sorted(lengths))]


def test_a_batch_is_bounded_by_rows_and_by_columns() -> None:
    rows = of_columns([100] * 50)
    assert len(next_batch(rows, Limits(rows=20))) == 20
    assert len(next_batch(rows, Limits(rows=64, first_columns=1000))) == 10
    assert len(next_batch(rows, Limits(rows=64, first_columns=50))) == 1
    assert len(next_batch(rows, Limits(rows=64))) == 50


def test_rows_that_padding_would_make_dearer_than_a_pass_of_their_own_wait_for_it() -> None:
    rows = of_columns([1000, *[100] * 50])
    assert [row.prompt.num_tokens for row in next_batch(rows, Limits(rows=64))] == [1000]
    assert len(next_batch(of_columns([101, *[100] * 50]), Limits(rows=64))) == 51
    assert len(next_batch(rows, Limits(rows=64, pass_tokens=10**6))) == 51


class Scarce(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """No operation (or not the one named) may allocate a tensor of more than `most` elements."""

    def __init__(self, most: int, name: str = "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = most
        self.name = name
        self.num_refused = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        is_meant = self.name in func.name() and isinstance(output, torch.Tensor) and not output._is_view()
        if is_meant and output.numel() > self.most:
            self.num_refused += 1
            raise torch.OutOfMemoryError("not enough memory")
        return output


@pytest.mark.parametrize("most", [12_000, 16_000, 24_000, 40_000])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.slow
def test_memory_may_run_out_anywhere_in_a_pass_or_between_two(model: Any, most: int, rate: float) -> None:
    case = Case(seed=6, num_rows=40, num_experts=6, layers=(0, 2, 5))
    prompts, bounds = case.prompts(), case.bounds()
    rng = random.Random(1)
    with masked(model, case.plan()):
        expected = stock(model, prompts, bounds)
        drafts = [edited(rng, answer, rate) for answer in expected]
        with Scarce(most) as scarce:
            answers = drafted(model, prompts, bounds, drafts, batch_size=32)
    assert [list(answer.tokens) for answer in answers] == expected
    assert scarce.num_refused > 0


def test_finished_rows_stay_where_memory_is_too_small_to_part_from_them(model: Any, case: Case) -> None:
    prompts, bounds = case.prompts(), case.bounds()
    with Scarce(0, "index_select") as scarce:
        answers = drafted(model, prompts, bounds, [[]] * case.num_rows, batch_size=8)
    assert [list(answer.tokens) for answer in answers] == stock(model, prompts, bounds)
    assert scarce.num_refused > 0


def test_what_memory_allowed_holds_for_what_is_decoded_next(model: Any, case: Case) -> None:
    refused: list[tuple[int, ...]] = []
    decoder = DraftedDecoder(QWEN3_OMNI.running, model, end_token=END, limits=Limits(rows=8))
    prompts = case.prompts()
    asked = [Prompt(len(prompt), 3) for prompt in prompts]
    for _ in range(2):
        decoder.begin_run()
        with short_of_memory(model, 40):
            decoder.decode(asked, embedder(model, prompts))
        refused.append(decoder.refused)
    assert refused[0]
    assert refused[1] == ()


def test_memory_too_small_for_one_prompt_is_the_callers_to_know(model: Any, case: Case) -> None:
    with short_of_memory(model, 0), pytest.raises(torch.OutOfMemoryError):
        drafted(model, case.prompts(), case.bounds(), [[]] * case.num_rows)


def not_a_number(model: Any, case: Case, number: int) -> Any:
    """Embeds the prompts of `case`, that of `number` with a last token that is no number."""
    prompts = case.prompts()

    def embed(numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
        inputs = dict(embedder(model, prompts)(numbers))
        if number in numbers:
            inputs["inputs_embeds"][list(numbers).index(number), -1] = float("nan")
        return inputs

    return embed


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_an_output_that_is_no_number_ends_its_own_answer_and_changes_no_other(
    model: Any, case: Case, batch_size: int, rate: float
) -> None:
    prompts, bounds = case.prompts(), case.bounds()
    expected = stock(model, prompts, bounds)
    drafts = [edited(random.Random(0), answer, rate) for answer in expected]
    decoder = DraftedDecoder(QWEN3_OMNI.running, model, end_token=END, limits=Limits(rows=batch_size))
    asked = [Prompt(len(p), bound, tuple(d)) for p, bound, d in zip(prompts, bounds, drafts, strict=True)]
    answers = decoder.decode(asked, not_a_number(model, case, 4))
    assert [answer.is_number for answer in answers] == [number != 4 for number in range(case.num_rows)]
    expected[4] = []
    assert [list(answer.tokens) for answer in answers] == expected


def test_what_was_written_before_the_output_is_no_number_stays(model: Any, case: Case) -> None:
    """A poisoned embedding of the third token of an answer, which is read where the fourth is chosen."""
    prompts, bounds = case.prompts(), [LONGEST] * case.num_rows
    longest = stock(model, prompts, bounds)
    number = next(i for i, answer in enumerate(longest) if len(set(answer)) == len(answer) > 4)
    weight = model.thinker.get_input_embeddings().weight
    before = weight[longest[number][2]].clone()
    weight.data[longest[number][2]] = float("nan")
    try:
        (answer,) = drafted(model, [prompts[number]], [LONGEST], [[]])
    finally:
        weight.data[longest[number][2]] = before
    assert (list(answer.tokens), answer.is_number) == (longest[number][:3], False)


def test_log_likelihoods_are_those_that_decoding_gives_and_no_number_where_there_is_none(
    model: Any, case: Case
) -> None:
    rng = random.Random(0)
    prompts = case.prompts()
    drafts = [[rng.randrange(100, 400) for _ in range(length)] for length in range(case.num_rows)]
    asked = [Prompt(len(prompt), 3, tuple(draft)) for prompt, draft in zip(prompts, drafts, strict=True)]
    decoder = DraftedDecoder(QWEN3_OMNI.running, model, end_token=END, limits=Limits(rows=3))
    with short_of_memory(model, 60):
        scored = decoder.log_likelihoods(asked, not_a_number(model, case, 4))
    answers = drafted(model, prompts, case.bounds(), drafts, likelihoods=True)
    assert decoder.refused
    for number, (value, answer) in enumerate(zip(scored, answers, strict=True)):
        assert value == pytest.approx(answer.draft_log_likelihood, rel=1e-4) or (number == 4 and value != value)
