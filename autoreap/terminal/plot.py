"""A picture in characters: size against a metric, for a terminal or a log. No colour: it reads the same in both.

`O` is a point of the front with its trial's number, `+` another trial, `B` the unpruned model, whose level dashes mark.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from autoreap.wording import size_text

_TICKS = (1, 2, 5)  # of each power of ten
_MIN_COLUMNS = 20
Place = tuple[float, float]  # size in bytes, value of the metric
Canvas = list[list[str]]


@dataclass(frozen=True)
class Scene:
    """What there is to see.

    Attributes:
        points: every trial.
        front: those of the front by trial number, smallest first.
        baseline: the unpruned model.
        label: of a value, such as 5.00%.
    """

    points: Sequence[Place]
    front: Mapping[int, Place]
    baseline: Place
    label: Callable[[float], str]


def plot(scene: Scene, *, width: int, height: int = 15) -> str:
    """The picture in lines of at most `width` columns, but for a terminal too narrow for any; values on a log scale."""
    places = [*scene.points, *scene.front.values(), scene.baseline]
    floor = min((value for _, value in places if value > 0), default=1.0) / 2  # where zero errors are drawn
    levels = [math.log(max(value, floor)) for _, value in places]
    sizes = [size for size, _ in places]
    ticks = _ticks(min(levels), max(levels), height, scene.label)
    margin = max(map(len, ticks.values()), default=0)
    columns = max(width - margin - 2, _MIN_COLUMNS)

    def cell(place: Place) -> tuple[int, int]:
        return (
            _row(math.log(max(place[1], floor)), min(levels), max(levels), height),
            _scaled(place[0], min(sizes), max(sizes), columns),
        )

    canvas = [[" "] * columns for _ in range(height)]
    base_row, base_column = cell(scene.baseline)
    canvas[base_row] = ["-" if column % 2 else " " for column in range(columns)]
    front = [cell(place) for place in scene.front.values()]
    for start, end in pairwise(front):
        _join(canvas, start, end)
    for row, column in map(cell, scene.points):
        canvas[row][column] = "+"
    canvas[base_row][base_column] = "B"
    for row, column in front:
        canvas[row][column] = "O"
    for number, (row, column) in zip(scene.front, front, strict=True):
        _name(canvas, str(number), row, column)
    lines = [f"{ticks.get(row, ''):>{margin}} |{''.join(cells)}".rstrip() for row, cells in enumerate(canvas)]
    least, most = size_text(min(sizes)), size_text(max(sizes))
    axis = least + most.rjust(columns - len(least))
    return "\n".join([*lines, f"{'':>{margin}} +{'-' * columns}", f"{'':>{margin}}  {axis}"])


def _scaled(value: float, low: float, high: float, cells: int) -> int:
    """Which of `cells` holds `value`; the middle one where all values are equal."""
    return round((value - low) / (high - low) * (cells - 1)) if high > low else (cells - 1) // 2


def _row(level: float, low: float, high: float, height: int) -> int:
    return height - 1 - _scaled(level, low, high, height)


def _ticks(low: float, high: float, height: int, label: Callable[[float], str]) -> dict[int, str]:
    """Labels by row, of logarithms from `low` to `high`: round values, or the lowest where there is none."""
    powers = range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)) + 1)
    round_values = [step * 10.0**power for power in powers for step in _TICKS]
    inside = [value for value in round_values if low <= math.log(value) <= high] or [math.exp(low)]
    return {_row(math.log(value), low, high, height): label(value) for value in inside}


def _join(canvas: Canvas, start: tuple[int, int], end: tuple[int, int]) -> None:
    """A straight line of dots between two cells."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    for step in range(1, steps):
        row, column = (round(a + (b - a) * step / steps) for a, b in zip(start, end, strict=True))
        canvas[row][column] = "."


def _name(canvas: Canvas, text: str, row: int, column: int) -> None:
    """`text` to the right of a cell, if nothing but lines would be hidden; the table has every number."""
    free = canvas[row][column + 1 : column + 2 + len(text)]
    if len(free) == len(text) + 1 and not {*free} & {*"O+B0123456789"}:
        canvas[row][column + 1 : column + 1 + len(text)] = text
