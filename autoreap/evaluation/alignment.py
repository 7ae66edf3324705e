"""Which words of a reference an output has, and what it has instead: jiwer's alignment, to keep and to show."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import jiwer

from autoreap.data.tasks import asr, asr_characters, base_name
from autoreap.data.tasks.normalise import characters, units

EQUAL, SUBSTITUTED, DELETED, INSERTED = "=", "~", "-", "+"
UNITS = {
    asr.METRIC: units,
    asr_characters.METRIC: characters,
}  # metric -> what its errors are counted in
_KINDS = {"equal": EQUAL, "substitute": SUBSTITUTED, "delete": DELETED, "insert": INSERTED}


@dataclass(frozen=True)
class Edit:
    """A run of words (or characters) of one kind. Substituted, both sides have as many; else one may have none."""

    kind: str
    reference: tuple[str, ...]
    output: tuple[str, ...]

    def as_list(self) -> list[str]:
        """For JSON: the kind, then the text; of a substitution the reference's and the output's."""
        reference, output = " ".join(self.reference), " ".join(self.output)
        if self.kind == SUBSTITUTED:
            return [self.kind, reference, output]
        if self.kind == INSERTED:
            return [self.kind, output]
        return [self.kind, reference]


class Cell(NamedTuple):
    """What one output has at a column: kind of edit and unit, which is that of the reference where it was deleted."""

    kind: str
    unit: str


class Column(NamedTuple):
    """A unit of the reference, None where only outputs have one; and what each output has, None for nothing."""

    reference: str | None
    cells: tuple[Cell | None, ...]


def align(metric: str, reference: str, output: str, language: str | None) -> tuple[Edit, ...] | None:
    """The edits that make `output` of `reference`, both normalised as they are scored; None where no words are counted.

    What they cost was counted by the same call of jiwer: substituted, deleted and inserted units are the errors.

    Example:
        >>> for edit in align("wer", "Turn the radio off!", "turn radio of", "en") or ():
        ...     print(edit.as_list())
        ['=', 'turn']
        ['-', 'the']
        ['=', 'radio']
        ['~', 'off', 'of']
    """
    units_of = UNITS.get(base_name(metric))
    if units_of is None:
        return None
    expected, heard = units_of(reference, language), units_of(output, language)
    chunks = jiwer.process_words(" ".join(expected), " ".join(heard)).alignments[0]
    edits = []
    for chunk in chunks:
        of_reference = tuple(expected[chunk.ref_start_idx : chunk.ref_end_idx])
        of_output = tuple(heard[chunk.hyp_start_idx : chunk.hyp_end_idx])
        edits.append(Edit(_KINDS[chunk.type], of_reference, of_output))
    return tuple(edits)


def columns(alignments: Sequence[Sequence[Edit]]) -> list[Column]:
    """Several outputs of one reference side by side."""
    sides = [_side(edits) for edits in alignments]
    reference: list[str] = []
    for edit in alignments[0]:
        reference += edit.reference
    found = []
    # One position more than the reference has units: something may be inserted behind the last.
    for position in range(len(reference) + 1):
        inserted = [insertions.get(position, []) for _, insertions in sides]
        for cells in zip_longest(*inserted):
            found.append(Column(None, cells))
        if position < len(reference):
            found.append(Column(reference[position], tuple(of_output[position] for of_output, _ in sides)))
    return found


def _side(edits: Sequence[Edit]) -> tuple[list[Cell], dict[int, list[Cell]]]:
    """A cell for each unit of the reference, and what was inserted before the unit of that number."""
    cells: list[Cell] = []
    insertions: dict[int, list[Cell]] = {}
    for edit in edits:
        found = [Cell(edit.kind, unit) for unit in edit.output or edit.reference]
        if edit.kind == INSERTED:
            insertions.setdefault(len(cells), []).extend(found)
        else:
            cells += found
    return cells, insertions
