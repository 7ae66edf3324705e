"""The front in characters: where things stand, and that it fits."""

import pytest

from autoreap.terminal.plot import Scene, plot

FRONT = {7: (20e9, 0.5), 2: (30e9, 0.1), 4: (60e9, 0.02)}
BASELINE = (70e9, 0.02)


def scene(points: list[tuple[float, float]], front: dict[int, tuple[float, float]] = FRONT) -> Scene:
    return Scene([*points, *front.values()], front, BASELINE, lambda value: f"{value:.2%}")


def place(lines: list[str], mark: str) -> list[tuple[int, int]]:
    """Row and column of every `mark` right of the axis."""
    cells = [line.partition("|")[2] for line in lines if "|" in line]
    return [(row, column) for row, cells in enumerate(cells) for column, found in enumerate(cells) if found == mark]


def test_the_front_falls_from_the_smallest_to_the_unpruned_model_and_each_point_has_its_number() -> None:
    lines = plot(scene([(50e9, 0.3)]), width=80).splitlines()
    front = place(lines, "O")
    assert front == sorted(front)
    assert [column for _, column in front] == sorted(column for _, column in front)
    assert [lines[row].partition("|")[2][column + 1] for row, column in front[:2]] == ["7", "2"]
    ((row, column),) = place(lines, "B")
    assert (row, column) == (front[-1][0], max(len(line.partition("|")[2]) for line in lines) - 1)
    ((other_row, _),) = place(lines, "+")
    assert front[0][0] < other_row < front[1][0]
    assert "20.00 GB" in lines[-1]
    assert lines[-1].endswith("70.00 GB")


def test_values_are_compared_by_ratio() -> None:
    lines = plot(scene([], {0: (10e9, 0.4), 1: (20e9, 0.2), 2: (30e9, 0.1)}), width=80, height=31).splitlines()
    rows = [row for row, _ in place(lines, "O")]
    assert rows[1] - rows[0] == pytest.approx(rows[2] - rows[1], abs=1)
    assert any(line.startswith(" 5.00% |") for line in lines)


@pytest.mark.parametrize("width", [40, 57, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_the_widest_fills_it(width: int) -> None:
    widths = [len(line) for line in plot(scene([]), width=width).splitlines()]
    assert max(widths) == width


@pytest.mark.parametrize("front", [{}, {3: BASELINE}, {0: (70e9, 0.0)}, {0: (70e9, 0.0), 1: (69e9, 1e9)}])
def test_equal_places_no_front_and_no_errors_are_drawn_too(front: dict[int, tuple[float, float]]) -> None:
    lines = plot(scene([], front), width=60).splitlines()
    assert len(place(lines, "O")) == len(front)
    assert len(lines) == 17


def test_a_perfect_score_of_everything_is_drawn() -> None:
    nothing = Scene([(1e9, 0.0)], {0: (1e9, 0.0)}, (1e9, 0.0), lambda value: f"{value:.2%}")
    assert "O0" in plot(nothing, width=60)
