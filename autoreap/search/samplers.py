"""Which of Optuna's samplers a space asks for, and whether it can do what the space needs."""

import inspect
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from autoreap.errors import InputError
from autoreap.search.space import SAMPLERS, SpaceConfig

# What Optuna's annotations call the values that a YAML file can give.
_PLAIN_TYPES = {"int": int, "float": (int, float), "bool": bool, "str": str, "None": type(None)}


def make_sampler(space: SpaceConfig, num_trials: int) -> BaseSampler:
    """Seeded by the base seed and the trials so far: a resumed search must not repeat the first one's draws.

    Raises:
        InputError: there is no such sampler, an argument is none of its, or it can't do what the space needs.
    """
    made = _sampler_class(space)
    _check_arguments(space, made)
    if space.sampler == "CmaEsSampler" and (len(space.objectives) > 1 or space.constraints):
        needs = "several objectives" if len(space.objectives) > 1 else "constraints"
        raise _refused(space, f"{space.sampler} can't do {needs}", "use tpe, nsgaii, nsgaiii or gp")
    arguments = dict(space.sampler_arguments)
    # A TPE that models parameters together sees only those which every trial has; with conditions it must model them in
    # groups, or the conditional ones are drawn at random.
    together = arguments.get("multivariate", len(space.objectives) == 1)
    if space.sampler == SAMPLERS["tpe"] and space.conditions and together:
        arguments = {"multivariate": True, "group": True, **arguments}
    # `SeedSequence` mixes both numbers: a seed of their sum would repeat the draws of another base seed.
    seed = int(np.random.SeedSequence([space.seed, num_trials]).generate_state(1)[0])
    try:
        return made(**arguments, seed=seed)  # type: ignore[call-arg]
    except (TypeError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise _refused(space, f"{space.sampler} refuses: {reason}", "change its arguments") from None


def _sampler_class(space: SpaceConfig) -> type[BaseSampler]:
    found = getattr(optuna.samplers, space.sampler, None)
    if not (inspect.isclass(found) and issubclass(found, BaseSampler) and not inspect.isabstract(found)):
        raise _refused(space, f"optuna.samplers has no {space.sampler}", f"use one of {', '.join(SAMPLERS)}")
    # It calls `study.stop`, which is an error outside `Study.optimize`; we ask and tell.
    if found is optuna.samplers.BruteForceSampler:
        raise _refused(space, f"{space.sampler} ends a study by itself", "use random")
    return found


def _check_arguments(space: SpaceConfig, made: type[BaseSampler]) -> None:
    """Every argument is the sampler's own, of a type it takes; all that it needs are there."""
    signature = inspect.signature(made).parameters
    allowed: dict[str, list[Any]] = {}
    for name, parameter in signature.items():
        # Such as of `int | None`.
        kinds = [kind.strip() for kind in str(parameter.annotation).split("|")]
        # The space has a seed of its own, and a file can give plain values only.
        if name != "seed" and set(kinds) <= _PLAIN_TYPES.keys():
            allowed[name] = [_PLAIN_TYPES[kind] for kind in kinds]
    for name, value in space.sampler_arguments.items():
        if name not in allowed:
            raise _refused(space, f"{space.sampler} takes no {name!r}", f"known: {', '.join(allowed)}")
        fits = any(isinstance(value, kind) for kind in allowed[name])
        if isinstance(value, bool):  # in Python True is an integer, too
            fits = bool in allowed[name]
        if not fits:
            raise _refused(space, f"{name} must be {signature[name].annotation}, got {value!r}", "change it")
    # Such as PartialFixedSampler, which wants a sampler to wrap.
    for name, parameter in signature.items():
        if parameter.default is parameter.empty and name not in space.sampler_arguments:
            raise _refused(space, f"{space.sampler} needs {name}, which a file can't give", "use another sampler")


def _refused(space: SpaceConfig, problem: str, fix: str) -> InputError:
    return InputError(problem, where=f"{space.path}: sampler", fix=fix)
