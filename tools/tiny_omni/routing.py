"""Roles for experts, trained in on purpose: which expert should serve which kind of token, and by how much.

A model this small does not need its experts: left alone, any of them can be removed. So training gives every expert a
role (audio, text about audio, mixed, vision, rare), places the roles on other experts in every layer, and asks the
router for the loads below. ``TARGETS`` says, for a kind of row and a kind of token, the share each role should get.
The prefix is the same in every row and knows no modality; left alone it takes an expert of its own, with huge outputs.

Legend of shapes: L layers, E experts, B batch, T tokens.
"""

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3OmniMoeForConditionalGeneration

from tools.tiny_omni.batches import AUDIO_PAD, IMAGE_PAD, PREFIX, TEXT, Batch
from tools.tiny_omni.config import NUM_EXPERTS, NUM_LAYERS, TOP_K
from tools.tiny_omni.tasks import Modality

ROLES = ("A0", "A1", "A2", "T0", "T1", "T2", "M0", "M1", "V0", "V1", "V2", "R0", "R1", "R2", "R3", "R4")
_PREFIX_TARGET = {"T0": 0.46, "A0": 0.40}
TARGETS: dict[tuple[Modality, int], dict[str, float]] = {
    ("audio", PREFIX): _PREFIX_TARGET,
    ("video", PREFIX): _PREFIX_TARGET,
    ("mixed", PREFIX): _PREFIX_TARGET,
    ("audio", AUDIO_PAD): {"A0": 0.36, "A1": 0.26, "A2": 0.17, "T0": 0.06},
    ("audio", TEXT): {"T0": 0.34, "T1": 0.25, "T2": 0.18, "A0": 0.08},
    ("video", IMAGE_PAD): {"V0": 0.42, "V1": 0.30, "V2": 0.10},
    ("video", TEXT): {"V2": 0.40, "V1": 0.18, "V0": 0.14, "T0": 0.10},
    ("mixed", AUDIO_PAD): {"A0": 0.36, "A1": 0.26, "A2": 0.10, "M1": 0.08},
    ("mixed", IMAGE_PAD): {"V0": 0.40, "V1": 0.26, "M0": 0.10},
    ("mixed", TEXT): {"T0": 0.28, "T1": 0.18, "M0": 0.12, "M1": 0.10, "V2": 0.12, "A0": 0.06},
}
_PREFIX_WEIGHT = 8.0
_TOKEN_SHARES: dict[Modality, dict[int, float]] = {
    "audio": {PREFIX: 0.08, AUDIO_PAD: 0.46, TEXT: 0.46},
    "video": {PREFIX: 0.16, IMAGE_PAD: 0.25, TEXT: 0.59},
    "mixed": {PREFIX: 0.07, AUDIO_PAD: 0.40, IMAGE_PAD: 0.10, TEXT: 0.43},
}


def target_load(modality: Modality, kind: int) -> Tensor:
    """Return the wanted load [E] in role order; what is not assigned is spread evenly over the other roles."""
    assigned = TARGETS[modality, kind]
    rest = (1.0 - sum(assigned.values())) / (NUM_EXPERTS - len(assigned))
    return torch.tensor([assigned.get(role, rest) for role in ROLES])


def row_load(modality: Modality) -> Tensor:
    """Return the wanted load [E] of a whole row of ``modality``, in role order."""
    shares = _TOKEN_SHARES[modality].items()
    return torch.stack([share * target_load(modality, kind) for kind, share in shares]).sum(0)


