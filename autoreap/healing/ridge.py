"""Ridge regression of several linear maps onto what they should add up to.

Shape legend: N tokens, n of them routed to an expert, K experts, I what a down projection is given, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autoreap.errors import HealingError

# Each sweep fits every map once on what the others leave. Experts that share tokens need more than one: on the embedded
# model the scores of 3 sweeps and of the joint solution can't be told apart (docs/how-it-works.md).
NUM_SWEEPS = 3


@dataclass(frozen=True)
class Regressor:
    """What one map is given.

    Attributes:
        inputs: [n, I], each weighted as its output is in the sum.
        rows: [n], the tokens they belong to; None: all N, in order.
    """

    inputs: torch.Tensor
    rows: torch.Tensor | None = None


def fit_ridge(
    regressors: Sequence[Regressor], missing: torch.Tensor, ridge: float, weights: torch.Tensor, where: str
) -> list[torch.Tensor]:
    """The changes D_e [H, I], in float64, of maps whose outputs add up, so that they add what is `missing` [N, H].

    They minimise sum_x w_x ||missing_x - sum_e D_e z_e(x)||^2 + c m sum_e ||D_e||^2, where m is the mean over all maps
    of the diagonal of sum_x w_x z_e z_e^T: block Gauss-Seidel on the normal equations, a Cholesky factor for each map.
    A map that is given nothing stays as it is.

    Args:
        regressors: what each map is given.
        missing: what should be added.
        ridge: c.
        weights: w_x [N], how often each token counts.
        where: the layer, for messages.

    Raises:
        HealingError: a sum is not finite, or a matrix is singular.
    """
    rest = missing.to(torch.float64, copy=True)  # it is written to
    inputs = [regressor.inputs.to(torch.float64) for regressor in regressors]
    weighted = []
    for regressor, given in zip(regressors, inputs, strict=True):
        of_rows = weights[_rows_of(regressor)]
        weighted.append(given * of_rows.to(torch.float64).unsqueeze(1))
    # [K, I, I].
    grams = torch.stack([left.T @ given for left, given in zip(weighted, inputs, strict=True)])
    mean = grams.diagonal(dim1=1, dim2=2).mean()
    if not torch.isfinite(mean):
        raise HealingError(f"{where}: activations are not finite")
    changes = [given.new_zeros(missing.shape[1], given.shape[1]) for given in inputs]
    if mean == 0:
        return changes  # no token reaches any map, and there is nothing to factor
    penalty = ridge * mean * torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
    factors, info = torch.linalg.cholesky_ex(grams + penalty)
    if info.any():
        raise HealingError(f"{where}: the system is singular at a ridge of {ridge:g}")
    for _ in range(NUM_SWEEPS):
        for number, regressor in enumerate(regressors):
            rows = _rows_of(regressor)
            # (G + c m 1) D^T = Z^T W rest + G D_before^T: `rest` lacks what this map adds already, so it is put back.
            right = weighted[number].T @ rest[rows] + grams[number] @ changes[number].T  # [I, H]
            changed = torch.cholesky_solve(right, factors[number]).T
            rest[rows] -= inputs[number] @ (changed - changes[number]).T
            changes[number] = changed
    if not torch.isfinite(rest).all():
        raise HealingError(f"{where}: the fit is not finite")
    return changes


def _rows_of(regressor: Regressor) -> torch.Tensor | slice:
    if regressor.rows is None:
        return slice(None)
    return regressor.rows
