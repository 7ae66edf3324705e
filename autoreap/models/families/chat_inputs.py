"""Prompts to tensors, for families whose chat template marks media with placeholder tokens.

transformers' own omni processors need torchvision for their video half; this needs none. For audio and text its output
equals the real processor's, called with one conversation at a time (tests/models/test_chat_inputs.py); for images and
video see `pictures`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase, WhisperFeatureExtractor

from autoreap.data.samples import Sample, load_audio, load_frames
from autoreap.errors import InputError, first_line
from autoreap.models.families.audio_features import AudioFeatures
from autoreap.models.families.encoded import Encoded, collate
from autoreap.models.families.pictures import Pictures, read_pictures


@dataclass(frozen=True)
class Placeholders:
    """The placeholder tokens of a family, one for each embedding that takes its place; empty for what it can't see."""

    audio: str
    image: str = ""
    video: str = ""

    @property
    def tokens(self) -> list[str]:
        """All that there are."""
        return [token for token in (self.audio, self.image, self.video) if token]


def read_chat_inputs(
    path: Path, placeholders: Placeholders, num_audio_tokens: Callable[[int], int], default_frame_size: dict[str, int]
) -> "ChatInputs":
    """Those of the checkpoint at `path`; frames of video are of `default_frame_size` unless it says otherwise.

    Raises:
        InputError: its tokenizer, chat template or preprocessor can't be read.
    """
    with _read_from(path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        if tokenizer.chat_template is None:
            raise ValueError("there is no chat template")
        # One that it does not know would become several tokens, and the embeddings would have no place to go to.
        vocabulary = tokenizer.get_vocab()
        for token in placeholders.tokens:
            if token not in vocabulary:
                raise ValueError(f"the tokenizer does not know {token}")
        audio = AudioFeatures(WhisperFeatureExtractor.from_pretrained(path), num_audio_tokens, pads=False)
        return ChatInputs(tokenizer, placeholders, audio, read_pictures(path, default_frame_size))


def read_audio_inputs(path: Path, num_audio_tokens: Callable[[int], int]) -> "ChatInputs":
    """Those of a checkpoint that sees nothing, through its stock processor; recordings are padded to one length.

    Raises:
        InputError: its tokenizer, chat template or preprocessor can't be read.
    """
    with _read_from(path):
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
        # The stock one goes by its own, whatever it is.
        processor.tokenizer.chat_template = processor.chat_template
        audio = AudioFeatures(processor.feature_extractor, num_audio_tokens, pads=True)
        return ChatInputs(processor.tokenizer, Placeholders(audio=processor.audio_token), audio)


@contextmanager
def _read_from(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        problem = f"its tokenizer or preprocessor can't be read: {first_line(error)}"
        raise InputError(problem, where=path, fix="fetch the checkpoint again") from None


class ChatInputs:
    """Builds model inputs from samples.

    Args:
        tokenizer: with a chat template.
        placeholders: in the chat template.
        audio: for recordings.
        pictures: for images and video; None for a model that can't see.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        placeholders: Placeholders,
        audio: AudioFeatures,
        pictures: Pictures | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._placeholders = placeholders
        self._audio = audio
        self._pictures = pictures
        self._reserved = placeholders.tokens
        for token in tokenizer.added_tokens_decoder.values():
            if token.special:
                self._reserved.append(token.content)

    def encode(self, sample: Sample, question: str, answer: str | None = None) -> Encoded:
        """`sample`'s media and the user's `question` as a chat prompt, with `answer` after it if there is one.

        Raises:
            MediaError: the audio, the image or the video can't be decoded, or the audio is too long.
            InputError: the question or the answer spells a special token, or there is something to see for a model that
                can't.
        """
        self._refuse_special_tokens(question, sample.where)
        if answer is not None:
            self._refuse_special_tokens(answer, sample.where)
        present = {"audio": sample.audio, "video": sample.video, "image": sample.image}
        content = [{"type": kind} for kind, media in present.items() if media]
        # The template puts one placeholder for each medium; it is repeated once the medium's length is known.
        prompt = self._chat([*content, {"type": "text", "text": question}], awaits_answer=True)
        media: dict[str, Any] = {}
        if sample.audio is not None:
            mel, num_frames = self._audio.features(load_audio(sample), sample.where)
            media |= {"mel": mel, "num_frames": num_frames}
            placeholder = self._placeholders.audio
            prompt = prompt.replace(placeholder, placeholder * self._audio.num_tokens(num_frames))
        frames = load_frames(sample)
        if frames is not None:
            if self._pictures is None:
                problem = "this model can't see images or video"
                raise InputError(problem, where=sample.where, fix="give only audio and text")
            is_video = bool(sample.video)
            pixels, grid = self._pictures.patches(frames.images, is_video=is_video)
            seconds_per_patch = self._pictures.frames_per_patch * frames.seconds_apart
            media |= {"pixels": pixels, "grid": grid, "is_video": is_video, "seconds_per_patch": seconds_per_patch}
            placeholder = self._placeholders.image
            if is_video:
                placeholder = self._placeholders.video
            prompt = prompt.replace(placeholder, placeholder * self._pictures.num_tokens(grid))
        input_ids = self.text_tokens(prompt)
        num_prompt_tokens = len(input_ids)
        if answer is not None:
            input_ids += [*self.text_tokens(answer), self.end_token_id]
        return Encoded(torch.tensor(input_ids), num_prompt_tokens, where=sample.where, **media)

    def encode_text(self, text: str, where: str | None = None, *, awaits_answer: bool = False) -> Encoded:
        """A row without media: its text as the user's turn; `where` it came from is for messages.

        With `awaits_answer` the assistant's turn begins after it.

        Raises:
            InputError: the text spells a special token.
        """
        self._refuse_special_tokens(text, where)
        input_ids = torch.tensor(self.text_tokens(self._chat(text, awaits_answer=awaits_answer)))
        return Encoded(input_ids, num_prompt_tokens=len(input_ids), where=where)

    def collate(self, batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Left-padded inputs of a forward pass, under the names that the stock model takes."""
        return collate(batch, self.pad_token_id)

    def decode(self, token_ids: torch.Tensor) -> str:
        """The text of generated tokens, special tokens left out."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True)).strip()

    @property
    def pad_token_id(self) -> int:
        """The token that pads; masked out everywhere."""
        return int(self.tokenizer.pad_token_id)

    @property
    def end_token_id(self) -> int:
        """The token that ends an answer."""
        return int(self.tokenizer.convert_tokens_to_ids("<|im_end|>"))

    @property
    def num_tokens(self) -> int:
        """How many tokens there are."""
        return len(self.tokenizer)

    def text_tokens(self, text: str) -> list[int]:
        """The tokens of `text`, nothing before or after them: the chat template has put there what belongs there."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _chat(self, content: str | list[dict[str, str]], *, awaits_answer: bool) -> str:
        """The user's turn, with or without the beginning of the assistant's."""
        # As text, not as tokens: placeholders are repeated in it before it is tokenised.
        turns = [{"role": "user", "content": content}]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=awaits_answer))

    def _refuse_special_tokens(self, text: str, where: str | None) -> None:
        """A placeholder in a row's words would stand for media that is not there; `<|im_end|>` would end the turn."""
        for token in self._reserved:
            if token in text:
                problem = f"text must not contain the model's special tokens, got {token!r}"
                raise InputError(problem, where=where, fix="reword the row")
