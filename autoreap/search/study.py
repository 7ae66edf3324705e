"""Create the study of a search, or resume it as the same one."""

import hashlib
import logging
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from autoreap import __version__
from autoreap.errors import InputError
from autoreap.search.records import check_format, read_baseline, read_identity, read_whole, record_identity
from autoreap.search.sampling import check_known_parameters
from autoreap.search.space import SpaceConfig

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent.parent
_FIXES = {"code": "use --allow-other-code if both score alike, or go back to that version"}


@dataclass(frozen=True)
class Identity:
    """What all runs of a study must share, beside objectives and constraints.

    Attributes:
        facts: by name: model fingerprint, data digests, code.
        may_change: names of facts whose change is logged, not refused.
    """

    facts: Mapping[str, Any]
    may_change: Collection[str] = ()


def code_digest() -> str:
    """The version, and twelve hex digits of the package's source files: what scored a trial."""
    total = hashlib.sha256()
    # The sources, not the version alone: who tries changes of their own must not mix the scores of two codes.
    for path in sorted(_PACKAGE.rglob("*.py")):
        total.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{__version__}-{total.hexdigest()[:12]}"


def open_or_create_study(space: SpaceConfig, storage: RDBStorage, name: str, identity: Identity) -> optuna.Study:
    """The study `name` of `storage`, made if it is not there.

    Raises:
        InputError: it was started with another identity, other objectives or other constraints.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
    else:
        directions: list[Any] = list(space.objectives.values())
        study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    # Recorded each time: a new fact, or one that may change, is what later runs are compared with.
    record_identity(study, check_resumable(study, space, identity))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(space.objectives))  # for optuna's plots and dashboard
    return study


def check_stored_study(space: SpaceConfig, storage: RDBStorage, name: str, identity: Identity) -> None:
    """Raise if the study is there and can't be resumed, as far as is known without a model.

    Raises:
        InputError: what it was started with has changed and may not.
        Exception: of any kind, where stored values are damaged.
    """
    if name not in optuna.get_all_study_names(storage):
        return
    study = optuna.load_study(study_name=name, storage=storage)
    if read_baseline(study) is not None:
        read_whole(study)
    check_resumable(study, space, identity)


def check_resumable(study: optuna.Study, space: SpaceConfig, identity: Identity) -> dict[str, Any]:
    """What is to be stored of the study's identity.

    Raises:
        InputError: what the study was started with has changed and may not.
    """
    check_known_parameters(study, space)
    where = f"study {study.study_name}"
    trials = study.get_trials(deepcopy=False)
    recorded = read_identity(study)
    if recorded is None:
        # Others may wait for the first search.
        has_begun = any(trial.state != TrialState.WAITING for trial in trials)
        if has_begun or len(study.directions) != len(space.objectives):
            problem = "is not an autoreap study: it records no objectives"
            raise InputError(problem, where=where, fix="use another name with --study")
        recorded = {}
    else:
        check_format(study)
    constraints = [constraint.text for constraint in space.constraints]
    changes = {}
    facts = {"objectives": dict(space.objectives), "constraints": constraints, **identity.facts}
    for name, value in facts.items():
        # Constraints judge trials: before the first one they may still change.
        if name in recorded and (trials or name != "constraints"):
            before = recorded[name]
            # The order of objectives counts, too: a trial's values have it.
            if before == value and (not isinstance(value, dict) or list(before) == list(value)):
                continue
            if name not in identity.may_change:
                fix = _FIXES.get(name, "undo the change, or start another study with --study")
                raise InputError(f"was started with {name} {before}, now it is {value}", where=where, fix=fix)
            logger.info("%s resumes with %s %s, it was %s", where, name, value, before)
        changes[name] = value
    return changes