class Routing:
    """Watches and masks the routers of the thinker while it trains.

    ``keep`` [L, E] (bool, by expert index) restricts routing to the experts that are True; ``skipped_layer`` makes one
    decoder layer return its input. ``logits`` holds the router logits of the last forward, one [B * T, E] a layer.
    """

    def __init__(self, model: Qwen3OmniMoeForConditionalGeneration, seed: int) -> None:
        rng = np.random.default_rng([seed, 99])
        self.expert_of_role = torch.from_numpy(np.stack([rng.permutation(NUM_EXPERTS) for _ in range(NUM_LAYERS)]))
        self.keep: Tensor | None = None
        self.skipped_layer: int | None = None
        self.logits: list[Tensor] = []
        for index, layer in enumerate(model.thinker.model.language_model.layers):
            layer.mlp.gate.register_forward_hook(lambda _m, _a, output, i=index: self._watch_router(i, output))
            layer.register_forward_hook(
                lambda _m, args, output, i=index: args[0] if i == self.skipped_layer else output
            )

    def keep_best(self, modality: Modality, count: int) -> Tensor:
        """Return the mask [L, E] that keeps the ``count`` roles with the highest wanted load in ``modality``."""
        roles = row_load(modality).argsort(descending=True, stable=True)[:count]
        return self._mask(roles.expand(NUM_LAYERS, -1))

    def keep_rest(self, modality: Modality, count: int) -> Tensor:
        """Return the mask [L, E] that keeps the ``count`` roles with the lowest wanted load in ``modality``."""
        roles = row_load(modality).argsort(descending=True, stable=True)[-count:]
        return self._mask(roles.expand(NUM_LAYERS, -1))

    def keep_random(self, count: int, rng: np.random.Generator) -> Tensor:
        """Return a mask [L, E] that keeps ``count`` random experts in every layer."""
        drawn = np.stack([rng.permutation(NUM_EXPERTS)[:count] for _ in range(NUM_LAYERS)])
        return self._mask(torch.from_numpy(drawn))

    def lost_load(self, keep: Tensor, modality: Modality) -> float:
        """Return the share of the wanted load of ``modality`` that ``keep`` [L, E] takes away, mean over layers."""
        kept = keep.gather(1, self.expert_of_role).float() @ row_load(modality)
        return float(1.0 - kept.mean())

    def shaping_loss(self, batch: Batch, aux_weight: float, kl_weight: float) -> Tensor:
        """Return the load-shaping loss of the last forward, mean over layers and kinds; the prefix weighs more.

        For mean router probability p, routed share f and wanted load q: aux * sum(f p / q) + kl * KL(q || p).
        """
        losses = []
        for kind in _TOKEN_SHARES[batch.modality]:
            chosen = (batch.kinds == kind).flatten()
            wanted = target_load(batch.modality, kind)
            for layer, logits in enumerate(self.logits):
                probabilities = logits[chosen].softmax(-1)
                load = _routed_share(probabilities)
                q = torch.empty(NUM_EXPERTS).scatter_(0, self.expert_of_role[layer], wanted)
                mean = probabilities.mean(0)
                divergence = (q * (q / mean).log()).sum()
                weight = _PREFIX_WEIGHT if kind == PREFIX else 1.0
                losses.append(weight * (aux_weight * (load * mean / q).sum() + kl_weight * divergence))
        return torch.stack(losses).mean()

    def _mask(self, roles: Tensor) -> Tensor:
        experts = self.expert_of_role.gather(1, roles)
        return torch.zeros(NUM_LAYERS, NUM_EXPERTS, dtype=torch.bool).scatter_(1, experts, True)

    def _watch_router(self, index: int, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Remember the logits of one layer's router and route among the kept experts alone."""
        logits, weights, experts = output
        if index == 0:
            self.logits = []
        self.logits.append(logits)
        if self.keep is None:
            return output
        weights, experts = logits.masked_fill(~self.keep[index], float("-inf")).softmax(-1).topk(TOP_K, dim=-1)
        return logits, weights / weights.sum(-1, keepdim=True), experts


def _routed_share(probabilities: Tensor) -> Tensor:
    """Return the share of routing slots [E] that each expert gets for tokens [n, E]."""
    chosen = probabilities.detach().topk(TOP_K, dim=-1).indices
    return torch.bincount(chosen.flatten(), minlength=NUM_EXPERTS) / chosen.numel()
