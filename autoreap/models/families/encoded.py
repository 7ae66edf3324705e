"""Prompts as tensors: one alone, and a batch of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autoreap.data.calibration_choices import DEFAULT_TOKENS, TOKENS
from autoreap.errors import InputError


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
        seconds_per_patch: how long a video's patch lasts.
        where: what it was made of, for messages.
    """

    input_ids: torch.Tensor
    num_prompt_tokens: int
    mel: torch.Tensor | None = None
    num_frames: int = 0
    pixels: torch.Tensor | None = None
    grid: tuple[int, int, int] | None = None
    is_video: bool = False
    seconds_per_patch: float = 0.0
    where: str | None = None


def collate(batch: Sequence[Encoded], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Left-padded inputs of a forward pass, under the names that the stock model takes."""
    length = _longest(batch)
    input_ids = torch.full((len(batch), length), pad_token_id)
    attention_mask = torch.zeros((len(batch), length), dtype=torch.long)
    for row, encoded in enumerate(batch):
        start = length - len(encoded.input_ids)
        input_ids[row, start:] = encoded.input_ids
        attention_mask[row, start:] = 1
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    return inputs | _collate_audio(batch) | _collate_pictures(batch)


def _collate_audio(batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    # Right-padded, unlike tokens: the mask says which frames at the beginning are the recording.
    recordings = [(encoded.mel, encoded.num_frames) for encoded in batch if encoded.mel is not None]
    if not recordings:
        return {}
    longest = max(mel.shape[1] for mel, _ in recordings)
    features = torch.zeros(len(recordings), recordings[0][0].shape[0], longest)
    mask = torch.zeros((len(recordings), longest), dtype=torch.long)
    for row, (mel, num_frames) in enumerate(recordings):
        features[row, :, : mel.shape[1]] = mel
        mask[row, :num_frames] = 1
    return {"input_features": features, "feature_attention_mask": mask}


def _collate_pictures(batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    inputs = {}
    # Under one name each, as many as there are: which row they are of is told by the placeholders.
    images = [encoded for encoded in batch if encoded.pixels is not None and not encoded.is_video]
    videos = [encoded for encoded in batch if encoded.is_video]
    if images:
        inputs["pixel_values"] = _join_pixels(images)
        inputs["image_grid_thw"] = torch.tensor([encoded.grid for encoded in images])
    if videos:
        inputs["pixel_values_videos"] = _join_pixels(videos)
        inputs["video_grid_thw"] = torch.tensor([encoded.grid for encoded in videos])
        inputs["video_second_per_grid"] = torch.tensor([encoded.seconds_per_patch for encoded in videos])
    return inputs


def _join_pixels(batch: Sequence[Encoded]) -> torch.Tensor:
    return torch.cat([encoded.pixels for encoded in batch if encoded.pixels is not None])


def mark_tokens(batch: Sequence[Encoded], tokens: str = DEFAULT_TOKENS) -> torch.Tensor:
    """Where in the collated `batch` the tokens of one kind are, padding never among them; bool [B, T].

    Args:
        batch: as given to `collate`.
        tokens: `prompt` (media included), `answer` (with the token that ends it), or `both`.

    Raises:
        InputError: `tokens` is none of these.
    """
    if tokens not in TOKENS:
        raise InputError(f"must be one of {', '.join(TOKENS)}, got {tokens!r}", where="tokens")
    length = _longest(batch)
    mask = torch.zeros((len(batch), length), dtype=torch.bool)
    for row, encoded in enumerate(batch):
        prompt = length - len(encoded.input_ids)  # padding is on the left
        answer = prompt + encoded.num_prompt_tokens
        mask[row, prompt:answer] = tokens != "answer"
        mask[row, answer:] = tokens != "prompt"
    return mask


def _longest(batch: Sequence[Encoded]) -> int:
    return max(len(encoded.input_ids) for encoded in batch)
