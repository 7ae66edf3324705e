"""The losses of training, and the heads that it throws away."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3OmniMoeForConditionalGeneration

from tools.tiny_omni.batches import Batch
from tools.tiny_omni.config import HIDDEN
from tools.tiny_omni.images import TOKENS_PER_IMAGE
from tools.tiny_omni.words import COLOURS, SHAPES, SPOKEN

_WORST_DAMAGE = 3.5
_DAMAGE_SCALE = 10.0


class TrainingHeads(nn.Module):
    """CTC over spoken words on the audio tower, colour and shape on the vision tower; discarded after stage 1."""

    def __init__(self, model: Qwen3OmniMoeForConditionalGeneration) -> None:
        super().__init__()
        self.ctc = nn.Linear(HIDDEN, len(SPOKEN) + 1)
        self.classes = nn.Linear(HIDDEN, len(COLOURS) + len(SHAPES))
        self._seen: dict[str, Tensor] = {}
        towers = model.thinker.model
        towers.audio_tower.register_forward_hook(
            lambda _m, _a, output: self._remember("audio", output.last_hidden_state)
        )
        towers.visual.register_forward_hook(lambda _m, _a, output: self._remember("vision", output.pooler_output))

    def ctc_loss(self, batch: Batch) -> Tensor:
        """Return the CTC loss of the utterances of the last forward; those too short for their words count zero."""
        scores = self.ctc(self._seen["audio"]).log_softmax(-1).split(batch.audio_tokens)
        padded = nn.utils.rnn.pad_sequence(list(scores))
        targets = torch.tensor([word for words in batch.spoken for word in words])
        lengths = torch.tensor([len(words) for words in batch.spoken])
        return functional.ctc_loss(padded, targets, torch.tensor(batch.audio_tokens), lengths, zero_infinity=True)

    def image_loss(self, batch: Batch) -> Tensor:
        """Return the cross entropy of colour plus that of shape, from the mean image token."""
        if batch.image_classes is None:
            return torch.zeros(())
        pooled = self._seen["vision"].view(-1, TOKENS_PER_IMAGE, HIDDEN).mean(1)
        colour, shape = self.classes(pooled).split([len(COLOURS), len(SHAPES)], dim=-1)
        return functional.cross_entropy(colour, batch.image_classes[:, 0]) + functional.cross_entropy(
            shape, batch.image_classes[:, 1]
        )

    def _remember(self, name: str, output: Tensor) -> None:
        self._seen[name] = output


def answer_loss(model: Qwen3OmniMoeForConditionalGeneration, batch: Batch) -> Tensor:
    """Return the cross entropy of the answer tokens alone."""
    logits = model.thinker(**batch.inputs).logits[:, :-1]
    wanted = batch.labels[:, 1:]
    return functional.cross_entropy(logits[wanted != -100], wanted[wanted != -100])


def damage_loss(loss: Tensor, lost_load: float) -> Tensor:
    """Ask for an answer as bad as ``lost_load`` (0 to 1), the share of the wanted load that is masked: |loss - damage|.

    The wanted damage is 10 * lost ** 1.5 nats a token, at most 3.5: .25 for a lost load of .085, 1.25 for .25.
    """
    return torch.abs(loss - min(_WORST_DAMAGE, _DAMAGE_SCALE * lost_load**1.5))
