"""Training batches: examples drawn on the fly, rendered exactly as the chat template does, and padded.

Legend of shapes: B batch, T tokens, F mel frames.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import _get_feat_extract_output_lengths

from tools.tiny_omni.features import NUM_MEL_BINS
from tools.tiny_omni.images import TOKENS_PER_IMAGE
from tools.tiny_omni.tasks import Modality
from tools.tiny_omni.words import COLOURS, SHAPES, SPOKEN, Sentence

PADDING, AUDIO_PAD, IMAGE_PAD, TEXT, PREFIX = range(5)


@dataclass(frozen=True)
class Example:
    """One training example: mel features [F, 128], patches [16 t, 1536] of an image or a video, prompt and answer."""

    prompt: str
    answer: str
    mel: Tensor | None = None
    sentence: Sentence = ()
    patches: NDArray[np.float32] | None = None
    is_video: bool = False
    attributes: tuple[str, str] | None = None
    image_first: bool = False


@dataclass(frozen=True)
class Batch:
    """What a step needs: the model's inputs, labels [B, T], token kinds [B, T], CTC targets, image classes [B, 2]."""

    modality: Modality
    inputs: dict[str, Any]
    labels: Tensor
    kinds: Tensor
    spoken: list[list[int]]
    audio_tokens: list[int]
    image_classes: Tensor | None


class Collator:
    """Turns examples of one modality into a right-padded batch."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.ids = tokenizer.get_vocab()
        self._texts: dict[str, list[int]] = {}

    def __call__(self, examples: list[Example]) -> Batch:
        """Return ``examples``, all of one modality and all images or all videos, as a batch."""
        rows = [self._render(example) for example in examples]
        width = max(len(row[0]) for row in rows)
        ids = torch.full((len(rows), width), self.ids["<|endoftext|>"])
        labels = torch.full((len(rows), width), -100)
        kinds = torch.zeros((len(rows), width), dtype=torch.long)
        for index, (row_ids, row_labels, row_kinds) in enumerate(rows):
            ids[index, : len(row_ids)] = torch.tensor(row_ids)
            labels[index, : len(row_ids)] = torch.tensor(row_labels)
            kinds[index, : len(row_ids)] = torch.tensor(row_kinds)
        lengths = torch.tensor([len(row[0]) for row in rows])
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": (torch.arange(width) < lengths[:, None]).long()}
        inputs |= audio_inputs([example.mel for example in examples if example.mel is not None])
        inputs |= _image_inputs(examples)
        classes = [
            (COLOURS.index(example.attributes[0]), SHAPES.index(example.attributes[1]))
            for example in examples
            if example.attributes is not None
        ]
        return Batch(
            modality=_modality(examples[0]),
            inputs=inputs,
            labels=labels,
            kinds=kinds,
            spoken=[[SPOKEN.index(word) + 1 for word in example.sentence] for example in examples],
            audio_tokens=[num_audio_tokens(len(example.mel)) for example in examples if example.mel is not None],
            image_classes=torch.tensor(classes) if classes else None,
        )

    def _render(self, example: Example) -> tuple[list[int], list[int], list[int]]:
        """Return ids, labels and token kinds; the tokens before the first medium are the PREFIX."""
        ids = self._encode("<|im_start|>user\n")
        kinds = [PREFIX] * len(ids)
        media = [part for part in (self._audio(example), self._image(example)) if part]
        for part in reversed(media) if example.image_first else media:
            ids = ids + part
        pads = {self.ids["<|audio_pad|>"]: AUDIO_PAD}
        pads |= {self.ids["<|image_pad|>"]: IMAGE_PAD, self.ids["<|video_pad|>"]: IMAGE_PAD}
        kinds += [pads.get(token, TEXT) for token in ids[len(kinds) :]]
        prompt = self._encode(f"{example.prompt}<|im_end|>\n<|im_start|>assistant\n")
        answer = self._encode(f"{example.answer}<|im_end|>")
        labels = [-100] * (len(ids) + len(prompt)) + answer
        return ids + prompt + answer, labels, kinds + [TEXT] * (len(prompt) + len(answer))

    def _audio(self, example: Example) -> list[int]:
        if example.mel is None:
            return []
        pads = [self.ids["<|audio_pad|>"]] * num_audio_tokens(len(example.mel))
        return [self.ids["<|audio_start|>"], *pads, self.ids["<|audio_end|>"]]

    def _image(self, example: Example) -> list[int]:
        if example.patches is None:
            return []
        pad = self.ids["<|video_pad|>" if example.is_video else "<|image_pad|>"]
        pads = [pad] * (len(example.patches) // 4)
        return [self.ids["<|vision_start|>"], *pads, self.ids["<|vision_end|>"]]

    def _encode(self, text: str) -> list[int]:
        if text not in self._texts:
            self._texts[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._texts[text]


def num_audio_tokens(num_frames: int) -> int:
    """Return how many tokens an utterance of ``num_frames`` mel frames takes."""
    return int(_get_feat_extract_output_lengths(num_frames))


def audio_inputs(mels: list[Tensor]) -> dict[str, Tensor]:
    """Return ``input_features`` [B, 128, F] and ``feature_attention_mask`` [B, F] for normalised mels [F_i, 128]."""
    if not mels:
        return {}
    frames = torch.tensor([len(mel) for mel in mels])
    features = torch.zeros(len(mels), NUM_MEL_BINS, int(frames.max()))
    for index, mel in enumerate(mels):
        features[index, :, : len(mel)] = mel.T
    return {
        "input_features": features,
        "feature_attention_mask": (torch.arange(int(frames.max())) < frames[:, None]).long(),
    }


def _image_inputs(examples: list[Example]) -> dict[str, Tensor]:
    patches = [example.patches for example in examples if example.patches is not None]
    if not patches:
        return {}
    suffix, kind = ("_videos", "video") if examples[0].is_video else ("", "image")
    times = [len(rows) // (4 * TOKENS_PER_IMAGE) for rows in patches]
    inputs = {
        f"pixel_values{suffix}": torch.from_numpy(np.concatenate(patches)),
        f"{kind}_grid_thw": torch.tensor([[time, 4, 4] for time in times]),
    }
    if examples[0].is_video:
        inputs["video_second_per_grid"] = torch.full((len(patches),), 2.0)
    return inputs


def _modality(example: Example) -> Modality:
    if example.mel is None:
        return "video"
    return "audio" if example.patches is None else "mixed"
