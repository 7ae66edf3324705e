"""The fit of several maps to what they should add up to, against the plain solution of the whole system."""

import pytest
import torch

from autoreap.errors import HealingError
from autoreap.healing import ridge
from autoreap.healing.ridge import Regressor, fit_ridge

NUM_TOKENS, WIDTH, HIDDEN = 200, 6, 5
RIDGE = 0.03


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def joint_solution(
    regressors: list[Regressor], missing: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """All maps side by side [H, E I], by one system; and what each token gives [N, E I]."""
    whole = torch.zeros(len(missing), len(regressors) * WIDTH, dtype=torch.float64)
    for number, regressor in enumerate(regressors):
        rows = torch.arange(len(missing)) if regressor.rows is None else regressor.rows
        whole[rows, number * WIDTH : (number + 1) * WIDTH] = regressor.inputs.double()
    weighted = whole * weights.double().unsqueeze(1)
    gram = weighted.T @ whole
    penalty = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    return torch.linalg.solve(gram + penalty, weighted.T @ missing.double()).T, whole


def routed(num_experts: int, top_k: int) -> list[Regressor]:
    """Experts that share tokens, each token with `top_k` of them."""
    chosen = torch.rand(NUM_TOKENS, num_experts).topk(top_k).indices
    regressors = []
    for expert in range(num_experts):
        rows = (chosen == expert).any(dim=1).nonzero().squeeze(1)
        regressors.append(Regressor(torch.randn(len(rows), WIDTH), rows))
    return regressors


def test_a_single_map_is_the_solution_of_its_system() -> None:
    regressors = [Regressor(torch.randn(NUM_TOKENS, WIDTH))]
    missing, weights = torch.randn(NUM_TOKENS, HIDDEN), torch.rand(NUM_TOKENS)
    expected, _ = joint_solution(regressors, missing, weights)
    (found,) = fit_ridge(regressors, missing, RIDGE, weights, "layer 0")
    torch.testing.assert_close(found, expected)


def test_experts_that_share_no_token_are_solved_at_once() -> None:
    regressors = routed(4, top_k=1)
    missing, weights = torch.randn(NUM_TOKENS, HIDDEN), torch.ones(NUM_TOKENS)
    expected, _ = joint_solution(regressors, missing, weights)
    torch.testing.assert_close(torch.cat(fit_ridge(regressors, missing, RIDGE, weights, "layer 0"), dim=1), expected)


def test_sweeps_come_to_the_joint_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    regressors = routed(4, top_k=2)
    missing, weights = torch.randn(NUM_TOKENS, HIDDEN), torch.rand(NUM_TOKENS)
    expected, whole = joint_solution(regressors, missing, weights)

    def loss(found: torch.Tensor) -> float:
        penalty = RIDGE * (whole.square() * weights.unsqueeze(1)).sum(0).mean() * found.square().sum()
        left = ((missing - whole @ found.T).square() * weights.unsqueeze(1)).sum()
        return float(left + penalty)

    few = torch.cat(fit_ridge(regressors, missing, RIDGE, weights, "layer 0"), dim=1)
    assert loss(few) < 1.001 * loss(expected) < loss(torch.zeros_like(few))
    monkeypatch.setattr(ridge, "NUM_SWEEPS", 100)
    many = torch.cat(fit_ridge(regressors, missing, RIDGE, weights, "layer 0"), dim=1)
    torch.testing.assert_close(many, expected)


def test_an_expert_without_tokens_stays_as_it_is() -> None:
    regressors = [*routed(3, top_k=1), Regressor(torch.empty(0, WIDTH), torch.empty(0, dtype=torch.long))]
    found = fit_ridge(regressors, torch.randn(NUM_TOKENS, HIDDEN), RIDGE, torch.ones(NUM_TOKENS), "layer 0")
    assert not found[-1].any()


def test_nothing_changes_where_nothing_is_given_or_missing() -> None:
    silent = [Regressor(torch.zeros(NUM_TOKENS, WIDTH))]
    (found,) = fit_ridge(silent, torch.randn(NUM_TOKENS, HIDDEN), RIDGE, torch.ones(NUM_TOKENS), "layer 0")
    assert not found.any()
    heard = [Regressor(torch.randn(NUM_TOKENS, WIDTH))]
    (found,) = fit_ridge(heard, torch.zeros(NUM_TOKENS, HIDDEN), RIDGE, torch.ones(NUM_TOKENS), "layer 0")
    assert not found.any()


def test_what_is_not_finite_is_refused_by_the_name_of_the_layer() -> None:
    inputs = torch.randn(NUM_TOKENS, WIDTH)
    inputs[3, 2] = torch.inf
    with pytest.raises(HealingError, match=r"layer 7.*not finite"):
        fit_ridge([Regressor(inputs)], torch.randn(NUM_TOKENS, HIDDEN), RIDGE, torch.ones(NUM_TOKENS), "layer 7")
    missing = torch.full((NUM_TOKENS, HIDDEN), torch.nan)
    with pytest.raises(HealingError, match=r"layer 7.*not finite"):
        fit_ridge([Regressor(torch.randn(NUM_TOKENS, WIDTH))], missing, RIDGE, torch.ones(NUM_TOKENS), "layer 7")


def test_a_singular_system_is_refused() -> None:
    inputs = torch.randn(NUM_TOKENS, 1).expand(-1, WIDTH)
    with pytest.raises(HealingError, match=r"layer 7.*singular at a ridge of 1e-300"):
        fit_ridge([Regressor(inputs)], torch.randn(NUM_TOKENS, HIDDEN), 1e-300, torch.ones(NUM_TOKENS), "layer 7")
