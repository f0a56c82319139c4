"""FT: the box holds in every precision, the stop is kept, and batches make no difference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hotfix.data.edits import EditRequest, encode_request
from hotfix.editors import FT, fine_tuning
from hotfix.editors.rows import target_rows
from hotfix.errors import ConfigError
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.patches import worn

TOKENIZER = tiny_tokenizer()
WEIGHT = "model.layers.1.mlp.down_proj.weight"
REQUESTS = [EditRequest("1", "a =", " 42"), EditRequest("2", "def f(x): ", "pass"), EditRequest("3", "b =", "7")]


def model(dtype: torch.dtype = torch.float32, spread: float = 1.0) -> Any:
    made = tiny_model()
    with torch.no_grad():
        made.model.layers[1].mlp.down_proj.weight.mul_(spread)
    return made.to(dtype)


def trained(editor: FT, dtype: torch.dtype = torch.float32, *requests: EditRequest, spread: float = 1.0) -> Tensor:
    patch = editor.compute(model(dtype, spread), TOKENIZER, requests or REQUESTS)
    found = patch.changes[WEIGHT]
    assert isinstance(found, Tensor)
    return found


def own(dtype: torch.dtype = torch.float32, spread: float = 1.0) -> Tensor:
    weight: Tensor = model(dtype, spread).model.layers[1].mlp.down_proj.weight.detach().float()
    return weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [1.0, 20.0])
def test_no_weight_leaves_the_box_before_or_after_rounding(dtype: torch.dtype, spread: float) -> None:
    # With the spread, most weights are so large that a plain rounding of the box's surface ends outside it.
    radius = 1e-3
    start = own(dtype, spread)
    change = trained(FT([1], steps=8, radius=radius, radius_unit="absolute"), dtype, spread=spread)
    within = radius * (1 + 1e-5) + 2**-24 * start.abs()
    assert ((change - start).abs() <= within).all()
    assert ((change.to(dtype).float() - start).abs() <= within).all()
    assert not torch.equal(change.to(dtype).float(), start)
    if dtype == torch.bfloat16 and spread > 1:
        naive = start.add(radius).to(dtype).float() - start
        assert (naive.abs() > within).any(), "the test's weights are too small to see the defect"


def test_above_the_radius_a_step_is_the_gradient_s_sign() -> None:
    start = own()
    change = trained(FT([1], steps=1, learning_rate=5e-4, radius=1e-4, radius_unit="absolute")) - start
    torch.testing.assert_close(change.abs(), torch.full_like(change, 1e-4), rtol=1e-3, atol=0)


def test_what_float32_keeps_bf16_alone_would_lose() -> None:
    # Ten steps of 1e-4 on weights near 0.2: each alone is a tenth of bfloat16's spacing.
    start = own(torch.bfloat16)
    change = trained(FT([1], steps=10, learning_rate=1e-4, radius=None), torch.bfloat16) - start
    assert change.abs().max() > 5e-4
    assert (change.to(torch.bfloat16).float().abs() > 0).float().mean() > 0.9


def test_a_radius_in_standard_deviations_is_the_same_box() -> None:
    deviation = float(own().std())
    relative = trained(FT([1], radius=0.01))
    absolute = trained(FT([1], radius=0.01 * deviation, radius_unit="absolute"))
    torch.testing.assert_close(relative, absolute)


@pytest.mark.parametrize(("around", "bound"), [("edited", 2e-3), ("base", 1e-3)])
def test_what_the_box_is_around(around: Any, bound: float) -> None:
    editor = FT([1], radius=1e-3, radius_unit="absolute", around=around)
    first = editor.compute(tiny_model(), TOKENIZER, REQUESTS[:1])
    both = editor.compute(tiny_model(), TOKENIZER, REQUESTS[1:], previous=first)
    change = both.changes[WEIGHT]
    assert isinstance(change, Tensor)
    furthest = float((change - own()).abs().max())
    assert bound / 2 < furthest <= bound * 1.001


def losses(monkeypatch: pytest.MonkeyPatch, editor: FT) -> list[float]:
    """The mean loss at each look."""
    seen: list[float] = []
    plain = fine_tuning.descend

    def counted(*args: Any) -> float:
        seen.append(plain(*args))
        return seen[-1]

    monkeypatch.setattr(fine_tuning, "descend", counted)
    trained(editor)
    return seen


def test_it_stops_at_the_first_loss_that_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = losses(monkeypatch, FT([0, 1], steps=60, learning_rate=1e-2, radius=None, enough=5.2))
    assert len(seen) < 60
    assert seen[-1] < 5.2
    assert min(seen[:-1]) >= 5.2


def test_it_stops_at_its_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(losses(monkeypatch, FT([1], steps=3))) == 3


def test_the_last_look_is_at_what_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = losses(monkeypatch, FT([1], steps=60, learning_rate=1e-2, radius=None, enough=5.2))
    patch = FT([1], steps=60, learning_rate=1e-2, radius=None, enough=5.2).compute(tiny_model(), TOKENIZER, REQUESTS)
    with worn(patch, tiny_model()) as edited:
        rows = target_rows([encode_request(TOKENIZER, r) for r in REQUESTS], "cpu")
        logits = edited(input_ids=rows.rows.input_ids).logits[rows.row, rows.column]
    assert torch.nn.functional.cross_entropy(logits, rows.token).item() == pytest.approx(seen[-1], rel=1e-4)


def test_batches_of_any_size_give_the_same_weights() -> None:
    whole, parts = (trained(FT([1], steps=5, batch_size=size)) for size in (8, 1))
    # Adam's first steps are signs, so the least rounding shows where a gradient is nearly nought.
    assert ((whole - parts).abs() < 1e-5).float().mean() > 0.99


def test_blocks_below_run_no_oftener_with_more_steps() -> None:
    def runs(steps: int) -> int:
        made, count = model(), []
        handle = made.model.layers[0].register_forward_hook(lambda *_: count.append(1))
        FT([1], steps=steps, enough=0.0).compute(made, TOKENIZER, REQUESTS)
        handle.remove()
        return len(count)

    assert runs(9) == runs(1) > 0


def test_two_thirds_of_the_depth_by_default() -> None:
    assert set(FT().compute(tiny_model(), TOKENIZER, REQUESTS).changes) == {WEIGHT}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": []}, "layers is empty, expected indices of blocks, or null"),
        ({"radius": 0.0}, r"radius is 0\.0, expected more than 0, or null for no bound"),
        ({"steps": 0}, "steps is 0, batch_size 32 and learning_rate 0.0005, expected more than 0"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FT(**arguments)
