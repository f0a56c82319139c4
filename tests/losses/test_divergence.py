"""The divergence from hidden states is that of the two models' logits, and so is its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hotfix.functional import token_kl
from hotfix.losses import divergence
from hotfix.losses.divergence import head_divergence


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
    monkeypatch.setattr(divergence, "_CHUNK", chunk)
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


def test_no_positions_have_no_divergence() -> None:
    head, base, policy = states(1.0)
    found = head_divergence(head, base[:0], policy[:0])
    assert found.shape == (0,)
    found.sum().backward()
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
