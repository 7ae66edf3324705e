"""The rows that calibration measures on: all sets of each modality, each row with the weight of its set.

Media stay encoded until their turn. A fault in the form of the data is an error here, before a model is loaded; media
that turn out to be broken are left out later (see `batching`).
"""

from dataclasses import replace
from pathlib import Path

from autoreap.data.calibration_config import CalibrationConfig, CalibrationSet
from autoreap.data.dataset import HubSource, is_parquet, read_hub
from autoreap.data.samples import Sample, read_samples
from autoreap.data.video_files import check_decoder
from autoreap.errors import InputError
from autoreap.reading import is_file

_REQUIRED: dict[str, tuple[str, ...]] = {"audio": ("audio",), "video": (), "mixed": ("audio",)}
_SEEN = ("video", "mixed")


def read_calibration(config: CalibrationConfig) -> dict[str, list[Sample]]:
    """The rows of every set by modality, in the order of the sets.

    Raises:
        InputError: a set is not there, or a row is broken, lacks media and text, or names a file that is not there.
    """
    samples: dict[str, list[Sample]] = {}
    for modality, sets in config.sets.items():
        samples[modality] = []
        for source in sets:
            samples[modality] += read_set(source, modality)
    return samples


def read_set(source: CalibrationSet, modality: str) -> list[Sample]:
    """The first `source.limit` rows of one set, weighted.

    A row of a JSONL file may hold any media, or text alone. A data set of the hub must have the media of its modality:
    a forgotten column name would otherwise leave the texts alone to be measured, unnoticed.
    """
    path = Path(source.dataset_path)
    if is_file(path) and not is_parquet(source.dataset_path):
        samples = read_samples(path, modality=modality)[: source.limit]
    else:
        samples = _read_hub_set(source, modality)
    if not samples:
        raise InputError("has no rows", where=source.dataset_path)
    for sample in samples:
        if not (sample.media or sample.text):
            raise InputError("row has neither media nor text", where=sample.where)
        # Now: its frames are decoded only once the model is loaded.
        if not isinstance(sample.video, tuple):
            check_decoder(sample.where)
    return [replace(sample, weight=source.weight) for sample in samples]


def _read_hub_set(source: CalibrationSet, modality: str) -> list[Sample]:
    where = source.dataset_path
    if not is_parquet(source.dataset_path):
        where = f"{source.dataset_path} {source.dataset_name or ''}[{source.split}]"
    hub = HubSource(
        path=source.dataset_path,
        name=source.dataset_name,
        split=source.split,
        where=where,
        columns=source.columns,
        limit=source.limit,
    )
    samples = []
    for sample in read_hub(hub, _REQUIRED[modality]):
        if modality in _SEEN and sample.image is None and not sample.video:
            raise InputError("row has no image or video", where=sample.where, fix="map their column in columns:")
        samples.append(replace(sample, modality=modality))
    return samples
