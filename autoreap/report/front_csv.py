"""The front as a file for a spreadsheet."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoreap.study.trials import Point

_PARTS = ("value", "low", "high")


def write_front_csv(
    path: Path, front: Sequence[Point], baseline: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any]]
) -> None:
    """A row a point, then the controls and the unpruned model; `wer`, `wer.low` and `wer.high` are fractions."""
    metrics = list(baseline["metrics"])
    parameters = sorted({name for point in front for name in point.params})
    columns = [name if part == "value" else f"{name}.{part}" for name in metrics for part in _PARTS]
    known = {**{str(point.trial): vars(point) for point in front}, **controls, "baseline": baseline}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "size_bytes", *columns, *parameters])
        for label, entry in known.items():
            scores = [entry["metrics"].get(name, {}).get(part, "") for name in metrics for part in _PARTS]
            values = [entry.get("params", {}).get(name, "") for name in parameters]
            writer.writerow([label, entry["size_bytes"], *scores, *values])
