"""Token arithmetic against float64 brute force, and its gradients against finite differences."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import scipy.linalg
import torch
from torch import Tensor

from hotfix.functional import generalised_eigenvectors, log1mexp, shifted_kl, token_kl, token_log_probs


def random_logits(n: int, v: int, seed: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(n, v, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(x - max(row)) for x in row]
    return [w / math.fsum(weights) for w in weights]


def exact_log1mexp(log_p: float) -> float:
    with localcontext() as context:
        context.prec = 60
        return float((1 - Decimal(log_p).exp()).ln())


def test_token_log_probs_equal_brute_force() -> None:
    logits, tokens = random_logits(20, 7, 0), torch.arange(20) % 7
    expected = [math.log(softmax(row)[t]) for row, t in zip(logits.tolist(), tokens.tolist(), strict=True)]
    assert token_log_probs(logits, tokens).tolist() == pytest.approx(expected, abs=1e-12)


def test_token_kl_equals_brute_force() -> None:
    reference, policy = random_logits(20, 7, 1), random_logits(20, 7, 2)
    expected = [
        math.fsum(p * math.log(p / q) for p, q in zip(softmax(r), softmax(s), strict=True))
        for r, s in zip(reference.tolist(), policy.tolist(), strict=True)
    ]
    assert token_kl(reference, policy).tolist() == pytest.approx(expected, abs=1e-12)
    # Not symmetric, so the order of the arguments matters.
    assert not torch.allclose(token_kl(reference, policy), token_kl(policy, reference))


def test_token_kl_of_itself_is_zero_with_zero_gradient() -> None:
    logits = random_logits(5, 7, 3).requires_grad_()
    kl = token_kl(logits.detach(), logits)
    assert kl.detach().abs().max() < 1e-14
    kl.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-14


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 3.0, 10.0])
def test_shifted_kl_is_the_divergence_and_keeps_the_digits_of_a_small_one(scale: float, reverse: bool) -> None:
    logits, shift = random_logits(20, 500, 4), random_logits(20, 500, 5, scale)
    exact = token_kl(logits + shift, logits) if reverse else token_kl(logits, logits + shift)
    found, _ = shifted_kl(logits.float(), shift.float(), reverse)
    torch.testing.assert_close(found.double(), exact, rtol=1e-2 if scale < 0.01 else 1e-4, atol=0.0)
    # What all tokens have in common is no shift.
    torch.testing.assert_close(shifted_kl(logits, shift + 7, reverse)[0], exact, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 0.5, 10.0])
def test_the_gradient_of_shifted_kl_is_that_of_the_divergence(scale: float, reverse: bool) -> None:
    logits, shift = random_logits(9, 30, 6), random_logits(9, 30, 7, scale).requires_grad_()
    value = token_kl(logits + shift, logits) if reverse else token_kl(logits, logits + shift)
    (expected,) = torch.autograd.grad(value.sum(), shift)
    torch.testing.assert_close(shifted_kl(logits, shift.detach(), reverse)[1], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
def test_shifted_kl_of_a_diverged_model_is_a_number(reverse: bool) -> None:
    shift = torch.zeros(1, 5)
    shift[0, 0] = 1e4
    value, gradient = shifted_kl(torch.tensor([[-9.0, 0.0, 0.0, 0.0, 0.0]]), shift, reverse)
    assert value.item() > 5
    assert gradient.isfinite().all()


@pytest.mark.parametrize("log_p", [-1e-5, -1e-3, -0.1, -0.69, -math.log(2), -0.7, -1.0, -5.0, -30.0, -80.0])
def test_log1mexp_keeps_its_digits(log_p: float) -> None:
    expected = exact_log1mexp(log_p)
    assert float(log1mexp(torch.tensor(log_p, dtype=torch.float64))) == pytest.approx(expected, rel=1e-13)
    rounded = torch.tensor(log_p)
    assert float(log1mexp(rounded)) == pytest.approx(exact_log1mexp(float(rounded)), rel=1e-6)


def test_gradients_equal_finite_differences() -> None:
    reference, policy = random_logits(6, 5, 4), random_logits(6, 5, 5).requires_grad_()
    tokens = torch.arange(6) % 5
    log_p = torch.tensor([-1e-3, -0.2, -0.69, -0.7, -3.0, -20.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: token_log_probs(x, tokens), (policy,))
    assert torch.autograd.gradcheck(lambda x: token_kl(reference, x), (policy,))
    assert torch.autograd.gradcheck(log1mexp, (log_p,), eps=1e-8, atol=1e-4)
    assert torch.autograd.gradcheck(lambda x: -log1mexp(token_log_probs(x, tokens)), (policy,))


@pytest.mark.parametrize("log_p", [0.0, -1e-45, -1e-30, -1e-7, -1e-6, -200.0, -1e30, -math.inf])
def test_extremes_have_finite_values_and_gradients(log_p: float) -> None:
    x = torch.tensor([log_p], requires_grad=True)
    value = log1mexp(x)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert value <= 0
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("gap", [-1e4, -200.0, -50.0, -17.0, 17.0, 50.0, 200.0, 1e4])
def test_extreme_logits_have_finite_values_and_gradients(gap: float) -> None:
    logits = torch.tensor([[gap, 0.0]], requires_grad=True)
    log_p = token_log_probs(logits, torch.tensor([0]))
    terms = torch.stack([log_p, -log1mexp(log_p), token_kl(torch.tensor([[0.0, 1.0]]), logits)])
    terms.sum().backward()
    assert torch.isfinite(terms).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_unlikelihood_of_a_sure_token_is_finite_and_largest() -> None:
    values = -log1mexp(torch.tensor([-80.0, -1.0, -1e-3, -1e-6, 0.0]))
    assert values.tolist() == sorted(values.tolist())
    assert values[-1] == pytest.approx(-math.log(1e-6), rel=1e-3)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_generalised_eigenvectors_are_scipy_s(ridge: float) -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(60, 9, generator=draw, dtype=torch.float64) for _ in range(2))
    numerator, denominator = x.T @ x, y.T @ y
    ridged = denominator + ridge * denominator.diagonal().mean() * torch.eye(9, dtype=torch.float64)
    ratios, vectors = scipy.linalg.eigh(numerator.numpy(), ridged.numpy())
    found = generalised_eigenvectors(numerator, denominator, 3, ridge)
    assert ((found @ numerator) * found).sum(1).tolist() == pytest.approx(ratios[-3:].tolist(), rel=1e-6)
    # The same up to sign, and the denominator is 1 in each.
    assert (found @ ridged @ torch.from_numpy(vectors[:, -3:])).abs().allclose(torch.eye(3).double(), atol=1e-4)
