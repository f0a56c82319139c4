"""Which blocks are measured to be worth editing."""

from __future__ import annotations

import pytest
import torch

from hotfix.data.edits import EncodedRequest
from hotfix.editors.base import Background, frozen
from hotfix.editors.contexts import contrasts, probes, surroundings
from hotfix.editors.layers import block_scores, distinct_share
from hotfix.models.layout import feed_forward_output
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.models.trace import captured

GENERATOR = torch.Generator().manual_seed(0)
BACKGROUND = Background(texts=[torch.randint(256, (40,), generator=GENERATOR).tolist() for _ in range(6)])
AROUND = surroundings(tiny_tokenizer(), BACKGROUND, 2, 6, 2)


def test_scores_are_the_module_s_formula() -> None:
    """Gradients by finite differences of the bias that a block's matrix hasn't got."""
    model, request = tiny_model(), EncodedRequest("1", [65, 66, 67, 68, 69, 70], [71, 72])

    def loss(block: int, shift: torch.Tensor) -> torch.Tensor:
        def add(module: object, args: object, out: torch.Tensor) -> torch.Tensor:
            return torch.cat([out[:, :5], out[:, 5:6] + shift, out[:, 6:]], 1)

        handle = feed_forward_output(model, block).module.register_forward_hook(add)
        logits = model(input_ids=torch.tensor([request.ids])).logits[0, 6:7]
        handle.remove()
        return torch.nn.functional.cross_entropy(logits, torch.tensor(request.target[1:]))

    with frozen(model):
        found = block_scores(model, [request], AROUND, others=3)
    for block in (0, 1):
        module = feed_forward_output(model, block).module
        gradient = torch.autograd.functional.jacobian(lambda s, b=block: loss(b, s), torch.zeros(32))
        with torch.no_grad(), captured({"m": module}, "input") as keys, captured({"m": module}, "output") as values:
            model(input_ids=torch.tensor([request.ids]))
        key, value = keys["m"][0, 5], values["m"][0, 5]
        others = []
        for other in contrasts(request, AROUND, 3):
            with torch.no_grad(), captured({"m": module}, "input") as seen:
                model(input_ids=torch.tensor([other.prompt]))
            others.append(seen["m"][0, -1])
        expected = float(gradient.norm() * value.norm()) * distinct_share(key, torch.stack(others))
        assert found[block] == pytest.approx(expected, rel=1e-3)


def test_a_key_that_others_make_up_has_no_share_of_its_own() -> None:
    one, two = torch.randn(2, 10, generator=GENERATOR)
    assert distinct_share(one + two, torch.stack([one, two])) == pytest.approx(0, abs=1e-6)
    assert distinct_share(one, torch.zeros(0, 10)) == pytest.approx(1)


def test_probes_are_not_of_the_requests() -> None:
    made = probes(tiny_tokenizer(), BACKGROUND, AROUND)
    assert made
    assert all(len(r.target) == 4 for r in made)
    assert len({tuple(r.prompt) for r in made}) == len(made)
