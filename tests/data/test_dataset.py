import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from builders import as_jsonl, wav_bytes
from hypothesis import given
from hypothesis import strategies as st
from pages import ROOT

from autoreap.data.columns import Constant
from autoreap.data.dataset import STREAMED_FOR_ONE, read_dataset
from autoreap.data.draws import draw_in_blocks, draw_rows
from autoreap.data.eval_set import EvalTask, open_evals
from autoreap.data.evals_config import TaskConfig
from autoreap.data.samples import Sample, digest, load_audio
from autoreap.data.tasks import asr
from autoreap.errors import InputError
from autoreap.scores import Counts
from autoreap.writing.behaviour import write_utterances

pytestmark = pytest.mark.usefixtures("offline")

REQUIRED = ("audio", "text")
TINY = ROOT / "evals" / "tiny.yaml"


def recording(number: int) -> dict[str, Any]:
    return {"bytes": wav_bytes(1600 + number), "path": f"{number}.wav"}


def row(number: int, **values: Any) -> dict[str, Any]:
    return {"id": f"u{number}", "audio": recording(number), "text": f"word {number}", "language": "en", **values}


def write(folder: Path, rows: list[dict[str, Any]], audio_column: str | None = None) -> None:
    """`folder` as the hub stores a data set: parquet; with `audio_column` as an Audio feature."""
    table = datasets.Dataset.from_list(rows)
    if audio_column:
        table = table.cast_column(audio_column, datasets.Audio())
    folder.mkdir()
    table.to_parquet(str(folder / "test-00000-of-00001.parquet"))


def task(**values: Any) -> TaskConfig:
    return TaskConfig(**{"task": "asr", "label": "", "dataset_path": "set", **values})


@pytest.mark.parametrize("audio_column", [None, "audio"], ids=["bytes and path", "Audio feature"])
def test_a_folder_of_parquet_is_read_with_audio_left_encoded(audio_column: str | None, tmp_path: Path) -> None:
    write(tmp_path / "set", [row(number) for number in range(3)], audio_column)
    samples = read_dataset(task(), tmp_path, REQUIRED)
    assert samples == [
        Sample(
            id=f"u{number}", where=f"set [test] row {number}", audio=recording(number)["bytes"],
            text=f"word {number}", language="en",
        )
        for number in range(3)
    ]  # fmt: skip
    assert [len(load_audio(sample)) for sample in samples] == [1600, 1601, 1602]


def test_a_parquet_file_is_read_as_it_is_with_its_columns_mapped(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"clip": recording(0), "text": "hello"}]).to_parquet(tmp_path / "one.parquet")
    (sample,) = read_dataset(task(dataset_path="one.parquet", columns={"audio": "clip"}), tmp_path, REQUIRED)
    where = f"{tmp_path}/one.parquet row 0"
    assert sample == Sample(id="0", where=where, audio=recording(0)["bytes"], text="hello")


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("name", ["asr_search", "qa_search", "mixed_report"])
def test_parquet_and_jsonl_of_the_same_rows_are_the_same_data(name: str, limit: int | None) -> None:
    config = task(task="audio_qa", dataset_path=f"{name}.parquet", limit=limit)
    packed = read_dataset(config, ROOT / "evals" / "tiny", ("audio",))
    listed = read_dataset(replace(config, dataset_path=f"{name}.jsonl"), as_jsonl("evals/tiny"), ("audio",))
    assert [sample.id for sample in packed] == [sample.id for sample in listed]
    assert digest(packed) == digest(listed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"RIFF....", r"data set can't be loaded: .*\(make it a Parquet file\)"),
        (b"", r"data set can't be loaded: .*\(make it a Parquet file\)"),
    ],
)
def test_a_parquet_file_that_is_none_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        read_dataset(task(dataset_path="set.parquet"), tmp_path, REQUIRED)


