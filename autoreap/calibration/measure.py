"""Measure a model, or take the same measurement from where it was saved."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoreap.calibration.calibrator import Options, calibrate, identity
from autoreap.calibration.resume import lock_resume_file
from autoreap.calibration.spool import spool_beside
from autoreap.calibration.streaming import calibrate_by_layer
from autoreap.data import calibration_data
from autoreap.data.calibration_config import CalibrationConfig, CalibrationSet
from autoreap.data.samples import Sample
from autoreap.errors import InputError
from autoreap.models.loading import Loaded
from autoreap.saliency import Saliency, load_saliency

logger = logging.getLogger(__name__)


def read_calibration(calibration: CalibrationConfig | Mapping[str, Path]) -> dict[str, list[Sample]]:
    """The rows by modality, of sets or of one JSONL file each; a broken row is found before a model is loaded."""
    if isinstance(calibration, CalibrationConfig):
        return calibration_data.read_calibration(calibration)
    sets: dict[str, Any] = {modality: (CalibrationSet(str(path)),) for modality, path in calibration.items()}
    return calibration_data.read_calibration(CalibrationConfig(**sets))


def measure_saliency(
    loaded: Loaded,
    data: Mapping[str, Sequence[Sample]],
    components: Sequence[str] = ("thinker",),
    *,
    options: Options | None = None,
    output: Path | None = None,
    cache: Path | None = None,
) -> Saliency:
    """Measure the model on `data` (rows by modality), or take the same measurement from where it was saved before.

    Saved as `output`, or in the folder `cache` under a name that is its own. A measurement that is to be saved can be
    interrupted: the next call goes on from what is left beside the file. A model of which one layer is in memory at a
    time starts anew; without a place to save, it needs `options.spool`.

    Raises:
        InputError: another process measures for the same `output` now (with `cache` it is waited for), and as
            `calibrate` does.
    """
    options = options or Options()
    measure = calibrate_by_layer if loaded.streamed else calibrate
    wanted = identity(loaded, data, components=components, options=options)
    is_shared = output is None and cache is not None  # under a name of its own: who holds it measures the same
    if output is None and cache is not None:
        name = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
        output = cache / f"{name}.safetensors"
    if output is None:
        return measure(loaded, data, components=components, options=options)
    if output.is_dir():
        raise InputError("is a directory", where=output, fix="name a file")
    saved = _read_saved(output, wanted)
    if saved is not None:
        return saved
    with lock_resume_file(output, waits=is_shared) as resume:
        saved = _read_saved(output, wanted) if is_shared else None
        if saved is not None:
            return saved
        options = replace(options, resume=resume, spool=options.spool or spool_beside(output))
        saliency = measure(loaded, data, components=components, options=options)
        saliency.save(output)
    return saliency


def _read_saved(path: Path, wanted: Mapping[str, str]) -> Saliency | None:
    """What is saved in `path`, if it is the measurement of this identity."""
    try:
        saliency = load_saliency(path)
    except InputError:  # not there, or another file: it is replaced
        return None
    if not wanted.items() <= saliency.provenance.items():
        return None
    logger.info("saliency measured before: %s", path)
    return saliency
