"""Measure a model, or read the same measurement from a file."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoreap.calibration.calibrator import Options, calibrate, identity
from autoreap.calibration.layer_losses import check_answers, order_layers
from autoreap.calibration.resume import lock_resume_file
from autoreap.calibration.spool import spool_beside
from autoreap.calibration.streaming import calibrate_by_layer
from autoreap.data import calibration_data
from autoreap.data.calibration_config import CalibrationConfig, CalibrationSet
from autoreap.data.samples import Sample
from autoreap.errors import InputError
from autoreap.models.loading import Loaded
from autoreap.planning import talker_has_no_loss
from autoreap.saliency import Saliency, load_saliency

logger = logging.getLogger(__name__)


def read_calibration(
    calibration: CalibrationConfig | Mapping[str, Path], *, num_ordered: int = 0
) -> dict[str, list[Sample]]:
    """The rows by modality, of sets or of one JSONL file each; a broken row is found before a model is loaded.

    If layers are to be ordered by loss, rows without any answer are refused, too.
    """
    if not isinstance(calibration, CalibrationConfig):
        sets: dict[str, Any] = {modality: (CalibrationSet(str(path)),) for modality, path in calibration.items()}
        calibration = CalibrationConfig(**sets)
    data = calibration_data.read_calibration(calibration)
    if num_ordered:
        check_answers(data)
    return data


def measure_saliency(
    loaded: Loaded,
    data: Mapping[str, Sequence[Sample]],
    components: Sequence[str] = ("thinker",),
    *,
    options: Options | None = None,
    output: Path | None = None,
    cache: Path | None = None,
    num_ordered: int = 0,
) -> Saliency:
    """Measure the model on `data` (rows by modality), or take the same measurement from where it was saved before.

    Saved as `output`, or in the folder `cache` under a name that is its own. A measurement that is to be saved can be
    interrupted: the next call goes on from what is left beside the file. A model of which one layer is in memory at a
    time starts anew; without a place to save, it needs `options.spool`.

    The first `num_ordered` layers of the thinker are put in the order in which the answers lose least; see
    `order_layers`. What is saved without them, or with fewer, is not measured anew but for those.

    Raises:
        InputError: another process measures for the same `output` now (with `cache` it is waited for), layers of the
            talker or of a model that is not all in memory are to be ordered, and as `calibrate` and `order_layers` do.
    """
    options = options or Options()
    if num_ordered:
        _check_order(loaded, components)
    measure = calibrate_by_layer if loaded.streamed else calibrate
    wanted = identity(loaded, data, components=components, options=options)
    # Under a name of its own, who holds the lock measures the same, so it is worth waiting for.
    is_shared = output is None and cache is not None
    if output is None and cache is not None:
        name = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
        output = cache / f"{name}.safetensors"
    if output is None:
        saliency = measure(loaded, data, components=components, options=options)
        return _ordered(saliency, loaded, data, num_ordered, options)
    if output.is_dir():
        raise InputError("is a directory", where=output, fix="name a file")
    saved = _read_saved(output, wanted)
    if saved is not None and _num_ordered(saved) >= num_ordered:
        logger.info("saliency measured before: %s", output)
        return _with_first(saved, num_ordered)
    with lock_resume_file(output, waits=is_shared) as resume:
        saved = _read_saved(output, wanted)  # another process may have measured the same
        if saved is None:
            options = replace(options, resume=resume, spool=options.spool or spool_beside(output))
            saved = measure(loaded, data, components=components, options=options)
            saved.save(output)
        else:
            logger.info("saliency measured before: %s", output)
        saved = _ordered(saved, loaded, data, num_ordered, options, output)
    return _with_first(saved, num_ordered)


def _check_order(loaded: Loaded, components: Sequence[str]) -> None:
    if "thinker" not in components:
        raise talker_has_no_loss("--component")
    if loaded.streamed:
        problem = "layers can't be ranked by loss with one layer at a time in memory"
        raise InputError(problem, where="--stream-layers", fix="leave it out, or select layers by cosine")


def _num_ordered(saliency: Saliency) -> int:
    if "thinker" not in saliency.components:
        return 0
    return len(saliency.component("thinker").layer_order.layers)


def _ordered(
    saliency: Saliency,
    loaded: Loaded,
    data: Mapping[str, Sequence[Sample]],
    num_ordered: int,
    options: Options,
    output: Path | None = None,
) -> Saliency:
    """The same with `num_ordered` layers in order; saved as `output` each time that there is one more."""
    if _num_ordered(saliency) < num_ordered:
        start = saliency.component("thinker").layer_order
        for order in order_layers(loaded, data["audio"], num_ordered, start, options):
            saliency = saliency.with_layer_order(order)
            if output is not None:
                saliency.save(output)
    return saliency


def _with_first(saliency: Saliency, num_ordered: int) -> Saliency:
    """The measurement with only the first `num_ordered` layers, so that a longer order in the file changes nothing."""
    if "thinker" not in saliency.components:
        return saliency
    return saliency.with_layer_order(saliency.component("thinker").layer_order.first(num_ordered))


def _read_saved(path: Path, wanted: Mapping[str, str]) -> Saliency | None:
    """What is saved in `path`, if it is the measurement of this identity."""
    try:
        saliency = load_saliency(path)
    except InputError:  # not there, or another file: it is replaced
        return None
    if wanted.items() <= saliency.provenance.items():
        return saliency
    return None
