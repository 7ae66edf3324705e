"""Qwen2-Audio hears as the stock processor and model do, whoever else is in the batch; its config leaves much out."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import identity_plan, random_component, wav_bytes, write_sparse_checkpoint
from make_reference import conversation, real_inputs
from measured import peak_bytes
from pages import ROOT
from random_qwen2_audio import QWEN2_AUDIO, save_hearing_model, small_config
from transformers import Qwen2AudioConfig, Qwen2AudioProcessor, Qwen2Config

from autoreap.candidate import Candidate
from autoreap.data.samples import SAMPLING_RATE, Sample
from autoreap.errors import InputError, MediaError
from autoreap.evaluation.draft_limits import Limits
from autoreap.evaluation.draft_rows import Prompt
from autoreap.evaluation.drafting import DraftedDecoder
from autoreap.masking import masked
from autoreap.models.checkpoint import open_checkpoint
from autoreap.models.families import family_of
from autoreap.models.families.chat_inputs import ChatInputs
from autoreap.models.families.encoded import Encoded
from autoreap.models.families.qwen2_audio import TEXT_DEFAULTS
from autoreap.models.prompts import audio_of, embedded
from autoreap.plan import check_plan
from autoreap.planning import make_plan
from autoreap.writing.rewrite import plan_rewrite

FAMILY = family_of({"model_type": "qwen2_audio"})
LAYOUT, RUNNING = FAMILY.layout, FAMILY.running
CONVERSATIONS = ("short clip", "clip", "long clip", "text", "bare text")
PUBLISHED = ROOT / "tests" / "fixtures" / "qwen2-audio-7b-instruct.config.json"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_hearing_model(tmp_path_factory.mktemp("hearing") / "model")


@pytest.fixture(scope="module")
def inputs(path: Path) -> ChatInputs:
    return RUNNING.inputs(path)


def recording(seconds: float) -> Sample:
    """A clip of a length."""
    return Sample(id="clip", where=f"clips:{seconds}", audio=wav_bytes(round(seconds * SAMPLING_RATE)))


def assert_same(ours: dict[str, torch.Tensor], real: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(real)
    for name, tensor in real.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_inputs_are_those_of_the_real_processor(name: str, path: Path, inputs: ChatInputs, tmp_path: Path) -> None:
    sample, question = conversation(name, tmp_path)
    encoded = inputs.encode_text(sample.text or "") if question is None else inputs.encode(sample, question)
    assert_same(inputs.collate([encoded]), real_inputs(Qwen2AudioProcessor.from_pretrained(path), sample, question))


def test_thirty_seconds_are_heard_and_no_more(path: Path, inputs: ChatInputs) -> None:
    encoded = inputs.encode(recording(30), "transcribe")
    assert_same(
        inputs.collate([encoded]),
        real_inputs(Qwen2AudioProcessor.from_pretrained(path), recording(30), "transcribe"),
    )
    assert encoded.num_frames == 3000
    with pytest.raises(MediaError, match=r"^clips:30\.1: recording of 30\.1 s is longer than the 30 s that this model"):
        inputs.encode(recording(30.1), "transcribe")


def test_something_to_see_is_refused(inputs: ChatInputs, tmp_path: Path) -> None:
    for name in ("image", "clip and image", "video"):
        sample, question = conversation(name, tmp_path)
        with pytest.raises(
            InputError, match=rf"^conversations:{name}: this model can't see images or video \(give only audio"
        ):
            inputs.encode(sample, str(question))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seconds", [0.025, 0.7, 12.3, 30])
@torch.inference_mode()
def test_audio_embeddings_are_those_of_the_stock_model(
    seconds: float, dtype: torch.dtype, path: Path, inputs: ChatInputs
) -> None:
    model: Any = QWEN2_AUDIO.stock.from_pretrained(path, dtype=dtype).eval()
    given: dict[str, torch.Tensor] = {}
    model.model.language_model.register_forward_pre_hook(
        lambda _module, _arguments, options: given.update(options), with_kwargs=True
    )
    encoded = inputs.encode(recording(seconds), "transcribe")
    assert encoded.mel is not None
    model(**inputs.collate([encoded]))
    heard = RUNNING.audio_embeddings(model, encoded.mel, encoded.num_frames)
    is_audio = RUNNING.is_audio(model, encoded.input_ids[None])
    assert heard.shape[0] == is_audio.sum() == LAYOUT.num_audio_tokens(encoded.num_frames)
    assert torch.equal(given["inputs_embeds"][is_audio], heard)


def test_answers_are_those_of_stock_generate_and_do_not_depend_on_neighbours(path: Path, inputs: ChatInputs) -> None:
    model: Any = RUNNING.load(path, dtype=torch.float32, device="cpu", speech=False)
    batch = [inputs.encode(recording(seconds), "transcribe") for seconds in (0.3, 7.1, 2.2, 29.9)]
    alone = [generated(model, inputs, encoded) for encoded in batch]
    assert len(set(map(tuple, alone))) > 1
    assert drafted(model, inputs, batch, [()] * len(batch)) == alone
    drafts = [(*answer[:3], 7, *answer[3:]) for answer in alone]
    assert drafted(model, inputs, batch[::-1], drafts[::-1]) == alone[::-1]


NUM_TOKENS = 8


@torch.inference_mode()
def generated(model: Any, inputs: ChatInputs, encoded: Encoded) -> list[int]:
    """What the stock model answers from its own inputs, one prompt alone."""
    ids = model.generate(
        **inputs.collate([encoded]), do_sample=False, max_new_tokens=NUM_TOKENS, eos_token_id=inputs.end_token_id
    )
    answer: list[int] = ids[0, len(encoded.input_ids) :].tolist()
    return answer


@torch.inference_mode()
def drafted(
    model: Any, inputs: ChatInputs, batch: Sequence[Encoded], drafts: Sequence[Sequence[int]]
) -> list[list[int]]:
    """What the decoder answers to all of them, two at a time."""
    audio = [audio_of(RUNNING, model, encoded) for encoded in batch]
    decoder = DraftedDecoder(RUNNING, model, end_token=inputs.end_token_id, limits=Limits(rows=2))
    prompts = [
        Prompt(len(encoded.input_ids), NUM_TOKENS, tuple(draft)) for encoded, draft in zip(batch, drafts, strict=True)
    ]
    answers = decoder.decode(
        prompts, lambda rows: embedded(RUNNING, model, inputs, [batch[i] for i in rows], [audio[i] for i in rows])
    )
    return [list(answer.tokens) for answer in answers]


def test_a_model_that_cannot_see_has_no_vision_to_strip(path: Path) -> None:
    plan = replace(identity_plan(open_checkpoint(path).fingerprint, QWEN2_AUDIO.shape), strip_vision=True)
    with pytest.raises(InputError, match=r"^plan: strip_vision: this model has no vision to strip"):
        check_plan(plan, QWEN2_AUDIO.shape)
    model = RUNNING.load(path, dtype=torch.bfloat16, device="cpu", speech=False)
    with pytest.raises(InputError, match="no vision to strip"), masked(model, plan):
        pass


def test_values_that_strip_vision_serve_a_model_that_cannot_see(path: Path) -> None:
    base_model = identity_plan(open_checkpoint(path).fingerprint, QWEN2_AUDIO.shape).base_model
    plan = make_plan(Candidate(strip_vision=True), None, QWEN2_AUDIO.shape, base_model)
    assert not plan.strip_vision


def test_what_the_published_config_leaves_out_is_known() -> None:
    stock = Qwen2Config()
    assert {name: getattr(stock, name) for name in TEXT_DEFAULTS} == TEXT_DEFAULTS
    config = json.loads(PUBLISHED.read_text())
    assert not TEXT_DEFAULTS.keys() & config["text_config"].keys()
    assert LAYOUT.shape(config).components["thinker"].num_layers == 32
    assert sum(map(math.prod, LAYOUT.expected_tensors(config).values())) == 8_397_094_912


def test_layers_of_a_published_checkpoint_can_be_cut(tmp_path: Path) -> None:
    config = json.loads(PUBLISHED.read_text())
    checkpoint = open_checkpoint(write_sparse_checkpoint(tmp_path, config, LAYOUT.expected_tensors(config)))
    shape = LAYOUT.shape(config)
    thinker = random_component(shape.components["thinker"], layers=tuple(range(0, 32, 2)))
    rewrite = plan_rewrite(checkpoint, replace(identity_plan(checkpoint.fingerprint, shape), thinker=thinker))
    assert rewrite.config["text_config"] == config["text_config"] | {"num_hidden_layers": 16}
    assert {tensor.name: tensor.shape for tensor in rewrite.tensors} == LAYOUT.expected_tensors(rewrite.config)


@torch.inference_mode()
def test_the_working_memory_is_what_was_estimated() -> None:
    config = small_config()
    config["text_config"] |= {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 2}
    config["audio_config"] |= {"d_model": 320, "encoder_ffn_dim": 1280, "max_source_positions": 1500}
    model = QWEN2_AUDIO.stock(Qwen2AudioConfig(**config)).eval()
    for num_frames in (300, 3000):
        tower = peak_bytes(partial(RUNNING.audio_embeddings, model, torch.zeros(128, 3000), num_frames))
        assert 4 * LAYOUT.working_values(config, num_frames, 0) == pytest.approx(tower, rel=0.2)
    prefill = peak_bytes(partial(model.model.language_model, inputs_embeds=torch.zeros(1, 3000, 512), use_cache=False))
    assert 4 * LAYOUT.working_values(config, 0, 3000) == pytest.approx(prefill, rel=0.1)


def test_a_preprocessor_that_is_gone_is_named(path: Path, tmp_path: Path) -> None:
    for name in ("preprocessor_config.json", "tokenizer.json"):
        broken = tmp_path / name
        shutil.copytree(path, broken)
        (broken / name).unlink()
        with pytest.raises(InputError, match=r"its tokenizer or preprocessor can't be read: .* \(fetch the checkpoint"):
            RUNNING.inputs(broken)


@torch.inference_mode()
def test_positions_are_those_that_stock_generation_counts(path: Path, inputs: ChatInputs) -> None:
    model: Any = RUNNING.load(path, dtype=torch.float32, device="cpu", speech=False)
    given: list[torch.Tensor] = []
    model.model.language_model.register_forward_pre_hook(
        lambda _module, _arguments, options: given.append(options["position_ids"]), with_kwargs=True
    )
    batch = inputs.collate([inputs.encode(recording(seconds), "transcribe") for seconds in (0.3, 2.2)])
    model.generate(**batch, do_sample=False, max_new_tokens=2, eos_token_id=inputs.end_token_id)
    positions = RUNNING.positions(model, batch)
    assert torch.equal(given[0], positions)
    assert torch.equal(given[1], positions[:, -1:] + 1)
