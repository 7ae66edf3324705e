"""What other libraries raise is told in one line."""

import pytest

from autoreap.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\nno such tokenizer\nsee the manual"), "no such tokenizer"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("\n"), "ValueError"),
    ],
)
def test_of_an_error_its_first_line_is_told_and_its_kind_where_it_says_nothing(error: Exception, line: str) -> None:
    assert first_line(error) == line
