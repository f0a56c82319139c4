"""UltraEdit: the paper's equations, statistics as long-lived as the edits, and a single token that is a number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hotfix.data.edits import EditRequest, encode_request
from hotfix.editors.answer_states import answer_states, projections_of
from hotfix.editors.ultra_edit import RunningMoments, UltraEdit
from hotfix.errors import ConfigError
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.patches import LowRank, WeightDelta, load_patch, save_patch, worn

TOKENIZER = tiny_tokenizer()
WEIGHT = "model.layers.1.mlp.down_proj.weight"
FIRST, SECOND, ONE = (
    EditRequest("1", "a =", " 42"),
    EditRequest("2", "def f(x): ", "pass"),
    EditRequest("3", "b =", "7"),
)


def compute(editor: UltraEdit, *requests: EditRequest, previous: WeightDelta | None = None) -> WeightDelta:
    return editor.compute(tiny_model(), TOKENIZER, requests, previous=previous)


def change(patch: WeightDelta) -> torch.Tensor:
    found = patch.changes[WEIGHT]
    assert isinstance(found, LowRank)
    return found.left @ found.right


def test_the_equations_with_a_dense_solve() -> None:
    model = tiny_model().requires_grad_(False)
    encoded = [encode_request(TOKENIZER, r) for r in (FIRST, SECOND)]
    [states] = answer_states(model, encoded, projections_of(model, [1])).values()
    key, gradient = states.key.double(), states.gradient.double()
    normal = []
    for rows in (key, gradient):
        # What the statistics begin with, written as rows: pairs of +s and -s, whose mean is 0 and variance s^2.
        s = rows.square().mean().sqrt()
        seen = torch.cat([s.expand(2, rows.shape[1]), -s.expand(2, rows.shape[1]), rows])
        normal.append((rows - seen.mean(0)) / seen.var(0, unbiased=False).sqrt())
    values = -0.02 * normal[0].square().sum(1, keepdim=True) * normal[1]
    dense = torch.linalg.solve(key.T @ key + 0.5 * torch.eye(64, dtype=torch.float64), key.T @ values).T
    found = change(compute(UltraEdit([1], eta=0.02, ridge=0.5, prior=4), FIRST, SECOND))
    torch.testing.assert_close(found, dense.float(), rtol=1e-4, atol=1e-7)


def test_moments_are_those_of_all_rows_however_they_came() -> None:
    rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    start = RunningMoments.assumed(rows[:2], 4)
    parts, whole = start, start.after(rows)
    for part in rows.split([1, 7, 2, 20]):
        parts = parts.after(part)
    torch.testing.assert_close(parts.normalised(rows), whole.normalised(rows))
    s = rows[:2].square().mean().sqrt()
    seen = torch.cat([torch.stack([s, s, -s, -s])[:, None].expand(4, 5), rows])
    torch.testing.assert_close(whole.normalised(rows), (rows - seen.mean(0)) / seen.var(0, unbiased=False).sqrt())


def test_a_single_token_is_finite_and_moves_down_the_gradient() -> None:
    model = tiny_model().requires_grad_(False)
    [states] = answer_states(model, [encode_request(TOKENIZER, ONE)], projections_of(model, [1])).values()
    assert len(states.key) == 1
    moved = change(compute(UltraEdit([1]), ONE)) @ states.key[0]
    assert moved.isfinite().all()
    assert moved @ states.gradient[0] < 0


def test_a_feature_that_never_moves_says_nothing() -> None:
    rows = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    moments = RunningMoments(torch.tensor(1.0), rows[0], torch.zeros(2)).after(rows)
    assert torch.equal(moments.normalised(rows)[:, 0], torch.zeros(2))
    assert RunningMoments.assumed(torch.zeros(1, 2), 4).after(torch.zeros(1, 2)).normalised(rows).isfinite().all()


def test_the_statistics_travel_with_the_patch(tmp_path: Path) -> None:
    editor = UltraEdit([1])
    first = compute(editor, FIRST)
    count = first.memory[f"{WEIGHT}/key/count"]
    save_patch(first, tmp_path / "patch")
    loaded = load_patch(tmp_path / "patch")
    assert isinstance(loaded, WeightDelta)
    both, again = (compute(editor, SECOND, previous=p) for p in (first, loaded))
    assert both.memory[f"{WEIGHT}/key/count"] == count + 4
    assert torch.equal(change(both), change(again))
    # The same second edit on the same edited model, but with forgotten statistics, is another one.
    forgetful = compute(editor, SECOND, previous=WeightDelta(first.provenance, changes=first.changes))
    assert not torch.allclose(change(forgetful), change(both))
    # Nothing stays in the editor: an unrelated edit is as it was.
    assert torch.equal(change(compute(editor, FIRST)), change(first))


def test_the_second_edit_is_computed_on_the_model_with_the_first() -> None:
    editor = UltraEdit([1])
    first = compute(editor, FIRST)
    both = compute(editor, SECOND, previous=first)
    model = tiny_model().requires_grad_(False)
    with worn(first, model):
        [states] = answer_states(model, [encode_request(TOKENIZER, SECOND)], projections_of(model, [1])).values()
    found = both.changes[WEIGHT]
    assert isinstance(found, LowRank)
    assert torch.equal(found.right[-4:], states.key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": []}, r"layers is empty, expected indices of blocks, or null"),
        ({"eta": 0.0}, r"eta is 0\.0, expected more than 0"),
        ({"ridge": -1.0}, r"ridge is -1\.0, expected more than 0"),
        ({"prior": 0.0}, r"prior is 0\.0, expected more than 0"),
    ],
)
def test_bad_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UltraEdit(**arguments)  # type: ignore[arg-type]
