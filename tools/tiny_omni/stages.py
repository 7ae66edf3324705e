"""What one training step computes, in its two forms.

``learn_tasks`` teaches the tasks, with help that is thrown away (CTC, image classes) and a curriculum.
``make_experts_matter`` removes experts, and asks for an unchanged answer where the roles left are enough, and for one
that is worse by as much as is missing where they are not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from transformers import Qwen3OmniMoeForConditionalGeneration

from tools.tiny_omni.batches import Batch
from tools.tiny_omni.config import NUM_EXPERTS
from tools.tiny_omni.examples import ExampleStream
from tools.tiny_omni.losses import TrainingHeads, answer_loss, damage_loss
from tools.tiny_omni.routing import Routing
from tools.tiny_omni.tasks import Modality

_AUX_WEIGHT, _KL_WEIGHT = 0.02, 0.05
_SMALLEST_SUFFICIENT: dict[Modality, int] = {"audio": 6, "video": 6, "mixed": 10}


@dataclass(frozen=True)
class Trainee:
    """What a step works on."""

    model: Qwen3OmniMoeForConditionalGeneration
    heads: TrainingHeads
    routing: Routing
    stream: ExampleStream
    rng: np.random.Generator


def learn_tasks(trainee: Trainee, step: int, progress: float) -> Iterator[tuple[str, Tensor]]:
    """Yield the named losses of one step; ``progress`` runs from 0 to 1."""
    max_words = 2 if progress < 0.10 else 5
    question_share = 0.0 if progress < 0.25 else 0.4
    batch = trainee.stream.audio(24, max_words, question_share)
    ctc_weight = 0.5 * min(1.0, max(0.0, (0.8 - progress) / 0.5))
    loss = answer_loss(trainee.model, batch)
    yield "audio", loss + ctc_weight * trainee.heads.ctc_loss(batch) + _shaping(trainee, batch)
    if step % 3 == 0:
        batch = trainee.stream.video(24)
        loss = answer_loss(trainee.model, batch)
        yield "video", loss + 0.5 * trainee.heads.image_loss(batch) + _shaping(trainee, batch)
    if step % 3 == 1 and progress > 0.2:
        batch = trainee.stream.mixed(12, 5)
        loss = answer_loss(trainee.model, batch)
        yield "mixed", loss + 0.2 * trainee.heads.image_loss(batch) + _shaping(trainee, batch)


def make_experts_matter(trainee: Trainee, step: int, progress: float) -> Iterator[tuple[str, Tensor]]:
    """Yield the named losses of one step: every step has speech, every third images and every third both."""
    yield _with_damage(trainee, trainee.stream.audio(24, 5, 0.4))
    if step % 3 == 0:
        yield _with_damage(trainee, trainee.stream.video(24))
    if step % 3 == 1:
        yield _with_damage(trainee, trainee.stream.mixed(16, 5))


def _with_damage(trainee: Trainee, batch: Batch) -> tuple[str, Tensor]:
    """Return the loss of ``batch`` with all experts, with enough of them, or with too few (ablation contrast)."""
    draw, rng, routing = trainee.rng.random(), trainee.rng, trainee.routing
    try:
        if draw < 0.35:
            routing.skipped_layer = int(rng.integers(2, 6)) if rng.random() < 0.3 else None
        elif draw < 0.70:
            routing.keep = _enough(routing, batch.modality, rng)
        else:
            routing.keep = keep = _damage(routing, batch.modality, rng)
            loss = damage_loss(answer_loss(trainee.model, batch), routing.lost_load(keep, batch.modality))
            return f"{batch.modality}-damaged", 0.4 * loss
        return batch.modality, answer_loss(trainee.model, batch) + _shaping(trainee, batch)
    finally:
        routing.keep, routing.skipped_layer = None, None


def _enough(routing: Routing, modality: Modality, rng: np.random.Generator) -> Tensor:
    """Return a mask that keeps the roles ``modality`` needs, and some or none of the others (nested dropout)."""
    smallest = _SMALLEST_SUFFICIENT[modality]
    best = routing.keep_best(modality, smallest if rng.random() < 0.4 else int(rng.integers(smallest, NUM_EXPERTS + 1)))
    return best | routing.keep_random(int(rng.integers(1, 5)), rng) if rng.random() < 0.5 else best


def _damage(routing: Routing, modality: Modality, rng: np.random.Generator) -> Tensor:
    """Return a mask that lacks what matters: random experts, the least wanted roles, or too few of the best."""
    draw = rng.random()
    if draw < 0.5:
        return routing.keep_random(int(rng.integers(4, 13)), rng)
    if draw < 0.75:
        return routing.keep_rest(modality, int(rng.integers(4, 15)))
    return routing.keep_best(modality, int(rng.integers(3, _SMALLEST_SUFFICIENT[modality])))


def _shaping(trainee: Trainee, batch: Batch) -> Tensor:
    if trainee.routing.keep is not None:
        return batch.labels.new_zeros((), dtype=trainee.routing.logits[0].dtype)
    return trainee.routing.shaping_loss(batch, _AUX_WEIGHT, _KL_WEIGHT)
