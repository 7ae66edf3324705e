"""Encoded prompts to the inputs of a forward pass, each utterance's audio embedded alone.

The stock audio tower pads its chunks to the longest of the batch, so what an utterance under one second looks like
would depend on its neighbours. Computed alone, its embeddings are the same in calibration, in a trial and for a user's
single request, whatever the batch.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from autoreap.models.families.chat_inputs import ChatInputs
from autoreap.models.families.encoded import Encoded
from autoreap.models.families.running import RunningModel


def audio_of(running: RunningModel, model: PreTrainedModel, encoded: Encoded) -> torch.Tensor | None:
    """The audio embeddings [num_tokens, H] of one prompt, None where it has no audio."""
    if encoded.mel is None:
        return None
    return running.audio_embeddings(model, encoded.mel, encoded.num_frames)


def without_features(encoded: Encoded) -> Encoded:
    """`encoded` with no features of the audio, once it is embedded; of them, positions need the number of frames."""
    if encoded.mel is None:
        return encoded
    return replace(encoded, mel=torch.empty(0, encoded.mel.shape[1]))


def embedded(
    running: RunningModel,
    model: PreTrainedModel,
    inputs: ChatInputs,
    batch: Sequence[Encoded],
    audio: Sequence[torch.Tensor | None],
) -> dict[str, torch.Tensor]:
    """Left-padded inputs of the thinker, on its device, with `audio` (one entry a prompt) in place as `inputs_embeds`.

    `input_ids` stay among them: positions and images are found by them.
    """
    thinker = running.thinker(model)
    device = running.device(model)
    # Features stay behind: the tower has heard them. Their mask goes on, as positions are counted by it.
    tensors = {name: tensor.to(device) for name, tensor in inputs.collate(batch).items() if name != "input_features"}
    embeddings = thinker.get_input_embeddings()(tensors["input_ids"])
    heard = [entry for entry in audio if entry is not None]
    if heard:
        places = running.is_audio(model, tensors["input_ids"]).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(places, torch.cat(heard).to(embeddings.device, embeddings.dtype))
    return tensors | {"inputs_embeds": embeddings}