def test_a_parquet_file_needs_no_home_that_can_be_written() -> None:
    program = """
        from pathlib import Path
        from autoreap.data.evals_config import load_evals
        from autoreap.data.eval_set import open_evals
        print(open_evals(Path("evals/tiny.yaml")).search.digest)
    """
    environment = {**os.environ, "HOME": "/proc/nowhere", "HF_HOME": "/proc/nowhere", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{open_evals(TINY).search.digest}\n", "")


def test_columns_of_other_names_are_mapped(tmp_path: Path) -> None:
    rows = [{"speech": recording(0), "sentence": "hello", "text": "not this", "options": ["cat", "dog"], "key": 1}]
    write(tmp_path / "set", rows, "speech")
    columns = {"audio": "speech", "text": "sentence", "choices": "options", "answer": "key"}
    (sample,) = read_dataset(task(columns=columns), tmp_path, REQUIRED)
    assert (sample.id, sample.text, sample.choices, sample.answer) == ("0", "hello", ("cat", "dog"), "dog")
    assert sample.audio == recording(0)["bytes"]


def test_audio_stored_as_a_path_is_read_from_there(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav_bytes(500))
    write(tmp_path / "set", [row(0, audio={"bytes": None, "path": str(tmp_path / "a.wav")})])
    (sample,) = read_dataset(task(), tmp_path, REQUIRED)
    assert len(load_audio(sample)) == 500


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 2), (9, 3), (None, 3)])
def test_the_limit_draws_the_same_rows_of_either_form_in_their_order(
    limit: int | None, expected: int, tmp_path: Path
) -> None:
    write(tmp_path / "set", [row(number) for number in range(3)])
    (tmp_path / "set.jsonl").write_text("".join(f'{{"id": "u{n}", "text": "x"}}\n' for n in range(3)))
    chosen = [
        [sample.id for sample in read_dataset(task(dataset_path=path, limit=limit), tmp_path, required)]
        for path, required in (("set", REQUIRED), ("set.jsonl", ("text",)))
    ]
    assert chosen[0] == chosen[1] == sorted(set(chosen[0]))
    assert len(chosen[0]) == expected


@given(num_rows=st.integers(0, 300), limit=st.integers(1, 100), more=st.integers(0, 50))
def test_rows_are_drawn_once_in_order_and_a_higher_limit_keeps_them(num_rows: int, limit: int, more: int) -> None:
    rows = [f"row {number}" for number in range(num_rows)]
    chosen = draw_rows(rows, limit)
    assert len(chosen) == min(limit, num_rows)
    assert chosen == sorted(chosen)
    assert all(rows[number] == row for number, row in chosen)
    assert set(chosen) <= set(draw_rows(rows, limit + more))


