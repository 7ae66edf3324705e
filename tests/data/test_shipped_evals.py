"""Every file of evals/ that names a data set of the hub, on a local set of exactly that schema."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
import yaml
from pages import ROOT, block

from autoreap.data.eval_set import Evals, read_task
from autoreap.data.evals_config import KEYS, EvalsConfig, TaskConfig, load_evals, metric_name, task_of
from autoreap.data.lm_eval_keys import LM_EVAL_KEYS
from autoreap.data.samples import Sample, load_audio
from autoreap.data.tasks.normalise import units

EVALS = ROOT / "evals"
RECORDINGS = [
    row["bytes"] for row in pyarrow.parquet.read_table(EVALS / "tiny/asr_search.parquet")["audio"].to_pylist()
]
ROWS = 10  # of each split: enough for a tenth of them to be a row

TEXT, WHOLE = datasets.Value("string"), datasets.Value("int64")
AUDIO = datasets.Audio(sampling_rate=16_000)
FLEURS = datasets.ClassLabel(names=["af_za", "cmn_hans_cn", "en_us"])


@dataclass(frozen=True)
class HubSet:
    """A data set of the hub: the splits of each configuration, its features, and a row without its audio."""

    splits: Mapping[str, tuple[str, ...]]
    features: Mapping[str, Any]
    row: Callable[[str, int], dict[str, Any]]


def said(configuration: str, number: int) -> str:
    return f"第 {number} 句话" if configuration in ("default", "zh-CN", "cmn_hans_cn") else f"Sentence number {number}."


def fleurs_row(configuration: str, number: int) -> dict[str, Any]:
    english = configuration == "en_us"
    text = {"transcription": said(configuration, number), "raw_transcription": said(configuration, number)}
    place = {"id": number // 3, "num_samples": 16_000, "path": f"{configuration}/{number}.wav", "gender": 0}
    language = {"language": "English" if english else "Mandarin Chinese", "lang_group_id": 0}
    return {**place, **text, "lang_id": FLEURS.str2int(configuration), **language}


HUB = {
    "openslr/librispeech_asr": HubSet(
        {"clean": ("validation", "test"), "other": ("validation", "test")},
        {"file": TEXT, "audio": AUDIO, "text": TEXT, "speaker_id": WHOLE, "chapter_id": WHOLE, "id": TEXT},
        lambda name, number: {
            "file": f"{number}.flac", "text": said(name, number).upper(), "speaker_id": number, "chapter_id": 1,
            "id": f"84-1-{number}",
        },
    ),
    "carlot/AIShell": HubSet(
        {"default": ("validation", "test")},
        {"audio": AUDIO, "transcription": TEXT},
        lambda name, number: {"transcription": said(name, number)},
    ),
    "lmms-lab-audio/common_voice_15": HubSet(
        {"en": ("test",), "zh-CN": ("test",)},
        {"client_id": TEXT, "path": TEXT, "audio": datasets.Audio(48_000), "sentence": TEXT, "locale": TEXT},
        lambda name, number: {
            "client_id": "a", "path": f"{number}.mp3", "sentence": said(name, number), "locale": name,
        },
    ),
    "lmms-lab/fleurs": HubSet(
        {"en_us": ("test",), "cmn_hans_cn": ("test",)},
        {
            "id": datasets.Value("int32"), "num_samples": datasets.Value("int32"), "path": TEXT, "audio": AUDIO,
            "transcription": TEXT, "raw_transcription": TEXT,
            "gender": datasets.ClassLabel(names=["male", "female", "other"]),
            "lang_id": FLEURS, "language": TEXT, "lang_group_id": datasets.ClassLabel(names=["western_european_we"]),
        },
        fleurs_row,
    ),
    "lmms-lab-audio/WenetSpeech": HubSet(
        {"default": ("dev", "test_net", "test_meeting")},
        {"sid": TEXT, "audio": AUDIO, "text": TEXT},
        lambda name, number: {"sid": f"Y{number}", "text": said(name, number)},
    ),
    "lmms-lab-audio/mmau": HubSet(
        {"default": ("test", "test_mini")},
        {
            "id": TEXT, "audio": datasets.Audio(192_000), "question": TEXT, "choices": TEXT, "answer": TEXT,
            "dataset": TEXT, "task": TEXT, "split": TEXT, "category": TEXT, "sub-category": TEXT, "difficulty": TEXT,
        },
        lambda name, number: {
            "id": f"m{number}", "question": "What is heard?", "answer": "A dog's bark",
            "choices": json.dumps(["Rain", "A dog's bark", "Speech", "None of these"]), "dataset": "x",
            "task": "sound", "split": "test-mini", "category": "c", "sub-category": "s", "difficulty": "easy",
        },
    ),
    "hlt-lab/voicebench": HubSet(
        {"openbookqa": ("test",)},
        {"audio": datasets.Audio(), "prompt": TEXT, "reference": TEXT},
        lambda name, number: {"prompt": "Who barks? A. cat B. dog C. cow D. owl", "reference": "ABCD"[number % 4]},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sets of `HUB` as the hub stores them: parquet, and a card that lists configurations and their files."""
    root = tmp_path_factory.mktemp("hub")
    recordings = iter(RECORDINGS)
    for path, stored in HUB.items():
        listed = []
        for name, splits in stored.splits.items():
            for split in splits:
                rows = [
                    {**stored.row(name, number), "audio": {"bytes": next(recordings), "path": None}}
                    for number in range(ROWS)
                ]
                (root / path / name).mkdir(parents=True, exist_ok=True)
                table = datasets.Dataset.from_list(rows).select_columns(list(stored.features))
                typed = table.cast(datasets.Features(dict(stored.features)))
                typed.to_parquet(str(root / path / name / f"{split}-00000-of-00001.parquet"))
            files = [{"split": split, "path": f"{name}/{split}-*"} for split in splits]
            listed.append({"config_name": name, "data_files": files})
        (root / path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': listed})}---\n")
    return root


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def local(config: TaskConfig, hub: Path) -> TaskConfig:
    return replace(config, dataset_path=str(hub / config.dataset_path)) if config.dataset_path in HUB else config


def shipped() -> list[str]:
    return sorted(path.name for path in EVALS.glob("*.yaml"))


def evals_of(name: str, hub: Path) -> EvalsConfig:
    evals = load_evals(EVALS / name)
    return replace(
        evals, splits={split: tuple(local(task, hub) for task in tasks) for split, tasks in evals.splits.items()}
    )


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_file_reads_every_row_and_keeps_its_splits_apart(name: str, hub: Path) -> None:
    evals = evals_of(name, hub)
    Evals(evals).check_splits_apart()
    for tasks in evals.splits.values():
        assert tasks
        for config in tasks:
            samples = read_task(config, evals.path.parent)
            assert len({sample.id for sample in samples}) == len(samples) > 0


@pytest.mark.parametrize("name", [name for name in shipped() if name != "tiny.yaml"])
def test_a_shipped_file_hears_asks_and_judges_its_rows(name: str, hub: Path) -> None:
    evals = evals_of(name, hub)
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


def rows(name: str, hub: Path, label: str = "") -> list[Sample]:
    (config,) = (task for task in evals_of(name, hub).splits["report"] if task.label == label)
    return read_task(config, EVALS)


def test_the_metrics_of_the_shipped_files_are_those_that_are_published(hub: Path) -> None:
    names = {name: [metric_name(task) for task in evals_of(name, hub).splits["report"]] for name in shipped()}
    assert names["librispeech.yaml"] == ["wer.clean", "wer.other"]
    assert names["aishell1.yaml"] == ["cer"]
    assert names["wenetspeech.yaml"] == ["wer.net", "wer.meeting"]
    assert names["mmau.yaml"] == names["voicebench_openbookqa.yaml"] == ["accuracy"]


def test_the_languages_of_the_shipped_files_are_those_of_their_rows(hub: Path) -> None:
    assert {sample.language for sample in rows("common_voice.yaml", hub, "zh")} == {"zh-CN"}
    assert {sample.language for sample in rows("fleurs.yaml", hub, "zh")} == {"cmn_hans_cn"}
    assert {sample.language for sample in rows("fleurs.yaml", hub, "en")} == {"en_us"}
    assert {sample.language for sample in rows("librispeech.yaml", hub, "clean")} == {"en"}
    spoken = rows("fleurs.yaml", hub, "zh")[0]
    assert spoken.text is not None
    assert units(spoken.text, spoken.language) == ["第", "3", "句", "话"]


def test_choices_stored_as_text_are_lettered_and_spoken_ones_are_not_asked_again(hub: Path) -> None:
    (stored, *_), (spoken, *_) = rows("mmau.yaml", hub), rows("voicebench_openbookqa.yaml", hub)
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
                **{"clip": {"bytes": RECORDINGS[0], "path": None}, "title": "A walk"},
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
