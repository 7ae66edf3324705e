"""The failures autoreap reports to its user. Each message says what is wrong, where, and how to fix it."""

import re
from collections.abc import Iterable
from typing import Any

_MAX_VALUE = 200  # characters of a value in a message
_MAX_LINE = 1000
_MAX_LINES = 50
# What moves the cursor, colours, hides, turns the direction of writing or is half a character; tab and line feed stay.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, as_json: bool = False) -> str:
    """`text` with escapes such as \\x1b for control characters: files, names and keys may hold anything."""

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        if code < 0x100 and not as_json:  # JSON knows no \x
            return f"\\x{code:02x}"
        return f"\\u{code:04x}"

    return _CONTROL.sub(escape, text)


def shown(value: Any) -> str:
    """A value in a message: as Python prints it, cut at a length that can be read."""
    text = printable(repr(value))
    if len(text) > _MAX_VALUE:
        text = f"{text[:_MAX_VALUE]}..."
    return text


def one_line(text: str) -> str:
    """`text` as one line that can be printed, its middle left out where it is too long to read."""
    # Printable first: an escape takes more room than its character.
    text = printable(text.strip().replace("\n", " "))
    if len(text) > _MAX_LINE:
        text = f"{text[: _MAX_LINE // 2]} ... {text[-_MAX_LINE // 2 :]}"
    return text


def first_line(error: BaseException) -> str:
    """What another library's `error` says, as far as its first line; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0]


class AutoreapError(Exception):
    """A failure in the work itself; the command exits with `exit_code` and prints the message without a traceback."""

    exit_code = 1


class InputError(AutoreapError):
    """The user's input can't be used as it is.

    Args:
        problem: the rule that must hold and the value received.
        where: the file, line, key or option that the user should look at.
        fix: what to do about it.
    """

    exit_code = 2

    def __init__(self, problem: str, *, where: object = None, fix: str | None = None) -> None:
        self.problem = problem
        self.where = where
        text = problem
        if where is not None:
            text = f"{where}: {text}"
        if fix:
            text += f" ({fix})"
        super().__init__(one_line(text))

    @classmethod
    def of_lines(cls, mistakes: Iterable[str]) -> "InputError":
        """Of several mistakes, a line for each; of very many the first ones."""
        lines = [one_line(mistake) for mistake in mistakes]
        error = cls("\n".join(lines))
        if len(lines) > _MAX_LINES:
            lines[_MAX_LINES:] = [f"and {len(lines) - _MAX_LINES:,} more mistakes"]
        # Set here, since the constructor makes one line of what it is given.
        error.args = ("\n".join(lines),)
        return error


class MediaError(InputError):
    """A recording, image or video can't be decoded. Calibration may leave its row out; all else stops at it."""


class HealingError(AutoreapError):
    """Retained weights can't be fitted to what the unpruned model computes."""


class SilenceError(InputError):
    """A row was answered with no word, or with no sound. Calibration may leave it out."""


class UnhealthyError(AutoreapError):
    """Something that the package needs is broken on this machine."""


class ScoringError(AutoreapError):
    """A candidate could not be scored: nothing was scored, or its numbers are not finite."""


class DeviceLostError(AutoreapError):
    """The device fails from now on at whatever this process asks of it; a new process may go on."""


class VerificationError(AutoreapError):
    """What was written is not what was planned; nothing was published."""
