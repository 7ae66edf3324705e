"""The recordings behind a few utterances, as the model heard them, small enough to lie in a page."""

import base64
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from autoreap.data.dataset import is_on_this_disk
from autoreap.data.eval_set import read_task
from autoreap.data.evals_config import EvalsConfig, load_evals, metric_name
from autoreap.data.media_files import encode_sound
from autoreap.data.samples import SAMPLING_RATE, Sample, load_audio
from autoreap.errors import AutoreapError
from autoreap.search.records import ScoringSetup

logger = logging.getLogger(__name__)


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


def read_recordings(setup: ScoringSetup | None, wanted: Sequence[Wanted], max_bytes: int) -> dict[str, str]:
    """Key -> MP3 as base64, the first `wanted` first, of at most `max_bytes` characters together.

    Only what lies on this disk is read. Nothing where the evals file of the study is gone.
    """
    # Such as a study that was copied here.
    if setup is None or not wanted or not Path(setup.evals).is_file():
        return {}
    try:
        rows = _read_rows(load_evals(Path(setup.evals)), {(one.split, one.metric) for one in wanted})
    except (AutoreapError, OSError) as error:
        logger.warning("the report is without recordings: %s", error)
        return {}
    found: dict[str, str] = {}
    spent = 0
    for one in dict.fromkeys(wanted):
        sample = rows.get((one.split, one.metric, one.id))
        # A file may have changed since: a row of this id that says something else is another recording.
        if sample is None or sample.audio is None or one.reference not in (sample.text, sample.answer):
            continue
        try:
            waveform = load_audio(sample)
        except AutoreapError:  # it can't be decoded any more
            continue
        encoded = base64.b64encode(encode_sound(waveform, SAMPLING_RATE, "MP3")).decode("ascii")
        # One that is too long is passed over, and shorter ones after it may still have room.
        if spent + len(encoded) <= max_bytes:
            found[one.key] = encoded
            spent += len(encoded)
    return found


def _read_rows(evals: EvalsConfig, wanted: set[tuple[str, str]]) -> dict[tuple[str, str, str], Sample]:
    """Rows by split, metric and id. A data set of the hub is not read: it might have to be downloaded."""
    rows = {}
    for split, tasks in evals.splits.items():
        for task in tasks:
            metric = metric_name(task)
            if (split, metric) in wanted and is_on_this_disk(task.dataset_path):
                for sample in read_task(task, evals.path.parent):
                    rows[split, metric, sample.id] = sample
    return rows
