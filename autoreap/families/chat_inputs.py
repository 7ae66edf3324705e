"""Prompts to tensors, for families whose chat template marks media with placeholder tokens.

transformers' own omni processors need torchvision for their video half; this needs none. For audio and text its output
equals the real processor's, called with one conversation at a time (tests/families/test_chat_inputs.py). Pixels equal
its own to within rounding, a level or two of 255 where a picture is resized. Frames of a video are resized like images
here; the real processor enlarges small frames, and shrinks large ones, more than it does images.

Features are extracted per utterance, never per batch: what an utterance looks like must not depend on its neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerBase, WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from autoreap.checkpoint import read_json
from autoreap.errors import InputError
from autoreap.measuring import DEFAULT_TOKENS, TOKENS
from autoreap.samples import SAMPLING_RATE, Sample, load_audio, load_frames
from autoreap.video_files import FRAMES_PER_SECOND


@dataclass(frozen=True)
class Placeholders:
    """The placeholder tokens of a family, one for each embedding that takes its place."""

    audio: str
    image: str
    video: str


@dataclass(frozen=True)
class Encoded:
    """One prompt as tensors.

    Attributes:
        input_ids: [T] prompt tokens, then answer tokens if an answer was given.
        num_prompt_tokens: how many of them are the prompt.
        mel: [mel_bins, frames] features of the audio, or None.
        pixels: [patches, patch_dim] of the image or the video, or None.
        grid: (temporal, height, width) in patches, of the image or the video.
        is_video: the pixels are a video's.
        seconds_apart: between two frames of the video.
        where: what it was made of, for messages.
    """

    input_ids: torch.Tensor
    num_prompt_tokens: int
    mel: torch.Tensor | None = None
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
    stored = path / "video_preprocessor_config.json"
    frame_size = read_json(stored)["size"] if stored.exists() else default_frame_size
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        if tokenizer.chat_template is None:
            raise ValueError("there is no chat template")
        if unknown := [token for token in astuple(placeholders) if token not in tokenizer.get_vocab()]:
            raise ValueError(f"the tokenizer does not know {unknown[0]}")
        return ChatInputs(
            tokenizer=tokenizer,
            feature_extractor=WhisperFeatureExtractor.from_pretrained(path),
            image_processor=Qwen2VLImageProcessorPil.from_pretrained(path),
            frame_processor=Qwen2VLImageProcessorPil.from_pretrained(path, size=frame_size),
            placeholders=placeholders,
            num_audio_tokens=num_audio_tokens,
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"its tokenizer or preprocessor can't be read: {reason}", where=path, fix="fetch the checkpoint again"
        ) from None


class ChatInputs:
    """Builds model inputs from samples; holds tokenizer, feature extractor and image processor of one checkpoint."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        feature_extractor: WhisperFeatureExtractor,
        image_processor: Qwen2VLImageProcessorPil,
        frame_processor: Qwen2VLImageProcessorPil,
        placeholders: Placeholders,
        num_audio_tokens: Callable[[int], int],
    ) -> None:
        self.tokenizer = tokenizer
        self._feature_extractor = feature_extractor
        self._image_processor = image_processor
        self._frame_processor = frame_processor  # the same with the size limits of video
        self._placeholders = placeholders
        self._num_audio_tokens = num_audio_tokens
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._reserved = (*astuple(placeholders), *special)

    def encode(self, sample: Sample, question: str, answer: str | None = None) -> Encoded:
        """`sample`'s media and the user's `question` as a chat prompt, with `answer` after it if there is one.

        Raises:
            MediaError: the audio, the image or the video can't be decoded.
            InputError: the question or the answer spells a special token.
        """
        for text in (question, answer or ""):
            self._refuse_special_tokens(text, sample.where)
        mel = self._mel(load_audio(sample)) if sample.audio is not None else None
        frames = load_frames(sample)
        pixels, grid = self._patches(frames.images, is_video=bool(sample.video)) if frames else (None, None)

        media = [("audio", sample.audio), ("video", sample.video), ("image", sample.image)]
        content = [{"type": kind} for kind, present in media if present] + [{"type": "text", "text": question}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        if mel is not None:
            text = text.replace(
                self._placeholders.audio, self._placeholders.audio * self._num_audio_tokens(mel.shape[1])
            )
        if grid is not None:
            placeholder = self._placeholders.video if sample.video else self._placeholders.image
            num_tokens = int(np.prod(grid)) // self._image_processor.merge_size**2
            text = text.replace(placeholder, placeholder * num_tokens)
        prompt_ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        answer_ids = self._answer_ids(answer) if answer is not None else []
        return Encoded(
            input_ids=torch.tensor(prompt_ids + answer_ids),
            num_prompt_tokens=len(prompt_ids),
            mel=mel,
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
        inputs |= self._collate_audio([encoded.mel for encoded in batch if encoded.mel is not None])
        for prefix, suffix, is_video in (("image", "", False), ("video", "_videos", True)):
            visual = [encoded for encoded in batch if encoded.pixels is not None and encoded.is_video == is_video]
            if visual:
                inputs["pixel_values" + suffix] = torch.cat([e.pixels for e in visual if e.pixels is not None])
                inputs[f"{prefix}_grid_thw"] = torch.tensor([encoded.grid for encoded in visual])
            if visual and is_video:
                depth = self._image_processor.temporal_patch_size
                inputs["video_second_per_grid"] = torch.tensor([depth * encoded.seconds_apart for encoded in visual])
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

    def _mel(self, waveform: NDArray[np.float32]) -> torch.Tensor:
        features = self._feature_extractor(
            waveform,
            sampling_rate=SAMPLING_RATE,
            padding=True,
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        num_frames = int(features["attention_mask"][0].sum())
        mel: torch.Tensor = features["input_features"][0, :, :num_frames]
        return mel

    def _collate_audio(self, mels: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        if not mels:
            return {}
        longest = max(mel.shape[1] for mel in mels)
        features = torch.zeros(len(mels), mels[0].shape[0], longest)
        mask = torch.zeros((len(mels), longest), dtype=torch.long)
        for row, mel in enumerate(mels):
            features[row, :, : mel.shape[1]] = mel
            mask[row, : mel.shape[1]] = 1
        return {"input_features": features, "feature_attention_mask": mask}

    def _patches(self, images: Sequence[Image.Image], *, is_video: bool) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """[patches, patch_dim] and the grid of an image, or of a video's frames.

        Frames of a video go two by two into temporal patches, an image twice.

        The patch layout [..., channel, temporal, height, width] is Qwen2-VL's; an image alone fills the temporal
        dimension with copies of itself, so a video is assembled from its frames' own patches.
        """
        processor = self._frame_processor if is_video else self._image_processor
        processed = processor(list(images), return_tensors="pt")
        _, height, width = (int(size) for size in processed["image_grid_thw"][0])
        per_frame = processed["pixel_values"].view(len(images), height * width, -1)
        if not is_video:
            return per_frame[0], (1, height, width)
        depth = processor.temporal_patch_size
        padded = [*per_frame, *[per_frame[-1]] * (-len(images) % depth)]
        blocks = []
        for start in range(0, len(padded), depth):
            block = [
                frame.view(height * width, -1, depth, processor.patch_size**2)[:, :, 0]
                for frame in padded[start : start + depth]
            ]
            blocks.append(torch.stack(block, dim=2).flatten(1))
        return torch.cat(blocks), (len(blocks), height, width)
