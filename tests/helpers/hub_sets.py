"""The data sets of the hub that evals/ and search_spaces/ name, each with few rows of its form.

Of LibriSpeech the card was seen. Of the others, configurations, splits and files were seen on their pages on the hub,
except for the splits of WenetSpeech, and the columns in public code that reads them, such as lmms-eval's tasks.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

ROWS = 10  # of each split here: enough for a tenth of them to be a row

TEXT, WHOLE = datasets.Value("string"), datasets.Value("int64")
DATA = "data/{split}-00000-of-00001.parquet"
AUDIO = datasets.Audio(sampling_rate=16_000)
FLEURS = datasets.ClassLabel(names=["af_za", "cmn_hans_cn", "en_us", "yue_hant_hk"])


@dataclass(frozen=True)
class HubSet:
    """A data set of the hub.

    Attributes:
        splits: those of each configuration.
        features: the type of each column.
        row: a row without its audio, of a configuration and a number.
        files: where the file of a split lies, of configuration and split.
        has_card: whether there is a README.md that names configurations and features.
    """

    splits: Mapping[str, tuple[str, ...]]
    features: Mapping[str, Any]
    row: Callable[[str, int], dict[str, Any]]
    files: str = "{name}/{split}-00000-of-00001.parquet"
    has_card: bool = True


def _recording(number: int) -> bytes:
    """One of 16 kHz with 0.1 s of a tone whose pitch is this row's alone."""
    encoded = io.BytesIO()
    tone = 0.5 * np.sin(np.arange(1600) * (100 + number) * 2 * np.pi / 16_000)
    soundfile.write(encoded, tone, 16_000, format="FLAC")
    return encoded.getvalue()


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
        {
            "clean": ("train.100", "train.360", "validation", "test"),
            "other": ("train.500", "validation", "test"),
        },
        {"file": TEXT, "audio": AUDIO, "text": TEXT, "speaker_id": WHOLE, "chapter_id": WHOLE, "id": TEXT},
        lambda name, number: {
            "file": f"{number}.flac", "text": said(name, number).upper(), "speaker_id": number, "chapter_id": 1,
            "id": f"84-1-{number}",
        },
        files="{name}/{split}/0000.parquet",
    ),
    "carlot/AIShell": HubSet(
        {"default": ("train", "validation", "test")},
        {"audio": AUDIO, "transcription": TEXT},
        lambda name, number: {"transcription": said(name, number)},
        files="data/{split}-00000-of-00001-0184777933a05c23.parquet",
        has_card=False,
    ),
    "lmms-lab-audio/common_voice_15": HubSet(
        {"en": ("test",), "fr": ("test",), "zh-CN": ("test",)},
        {"client_id": TEXT, "path": TEXT, "audio": datasets.Audio(48_000), "sentence": TEXT, "locale": TEXT},
        lambda name, number: {
            "client_id": "a", "path": f"{number}.mp3", "sentence": said(name, number), "locale": name,
        },
    ),
    "lmms-lab/fleurs": HubSet(
        {"en_us": ("test",), "cmn_hans_cn": ("test",), "yue_hant_hk": ("test",)},
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
        files=DATA,
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
        files=DATA,
    ),
    "hlt-lab/voicebench": HubSet(
        {"advbench": ("test",), "openbookqa": ("test",)},
        {"audio": datasets.Audio(), "prompt": TEXT, "reference": TEXT},
        lambda name, number: {"prompt": "Who barks? A. cat B. dog C. cow D. owl", "reference": "ABCD"[number % 4]},
    ),
}  # fmt: skip


def write_hub(root: Path) -> None:
    """The sets of `HUB` in `root`, a folder each."""
    numbers = count()
    for repo, stored in HUB.items():
        for name, splits in stored.splits.items():
            for split in splits:
                path = root / repo / stored.files.format(name=name, split=split)
                path.parent.mkdir(parents=True, exist_ok=True)
                rows = list(_rows(stored, name, numbers))
                table = datasets.Dataset.from_list(rows).select_columns(list(stored.features))
                table.cast(datasets.Features(dict(stored.features))).to_parquet(str(path))
        if stored.has_card:
            _write_card(root / repo / "README.md", stored)


def _rows(stored: HubSet, name: str, numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
    """Each with a recording that no other row has."""
    for number in range(ROWS):
        yield {**stored.row(name, number), "audio": {"bytes": _recording(next(numbers)), "path": None}}


def _write_card(path: Path, stored: HubSet) -> None:
    """README.md as `push_to_hub` writes it."""
    configurations, infos = [], {}
    for name, splits in stored.splits.items():
        of_splits = datasets.splits.SplitDict()
        for split in splits:
            of_splits.add(datasets.SplitInfo(split, num_bytes=1, num_examples=ROWS))
        features = datasets.Features(dict(stored.features))
        infos[name] = datasets.DatasetInfo(features=features, splits=of_splits, config_name=name)
        files = [{"split": split, "path": _pattern(stored.files.format(name=name, split=split))} for split in splits]
        configurations.append({"config_name": name, "data_files": files})
    card = DatasetCardData(configs=configurations)
    DatasetInfosDict(infos).to_dataset_card_data(card)
    DatasetCard(f"---\n{card}\n---\n# Rows of a hub for tests\n").save(path)


def _pattern(file: str) -> str:
    """What names the files of a split: `en_us/test-*`, or `clean/test/*.parquet`."""
    head, dash, _ = file.partition("-00000")
    return f"{head}-*" if dash else str(Path(file).with_name("*.parquet"))
