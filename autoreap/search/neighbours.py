"""The one-step neighbours of a candidate: what a local search tries once a sampler has found where to look."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FixedTrial

from autoreap.errors import AutoreapError
from autoreap.search.candidates import Planner
from autoreap.search.parameters import Parameter, Range, can_be
from autoreap.search.records import TrialRecord
from autoreap.search.sampling import HEALING, RANKING, sample
from autoreap.search.space import SpaceConfig

# Of a range without a step of its own, as shares of its scale. A small change may leave the plan as it is, so the next
# larger one is looked at, too.
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
_NUM_RANKINGS = 20  # a plan of the 30B model takes a tenth of a second


@dataclass(frozen=True)
class Neighbour:
    """A candidate one step from the trial `origin`."""

    params: dict[str, Any]
    origin: int
    digest: str
    size_bytes: int


class Neighbourhood:
    """The neighbours of the candidates of one space; each is planned once."""

    def __init__(self, space: SpaceConfig, planner: Planner) -> None:
        self._space = space
        self._planner = planner
        self._known: dict[tuple[tuple[str, Any], ...], Neighbour | None] = {}  # by parameters

    def of(self, point: TrialRecord) -> Iterator[Neighbour]:
        """In each direction the nearest one that is another plan."""
        for way in directions(point.params, self._space):
            for params in way:
                neighbour = self._plan(params, point.number)
                # Other values may round to the same experts and layers: then the next step is looked at.
                if neighbour is not None and neighbour.digest != point.plan_digest:
                    yield neighbour
                    break

    def around(self, point: TrialRecord, limit: float, trials: Sequence[TrialRecord]) -> Iterator[Neighbour]:
        """Where there may be something smaller than `limit` bytes that is as good as `point`, and what may be better.

        First come the smaller neighbours as they are, the largest first. Experts are ranked and healed independently of
        each other, so each is crossed with what `trials` tried, the best first: the point is healed by the other
        methods, as what is best at its size is likely to be so where it is smaller; each smaller one is healed and
        ranked otherwise; last the point is ranked otherwise. In between comes the next larger neighbour, which is
        needed where the report split refutes the point.
        """
        neighbours = sorted(self.of(point), key=lambda neighbour: neighbour.size_bytes)
        larger = [neighbour for neighbour in neighbours if neighbour.size_bytes > point.size_bytes]
        limit = min(limit, point.size_bytes)
        smaller = [neighbour for neighbour in reversed(neighbours) if neighbour.size_bytes < limit]
        healings, rankings = _distinct_healings(point, trials), _distinct_rankings(trials)
        # What may be smaller and as good comes first: it is what would ship.
        yield from smaller
        yield from self._crossed(point.params, HEALING, healings, point)
        yield from larger[:1]
        for neighbour in smaller:
            yield from self._crossed(neighbour.params, HEALING, healings, point)
            yield from self._crossed(neighbour.params, RANKING, rankings, point)
        yield from self._crossed(point.params, RANKING, rankings, point)

    def _crossed(
        self, params: Mapping[str, Any], names: Sequence[str], others: Sequence[dict[str, Any]], point: TrialRecord
    ) -> Iterator[Neighbour]:
        """`params` with each of `others` in the place of those called `names`."""
        # A healing or a ranking is taken whole: parameters of one belong together.
        rest = {name: value for name, value in params.items() if name not in names}
        for other in others:
            crossed = self._plan({**rest, **other}, point.number)
            if crossed is not None:
                yield crossed

    def _plan(self, params: dict[str, Any], origin: int) -> Neighbour | None:
        """None where `params` stand for no plan."""
        # Sorted, so that values in another order are the same plan.
        key = tuple(sorted(params.items()))
        if key not in self._known:
            try:
                planned = self._planner.plan(sample(FixedTrial(params), self._space, self._planner.shape))
                self._known[key] = Neighbour(params, origin, planned.digest, planned.size_bytes)
            except (AutoreapError, ValueError):  # such as a parameter that is needed only with this value of another
                self._known[key] = None
        return self._known[key]


def _distinct_rankings(trials: Iterable[TrialRecord]) -> list[dict[str, Any]]:
    """The parameters that rank experts, of the first trials that differ in them."""
    rankings: list[dict[str, Any]] = []
    for trial in trials:
        ranking = {name: value for name, value in trial.params.items() if name in RANKING}
        if ranking and ranking not in rankings:
            rankings.append(ranking)
        if len(rankings) == _NUM_RANKINGS:
            break
    return rankings


def _distinct_healings(point: TrialRecord, trials: Iterable[TrialRecord]) -> list[dict[str, Any]]:
    """The parameters that say how to heal, of the scored trial of each method that is nearest to `point` in size.

    How strong the penalty should be depends on how much is lost.
    """
    healings: dict[str, dict[str, Any]] = {}
    # Equals stay in order.
    for trial in sorted(trials, key=lambda trial: abs(trial.size_bytes - point.size_bytes)):
        if trial.is_scored and "heal" in trial.params:
            healing = {name: value for name, value in trial.params.items() if name in HEALING}
            healings.setdefault(trial.params["heal"], healing)
    return list(healings.values())


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
    down, up = [], []
    if spec.step is not None:
        down.append(value - spec.step)
        up.append(value + spec.step)
    elif spec.log:
        for share in _SHARES:  # of the scale, so of the logarithm
            factor = (spec.high / spec.low) ** share
            down.append(value / factor)
            up.append(value * factor)
    else:
        for share in _SHARES:
            step = (spec.high - spec.low) * share
            down.append(value - step)
            up.append(value + step)
    inside = []
    for way in (down, up):
        inside.append([moved for moved in way if can_be(spec, moved)])
    return inside
