"""ChatInputs must yield what the real Qwen3OmniMoeProcessor yields; it can be built only where torchvision works.

Elsewhere its stored output stands in for it: see tests/fixtures/processor/make_reference.py.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from make_reference import CONVERSATIONS, REFERENCE, conversation, real_inputs, real_processor

from autoreap.data.samples import Sample
from autoreap.errors import InputError
from autoreap.models.families.chat_inputs import ChatInputs
from autoreap.models.families.encoded import Encoded, mark_tokens
from autoreap.models.families.qwen3_omni import QWEN3_OMNI
from autoreap.tiny_omni import CHECKPOINT

Tensors = Mapping[str, torch.Tensor]

# Another CPU rounds normalised pixels differently, by some 1e-7. Fourier transforms it rounds by as much of the loudest
# frequency, which is more of a faint one, and its logarithm is what is compared: 1.2e-5 was seen.
ROUNDING = 2e-6
AUDIO_ROUNDING = 1e-4


@pytest.fixture(scope="module")
def inputs() -> ChatInputs:
    return QWEN3_OMNI.running.inputs(CHECKPOINT)


def encode(inputs: ChatInputs, sample: Sample, question: str | None) -> Encoded:
    return inputs.encode_text(sample.text or "") if question is None else inputs.encode(sample, question)


def assert_same(ours: Tensors, real: Tensors, *, audio_tolerance: float) -> None:
    tolerances = {"input_features": audio_tolerance, "pixel_values": ROUNDING, "pixel_values_videos": ROUNDING}
    assert set(ours) == set(real)
    for name, tensor in real.items():
        assert ours[name].shape == tensor.shape, name
        difference = float((ours[name].double() - tensor.double()).abs().max())
        assert difference <= tolerances.get(name, 0.0), name


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_equals_stored_output_of_real_processor(name: str, inputs: ChatInputs, tmp_path: Path) -> None:
    ours = inputs.collate([encode(inputs, *conversation(name, tmp_path))])
    with np.load(REFERENCE) as stored:
        keys = [key for key in stored if key.startswith(f"{name}/")]
        real = {key.removeprefix(f"{name}/"): torch.from_numpy(stored[key]) for key in keys}
    assert_same(ours, real, audio_tolerance=AUDIO_ROUNDING)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_equals_real_processor(name: str, inputs: ChatInputs, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="the real processor needs torchvision")
    sample, question = conversation(name, tmp_path)
    ours = inputs.collate([encode(inputs, sample, question)])
    assert_same(ours, real_inputs(real_processor(), sample, question), audio_tolerance=0)


def test_batch_holds_each_conversation_as_it_is_alone(inputs: ChatInputs, tmp_path: Path) -> None:
    encoded = [encode(inputs, *conversation(name, tmp_path)) for name in ("long clip", "text", "short clip")]
    batch = inputs.collate(encoded)
    for row, alone in enumerate(encoded):
        length = len(alone.input_ids)
        assert torch.equal(batch["input_ids"][row, -length:], alone.input_ids)
        assert batch["attention_mask"][row].sum() == batch["attention_mask"][row, -length:].sum() == length
    for row, alone in enumerate([encoded[0], encoded[2]]):
        assert alone.mel is not None
        num_frames = alone.mel.shape[1]
        assert torch.equal(batch["input_features"][row, :, :num_frames], alone.mel)
        assert not batch["input_features"][row, :, num_frames:].any()
        mask = batch["feature_attention_mask"][row]
        assert mask.sum() == mask[:num_frames].sum() == num_frames


def test_counted_tokens_are_those_of_the_prompt_or_of_the_answer_and_never_padding(inputs: ChatInputs) -> None:
    rows = [(5, 3), (4, 0), (2, 1)]  # tokens of the prompt, and of the answer
    batch = [Encoded(torch.arange(prompt + answer), num_prompt_tokens=prompt) for prompt, answer in rows]
    drawn = {
        "prompt": ["11111000", "00001111", "00000110"],
        "answer": ["00000111", "00000000", "00000001"],
        "both": ["11111111", "00001111", "00000111"],
    }
    for tokens, expected in drawn.items():
        mask = mark_tokens(batch, tokens)
        assert ["".join(str(int(counts)) for counts in row) for row in mask] == expected
    assert torch.equal(mark_tokens(batch), inputs.collate(batch)["attention_mask"].bool())
    with pytest.raises(InputError, match="tokens: must be one of prompt, answer, both, got 'all'"):
        mark_tokens(batch, "all")


@pytest.mark.parametrize("token", ["<|audio_pad|>", "<|image_pad|>", "<|im_end|>"])
def test_special_token_in_the_words_of_a_row_is_refused(token: str, inputs: ChatInputs, tmp_path: Path) -> None:
    sample, question = conversation("short clip", tmp_path)
    words = f"What does {token} mean?"
    message = rf"^conversations:short clip: .*{token.replace('|', '[|]')}"
    with pytest.raises(InputError, match=message):
        inputs.encode(sample, words)
    with pytest.raises(InputError, match=message):
        inputs.encode(sample, str(question), words)
    with pytest.raises(InputError, match=message):
        inputs.encode_text(words, sample.where)


def test_the_assistants_turn_begins_after_a_text_that_awaits_an_answer(inputs: ChatInputs) -> None:
    message = [{"role": "user", "content": "first word"}]
    for awaits_answer in (False, True):
        prompt = inputs.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=awaits_answer)
        encoded = inputs.encode_text("first word", "a.jsonl:1", awaits_answer=awaits_answer)
        assert inputs.tokenizer.decode(encoded.input_ids) == prompt
        assert encoded.where == "a.jsonl:1"
