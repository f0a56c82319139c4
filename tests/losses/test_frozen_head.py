"""What is taken from hidden states is what the logits give, and so are the gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hotfix.functional import token_kl, token_log_probs
from hotfix.losses import frozen_head
from hotfix.losses.frozen_head import head_divergence, head_log_probs


def states(scale: float) -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(16, 300, bias=True).requires_grad_(False)
    head.weight.copy_(torch.randn(300, 16, generator=generator))
    base = torch.randn(7, 16, generator=generator)
    return head, base, (base + scale * torch.randn(7, 16, generator=generator)).requires_grad_()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("scale", [0.01, 1.0])
@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_equals_the_divergence_of_the_logits(
    scale: float, reverse: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_head, "_CHUNK", chunk)
    monkeypatch.setattr(frozen_head, "_FEW", 2)
    head, base, policy = states(scale)
    weights = torch.linspace(0, 1, 7)
    found = head_divergence(head, base, policy, reverse)
    (gradient,) = torch.autograd.grad((weights * found).sum(), policy)
    exact = head.double()
    own = policy.detach().double().requires_grad_()
    first, second = exact(base.double()), exact(own)
    expected = token_kl(second, first) if reverse else token_kl(first, second)
    (wanted,) = torch.autograd.grad((weights * expected).sum(), own)
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=1e-7)
    torch.testing.assert_close(gradient.double(), wanted, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("chunk", "few"), [(1, 8), (3, 2), (256, 8), (256, 3)])
def test_log_probs_equal_those_of_the_logits(chunk: int, few: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_head, "_CHUNK", chunk)
    monkeypatch.setattr(frozen_head, "_FEW", few)
    head, _, policy = states(1.0)
    if not bias:
        head.bias = None  # type: ignore[assignment]
    tokens = torch.tensor([3, 299, 0, 7, 7, 150, 42])
    weights = torch.linspace(-1, 1, 7)
    found = head_log_probs(head, policy, tokens)
    (gradient,) = torch.autograd.grad((weights * found).sum(), policy)
    own = policy.detach().double().requires_grad_()
    expected = token_log_probs(head.double()(own), tokens)
    (wanted,) = torch.autograd.grad((weights * expected).sum(), own)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-5)


def test_log_probs_of_a_half_precision_head_take_float32_states_and_give_them_a_float32_gradient() -> None:
    head, _, policy = states(1.0)
    head.weight, head.bias = nn.Parameter(head.weight.bfloat16(), requires_grad=False), None  # type: ignore[assignment]
    tokens = torch.arange(7)
    found = head_log_probs(head, policy, tokens)
    (gradient,) = torch.autograd.grad(found.sum(), policy)
    own = policy.detach().requires_grad_()
    expected = token_log_probs(own @ head.weight.float().T, tokens)
    (wanted,) = torch.autograd.grad(expected.sum(), own)
    assert found.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(gradient, wanted, rtol=0.05, atol=0.05)


def test_log_probs_without_a_gradient_leave_none() -> None:
    head, base, _ = states(1.0)
    found = head_log_probs(head, base, torch.arange(7))
    assert not found.requires_grad
    torch.testing.assert_close(found, token_log_probs(head(base), torch.arange(7)))


def test_no_positions_have_no_log_probs_and_no_divergence() -> None:
    head, base, policy = states(1.0)
    divergence = head_divergence(head, base[:0], policy[:0])
    log_probs = head_log_probs(head, policy[:0], torch.arange(0))
    assert divergence.shape == log_probs.shape == (0,)
    (divergence.sum() + log_probs.sum()).backward()
    assert policy.grad is not None
    assert not policy.grad.any()


def test_a_half_precision_head_hides_no_small_divergence() -> None:
    head, base, policy = states(0.002)
    base, policy = 4 * base, 4 * policy  # logits of tens, as a language model's are
    weight = head.weight.bfloat16()
    head.weight, head.bias = nn.Parameter(weight, requires_grad=False), None  # type: ignore[assignment]
    exact = token_kl(base @ weight.float().T, policy @ weight.float().T).mean()
    by_logits = token_kl((base.bfloat16() @ weight.T).float(), (policy.bfloat16() @ weight.T).float()).mean()
    assert abs(head_divergence(head, base, policy).mean() - exact) < 0.1 * exact
    assert abs(by_logits - exact) > exact
