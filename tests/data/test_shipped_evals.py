"""Every file of evals/ and search_spaces/ that names a data set of the hub, on a hub that has sets of these forms."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import yaml
from builders import wav_bytes
from hub_server import Hub, serve, use_hub
from hub_sets import HUB, ROWS, write_hub
from pages import ROOT, block

from autoreap.data.calibration_data import read_calibration
from autoreap.data.eval_set import Evals, open_evals, read_task
from autoreap.data.evals_config import KEYS, load_evals, metric_name, task_of
from autoreap.data.lm_eval_keys import LM_EVAL_KEYS
from autoreap.data.samples import Sample, load_audio
from autoreap.data.tasks.normalise import units
from autoreap.search.space import load_space

EVALS = ROOT / "evals"
SPACES = ROOT / "search_spaces"


@pytest.fixture(scope="module", autouse=True)
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with the sets that the shipped files name; what was read from it is kept to the end of this file."""
    root = tmp_path_factory.mktemp("hub")
    write_hub(root)
    with serve(root) as hub, pytest.MonkeyPatch.context() as patch:
        use_hub(hub, tmp_path_factory.mktemp("cache"), patch)
        yield hub


def shipped() -> list[str]:
    return sorted(path.name for path in EVALS.glob("*.yaml"))


@pytest.mark.parametrize("name", sorted(path.name for path in SPACES.glob("*.yaml")))
def test_the_calibration_of_a_shipped_space_reads_its_sets(name: str) -> None:
    calibration = load_space(SPACES / name).calibration
    samples = read_calibration(calibration)
    for modality, sets in calibration.sets.items():
        expected = [ROWS for one in sets if one.dataset_path in HUB]
        from_hub = [sample for sample in samples[modality] if sample.where.startswith(tuple(HUB))]
        assert len(from_hub) == sum(expected)
        assert all(sample.audio and sample.text for sample in from_hub)


def test_every_hub_set_that_a_shipped_file_names_is_on_the_hub_of_these_tests() -> None:
    """And none is there for nothing."""
    text = "".join(path.read_text() for folder in (EVALS, SPACES) for path in folder.glob("*.yaml"))
    named = re.findall(r"dataset_path: ([\w-]+/[\w.-]+)", text)
    assert {name for name in named if not name.endswith((".parquet", ".jsonl"))} == set(HUB)


def test_of_a_search_only_the_splits_of_its_evals_are_fetched_each_row_group_once(hub: Hub) -> None:
    hub.answers.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE / "new")
        evals = open_evals(EVALS / "in-car.yaml")
        assert [len(task.samples) for task in evals.search.tasks] == [ROWS, ROWS]  # in silence, and in a car
        assert len(evals.report.tasks) == 3
    fetched = hub.requests(".parquet")
    assert sorted({request.split("/resolve/")[1].split("/", 1)[1] for request in fetched}) == [
        "clean/test/0000.parquet", "clean/validation/0000.parquet",
    ]  # fmt: skip
    assert len(fetched) == 2 * 2  # a footer and a row group of each


@pytest.mark.parametrize("name", shipped())
@pytest.mark.slow
def test_a_shipped_file_reads_every_row_and_keeps_its_splits_apart(name: str) -> None:
    evals = load_evals(EVALS / name)
    Evals(evals).check_splits_apart()
    for tasks in evals.splits.values():
        assert tasks
        for config in tasks:
            samples = read_task(config, evals.path.parent)
            assert len({sample.id for sample in samples}) == len(samples) > 0


@pytest.mark.parametrize("name", [name for name in shipped() if name != "tiny.yaml"])
@pytest.mark.slow
def test_a_shipped_file_hears_asks_and_judges_its_rows(name: str) -> None:
    evals = load_evals(EVALS / name)
    for config in (*evals.splits["search"], *evals.splits["report"]):
        task = task_of(config)
        for sample in read_task(config, evals.path.parent):
            assert len(load_audio(sample)) > 0
            assert len(task.question(sample, config.doc_to_text or task.QUESTION)) > 10
            right, wrong = (task.judge(sample, output) for output in (task.reference(sample), "nothing of the kind"))
            best = 0 if task.DIRECTION == "minimize" else 1
            assert right[0].numerator == best
            assert not right[1]
            assert wrong[0].numerator != best


