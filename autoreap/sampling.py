"""Which values are tried: by the sampler, and the presets before it."""

from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import Trial

from autoreap.candidate import Candidate, preset
from autoreap.errors import InputError
from autoreap.plan import ModelShape, edges, pinned_layers
from autoreap.progress import log
from autoreap.space_config import Range, SpaceConfig


def check_cuts(space: SpaceConfig, shape: ModelShape) -> None:
    """Raise `InputError` if a trial could be asked to cut more layers than may be cut: each such trial would fail."""
    fixed = {name: spec for name, spec in space.parameters.items() if not isinstance(spec, Range | tuple)}
    common = Candidate.from_parameters(fixed)
    protect = {"first": common.protect_first, "last": common.protect_last}
    pinned = pinned_layers(shape, strip_vision=common.strip_vision, **protect)
    limits = {"layers_cut": (shape.components["thinker"], pinned)}
    if talker := shape.components.get("talker"):
        limits["talker.layers_cut"] = (talker, edges(talker.num_layers, **protect))
    for name, (decoder, pinned) in limits.items():
        free, most = decoder.num_layers - len(pinned), _most(space.parameters.get(name, 0))
        if most > free:
            raise InputError(
                f"at most {free} of {decoder.num_layers} layers may be cut, got {most:g}",
                where=f"{space.path}: parameters.{name}",
                fix="lower it, or protect fewer with protect_first and protect_last",
            )


def _most(spec: Any) -> float:
    """The highest value that a parameter can take."""
    return float(spec.high if isinstance(spec, Range) else max(spec) if isinstance(spec, tuple) else spec)


def sampler(space: SpaceConfig, num_finished: int) -> BaseSampler:
    """Seeded by the base seed and the trials so far: a resumed search must not repeat the first one's draws."""
    seed = int(np.random.SeedSequence([space.seed, num_finished]).generate_state(1)[0])
    samplers: dict[str, type[BaseSampler]] = {
        "tpe": TPESampler, "random": RandomSampler, "nsgaii": NSGAIISampler, "gp": GPSampler
    }  # fmt: skip
    return samplers[space.sampler](seed=seed)  # type: ignore[call-arg]


def enqueue_presets(study: optuna.Study, space: SpaceConfig, shape: ModelShape) -> None:
    """Have the space's presets tried first, each once; those that lie outside the space are named and left out."""
    num_layers = shape.components["thinker"].num_layers
    for name in space.presets:
        parameters = preset(name, num_layers).parameters()
        searched = {key: spec for key, spec in space.parameters.items() if isinstance(spec, Range)}
        outside = [key for key, spec in searched.items() if not spec.low <= parameters[key] <= spec.high]
        if outside:
            log(f"preset {name} lies outside the space ({outside[0]} {parameters[outside[0]]:g}), not tried")
            continue
        values = {key: parameters[key] for key in searched}
        study.enqueue_trial(values, user_attrs={"preset": name}, skip_if_exists=True)


def suggest(trial: Trial, name: str, spec: Any) -> Any:
    """The value of parameter `name`: sampled where `spec` is a range or a choice, else `spec` itself."""
    if isinstance(spec, Range):
        if all(isinstance(bound, int) for bound in (spec.low, spec.high, spec.step)):
            return trial.suggest_int(name, int(spec.low), int(spec.high), step=int(spec.step or 1))
        return trial.suggest_float(name, spec.low, spec.high, step=spec.step)
    return trial.suggest_categorical(name, spec) if isinstance(spec, tuple) else spec