def test_rows_are_drawn_from_every_speaker_of_a_set_that_is_ordered_by_them() -> None:
    speakers = [number // 90 for number in range(2864)]  # as LibriSpeech's validation data
    counts = Counter(speaker for _, speaker in draw_rows(speakers, 500))
    assert counts.keys() == set(speakers)
    assert max(counts.values()) < 2 * 500 / len(counts)


@given(num_rows=st.integers(0, 1500), limit=st.integers(1, 400), more=st.integers(0, 200))
def test_rows_drawn_in_blocks_are_drawn_once_in_order_and_a_higher_limit_keeps_them(
    num_rows: int, limit: int, more: int
) -> None:
    chosen = draw_in_blocks(num_rows, limit)
    assert len(chosen) == min(limit, num_rows)
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(draw_in_blocks(num_rows, limit + more)) <= set(range(num_rows))


@pytest.mark.parametrize(("num_rows", "limit", "num_blocks"), [(14_326, 1000, 40), (2864, 500, 20), (2864, 2864, 29)])
def test_rows_drawn_in_blocks_lie_in_few_of_them(num_rows: int, limit: int, num_blocks: int) -> None:
    blocks = Counter(number // 100 for number in draw_in_blocks(num_rows, limit))
    assert num_blocks <= len(blocks) <= num_blocks + 1  # the last block of a set is a short one
    assert min(blocks) < num_rows / 100 / 5
    assert max(blocks) > num_rows / 100 * 4 / 5


def test_a_set_of_one_block_is_drawn_from_as_any_other() -> None:
    assert draw_in_blocks(100, 30) == [number for number, _ in draw_rows(range(100), 30)]


def test_of_a_set_that_is_not_parquet_not_all_rows_are_streamed(tmp_path: Path) -> None:
    num_rows = 5 * STREAMED_FOR_ONE
    (tmp_path / "set").mkdir()
    write_lines(tmp_path / "set" / "test.jsonl", [{"id": f"u{number}", "text": "x"} for number in range(num_rows)])
    (sample,) = read_dataset(task(limit=1), tmp_path, ("text",))
    number, _ = draw_rows(range(STREAMED_FOR_ONE), 1)[0]
    assert (sample.id, sample.where) == (f"u{number}", f"set [test] row {number}")
    assert draw_rows(range(num_rows), 1)[0][0] >= STREAMED_FOR_ONE  # of all rows it would be another one


def test_images_videos_and_frames_are_left_encoded(tmp_path: Path) -> None:
    picture = {"bytes": b"a picture", "path": "0.png"}
    table = datasets.Dataset.from_list([{"image": picture, "clip": {"bytes": b"a film", "path": "0.mp4"}}])
    (tmp_path / "set").mkdir()
    typed = table.cast_column("image", datasets.Image()).cast_column("clip", datasets.Video())
    typed.to_parquet(str(tmp_path / "set" / "test-00000-of-00001.parquet"))
    (sample,) = read_dataset(task(columns={"video": "clip"}), tmp_path, ())
    assert (sample.image, sample.video) == (b"a picture", b"a film")
    write(tmp_path / "frames", [{"video": [picture, {"bytes": b"another", "path": None}]}])
    (sample,) = read_dataset(task(dataset_path="frames", limit=1), tmp_path, ())
    assert sample.video == (b"a picture", b"another")


def test_media_stored_as_a_path_to_nothing_are_refused_with_their_row(tmp_path: Path) -> None:
    write(tmp_path / "set", [row(0), row(1, audio={"bytes": None, "path": str(tmp_path / "gone.wav")})])
    with pytest.raises(InputError, match=r"set \[test\] row 1: no such media file: .*gone\.wav"):
        read_dataset(task(), tmp_path, REQUIRED)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"language": "tongue"}, r"has no column 'tongue'; it has id, audio, text, language"),
        ({"sentence": "text"}, r"columns: unknown key 'sentence'; known: id, audio, .*our key comes first"),
    ],
)
def test_a_mapping_that_maps_nothing_is_refused(
    columns: dict[str, str], message: str, limit: int | None, tmp_path: Path
) -> None:
    write(tmp_path / "set", [row(0)])
    with pytest.raises(InputError, match=rf"^set \[test\]: {message}"):
        read_dataset(task(columns=columns, limit=limit), tmp_path, REQUIRED)


