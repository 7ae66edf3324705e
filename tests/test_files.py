from contextlib import suppress
from pathlib import Path

import pytest

from autoreap.errors import InputError
from autoreap.files import atomic_write


def test_a_file_appears_once_it_is_whole_in_a_folder_that_was_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "plan.json"
    with atomic_write(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("before")
    with suppress(ZeroDivisionError), atomic_write(path) as partial:
        partial.write_text("half")
        partial.write_text(str(1 / 0))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"), atomic_write(tmp_path):
        pass
