"""A starts where the pairs' inputs are and retain text's are not, and nothing else of the model changes."""

from __future__ import annotations

from typing import cast

import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from hotfix.adapters import LoRA
from hotfix.adapters.contrastive import contrastive_directions
from hotfix.adapters.first_pass import first_pass
from hotfix.data.encode import Branch, EncodedPair
from hotfix.errors import ConfigError
from hotfix.models.tiny import tiny_model

PAIRS = [
    EncodedPair(f"p{i}", [10 + i, 11, 12, 13], 4, "", Branch([40, 41], [True, False], 2), Branch([50], [True], 1))
    for i in range(6)
]
RETAIN = [list(range(60 + i, 90 + i)) for i in range(4)]


def start(adapter: LoRA, model: nn.Module, pairs: list[EncodedPair], retain: list[list[int]]) -> None:
    first_pass(model, adapter.reference, pairs, retain, adapter.starting(model, pairs, retain))


def moment(size: int, seed: int, scale: Tensor | None = None) -> Tensor:
    x = torch.randn(200, size, generator=torch.Generator().manual_seed(seed))
    x = x if scale is None else x * scale
    return x.T @ x / len(x)


def test_spans_the_leading_generalised_eigenvectors() -> None:
    edited, retain = moment(6, 1), moment(6, 2, torch.tensor([5.0, 4.0, 3.0, 1.0, 0.1, 0.05]))
    rows = contrastive_directions(edited, retain, 2, ridge=0.01)
    ridged = retain + 0.01 * retain.diagonal().mean() * torch.eye(6)
    _, vectors = scipy.linalg.eigh(edited.double().numpy(), ridged.double().numpy())
    leading = torch.from_numpy(vectors[:, -2:]).float()  # [D, 2]
    # The same plane: projecting the rows on it loses nothing.
    basis = torch.linalg.qr(leading).Q
    torch.testing.assert_close(rows @ basis @ basis.T, rows, atol=1e-4, rtol=1e-4)


def test_few_directions_of_a_wide_layer_hold_nearly_all_that_could_be() -> None:
    edited, retain = moment(120, 1, torch.linspace(2, 0.1, 120)), moment(120, 2, torch.linspace(0.2, 1, 120))
    rows = contrastive_directions(edited, retain, 4)
    ridged = retain + 0.005 * retain.diagonal().mean() * torch.eye(120)
    values = scipy.linalg.eigh(edited.double().numpy(), ridged.double().numpy(), eigvals_only=True)
    within = torch.linalg.solve(rows @ ridged @ rows.T, rows @ edited @ rows.T)
    assert within.trace() > 0.999 * values[-4:].sum()


def test_edited_tokens_have_the_energy_of_a_random_start_and_retain_text_far_less() -> None:
    edited, retain = moment(8, 1), moment(8, 2, torch.linspace(3, 0.1, 8))
    rows = contrastive_directions(edited, retain, 3)
    energy = ((rows @ edited) * rows).sum()
    torch.testing.assert_close(energy / 3, edited.diagonal().mean() / 3)
    random = torch.randn(64, 8) * (energy / 3 / 8) ** 0.5
    assert ((rows @ retain) * rows).sum() / 3 < 0.2 * ((random @ retain) * random).sum() / 64


def test_a_moment_of_too_few_tokens_is_no_trouble() -> None:
    x = torch.randn(2, 5)
    assert contrastive_directions(torch.outer(x[0], x[0]), torch.outer(x[1], x[1]), 3).isfinite().all()


def weights(model: nn.Module, name: str) -> list[Tensor]:
    return [p.detach().clone() for n, p in model.named_parameters() if name in n]


def test_the_start_is_the_base_and_looks_less_at_retain_text() -> None:
    base = tiny_model()
    ids = torch.tensor(RETAIN)
    with torch.no_grad():
        expected = base(input_ids=ids).logits
    adapter = LoRA(rank=2, init="contrastive")
    model = adapter.attach(tiny_model())
    plain = weights(model, "lora_A")
    start(adapter, model, PAIRS, RETAIN)
    assert all(not torch.equal(a, b) for a, b in zip(plain, weights(model, "lora_A"), strict=True))
    assert all(not w.any() for w in weights(model, "lora_B"))
    with torch.no_grad():
        assert torch.equal(cast("Tensor", model(input_ids=ids).logits), expected)


def test_the_start_is_the_same_each_time() -> None:
    found = []
    for _ in range(2):
        adapter = LoRA(rank=2, init="contrastive")
        model = adapter.attach(tiny_model())
        start(adapter, model, PAIRS, RETAIN)
        found.append(weights(model, "lora_A"))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_random_start_is_left_alone() -> None:
    adapter = LoRA(rank=2)
    model = adapter.attach(tiny_model())
    before = weights(model, "lora_A")
    start(adapter, model, PAIRS, [])
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model, "lora_A"), strict=True))


@pytest.mark.parametrize(("pairs", "retain"), [(PAIRS, []), ([], RETAIN)])
def test_needs_pairs_and_retain_text(pairs: list[EncodedPair], retain: list[list[int]]) -> None:
    adapter = LoRA(init="contrastive")
    with pytest.raises(ConfigError, match="needs training pairs and retain text; set data"):
        start(adapter, adapter.attach(tiny_model()), pairs, retain)
