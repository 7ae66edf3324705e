"""Prompts to tensors, for families whose chat template marks media with placeholder tokens.

transformers' own omni processors need torchvision for their video half; this needs none. For audio and text its output
equals the real processor's, called with one conversation at a time (tests/families/test_chat_inputs.py); for images and
video see `pictures`.

Features are extracted per utterance, never per batch: what an utterance looks like must not depend on its neighbours.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase, WhisperFeatureExtractor

from autoreap.data.measuring import DEFAULT_TOKENS, TOKENS
from autoreap.data.samples import SAMPLING_RATE, Sample, load_audio, load_frames
from autoreap.data.video_files import FRAMES_PER_SECOND
from autoreap.errors import InputError, MediaError
from autoreap.models.families.pictures import Pictures, read_pictures


@dataclass(frozen=True)
class Placeholders:
    """The placeholder tokens of a family, one for each embedding that takes its place; None of what it can't see."""

    audio: str
    image: str | None = None
    video: str | None = None


@dataclass(frozen=True)
class Encoded:
    """One prompt as tensors.

    Attributes:
        input_ids: [T] prompt tokens, then answer tokens if an answer was given.
        num_prompt_tokens: how many of them are the prompt.
        mel: [mel_bins, frames] features of the audio, or None.
        num_frames: how many of these frames are the recording; what follows is silence.
        pixels: [patches, patch_dim] of the image or the video, or None.
        grid: (temporal, height, width) in patches, of the image or the video.
        is_video: the pixels are a video's.
        seconds_apart: between two frames of the video.
        where: what it was made of, for messages.
    """

    input_ids: torch.Tensor
    num_prompt_tokens: int
    mel: torch.Tensor | None = None
    num_frames: int = 0
    pixels: torch.Tensor | None = None
    grid: tuple[int, int, int] | None = None
    is_video: bool = False
    seconds_apart: float = 1 / FRAMES_PER_SECOND
    where: str | None = None


