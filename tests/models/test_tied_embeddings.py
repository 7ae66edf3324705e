"""A model whose head is its table of embeddings: however the two are stored, it loads, and is pruned and verified."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dense_project import Capture, Run, make_project, runner, said, stock_answers
from measured import assert_same_bits
from random_models import small_config as small_qwen3_config
from random_qwen2_5_omni import TIED_THINKER_STORED_TWICE, save_hearing_model, store_head
from random_qwen2_audio import QWEN2_AUDIO
from random_qwen2_audio import small_config as small_hearing_config
from safetensors.torch import load_file, save_file
from specimen import save_random
from transformers import (
    Qwen2_5OmniForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
)

from autoreap import cli
from autoreap.errors import InputError, VerificationError
from autoreap.evaluation.outcomes import load_outcomes
from autoreap.models.checkpoint import open_checkpoint
from autoreap.models.loading import load, open_model
from autoreap.saliency import load_saliency
from autoreap.writing.verification import check_structure

EMBEDDINGS, HEAD = "thinker.model.embed_tokens.weight", "thinker.lm_head.weight"
WAYS: dict[str, Callable[[Path], Path]] = {
    "as transformers writes it": lambda path: path,
    "twice": store_head,
    "head alone": partial(store_head, embeddings=False),
}


@pytest.fixture(scope="module", params=WAYS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tied")
    make_project(folder, lambda path: WAYS[request.param](save_hearing_model(path, tied=True)))
    return folder


@pytest.fixture
def run(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Run:
    """Run a command in a folder of its own, beside the project's files; what it says as JSON."""
    return runner(project, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_the_checkpoint_of_a_plan_answers_as_the_masked_model_and_as_stock_generation(run: Run) -> None:
    run("prune", "model", "--layers", "1,3", "-o", "out")
    assert run("verify", "out")["verified"]["structure"].endswith("as the stock class expects them")
    tied = {EMBEDDINGS, HEAD}
    assert tied & open_checkpoint(Path("out")).tensors.keys() == tied & open_checkpoint(Path("model")).tensors.keys()
    answers = {}
    for name, model, *options in (("masked", "model", "--plan", "out/plan.json"), ("out", "out"), ("whole", "model")):
        run("evaluate", model, *options, "--evals", "evals.yaml", "--outcomes", f"{name}.jsonl")
        answers[name] = load_outcomes(Path(f"{name}.jsonl"))
    assert answers["masked"] == answers["out"] != answers["whole"]
    stock = stock_answers(Path("out"), Qwen2_5OmniForConditionalGeneration)
    assert [outcome.output for outcome in answers["out"]["wer"]] == stock


def test_layers_are_measured_the_same_one_by_one(run: Run) -> None:
    calibrate = ["calibrate", "model", "--audio", "audio.jsonl", "-o"]
    assert cli.main([*calibrate, "whole.safetensors"]) == cli.main([*calibrate, "streamed", "--stream-layers"]) == 0
    assert_same_bits(load_saliency(Path("whole.safetensors")), load_saliency(Path("streamed")))


def test_neither_embeddings_nor_head_is_refused(run: Run, capsys: Capture) -> None:
    model = Path("headless")
    model.mkdir()
    for path in Path("model").iterdir():
        (model / path.name).hardlink_to(path.resolve())
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    left = {name: tensor for name, tensor in tensors.items() if name not in (EMBEDDINGS, HEAD)}
    save_file(left, model / "model.safetensors", {"format": "pt"})
    text = said(capsys, "evaluate", str(model), "--evals", "evals.yaml", code=2)
    assert f"tensor {EMBEDDINGS} is missing, the stock class expects" in text


def test_a_head_of_another_shape_than_the_embeddings_is_a_fault(tmp_path: Path) -> None:
    path = TIED_THINKER_STORED_TWICE.save(tmp_path / "model")
    tensors = load_file(path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    fault = r"tensor lm_head\.weight is \(511, 32\), the stock class expects \(512, 32\)"
    with pytest.raises(VerificationError, match=fault):
        check_structure(path)


def test_what_transformers_leaves_out_of_both_decoders_is_not_expected(tmp_path: Path) -> None:
    config = small_qwen3_config()
    config["thinker_config"]["tie_word_embeddings"] = config["talker_config"]["tie_word_embeddings"] = True
    save_random(Qwen3OmniMoeForConditionalGeneration, Qwen3OmniMoeConfig(**config), tmp_path)
    assert not {HEAD, "talker.codec_head.weight"} & check_structure(tmp_path).tensors.keys()


def test_a_head_that_transformers_never_ties_is_needed_whatever_the_config_says(tmp_path: Path) -> None:
    """It would draw the head of such a Qwen2-Audio at random."""
    config = Qwen2AudioConfig(**small_hearing_config() | {"tie_word_embeddings": True})
    path = save_random(QWEN2_AUDIO.stock, config, tmp_path / "model")
    tensors = load_file(path / "model.safetensors")
    del tensors["language_model.lm_head.weight"]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    read: Any = QWEN2_AUDIO.stock.from_pretrained
    assert read(path, output_loading_info=True)[1]["missing_keys"] == {"lm_head.weight"}
    with pytest.raises(InputError, match=r"tensor language_model\.lm_head\.weight is missing"):
        load(open_model(str(path)), device="cpu")
