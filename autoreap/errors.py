"""The failures autoreap reports to its user. Each message says what is wrong, where, and how to fix it."""


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
        location = f"{where}: " if where is not None else ""
        remedy = f" ({fix})" if fix else ""
        super().__init__(f"{location}{problem}{remedy}")


class MediaError(InputError):
    """A recording, image or video can't be decoded. Calibration may leave its row out; all else stops at it."""


class SilenceError(InputError):
    """A row was answered with no word, or with no sound. Calibration may leave it out."""


class UnhealthyError(AutoreapError):
    """Something that the package needs is broken on this machine."""


class ScoringError(AutoreapError):
    """A candidate could not be scored: nothing was scored, or its numbers are not finite."""


class VerificationError(AutoreapError):
    """What was written is not what was planned; nothing was published."""
