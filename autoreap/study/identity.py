"""Make the study of a search, or take it up again as the same one."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from autoreap.config.space import SpaceConfig
from autoreap.errors import InputError
from autoreap.progress import log
from autoreap.study.group import Seat
from autoreap.study.sampling import check_known_parameters
from autoreap.study.storage import open_storage

_MENDED = {
    "code": "go on with --allow-other-code if both score alike, or go back to that version",
    "saliency": "undo the change, start another study with --study, or take mlruns/saliency from the first worker",
}


@dataclass(frozen=True)
class Identity:
    """What all runs of a study must share, beside objectives and constraints.

    Attributes:
        facts: by name: model fingerprint, data digests, code.
        may_change: names of facts whose change is said, not refused.
    """

    facts: Mapping[str, Any]
    may_change: Collection[str] = ()


def study_of(space: SpaceConfig, storage: RDBStorage, name: str, identity: Identity) -> optuna.Study:
    """The study `name` of `storage`, made if it is not there.

    Raises:
        InputError: it was started with another identity, other objectives or other constraints.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")  # see heartbeat.py
    directions: list[Any] = list(space.objectives.values())
    if name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
    else:
        study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    for key, value in _changes(study, space, identity).items():
        study.set_user_attr(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(space.objectives))  # for optuna's plots and dashboard
    return study


def check_resumed(space: SpaceConfig, seat: Seat, identity: Identity) -> None:
    """Raise `InputError` if the study is there and goes on from something else, as far as is known without a model."""
    with seat.group.turn():
        storage = open_storage(seat.storage, seat.pulse)
        if seat.study in optuna.get_all_study_names(storage):
            _changes(optuna.load_study(study_name=seat.study, storage=storage), space, identity)


def _changes(study: optuna.Study, space: SpaceConfig, identity: Identity) -> dict[str, Any]:
    """What is to be stored of the study; `InputError` if what it was started with has changed and may not."""
    check_known_parameters(study, space)
    trials = study.get_trials(deepcopy=False)
    begun = any(trial.state != TrialState.WAITING for trial in trials)  # others may wait for the first search
    if "objectives" not in study.user_attrs and (begun or len(study.directions) != len(space.objectives)):
        where, fix = f"study {study.study_name}", "name another one with --study"
        raise InputError("another program has made it: it says nothing of its objectives", where=where, fix=fix)
    constraints = [constraint.text for constraint in space.constraints]
    wanted = {"objectives": dict(space.objectives), "constraints": constraints, **identity.facts}
    known = {"constraints": [], **study.user_attrs} if trials else study.user_attrs
    changes = {key: value for key, value in wanted.items() if key not in known or not _same(known[key], value)}
    for key, value in changes.items():
        if key in known:
            if key not in identity.may_change:
                raise InputError(
                    f"was started with {key} {known[key]}, now it is {value}",
                    where=f"study {study.study_name}",
                    fix=_MENDED.get(key, "undo the change, or start another study with --study"),
                )
            log(f"study {study.study_name} goes on with {key} {value}, it was {known[key]}")
    return changes


def _same(known: Any, value: Any) -> bool:
    """Whether they are equal; of objectives the order counts too, in which a trial's values stand."""
    return known == value and not (isinstance(value, dict) and list(known) != list(value))
