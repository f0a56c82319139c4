"""The closed form against independent dense solves in float64, for each method's own equation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hotfix.editors.closed_form import LinearMap, by_cholesky, by_projector, closed_form
from hotfix.editors.key_statistics import cholesky_factor, null_space

WIDTH, OUT, EDITS, RIDGE = 24, 7, 3, 1e-3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment() -> Tensor:
    keys = drawn(400, WIDTH) * torch.logspace(0, -3, WIDTH, dtype=torch.float64)
    return keys.T @ keys / len(keys)


def with_ridge(of: Tensor) -> Tensor:
    return of + RIDGE * of.diagonal().mean() * torch.eye(WIDTH, dtype=torch.float64)


def product(change: tuple[Tensor, Tensor]) -> Tensor:
    left, right = change
    return left.double() @ right.double()


def inverse() -> LinearMap:
    # As sharp as float64: what is tested here is the algebra, not the precision that factors are kept in.
    factor = torch.linalg.cholesky(with_ridge(moment()))
    return by_cholesky(factor)


K, R, KEPT = drawn(WIDTH, EDITS, seed=1), drawn(OUT, EDITS, seed=2), drawn(WIDTH, 2, seed=3)


def test_memit_is_the_direct_solve() -> None:
    weight = 15.0
    direct = torch.linalg.solve(weight * with_ridge(moment()) + K @ K.T, K @ R.T).T
    torch.testing.assert_close(product(closed_form(inverse(), K, R, weight)), direct, rtol=1e-5, atol=1e-7)


def test_memit_with_earlier_keys_is_the_direct_solve() -> None:
    weight = 15.0
    direct = torch.linalg.solve(weight * with_ridge(moment()) + KEPT @ KEPT.T + K @ K.T, K @ R.T).T
    found = closed_form(inverse(), K, R, weight, KEPT)
    torch.testing.assert_close(product(found), direct, rtol=1e-5, atol=1e-7)


def test_memit_without_lambda_fits_every_key_exactly() -> None:
    torch.testing.assert_close(product(closed_form(inverse(), K, R, 0.0)) @ K, R, rtol=1e-5, atol=1e-5)


def test_emmet_fits_exactly_with_the_smallest_disturbance_of_ordinary_keys() -> None:
    """The constrained problem's own optimality conditions, solved as one dense system (Lagrange multipliers)."""
    c = with_ridge(moment())
    system = torch.cat([torch.cat([c, K], 1), torch.cat([K.T, torch.zeros(EDITS, EDITS, dtype=c.dtype)], 1)])
    right = torch.cat([torch.zeros(WIDTH, OUT, dtype=c.dtype), R.T])
    direct = torch.linalg.solve(system, right)[:WIDTH].T
    torch.testing.assert_close(product(closed_form(inverse(), K, R, 0.0)), direct, rtol=1e-5, atol=1e-7)


def test_rome_is_its_equation() -> None:
    k, r = K[:, :1], R[:, :1]
    u = torch.linalg.inv(with_ridge(moment())) @ k
    torch.testing.assert_close(product(closed_form(inverse(), k, r, 0.0)), r @ u.T / (k.T @ u), rtol=1e-5, atol=1e-7)


def test_alpha_edit_is_the_direct_solve_and_leaves_the_preserved_span_alone() -> None:
    l2 = 0.3
    basis = null_space(moment(), threshold=0.05)
    p = basis.double() @ basis.double().T
    assert 0 < basis.shape[1] < WIDTH
    eye = torch.eye(WIDTH, dtype=torch.float64)
    direct = R @ K.T @ p @ torch.linalg.inv(K @ K.T @ p + KEPT @ KEPT.T @ p + l2 * eye)
    found = product(closed_form(by_projector(basis.double()), K, R, l2, KEPT))
    torch.testing.assert_close(found, direct, rtol=1e-4, atol=1e-6)
    preserved = (eye - p) @ drawn(WIDTH, 5, seed=4)
    torch.testing.assert_close(found @ preserved, torch.zeros(OUT, 5, dtype=torch.float64), atol=1e-5, rtol=0)
    assert (found @ K).abs().max() > 0.1


def test_the_projector_s_threshold_is_relative_to_the_model() -> None:
    assert torch.equal(null_space(moment(), 0.05).abs() > 0.5, null_space(1e6 * moment(), 0.05).abs() > 0.5)


def test_relative_mu_does_not_depend_on_the_keys_scale() -> None:
    one = closed_form(inverse(), K, R, 0.2, relative=True)
    ten = closed_form(inverse(), 10 * K, R, 0.2, relative=True)
    torch.testing.assert_close(product(one) @ K, product(ten) @ (10 * K))
    assert not torch.allclose(product(one) @ K, R, rtol=1e-2)


def test_equal_keys_are_no_trouble() -> None:
    twice = torch.cat([K[:, :1], K[:, :1]], dim=1)
    same = torch.cat([R[:, :1], R[:, :1]], dim=1)
    found = product(closed_form(inverse(), twice, same, 0.0))
    torch.testing.assert_close(found @ twice, same, rtol=1e-4, atol=1e-4)


def test_a_kept_factor_is_good_enough_for_the_solution() -> None:
    """Kept in float32, a factor may move the solution by what float32 resolves, not by its conditioning."""
    kept = by_cholesky(cholesky_factor(moment(), RIDGE).double())
    direct = torch.linalg.solve(15 * with_ridge(moment()) + K @ K.T, K @ R.T).T
    torch.testing.assert_close(product(closed_form(kept, K, R, 15.0)), direct, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("share", [0.5, 1e-2, 1e-6])
def test_a_limit_finds_the_mu_with_which_ordinary_values_move_so_far(share: float) -> None:
    """Against a bisection over dense solves."""
    c = with_ridge(moment())

    def direct(mu: float) -> Tensor:
        return torch.linalg.solve(mu * c + KEPT @ KEPT.T + K @ K.T, K @ R.T).T

    def moved(change: Tensor) -> float:
        return float((change @ c * change).sum())

    limit = share * moved(direct(1e-6))
    low, high = 1e-6, 1e12
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if moved(direct(middle)) <= limit else (middle, high)
    found = product(closed_form(inverse(), K, R, 1e-6, KEPT, limit=limit))
    torch.testing.assert_close(found, direct(high), rtol=5e-3, atol=1e-6)
    assert 0.99 * limit < moved(found) <= limit * (1 + 1e-5)


def test_a_limit_that_is_kept_anyway_changes_nothing() -> None:
    free = product(closed_form(inverse(), K, R, 15.0, KEPT))
    limit = 1.01 * float((free @ with_ridge(moment()) * free).sum())
    assert torch.equal(product(closed_form(inverse(), K, R, 15.0, KEPT, limit=limit)), free)


def test_with_a_projector_the_limit_is_of_the_change_itself() -> None:
    basis = null_space(moment(), threshold=0.05).double()
    free = product(closed_form(by_projector(basis), K, R, 0.1, relative=True))
    limit = 0.1 * float(free.square().sum())
    found = product(closed_form(by_projector(basis), K, R, 0.1, relative=True, limit=limit))
    assert float(found.square().sum()) == pytest.approx(limit, rel=1e-2)


def test_a_limit_holds_where_keys_are_equal_and_want_different_values() -> None:
    twice = torch.cat([K[:, :1], K[:, :1]], dim=1)
    found = product(closed_form(inverse(), twice, R[:, :2], 0.0, limit=1e-3))
    assert float((found @ with_ridge(moment()) * found).sum()) <= 1e-3 * (1 + 1e-5)
