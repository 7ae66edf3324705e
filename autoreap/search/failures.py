"""When trials that fail end a search.

A fault of the program repeats itself; a candidate that does not fit is one of many.
"""

from autoreap.errors import AutoreapError

# What candidates fail of: no memory, or nothing to score. The sampler moves on; a night of them is still a mistake.
EXPECTED = ("OutOfMemoryError", "MemoryError", "ScoringError")
MOST_EXPECTED, MOST_UNEXPECTED = 12, 3


class RepeatedFailureError(AutoreapError):
    """Trials fail in a row, all of one kind."""


class FailuresInARow:
    """Counts failures of one kind, the name of their exception, with no other trial between them."""

    def __init__(self) -> None:
        self._kind = ""
        self._count = 0

    def note(self, error: str | None) -> None:
        """Count one trial. `error` is how it failed, as `Kind: message`; None if it did not.

        Raises:
            RepeatedFailureError: 3 of one kind in a row; 12 where it is among `EXPECTED`.
        """
        kind = (error or "").partition(":")[0]
        if kind != self._kind:
            self._kind, self._count = kind, 0
        self._count += 1
        most = MOST_EXPECTED if kind in EXPECTED else MOST_UNEXPECTED
        if kind and self._count == most:
            raise RepeatedFailureError(f"{self._count} trials failed in a row; the last: {error}")