def test_a_required_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    write(tmp_path / "set", [row(0)])
    with pytest.raises(InputError, match=r"set \[test\]: has no column 'sentence'; it has id, audio, text, language"):
        read_dataset(task(columns={"text": "sentence"}), tmp_path, REQUIRED)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"dataset_path": "org/name"}, r"org/name \[test\]"),
        ({"dataset_path": "org/name", "dataset_name": "en"}, r"org/name en\[test\]"),
        ({"dataset_name": "en"}, r"set en\[test\]"),
        ({"dataset_path": "nothing"}, r"nothing \[test\]"),
        ({"dataset_path": "script"}, r"script \[test\]"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name_and_split(values: dict[str, Any], place: str, tmp_path: Path) -> None:
    write(tmp_path / "set", [row(0)])
    for name in ("nothing", "script"):
        (tmp_path / name).mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('this code must not run')\n")
    with pytest.raises(InputError, match=f"^{place}: data set can't be loaded: .*check name, split and network"):
        read_dataset(task(**values), tmp_path, REQUIRED)


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    write(tmp_path / "set", [row(0)])
    with pytest.raises(
        InputError, match=r"^set \[train\[:5\]\]: has no split 'train'; it has test \(name one of these"
    ):
        read_dataset(task(test_split="train[:5]"), tmp_path, REQUIRED)


def test_a_slice_of_no_row_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set", [row(0)])
    with pytest.raises(InputError, match=r"^set \[test\[:10%\]\]: has no rows"):
        read_dataset(task(test_split="test[:10%]"), tmp_path, REQUIRED)


QUESTION = ("question", "answer")


def asked(number: int, **values: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "question": "Who?", "answer": "dog", **values}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", ["set", "set.jsonl"])
@pytest.mark.parametrize(
    ("stored", "columns"),
    [
        ({"options": ["cat", "dog"]}, {"choices": "options"}),
        ({"options": '["cat", "dog"]'}, {"choices": "options"}),
        ({"options": "['cat', 'dog']"}, {"choices": "options"}),
        ({"a": "cat", "b": "dog", "c": ""}, {"choices": ("a", "b", "c")}),
        ({"a": "cat", "b": "dog"}, {"choices": "{{[a, b]}}"}),
        ({"options": ["cat", "dog"], "answer": 1}, {"choices": "options"}),
        ({"answer": 1}, {"choices": (Constant("cat"), Constant("dog"))}),
    ],
    ids=["list", "JSON", "Python", "columns", "template", "place", "constant"],
)
def test_choices_are_read_in_every_form(
    stored: dict[str, Any], columns: dict[str, Any], name: str, tmp_path: Path
) -> None:
    write(tmp_path / "set", [asked(0, **stored)])
    write_lines(tmp_path / "set.jsonl", [asked(0, **stored)])
    (sample,) = read_dataset(task(dataset_path=name, columns=columns), tmp_path, QUESTION)
    assert (sample.choices, sample.answer, sample.answers) == (("cat", "dog"), "dog", ())


@pytest.mark.parametrize("name", ["set", "set.jsonl"])
@pytest.mark.parametrize(
    ("stored", "columns", "message"),
    [
        ({"choices": "cat, dog"}, {}, "choices must be a list of at least two texts, got 'cat, dog'"),
        ({"choices": "['cat' 'dog']"}, {}, "choices must be a list of at least two texts"),  # as NumPy prints it
        ({"choices": ["cat"]}, {}, "choices must be a list of at least two texts"),
        ({"choices": ["cat", "dog"], "answer": 2}, {}, "answer must be a choice's place from 0 to 1, got 2"),
        ({}, {"question": "{{question.missing.deeper}}"}, "template .* can't be filled in"),
        ({}, {"question": "{{question.__class__.__mro__}}"}, "template .* can't be filled in: access to"),
        (
            {"tongue": "English"},
            {"language": "tongue"},
            "language must be the code of a language, such as en or zh-CN, got 'English'",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_place(
    stored: dict[str, Any], columns: dict[str, Any], message: str, name: str, tmp_path: Path
) -> None:
    write(tmp_path / "set", [asked(0, **stored)])
    write_lines(tmp_path / "set.jsonl", [asked(0, **stored)])
    place = r"set \[test\] row 0" if name == "set" else r".*set\.jsonl:1"
    with pytest.raises(InputError, match=f"^{place}: {message}"):
        read_dataset(task(dataset_path=name, columns=columns), tmp_path, QUESTION)


@pytest.mark.parametrize("name", ["set", "set.jsonl"])
def test_of_a_list_of_answers_all_are_kept(name: str, tmp_path: Path) -> None:
    write(tmp_path / "set", [asked(0, answer=["dog", "hound"])])
    write_lines(tmp_path / "set.jsonl", [asked(0, answer=["dog", "hound"])])
    (sample,) = read_dataset(task(dataset_path=name), tmp_path, QUESTION)
    assert (sample.answer, sample.answers) == ("dog", ("hound",))


@pytest.mark.parametrize("name", ["set", "set.jsonl"])
def test_a_template_is_filled_in_from_the_columns_of_its_row(name: str, tmp_path: Path) -> None:
    rows = [asked(number, place=place) for number, place in enumerate(("street", "field"))]
    write(tmp_path / "set", rows)
    write_lines(tmp_path / "set.jsonl", rows)
    columns = {"question": "On a {{place}}: {{question}}"}
    samples = read_dataset(task(dataset_path=name, columns=columns), tmp_path, QUESTION)
    assert [sample.question for sample in samples] == ["On a street: Who?", "On a field: Who?"]


def test_a_set_of_several_languages_is_scored_by_the_language_of_each_row(tmp_path: Path) -> None:
    tongues = datasets.ClassLabel(names=["cmn_hans_cn", "de_de", "en_us"])
    texts = ("今天天气", "Guten Tag!", "Twenty")
    rows = [row(number, text=text, language=number) for number, text in enumerate(texts)]
    table = datasets.Dataset.from_list(rows).cast_column("language", tongues)
    (tmp_path / "set").mkdir()
    table.to_parquet(str(tmp_path / "set" / "test-00000-of-00001.parquet"))
    samples = read_dataset(task(), tmp_path, REQUIRED)
    assert [sample.language for sample in samples] == tongues.names
    judged = [asr.judge(sample, heard)[0] for sample, heard in zip(samples, ("今天", "guten tag", "20"), strict=True)]
    assert judged == [Counts(2, 4), Counts(0, 2), Counts(0, 1)]


def test_a_class_label_that_is_not_known_is_none(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list([row(0, language=-1)]).cast_column("language", datasets.ClassLabel(names=["en"]))
    (tmp_path / "set").mkdir()
    table.to_parquet(str(tmp_path / "set" / "test-00000-of-00001.parquet"))
    assert [sample.language for sample in read_dataset(task(), tmp_path, REQUIRED)] == [None]


def test_the_version_of_a_task_is_part_of_what_a_study_is_known_by(tmp_path: Path) -> None:
    write_lines(tmp_path / "set.jsonl", [asked(0)])
    digests = []
    for metadata in ("", ", metadata: {version: 1}", ", metadata: {version: 2}"):
        entry = f"{{task: audio_qa, dataset_path: set.jsonl{metadata}}}"
        (tmp_path / "evals.yaml").write_text(f"search: [{entry}]\n")
        digests.append(open_evals(tmp_path / "evals.yaml").search.digest)
    assert len(set(digests)) == 3


@pytest.mark.parametrize("name", ["set", "set.jsonl"])
def test_one_bad_language_names_its_row_and_is_used_for_none(name: str, tmp_path: Path) -> None:
    rows = [{"id": f"u{number}", "text": "x", "language": tongue} for number, tongue in enumerate(("en", "??", "zh"))]
    write(tmp_path / "set", rows)
    write_lines(tmp_path / "set.jsonl", rows)
    with pytest.raises(
        InputError, match=r"(row 1|:2): language must be the code of a language, such as en or zh-CN, got '\?\?'"
    ):
        read_dataset(task(dataset_path=name), tmp_path, ("text",))


@pytest.mark.parametrize("name", ["set", "set.jsonl"])
def test_the_language_of_a_whole_set_hides_a_column_of_names(name: str, tmp_path: Path) -> None:
    rows = [{"id": f"u{number}", "text": "x", "language": "Mandarin Chinese"} for number in range(2)]
    write(tmp_path / "set", rows)
    write_lines(tmp_path / "set.jsonl", rows)
    config = task(dataset_path=name, columns={"language": Constant("zh")})
    assert [sample.language for sample in read_dataset(config, tmp_path, ("text",))] == ["zh", "zh"]


def test_a_key_of_jsonl_that_columns_name_and_a_row_lacks_is_missed_with_its_line(tmp_path: Path) -> None:
    write_lines(tmp_path / "set.jsonl", [asked(0, topic="a"), asked(1)])
    with pytest.raises(InputError, match=r"set\.jsonl:2: key 'topic' is missing; columns: takes it from there"):
        read_dataset(task(dataset_path="set.jsonl", columns={"question": "{{topic}}"}), tmp_path, QUESTION)


@pytest.mark.parametrize("limit", [None, 2])
def test_slices_of_a_split_share_no_row(limit: int | None, tmp_path: Path) -> None:
    write(tmp_path / "set", [row(number) for number in range(10)])
    first, rest = (
        {int(sample.id[1:]) for sample in read_dataset(task(test_split=split, limit=limit), tmp_path, REQUIRED)}
        for split in ("test[:30%]", "test[30%:]")
    )
    assert max(first) < 3 <= min(rest)
    assert (len(first), len(rest)) == ((3, 7) if limit is None else (2, 2))


def test_a_question_is_not_needed_where_the_prompt_asks_it(tmp_path: Path) -> None:
    write(tmp_path / "set", [{"id": "a", "answer": "dog"}])
    (sample,) = read_dataset(task(doc_to_text="Answer what is asked."), tmp_path, QUESTION)
    assert sample.question is None
    with pytest.raises(InputError, match="has no column 'question'"):
        read_dataset(task(doc_to_text="Asked: {question}"), tmp_path, QUESTION)


def test_rows_written_beside_a_checkpoint_are_read_as_they_were(tmp_path: Path) -> None:
    kept = ("question", "answer", "answers", "choices", "language", "text")
    qa = Sample(id="a", where="x", question="Who?", answer="dog", answers=("hound",), language="en")
    spoken = Sample(id="b", where="x", audio=wav_bytes(), text="今天", language="zh", question="转换")
    tasks = [EvalTask(task(task="audio_qa", doc_to_text="{question}"), (qa,)), EvalTask(task(metric="cer"), (spoken,))]
    written = write_utterances(tmp_path / "kept", tasks, 2).tasks
    assert [one.config.metric for one in written] == [None, "cer"]
    for one, before in zip(written, (qa, spoken), strict=True):
        (after,) = one.samples
        assert [getattr(after, key) for key in kept] == [getattr(before, key) for key in kept]


STRUCT = {"en": "hello"}


def write_named(path: Path, values: dict[str, Any]) -> None:
    """A row as a folder of the hub's form, or as a Parquet file."""
    if path.suffix:
        datasets.Dataset.from_list([values]).to_parquet(str(path))
    else:
        write(path, [values])


@pytest.mark.parametrize("name", ["set", "rows.parquet"])
@pytest.mark.parametrize(
    ("values", "columns", "message"),
    [
        ({"text": ["hello", "hallo"]}, {}, "text must be a text, got a list: "),
        ({"text": STRUCT}, {}, "text must be a text, got a struct: "),
        ({"text": b"hello"}, {}, "text must be a text, got bytes: "),
        ({"text": float("nan")}, {}, "text must be a text, got float: nan"),
        ({"text": None}, {}, "text is empty"),
        ({"text": "  "}, {}, "text is empty"),
        ({"said": ["hello"]}, {"text": "{{said}}"}, "text must be a text, got a list: "),
        ({"said": STRUCT}, {"text": "{{said}}"}, "template '{{said}}' can't be filled in: a struct: "),
        ({"said": STRUCT}, {"text": "x {{said.de}}"}, "template .* can't be filled in: "),
        ({"said": None}, {"text": "say {{said}}"}, "template 'say {{said}}' can't be filled in: nothing is no text"),
        ({"speaker": ["a"]}, {}, "speaker must be a text, got a list"),
        ({"id": ["a"]}, {}, "id must be a text, got a list"),
        ({"language": STRUCT}, {}, "language must be a text, got a struct"),
    ],
)
def test_what_is_no_text_is_refused_with_its_row(
    values: dict[str, Any], columns: dict[str, Any], message: str, name: str, tmp_path: Path
) -> None:
    write_named(tmp_path / name, row(0, **values))
    with pytest.raises(InputError, match=rf"{name}.* row 0: {message}"):
        read_dataset(task(dataset_path=name, columns=columns), tmp_path, REQUIRED)


@pytest.mark.parametrize("answer", [STRUCT, ["a", None], [STRUCT]])
def test_an_answer_that_is_no_text_is_refused_with_its_row(answer: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "a", "question": "x", "answer": answer}))
    with pytest.raises(InputError, match=r"rows\.jsonl:1: answer must be a text"):
        read_dataset(task(dataset_path="rows.jsonl"), tmp_path, ("question", "answer"))


def test_a_column_of_lists_may_be_read_by_a_template(tmp_path: Path) -> None:
    write(tmp_path / "set", [row(0, text=["hello", "hallo"])])
    (sample,) = read_dataset(task(columns={"text": "{{text[0]}}"}), tmp_path, REQUIRED)
    assert sample.text == "hello"


@pytest.mark.parametrize("name", ["manifest.json", "rows.csv", "rows"])
def test_a_file_of_another_name_is_no_name_on_the_hub(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=rf"{name}: its name does not say how to read it .*name it \.jsonl"):
        read_dataset(task(dataset_path=name), tmp_path, REQUIRED)


def test_a_file_that_is_not_there_is_no_name_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json: no such file"):
        read_dataset(task(dataset_path="manifest.json"), tmp_path, REQUIRED)


@pytest.mark.parametrize("limit", [None, 1])
def test_a_folder_of_recordings_is_read_without_torchcodec(limit: int | None, tmp_path: Path) -> None:
    folder = tmp_path / "set" / "test"
    folder.mkdir(parents=True)
    (folder / "a.wav").write_bytes(wav_bytes())
    (folder / "metadata.csv").write_text("file_name,text\na.wav,hello\n")
    (sample,) = read_dataset(task(limit=limit), tmp_path, REQUIRED)
    assert (sample.audio, sample.text) == (folder / "a.wav", "hello")


def test_the_cause_of_an_error_of_the_library_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "test"
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_text('{"id": "a", "text": 7}\n{"id": ')
    with pytest.raises(InputError, match=r"set \[test\]: data set can't be loaded: (?!An error occurred)"):
        read_dataset(task(), tmp_path, ("text",))


@pytest.mark.parametrize("name", ["set", "rows.parquet"])
def test_a_part_of_a_recording_is_refused_in_columns_too(name: str, tmp_path: Path) -> None:
    values = {"audio": {"bytes": wav_bytes(8000), "path": None}, "offset": 0.1, "duration": 0.2}
    write_named(tmp_path / name, row(0, **values))
    with pytest.raises(InputError, match=rf"{name}.* row 0: names a part of its recording"):
        read_dataset(task(dataset_path=name), tmp_path, REQUIRED)


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        *(("cat", True), ("B", True), (1, True), ("Dog.", True), (["dog", "cat"], True)),
        *(("rabbit", False), ("C", False), ("cat or dog", False)),
    ],
)
def test_an_answer_that_is_none_of_its_choices_is_refused_with_its_row(answer: Any, fits: bool, tmp_path: Path) -> None:
    values = {"id": "a", "question": "Who?", "choices": ["cat", "dog"], "answer": answer}
    (tmp_path / "rows.jsonl").write_text(json.dumps(values))
    (tmp_path / "evals.yaml").write_text("search: [{task: audio_qa, dataset_path: rows.jsonl}]")
    evals = open_evals(tmp_path / "evals.yaml")
    if fits:
        assert len(evals.search.tasks[0].samples) == 1
        return
    with pytest.raises(InputError, match=r"rows\.jsonl:1: answer '.*' is none of its choices: cat, dog"):
        _ = evals.search