def rows(name: str, label: str = "") -> list[Sample]:
    (config,) = (task for task in load_evals(EVALS / name).splits["report"] if task.label == label)
    return read_task(config, EVALS)


def test_the_metrics_of_the_shipped_files_are_those_that_are_published() -> None:
    names = {name: [metric_name(task) for task in load_evals(EVALS / name).splits["report"]] for name in shipped()}
    assert names["librispeech.yaml"] == ["wer.clean", "wer.other"]
    assert names["aishell1.yaml"] == ["cer"]
    assert names["wenetspeech.yaml"] == ["wer.net", "wer.meeting"]
    assert names["mmau.yaml"] == names["voicebench_openbookqa.yaml"] == ["accuracy"]


def test_the_languages_of_the_shipped_files_are_those_of_their_rows() -> None:
    assert {sample.language for sample in rows("common_voice.yaml", "zh")} == {"zh-CN"}
    assert {sample.language for sample in rows("fleurs.yaml", "zh")} == {"cmn_hans_cn"}
    assert {sample.language for sample in rows("fleurs.yaml", "en")} == {"en_us"}
    assert {sample.language for sample in rows("librispeech.yaml", "clean")} == {"en"}
    spoken = rows("fleurs.yaml", "zh")[0]
    assert spoken.text is not None
    assert units(spoken.text, spoken.language) == ["第", "3", "句", "话"]


def test_choices_stored_as_text_are_lettered_and_spoken_ones_are_not_asked_again() -> None:
    (stored, *_), (spoken, *_) = rows("mmau.yaml"), rows("voicebench_openbookqa.yaml")
    assert stored.choices == ("Rain", "A dog's bark", "Speech", "None of these")
    assert (spoken.question, spoken.choices, spoken.answer) == (None, ("A", "B", "C", "D"), "D")
    config = load_evals(EVALS / "mmau.yaml").splits["report"][0]
    asked = task_of(config).question(stored, config.doc_to_text or "")
    assert asked.startswith("What is heard?\nA. Rain\nB. A dog's bark\nC. Speech\nD. None of these\nAnswer with")
    assert task_of(config).judge(stored, "B. A dog's bark")[0].numerator == 1
    assert task_of(config).judge(stored, "A dog barks")[1]


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    (tmp_path / "evals.yaml").write_text(block("docs/tasks.md", "evals"))
    splits = load_evals(tmp_path / "evals.yaml").splits
    assert [metric_name(task) for split in splits.values() for task in split] == ["wer", "cer.zh", "accuracy"]
    rows = datasets.Dataset.from_list(
        [
            {
                **{"clip": {"bytes": wav_bytes(), "path": None}, "title": "A walk"},
                **{"question": "Who?", "option_a": "cat", "option_b": "dog", "option_c": "owl", "correct": "B"},
            }
        ]
    )
    (tmp_path / "owner/listening/en").mkdir(parents=True)
    rows.to_parquet(str(tmp_path / "owner/listening/en/test-00000-of-00001.parquet"))
    card = {"configs": [{"config_name": "en", "data_files": "en/test-*"}]}
    (tmp_path / "owner/listening/README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    (config,) = splits["report"]
    (sample,) = read_task(replace(config, test_split="train"), tmp_path)
    asked = task_of(config).question(sample, config.doc_to_text or "")
    assert asked == "A walk: Who?\nA. cat\nB. dog\nC. owl\nAnswer with the letter."
    assert task_of(config).judge(sample, "dog")[0].numerator == 1


def test_every_key_of_a_task_is_documented() -> None:
    document = (EVALS.parent / "docs" / "tasks.md").read_text()
    assert [key for key in (*KEYS, *LM_EVAL_KEYS) if f"`{key}`" not in document] == []
    assert [name for name in shipped() if name != "tiny.yaml" and f"`{name}`" not in document] == []
