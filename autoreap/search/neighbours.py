"""The one-step neighbours of a candidate: what a local search tries once a sampler has found where to look."""

from collections.abc import Iterator, Mapping
from typing import Any

from autoreap.search.parameters import Parameter, Range, can_be
from autoreap.search.space import SpaceConfig

# Of a range without a step of its own, as shares of its scale. A small change may leave the plan as it is, so the next
# larger one is looked at, too.
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


def directions(params: Mapping[str, Any], space: SpaceConfig) -> Iterator[list[dict[str, Any]]]:
    """Each way in which one parameter of `params` can move: the values along it within `space`, the nearest first.

    A range moves up and down, by its step; a choice moves to each other choice.
    """
    for name, value in params.items():
        for moved in _moves(space.parameters.get(name), value):
            yield [{**params, name: each} for each in moved]


def _moves(spec: Parameter | None, value: Any) -> list[list[Any]]:
    if isinstance(spec, tuple):
        return [[choice] for choice in spec if choice != value]
    if not isinstance(spec, Range):
        return []  # fixed, or no longer in the space
    if spec.step is not None:
        ways = [[value - spec.step], [value + spec.step]]
    elif spec.log:
        factors = [(spec.high / spec.low) ** share for share in _SHARES]
        ways = [[value / factor for factor in factors], [value * factor for factor in factors]]
    else:
        steps = [(spec.high - spec.low) * share for share in _SHARES]
        ways = [[value - step for step in steps], [value + step for step in steps]]
    return [[each for each in way if can_be(spec, each)] for way in ways]
