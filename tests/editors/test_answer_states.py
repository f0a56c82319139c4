"""Keys and gradients are those of the answer positions, whatever else is in the batch, in every block at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from hotfix.data.edits import EncodedRequest
from hotfix.editors.answer_states import answer_states, projections_of, request_losses, ridge_solution, stored
from hotfix.editors.rows import target_rows
from hotfix.models.layout import feed_forward_output
from hotfix.models.tiny import tiny_model
from hotfix.patches.weight_delta import LowRank

LONG = EncodedRequest("long", [5, 6, 7, 8, 9], [10, 11, 12])
SHORT = EncodedRequest("short", [40], [41, 42])


def gpt2() -> GPT2LMHeadModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2, n_inner=24)
        return GPT2LMHeadModel(config).eval()


def by_hand(model: PreTrainedModel, request: EncodedRequest, block: int) -> tuple[Tensor, Tensor]:
    """One unpadded row, the whole sequence's own tensors, and plain indexing."""
    kept: dict[str, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        kept["in"], kept["out"] = args[0], out.requires_grad_()
        out.retain_grad()
        return out

    handle = feed_forward_output(model, block).module.register_forward_hook(keep)
    logits = model(input_ids=torch.tensor([request.ids])).logits[0]
    handle.remove()
    first, last = len(request.prompt) - 1, len(request.ids) - 1
    F.cross_entropy(logits[first:last], torch.tensor(request.target)).backward()
    assert kept["out"].grad is not None
    return kept["in"][0, first:last].detach(), kept["out"].grad[0, first:last]


@pytest.mark.parametrize("make", [tiny_model, gpt2])
def test_keys_and_gradients_of_the_answer_positions(make: Callable[[], PreTrainedModel]) -> None:
    model = make().requires_grad_(False)
    blocks = [feed_forward_output(model, block) for block in (0, 1)]
    found = answer_states(model, [LONG, SHORT], {p.name: p for p in blocks})
    for block, projection in enumerate(blocks):
        expected = [by_hand(model, request, block) for request in (LONG, SHORT)]
        key, gradient = (torch.cat(parts) for parts in zip(*expected, strict=True))
        torch.testing.assert_close(found[projection.name].key, key, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[projection.name].gradient, gradient, rtol=1e-4, atol=1e-6)


def test_the_last_block_s_gradients_are_not_zero_at_any_answer_position() -> None:
    # At prompt positions, which the published MALMEN caches, those of the last block are exactly zero.
    model = tiny_model().requires_grad_(False)
    [states] = answer_states(model, [LONG], projections_of(model, [1])).values()
    assert states.key.shape == (3, 64)
    assert states.gradient.shape == (3, 32)
    assert (states.gradient.abs().sum(1) > 0).all()


def test_a_request_s_states_do_not_depend_on_the_batch() -> None:
    model = tiny_model().requires_grad_(False)
    many = [LONG, *(EncodedRequest(str(i), [50 + i] * (1 + i % 7), [90 + i, 91]) for i in range(20)), SHORT]
    [together] = answer_states(model, many, projections_of(model, [0])).values()
    for request, place in ((LONG, slice(0, 3)), (SHORT, slice(-2, None))):
        [alone] = answer_states(model, [request], projections_of(model, [0])).values()
        torch.testing.assert_close(together.key[place], alone.key, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together.gradient[place], alone.gradient, rtol=1e-4, atol=1e-7)


def test_losses_are_means_of_each_request() -> None:
    model = tiny_model()
    found = request_losses(model, target_rows([LONG, SHORT], "cpu"))
    for loss, request in zip(found, (LONG, SHORT), strict=True):
        logits = model(input_ids=torch.tensor([request.ids])).logits[0].log_softmax(-1)
        wanted = [-logits[len(request.prompt) - 1 + i, token] for i, token in enumerate(request.target)]
        torch.testing.assert_close(loss, torch.stack(wanted).mean())


def test_the_ridge_solution_is_the_one_of_the_large_side() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    values = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    direct = torch.linalg.solve(keys.T @ keys + 0.7 * torch.eye(12, dtype=torch.float64), keys.T @ values).T
    torch.testing.assert_close(ridge_solution(keys, values, 0.7) @ keys, direct)
    # Without the ridge every key is mapped to its value.
    torch.testing.assert_close(ridge_solution(keys, values, 1e-12) @ keys @ keys.T, values.T)


def test_the_change_is_as_the_model_holds_its_matrix() -> None:
    left, right = torch.ones(16, 2).double(), torch.arange(48.0).reshape(2, 24).double()
    projection = feed_forward_output(gpt2(), 0)
    change = stored(projection, left, right)
    assert isinstance(change, LowRank)
    assert change.left.dtype == torch.float32
    torch.testing.assert_close(change.left @ change.right, (left @ right).float().T)


def test_the_last_blocks_by_default() -> None:
    assert list(projections_of(tiny_model(), None)) == ["model.layers.1.mlp.down_proj.weight"]
