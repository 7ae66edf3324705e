"""The recordings behind a few utterances, as the model heard them, small enough to lie in a page."""

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import optuna
import soundfile

from autoreap.config.evals import load_evals, metric_name
from autoreap.data.dataset import is_on_this_disk
from autoreap.data.evals_data import read_task
from autoreap.errors import AutoreapError
from autoreap.media.samples import SAMPLING_RATE, Sample, load_audio
from autoreap.progress import log
from autoreap.study.trials import SCORING


class Wanted(NamedTuple):
    """An utterance, and what it says, by which a row that was changed since is told."""

    split: str
    metric: str
    id: str
    reference: str

    @property
    def key(self) -> str:
        """As the page looks it up."""
        return f"{self.split}/{self.metric}/{self.id}"


def recordings(study: optuna.Study, wanted: Sequence[Wanted], max_bytes: int) -> dict[str, str]:
    """Key -> MP3 as base64, the first `wanted` first, of at most `max_bytes` characters together.

    Only what lies on this disk is read. Nothing where the evals file of the study is gone.
    """
    rows = _rows(study, {(one.split, one.metric) for one in wanted}) if wanted else {}
    found: dict[str, str] = {}
    spent = 0
    for one in dict.fromkeys(wanted):
        sample = rows.get((one.split, one.metric, one.id))
        if sample is None or sample.audio is None or one.reference not in (sample.text, sample.answer):
            continue
        encoded = _encoded(sample)
        if encoded and spent + len(encoded) <= max_bytes:
            found[one.key] = encoded
            spent += len(encoded)
    return found


def _rows(study: optuna.Study, wanted: set[tuple[str, str]]) -> dict[tuple[str, str, str], Sample]:
    """Rows by split, metric and id. A data set of the hub is not read: it might have to be downloaded."""
    scoring = study.user_attrs.get(SCORING)
    if scoring is None or not Path(scoring["evals"]).is_file():
        return {}
    try:
        return dict(_read(Path(scoring["evals"]), wanted))
    except (AutoreapError, OSError) as error:
        log(f"warning: the report is without recordings: {error}")
        return {}


def _read(path: Path, wanted: set[tuple[str, str]]) -> Iterator[tuple[tuple[str, str, str], Sample]]:
    evals = load_evals(path)
    for split, tasks in evals.splits.items():
        for task in tasks:
            if (split, metric_name(task)) in wanted and is_on_this_disk(task.dataset_path):
                for sample in read_task(task, path.parent):
                    yield (split, metric_name(task), sample.id), sample


def _encoded(sample: Sample) -> str:
    """Empty where it can't be decoded any more."""
    try:
        waveform = load_audio(sample)
    except AutoreapError:
        return ""
    encoded = io.BytesIO()
    soundfile.write(encoded, waveform, SAMPLING_RATE, format="MP3")
    return base64.b64encode(encoded.getvalue()).decode("ascii")