def read_chat_inputs(
    path: Path,
    placeholders: Placeholders,
    num_audio_tokens: Callable[[int], int],
    default_frame_size: dict[str, int],
) -> "ChatInputs":
    """Those of the checkpoint at `path`; frames of video are of `default_frame_size` unless it says otherwise.

    Raises:
        InputError: its tokenizer, chat template or preprocessor can't be read.
    """
    with _read_from(path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        if tokenizer.chat_template is None:
            raise ValueError("there is no chat template")
        if unknown := [token for token in astuple(placeholders) if token not in tokenizer.get_vocab()]:
            raise ValueError(f"the tokenizer does not know {unknown[0]}")
        extractor, pictures = WhisperFeatureExtractor.from_pretrained(path), read_pictures(path, default_frame_size)
        return ChatInputs(tokenizer, extractor, placeholders, num_audio_tokens, pictures=pictures)


def read_audio_inputs(path: Path, num_audio_tokens: Callable[[int], int]) -> "ChatInputs":
    """Those of a checkpoint that sees nothing, through its stock processor; recordings are padded to one length.

    Raises:
        InputError: its tokenizer, chat template or preprocessor can't be read.
    """
    with _read_from(path):
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
        processor.tokenizer.chat_template = processor.chat_template  # the stock one goes by its own, whatever it is
        placeholders = Placeholders(audio=processor.audio_token)
        return ChatInputs(
            processor.tokenizer, processor.feature_extractor, placeholders, num_audio_tokens, pads_audio=True
        )


@contextmanager
def _read_from(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"its tokenizer or preprocessor can't be read: {reason}", where=path, fix="fetch the checkpoint again"
        ) from None


class ChatInputs:
    """Builds model inputs from samples.

    Args:
        tokenizer: with a chat template.
        feature_extractor: of the audio.
        placeholders: in the chat template.
        num_audio_tokens: how many tokens so many frames of a recording become.
        pictures: for images and video; None for a model that can't see.
        pads_audio: every recording is padded with silence to the extractor's longest, and none may be longer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        feature_extractor: WhisperFeatureExtractor,
        placeholders: Placeholders,
        num_audio_tokens: Callable[[int], int],
        *,
        pictures: Pictures | None = None,
        pads_audio: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self._feature_extractor = feature_extractor
        self._placeholders = placeholders
        self._num_audio_tokens = num_audio_tokens
        self._pictures = pictures
        self._pads_audio = pads_audio
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._reserved = (*filter(None, astuple(placeholders)), *special)

    def encode(self, sample: Sample, question: str, answer: str | None = None) -> Encoded:
        """`sample`'s media and the user's `question` as a chat prompt, with `answer` after it if there is one.

        Raises:
            MediaError: the audio, the image or the video can't be decoded, or the audio is too long.
            InputError: the question or the answer spells a special token, or there is something to see for a model that
                can't.
        """
        for text in (question, answer or ""):
            self._refuse_special_tokens(text, sample.where)
        mel, num_frames = self._mel(load_audio(sample), sample.where) if sample.audio is not None else (None, 0)
        frames, pixels, grid = load_frames(sample), None, None
        if frames:
            pixels, grid = self._image_processor(sample.where).patches(frames.images, is_video=bool(sample.video))

        media = [("audio", sample.audio), ("video", sample.video), ("image", sample.image)]
        content = [{"type": kind} for kind, present in media if present] + [{"type": "text", "text": question}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        if mel is not None:
            text = text.replace(self._placeholders.audio, self._placeholders.audio * self._num_audio_tokens(num_frames))
        if grid is not None:
            placeholder = (self._placeholders.video if sample.video else self._placeholders.image) or ""
            text = text.replace(placeholder, placeholder * self._image_processor(sample.where).num_tokens(grid))
        prompt_ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        answer_ids = self._answer_ids(answer) if answer is not None else []
        return Encoded(
            input_ids=torch.tensor(prompt_ids + answer_ids),
            num_prompt_tokens=len(prompt_ids),
            mel=mel,
            num_frames=num_frames,
            pixels=pixels,
            grid=grid,
            is_video=bool(sample.video),
            seconds_apart=frames.seconds_apart if frames else 1 / FRAMES_PER_SECOND,
            where=sample.where,
        )

    def encode_text(self, text: str, where: str | None = None, *, awaits_answer: bool = False) -> Encoded:
        """A row without media: its text as the user's turn; `where` it came from is for messages.

        With `awaits_answer` the assistant's turn begins after it.

        Raises:
            InputError: the text spells a special token.
        """
        self._refuse_special_tokens(text, where)
        prompt = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=awaits_answer
        )
        input_ids = torch.tensor(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        return Encoded(input_ids=input_ids, num_prompt_tokens=len(input_ids), where=where)

    def collate(self, batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Left-padded inputs of a forward pass, under the names that the stock model takes."""
        length = max(len(encoded.input_ids) for encoded in batch)
        input_ids = torch.full((len(batch), length), self.pad_token_id)
        attention_mask = torch.zeros((len(batch), length), dtype=torch.long)
        for row, encoded in enumerate(batch):
            input_ids[row, length - len(encoded.input_ids) :] = encoded.input_ids
            attention_mask[row, length - len(encoded.input_ids) :] = 1
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs |= self._collate_audio([(each.mel, each.num_frames) for each in batch if each.mel is not None])
        for prefix, suffix, is_video in (("image", "", False), ("video", "_videos", True)):
            seen = [encoded for encoded in batch if encoded.pixels is not None and encoded.is_video == is_video]
            if seen:
                inputs["pixel_values" + suffix] = torch.cat([e.pixels for e in seen if e.pixels is not None])
                inputs[f"{prefix}_grid_thw"] = torch.tensor([encoded.grid for encoded in seen])
            if seen and is_video:
                depth = self._image_processor(seen[0].where).frames_per_patch
                inputs["video_second_per_grid"] = torch.tensor([depth * encoded.seconds_apart for encoded in seen])
        return inputs

    def counted(self, batch: Sequence[Encoded], tokens: str = DEFAULT_TOKENS) -> torch.Tensor:
        """Where in the collated `batch` the tokens of one kind are, padding never among them; bool [B, T].

        Args:
            batch: as given to `collate`.
            tokens: `prompt` (media included), `answer` (with the token that ends it), or `both`.

        Raises:
            InputError: `tokens` is none of these.
        """
        if tokens not in TOKENS:
            raise InputError(f"must be one of {', '.join(TOKENS)}, got {tokens!r}", where="tokens")
        length = max(len(encoded.input_ids) for encoded in batch)
        mask = torch.zeros((len(batch), length), dtype=torch.bool)
        for row, encoded in enumerate(batch):
            prompt = length - len(encoded.input_ids)
            answer = prompt + encoded.num_prompt_tokens
            mask[row, prompt:answer] = tokens != "answer"
            mask[row, answer:] = tokens != "prompt"
        return mask

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

    def num_text_tokens(self, text: str) -> int:
        """How many tokens `text` is."""
        return len(self.text_tokens(text))

    def text_tokens(self, text: str) -> list[int]:
        """The tokens of `text`, nothing before or after them."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _refuse_special_tokens(self, text: str, where: str | None) -> None:
        """A placeholder in a row's words would stand for media that is not there; `<|im_end|>` would end the turn."""
        for token in self._reserved:
            if token in text:
                problem = f"text must not contain the model's special tokens, got {token!r}"
                raise InputError(problem, where=where, fix="reword the row")

    def _answer_ids(self, answer: str) -> list[int]:
        return [*self.text_tokens(answer), self.end_token_id]

    def _image_processor(self, where: str | None) -> Pictures:
        if self._pictures is None:
            raise InputError("this model can't see images or video", where=where, fix="give audio and text alone")
        return self._pictures

    def _mel(self, waveform: NDArray[np.float32], where: str) -> tuple[torch.Tensor, int]:
        """[mel_bins, frames], and how many of the frames are the recording."""
        longest = self._feature_extractor.n_samples
        if self._pads_audio and len(waveform) > longest:
            problem = (
                f"recording of {len(waveform) / SAMPLING_RATE:.1f} s is longer than the {longest / SAMPLING_RATE:g} s "
                "that this model hears"
            )
            raise MediaError(problem, where=where, fix="cut it into pieces")
        features = self._feature_extractor(
            waveform,
            sampling_rate=SAMPLING_RATE,
            padding="max_length" if self._pads_audio else True,
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        num_frames = int(features["attention_mask"][0].sum())
        mel: torch.Tensor = features["input_features"][0]
        return mel if self._pads_audio else mel[:, :num_frames], num_frames

    def _collate_audio(self, recordings: Sequence[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
        if not recordings:
            return {}
        longest = max(mel.shape[1] for mel, _ in recordings)
        features = torch.zeros(len(recordings), recordings[0][0].shape[0], longest)
        mask = torch.zeros((len(recordings), longest), dtype=torch.long)
        for row, (mel, num_frames) in enumerate(recordings):
            features[row, :, : mel.shape[1]] = mel
            mask[row, :num_frames] = 1
        return {"input_features": features, "feature_attention_mask": mask}
