"""Small files that would become gigabytes, hang or end in a traceback are refused in one line."""

import os
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from autoreap.data.yaml_file import read_yaml
from autoreap.errors import InputError, printable
from autoreap.reading import lines_of
from autoreap.validation import read_json, read_jsonl, read_lines

HUGE = {
    "brackets": ("[" * 100_000, "nested too deeply"),
    "deep": ("[" * 150 + "]" * 150, "nested deeper than 100 levels"),
    "digits": ("1" * 5000, "an integer of 5,000 digits is too large"),
    "power": ("1" + "0" * 400, "an integer of 401 digits is too large"),
    "float": ("1e999", "the number 1e999 is too large"),
    "nan": ("NaN", "NaN is no number"),
    "twice": ('{"a": 1, "a": 2}', "key 'a' is there twice"),
    "surrogate": ('"a\\ud800"', "half a character"),
    "null byte": ("\0", "Expecting value"),
}


@pytest.mark.parametrize("name", HUGE)
def test_json_that_grows_out_of_bounds_is_refused(name: str, tmp_path: Path) -> None:
    text, problem = HUGE[name]
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}.*{problem}"):
        read_json(path)


@pytest.mark.parametrize("name", ["brackets", "deep", "digits", "power", "twice", "surrogate"])
def test_a_row_that_grows_out_of_bounds_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    text, problem = HUGE[name]
    path = tmp_path / "a.jsonl"
    row = text if text.startswith("{") else f'{{"a": {text}}}'
    path.write_text(f'{{"a": 1}}\n{row}\n')
    with pytest.raises(InputError, match=f"^{path}:2.*{problem}"):
        list(read_jsonl(path))


def test_long_files_and_lines_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(InputError, match="longer than 25 MB"):
        read_json(path)
    with pytest.raises(InputError, match=r"longer than 0\.5 MB"):
        read_yaml(path)
    with pytest.raises(InputError, match=r"a\.json:1: the line is longer than 10 MB"):
        list(lines_of(path))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("", "pipe", "n" * 300, "null\0byte", "file/below"):
        (tmp_path / "file").touch()
        path = tmp_path / name
        for read in (read_json, read_yaml, lambda path: list(read_lines(path, TypeAdapter(int), fix=""))):
            if name == "pipe" and read not in (read_json, read_yaml):
                continue  # it is empty
            with pytest.raises(InputError):
                read(path)


def test_aliases_that_explode_are_refused_with_their_line(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for number in range(1, 12):
        lines.append(f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]")
    path = tmp_path / "a.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=rf"^{path}:1: .* more than 50,000 values"):
        read_yaml(path)
    merged = ["a0: &a0 {x: 1}"]
    for number in range(1, 40):
        merged.append(f"a{number}: &a{number} {{<<: [*a{number - 1}, *a{number - 1}]}}")
    path.write_text("\n".join(merged))
    with pytest.raises(InputError, match=r"more than 50,000 values|nested too deeply"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("1" * 5000, "can't be read as int"),
        ("1" + "0" * 400, "an integer of 401 digits is too large"),
        ("0x" + "f" * 5000, "an integer of 5,002 digits is too large"),
        ("!!timestamp x", "can't be read as timestamp"),
        ("!!bool x", "can't be read as bool"),
        ("!!int ''", "can't be read as int"),
        ("1:" * 400 + "1.5", "can't be read as float"),
        ("[" * 100_000, "nested too deeply"),
        ('"\0"', "not YAML"),
    ],
)
def test_values_that_no_setting_has_are_refused_with_their_line(value: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"a: 1\nb: {value}\n")
    with pytest.raises(InputError, match=f"^{path}.*{problem}") as caught:
        read_yaml(path)
    assert len(str(caught.value)) < 1200


def test_messages_hold_no_control_characters_and_end_somewhere() -> None:
    error = InputError("a\x1b[2J\nb\u202e", where="\x07" + "n" * 5000, fix="c\udcff")
    assert str(error).startswith("\\x07nnn")
    assert str(error).endswith("a\\x1b[2J b\\u202e (c\\udcff)")
    assert len(str(error)) < 1100
    assert printable("中文\u200d\té\n") == "中文\u200d\té\n"
