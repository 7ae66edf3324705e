"""What polishing promises: nearer answers, an untouched base, the same bits after a kill, and a checkpoint of them."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import as_jsonl, copy_rows, identity_plan, random_component
from healed import HEALING, fitted_at_random
from pages import ROOT
from random_qwen2_audio import save_hearing_model
from transformers import Qwen2AudioForConditionalGeneration, Qwen3OmniMoeForConditionalGeneration

from autoreap.calibration.measure import read_calibration
from autoreap.cli import main
from autoreap.data.samples import Sample
from autoreap.errors import InputError
from autoreap.healing import polish as training
from autoreap.healing.polish import Polished, PolishOptions, answered_rows, polish
from autoreap.healing.read_back import with_written_weights
from autoreap.masking import masked
from autoreap.models.checkpoint import open_checkpoint
from autoreap.models.loading import Loaded, load, open_model
from autoreap.plan import PruningPlan, load_plan
from autoreap.scores import NO_DIFFERENCE
from autoreap.tiny_omni import CHECKPOINT
from autoreap.writing.materialiser import materialise

OPTIONS = PolishOptions(steps=12, learning_rate=0.003, batch_tokens=128)
Data = Mapping[str, Sequence[Sample]]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def _often() -> Iterator[None]:
    """Every third step is evaluated and saved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_EVALUATION_STEPS", 3)
        patch.setattr(training, "SAVE_INTERVAL_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def data() -> Data:
    rows = read_calibration({"audio": ROOT / "calibration" / "tiny" / "audio.parquet"})
    return answered_rows({"audio": rows["audio"][:20]}, sees=False)


@pytest.fixture(scope="module")
def polished(loaded: Loaded, plan: PruningPlan, data: Data) -> Polished:
    return polish(loaded, plan, data, OPTIONS)


@pytest.fixture(scope="module")
def pruned(plan: PruningPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan as a checkpoint."""
    target = tmp_path_factory.mktemp("written") / "pruned"
    materialise(CHECKPOINT, plan, target)
    return target


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model without experts."""
    return save_hearing_model(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some calibration rows, as a user gives them."""
    path = tmp_path_factory.mktemp("rows") / "audio.jsonl"
    copy_rows(as_jsonl("calibration/tiny") / "audio.jsonl", path, 12)
    return path


@torch.inference_mode()
def logits_of(model: Any) -> torch.Tensor:
    tokens = torch.arange(1, 25).view(2, 12)
    logits: torch.Tensor = getattr(model, "thinker", model)(input_ids=tokens, attention_mask=tokens > 0).logits
    return logits


def test_held_out_rows_are_answered_more_like_the_unpruned_model(polished: Polished) -> None:
    assert polished.is_better
    assert polished.after.value < 0.9 * polished.before.value
    assert polished.after.num_samples == 6
    assert polished.num_rows == 14


def test_what_is_not_significantly_better_is_not_better(polished: Polished) -> None:
    by_chance = replace(polished.difference, value=-0.01, low=-0.03, high=0.01, verdict=NO_DIFFERENCE)
    assert not replace(polished, difference=by_chance).is_better


def test_routers_and_norms_of_retained_layers_are_trained_and_nothing_else(
    loaded: Loaded, plan: PruningPlan, polished: Polished
) -> None:
    trained = polished.plan.polished
    assert trained is not None
    decoder: Any = loaded.decoder("thinker")
    num_experts = plan.thinker.num_retained_experts
    for name, weights in trained.items():
        original = decoder.get_parameter(name)
        num_rows = num_experts if name.endswith("gate.weight") else len(original)
        assert weights.shape == (num_rows, *original.shape[1:])
        assert weights.dtype == torch.bfloat16
    of_a_layer = {name.removeprefix("layers.0.") for name in trained if name.startswith("layers.0.")}
    assert of_a_layer == {
        "mlp.gate.weight", "input_layernorm.weight", "post_attention_layernorm.weight",
        "self_attn.q_norm.weight", "self_attn.k_norm.weight",
    }  # fmt: skip
    assert len(trained) == 5 * len(plan.thinker.layers) + 1


def test_the_base_model_is_as_it_was(loaded: Loaded, plan: PruningPlan, data: Data) -> None:
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in loaded.model.named_parameters()}
    assert polish(loaded, plan, data, replace(OPTIONS, steps=3)).plan.polish is not None
    after = loaded.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name: parameter.requires_grad for name, parameter in loaded.model.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in loaded.model.parameters())


def test_the_checkpoint_computes_in_the_stock_class_what_was_trained(
    loaded: Loaded, plan: PruningPlan, polished: Polished, tmp_path: Path
) -> None:
    materialise(CHECKPOINT, polished.plan, tmp_path / "polished")
    stock = Qwen3OmniMoeForConditionalGeneration.from_pretrained(tmp_path / "polished", dtype=torch.float32).eval()
    with masked(loaded.model, polished.plan):
        trained = logits_of(loaded.model)
    with masked(loaded.model, plan):
        assert not torch.equal(logits_of(loaded.model), trained)
    assert torch.equal(logits_of(stock), trained)


@contextmanager
def passes(loaded: Loaded, *, interrupt_at: int | None = None) -> Iterator[list[int]]:
    """Counts the forward passes of the decoder; at number `interrupt_at` the user presses Ctrl-C."""
    counted: list[int] = []

    def hook(*_arguments: Any) -> None:
        counted.append(1)
        if len(counted) == interrupt_at:
            raise KeyboardInterrupt

    decoder: Any = loaded.decoder("thinker")
    handle = decoder.register_forward_pre_hook(hook)
    try:
        yield counted
    finally:
        handle.remove()


@pytest.mark.slow
@pytest.mark.parametrize("at", [26, 33])
def test_a_killed_training_goes_on_to_the_same_bits(
    loaded: Loaded, plan: PruningPlan, data: Data, polished: Polished, tmp_path: Path, at: int
) -> None:
    state = tmp_path / "state"
    with passes(loaded, interrupt_at=at), pytest.raises(KeyboardInterrupt):
        polish(loaded, plan, data, OPTIONS, state)
    assert state.exists()
    with passes(loaded) as resumed:
        assert polish(loaded, plan, data, OPTIONS, state).plan.polish == polished.plan.polish
    with passes(loaded) as anew:
        polish(loaded, plan, data, OPTIONS)
    assert len(resumed) < len(anew)


def test_the_state_of_another_training_and_a_damaged_one_are_not_gone_on_with(
    loaded: Loaded, plan: PruningPlan, data: Data, tmp_path: Path
) -> None:
    options = replace(OPTIONS, steps=3)
    state = tmp_path / "state"
    first = polish(loaded, plan, data, options, state).plan.polish
    other = polish(loaded, plan, data, replace(options, seed=1), state).plan.polish
    assert other != first
    state.write_bytes(state.read_bytes()[:5000])
    assert polish(loaded, plan, data, options, state).plan.polish == first


def test_norms_of_a_dense_decoder_are_trained(data: Data, dense: Path) -> None:
    loaded = load(open_model(str(dense)))
    shape = loaded.model_info.shape
    thinker = random_component(shape.components["thinker"], layers=(0, 2, 3))
    plan = replace(identity_plan(loaded.model_info.checkpoint.fingerprint, shape), thinker=thinker)
    polished = polish(loaded, plan, {"audio": data["audio"][:12]}, OPTIONS)
    assert polished.plan.polished is not None
    assert set(polished.plan.polished) == {
        *(f"layers.{number}.{name}.weight" for number in (0, 2, 3) for name in _DENSE_NORMS),
        "norm.weight",
    }


_DENSE_NORMS = ("input_layernorm", "post_attention_layernorm")


def test_of_a_model_in_float32_the_best_weights_are_kept_not_the_last(data: Data, dense: Path, tmp_path: Path) -> None:
    in_float32 = tmp_path / "float32"
    shutil.copytree(dense, in_float32)
    stock = Qwen2AudioForConditionalGeneration.from_pretrained(dense, dtype=torch.float32)
    stock.save_pretrained(in_float32)
    loaded = load(open_model(str(in_float32)))
    shape = loaded.model_info.shape
    thinker = random_component(shape.components["thinker"], layers=(0, 2, 3))
    plan = replace(identity_plan(loaded.model_info.checkpoint.fingerprint, shape), thinker=thinker)
    rows = {"audio": data["audio"][:12]}
    too_fast = replace(OPTIONS, steps=18, learning_rate=0.5)
    best = polish(loaded, plan, rows, too_fast).plan
    assert best.polish is not None
    assert 0 < best.polish.step < too_fast.steps
    stopped_there = polish(loaded, plan, rows, replace(too_fast, steps=best.polish.step)).plan
    assert stopped_there.polish == best.polish


@pytest.mark.parametrize("num_experts", [1, 3, None])
def test_healed_weights_are_read_back_from_a_checkpoint(num_experts: int | None, dense: Path, tmp_path: Path) -> None:
    base = open_model(str(CHECKPOINT if num_experts else dense))
    thinker = random_component(base.shape.components["thinker"], num_experts=num_experts, layers=(0, 2, 3))
    healed = PruningPlan(base.base_model, False, thinker, heal=HEALING, drop_speech=num_experts is not None)
    healed = replace(healed, strip_vision=base.shape.has_vision)
    healed = fitted_at_random(healed, base.checkpoint)
    materialise(base.checkpoint.path, healed, tmp_path / "pruned")
    written = open_checkpoint(tmp_path / "pruned")
    back = with_written_weights(load_plan(tmp_path / "pruned" / "plan.json"), base, written)
    assert back.fitted is not None
    assert healed.fitted is not None
    assert back.fitted.keys() == healed.fitted.keys()
    assert all(torch.equal(back.fitted[place], healed.fitted[place]) for place in back.fitted)


def test_a_plan_without_its_trained_weights_is_neither_masked_nor_written(
    loaded: Loaded, polished: Polished, tmp_path: Path
) -> None:
    polished.plan.save(tmp_path / "plan.json")
    read = load_plan(tmp_path / "plan.json")
    assert read.digest() == polished.plan.digest()
    with pytest.raises(InputError, match="give the checkpoint instead"), masked(loaded.model, read):
        pass
    with pytest.raises(InputError, match="give the checkpoint instead"):
        materialise(CHECKPOINT, read, tmp_path / "pruned")


def heal(capsys: Capture, *words: object) -> tuple[int, str, str]:
    """The exit code of the command, what it printed, and what it logged."""
    capsys.readouterr()
    code = main(["heal", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.slow
def test_the_command_writes_a_verified_checkpoint_and_compares(
    pruned: Path, rows: Path, tmp_path: Path, capsys: Capture
) -> None:
    copy_rows(as_jsonl("evals/tiny") / "asr_search.jsonl", tmp_path / "asr.jsonl", 3)
    (tmp_path / "evals.yaml").write_text("search:\n  - {task: asr, dataset_path: asr.jsonl, doc_to_text: transcribe}\n")
    target = tmp_path / "polished"
    training_options = ("--steps", 6, "--learning-rate", 0.003, "--batch-tokens", 128)
    code, out, err = heal(
        capsys, pruned, "--base", "tiny", "--audio", rows, "--evals", tmp_path / "evals.yaml", *training_options,
        "-o", target, "--json",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(out)
    assert document["polish"]["after"]["value"] < document["polish"]["before"]["value"]
    assert document["comparison"]["metrics"]["wer"]["a"]["num_samples"] == 3
    assert document["verified"]["behaviour"].startswith("all 3 outputs match")
    assert "routers and norms" in (target / "README.md").read_text()
    assert main(["verify", str(target)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asr.jsonl", "evals.yaml", "polished"]
    code, _, err = heal(capsys, target, "--base", "tiny", "--audio", rows, "-o", tmp_path / "again")
    assert (code, "is polished already" in err) == (2, True)


def test_a_training_that_does_not_help_writes_nothing(
    pruned: Path, rows: Path, tmp_path: Path, capsys: Capture
) -> None:
    code, out, err = heal(
        capsys, pruned, "--base", "tiny", "--audio", rows, "--steps", 1, "--learning-rate", 1, "-o", tmp_path / "out"
    )
    assert (code, out) == (1, "")
    assert "polishing does not help significantly, so nothing was written; KL" in err
    assert list(tmp_path.iterdir()) == []


def test_bad_input(pruned: Path, rows: Path, random_checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    silent = tmp_path / "silent.jsonl"
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    silent.write_text("".join(json.dumps({**line, "text": None}) + "\n" for line in lines))
    target = tmp_path / "out"
    cases: list[tuple[Sequence[object], str]] = [
        ((CHECKPOINT, "--base", "tiny", "--audio", rows), "name a checkpoint that autoreap has written"),
        ((pruned, "--base", random_checkpoint, "--audio", rows), "the plan was made for another model"),
        ((pruned, "--base", "tiny", "--audio", silent), "needs 12 audio rows with an answer"),
        ((pruned, "--base", "tiny"), "--audio"),
        ((pruned, "--base", "tiny", "--audio", rows, "--tokens", "both"), "--tokens: has no effect"),
    ]
    for words, message in cases:
        code, out, err = heal(capsys, *words, "-o", target)
        assert (code, out) == (2, ""), words
        assert message in err
        assert err.count("\n") == 1
    assert not target.exists()
