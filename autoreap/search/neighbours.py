"""The one-step neighbours of a candidate: what a local search tries once a sampler has found where to look."""

from collections.abc import Iterator, Mapping
from typing import Any

from autoreap.search.parameters import Parameter, Range, can_be
from autoreap.search.space import SpaceConfig

_STEPS_OF_A_SCALE = 16  # of a range without a step of its own


def neighbours(params: Mapping[str, Any], space: SpaceConfig) -> Iterator[dict[str, Any]]:
    """The values of `params` with one parameter moved by one step, each within `space`.

    A range moves by its step, or by a sixteenth of its scale where it has none; a choice to each other choice.
    """
    for name, value in params.items():
        for moved in _next_values(space.parameters.get(name), value):
            yield {**params, name: moved}


def _next_values(spec: Parameter | None, value: Any) -> list[Any]:
    if isinstance(spec, tuple):
        return [choice for choice in spec if choice != value]
    if not isinstance(spec, Range):
        return []  # fixed, or no longer in the space
    is_integer = isinstance(spec.low, int) and isinstance(spec.step, int)
    if spec.log and not is_integer:
        factor = (spec.high / spec.low) ** (1 / _STEPS_OF_A_SCALE)
        moved = [value / factor, value * factor]
    else:
        step = spec.step or (spec.high - spec.low) / _STEPS_OF_A_SCALE
        moved = [value - step, value + step]
    return [each for each in moved if can_be(spec, each)]
