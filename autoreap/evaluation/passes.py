"""The forward passes that gave some answers. The same passes round alike, so they can be asked for the same answers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import StrictBool, StrictStr, TypeAdapter

from autoreap.evaluation.draft_limits import Limits
from autoreap.files import atomic_write
from autoreap.validation import NO_OTHER_KEYS, Count, read_json, validate

PASSES_NAME = "passes.json"  # beside the outcomes


@dataclass(frozen=True)
class Passes:
    """All that the shapes and the rounding of a run's passes follow from, but for the model, its rows and their drafts.

    Attributes:
        where: device and type, as `place_of` names them.
        kernels, versions: see `models.places`; none where they are not recorded.
        limits: of what was decoded together, at the start of the run.
        refused: the attempts of the run for which memory was too small; see `Attempts`.
        likelihoods, first: as `Evaluator.run` takes them.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    where: StrictStr
    limits: Limits
    kernels: Mapping[StrictStr, StrictStr] = field(default_factory=dict)
    versions: Mapping[StrictStr, StrictStr] = field(default_factory=dict)
    refused: tuple[Count, ...] = ()
    likelihoods: StrictBool = False
    first: tuple[StrictStr, ...] = ()

    @property
    def are_exact(self) -> bool:
        """Whether a mask and its checkpoint answer alike in these passes, to the letter.

        So it was measured on CPUs. On an accelerator the kernels of 128 experts, of which a mask uses a few, may round
        otherwise than those of the few alone.
        """
        return self.where.startswith("cpu") and bool(self.versions)

    def difference(self, other: "Passes") -> str:
        """In what `other` passes differ from these, in words; empty where they are the same."""
        if self.where != other.where:
            return f"on {other.where} instead of {self.where}"
        if not self.versions:
            return "their passes are not recorded"
        if (self.kernels, self.versions) != (other.kernels, other.versions):
            return "by other kernels or versions"
        if self != other:
            return "in passes of other sizes, as memory allows"
        return ""

    def save(self, folder: Path) -> None:
        """Write them into `folder`."""
        with atomic_write(folder / PASSES_NAME) as partial:
            partial.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


_PASSES = TypeAdapter(Passes)


def load_passes(folder: Path) -> Passes | None:
    """What `Passes.save` wrote; None where answers were saved before passes were recorded."""
    path = folder / PASSES_NAME
    if not path.is_file():
        return None
    return validate(_PASSES, read_json(path), path, fix="remove it: answers are then compared within chance")


def unrecorded(where: str, num_rows: int) -> Passes:
    """The passes of answers that were saved before passes were recorded, as far as they are known."""
    return Passes(where, Limits(rows=num_rows))
