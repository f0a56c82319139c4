"""MALMEN: the gradient of a training step against autograd through all of it, positions, caches, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GPT2Config, GPT2LMHeadModel

from hotfix.data.edits import EditRequest, encode_request
from hotfix.editors import MALMEN, Background, meta_training
from hotfix.editors.answer_states import AnswerStates, answer_states, projections_of
from hotfix.editors.hypernetwork import HyperNetwork, ridge_gradient
from hotfix.editors.meta_training import MetaTraining, Network, lessons
from hotfix.editors.rows import target_rows
from hotfix.errors import ConfigError
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.patches import LowRank, WeightDelta

TOKENIZER = tiny_tokenizer()
WEIGHT = "model.layers.1.mlp.down_proj.weight"
FIRST, SECOND = EditRequest("1", "a =", " 42"), EditRequest("2", "def f(x): ", "pass")
LEARNT = [
    EditRequest(f"b{i}", f"question {i}:", f" {i}{i}", (f"ask {i}:", f"say {i}:"), (f"thing {i}:", "same:"))
    for i in range(6)
]
SETTINGS: dict[str, Any] = {"rank": 8, "edits": 2, "steps": 4, "every": 2, "length": 3}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOTFIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def compute(editor: MALMEN, *requests: EditRequest, model: Any = None, **kwargs: Any) -> WeightDelta:
    kwargs.setdefault("background", Background(LEARNT))
    return editor.compute(tiny_model() if model is None else model, TOKENIZER, requests, **kwargs)


def change(patch: WeightDelta, name: str = WEIGHT) -> Tensor:
    found = patch.changes[name]
    assert isinstance(found, LowRank)
    return found.left @ found.right


def network(value_width: int = 32) -> HyperNetwork:
    """One that does something: random factors, scales and shifts."""
    made = HyperNetwork(64, value_width, 2, 5, 2, 1e-2, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


def test_the_ridge_s_gradient_is_autograd_s() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values, wanted = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((5, 9), (5, 3), (3, 9))
    )
    values.requires_grad_()
    ridge = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    # The equation as published, from the large side.
    dense = torch.linalg.solve(keys.T @ keys + ridge * torch.eye(9, dtype=torch.float64), keys.T @ values).T
    (dense * wanted).sum().backward()
    found = ridge_gradient(keys, values.detach(), ridge.detach(), wanted)
    torch.testing.assert_close(found.values, values.grad)
    torch.testing.assert_close(found.ridge, ridge.grad)


def gpt2() -> GPT2LMHeadModel:
    """It holds its matrices transposed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"vocab_size": 257, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
        return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=256, eos_token_id=256)).eval()


@pytest.mark.parametrize(("make", "width"), [(tiny_model, 32), (gpt2, 16)])
def test_a_training_step_s_gradient_is_autograd_s_through_the_whole_of_it(
    make: Callable[[], Any], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def added(self: LowRank, weight: Tensor) -> Tensor:
        return weight.detach() + self.left @ self.right  # a patch's sum is in float32

    monkeypatch.setattr(LowRank, "added_to", added)
    model = make().double().requires_grad_(False)
    shared = network(width).double()
    projections = projections_of(model, [0, 1])
    networks = {name: Network(p, shared, place) for place, (name, p) in enumerate(projections.items())}
    found = lessons(model, TOKENIZER, LEARNT[:3], 3)
    asked, kept = [x.asked[1] for x in found], [x.kept[0] for x in found]
    for name, states in answer_states(model, [x.edit for x in found], projections).items():
        rows = torch.cat([states.key, states.gradient], dim=1)
        shared.normalise_by(networks[name].matrix, rows.mean(0), rows.var(0, unbiased=False))
    training = MetaTraining(model, networks, 1e-4, 0.5, 1.0, chunk=2)
    training.pull(found, asked, kept)
    pulled = {name: p.grad for name, p in shared.named_parameters()}
    shared.zero_grad()
    whole_loss(model, networks, found, asked, kept).backward()
    for name, parameter in shared.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name
        torch.testing.assert_close(pulled[name], parameter.grad, rtol=1e-5, atol=1e-9, msg=name)


def whole_loss(model: Any, networks: dict[str, Network], found: Any, asked: Any, kept: Any) -> Tensor:
    """The loss as one graph, from the networks' weights through the solve and the edited model."""
    states = answer_states(model, [x.edit for x in found], {n: k.projection for n, k in networks.items()})
    edited = {}
    for name, (projection, shared, matrix) in networks.items():
        key = states[name].key.double()
        values = shared.values(AnswerStates(key, states[name].gradient.double()), matrix)
        gram = key.T @ key + shared.log_ridge[matrix].exp() * torch.eye(64, dtype=torch.float64)
        weight = projection.weight + torch.linalg.solve(gram, key.T @ values).T
        edited[name] = weight.T if projection.transposed else weight

    def logits(requests: Any, weights: dict[str, Tensor]) -> tuple[Tensor, Any]:
        rows = target_rows(requests, "cpu")
        output = functional_call(model, weights, kwargs={"input_ids": rows.rows.input_ids})
        return output.logits[rows.row, rows.column].log_softmax(-1), rows

    said, rows = logits(asked, edited)
    each = -said[torch.arange(len(rows.token)), rows.token]
    loss = torch.stack([each[rows.row == b].mean() for b in range(len(asked))]).mean()
    (base, _), (own, _) = logits(kept, {}), logits(kept, edited)
    return loss + 0.5 * (base.exp() * (base - own)).sum(-1).mean()


def test_the_change_is_the_closed_form_of_the_answer_positions() -> None:
    patch = compute(MALMEN([1], **SETTINGS), FIRST, SECOND)
    model = tiny_model().requires_grad_(False)
    encoded = [encode_request(TOKENIZER, r) for r in (FIRST, SECOND)]
    [states] = answer_states(model, encoded, projections_of(model, [1])).values()
    found = patch.changes[WEIGHT]
    assert isinstance(found, LowRank)
    # The released fork caches the first tokens of the prompt, where the last block's gradients are exactly nought.
    assert torch.equal(found.right, states.key)
    assert found.left.shape == (32, len(encoded[0].target) + len(encoded[1].target))
    assert (found.left.abs().sum(0) > 0).all()


def test_at_the_start_it_is_normalised_descent() -> None:
    shared = HyperNetwork(64, 32, 1, 4, 2, 0.5, torch.Generator().manual_seed(0))
    states = AnswerStates(torch.randn(3, 64), torch.randn(3, 32))
    shared.normalise_by(0, torch.full((96,), 0.5), torch.full((96,), 4.0))
    key, gradient = (states.key - 0.5) / 2, (states.gradient - 0.5) / 2
    expected = -0.5 * (states.key * key).sum(1, keepdim=True) * gradient
    torch.testing.assert_close(shared.values(states, 0), expected)


def test_a_first_step_reaches_the_factor_that_starts_at_nought() -> None:
    shared = HyperNetwork(64, 32, 1, 4, 1, 0.5, torch.Generator().manual_seed(0))
    shared.values(AnswerStates(torch.randn(3, 64), torch.randn(3, 32)), 0).sum().backward()
    [block] = shared.blocks
    assert isinstance(block.up, nn.Parameter)
    assert block.up.grad is not None
    assert block.up.grad.abs().sum() > 0


def test_chunks_of_any_size_give_the_same_gradient() -> None:
    def gradients(chunk: int) -> list[Tensor]:
        torch.manual_seed(0)
        shared = network()
        shared.pull(AnswerStates(torch.randn(5, 64), torch.randn(5, 32)), 1, torch.randn(32, 64), chunk)
        return [p.grad for p in shared.parameters() if p.grad is not None]

    for whole, part in zip(gradients(99), gradients(2), strict=True):
        torch.testing.assert_close(whole, part, rtol=1e-4, atol=1e-5)


def test_one_token_to_learn_from_is_no_nan() -> None:
    short = [EditRequest(f"b{i}", f"q{i}", "7") for i in range(2)]
    patch = compute(MALMEN([1], **SETTINGS), FIRST, background=Background(short))
    assert change(patch).isfinite().all()


def test_editing_does_not_move_the_normalisation() -> None:
    editor = MALMEN([1], **SETTINGS)
    first = change(compute(editor, FIRST))
    compute(editor, SECOND)
    assert torch.equal(change(compute(editor, FIRST)), first)


def test_training_lowers_the_loss_on_requests_that_it_never_saw() -> None:
    settings = {**SETTINGS, "steps": 40, "every": 5, "learning_rate": 3e-3, "patience": 9, "eta": 1e-2}
    seen: list[float] = []

    class Watched(MetaTraining):
        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()
            seen.append(float(self.trainer.callback_metrics["held_out"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hotfix.editors.malmen.MetaTraining", Watched)
        compute(MALMEN(**settings), FIRST)
    assert len(seen) == 8
    assert min(seen) < seen[0] - 0.05


def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    plain = meta_training.fit

    def fit(*args: Any) -> None:
        counted.append(1)
        plain(*args)

    monkeypatch.setattr("hotfix.editors.malmen.fit", fit)
    return counted


def test_trained_once_for_a_model_settings_and_requests(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = trainings(monkeypatch)
    first = change(compute(MALMEN([1], **SETTINGS), FIRST))
    assert torch.equal(change(compute(MALMEN([1], **SETTINGS), FIRST)), first)
    assert len(counted) == 1
    [kept] = (cache / "malmen").glob("*.safetensors")
    for other in (
        lambda: compute(MALMEN([0], **SETTINGS), FIRST),
        lambda: compute(MALMEN([1], **SETTINGS), FIRST, model=tiny_model(seed=1)),
        lambda: compute(MALMEN([1], **SETTINGS), FIRST, background=Background(LEARNT[:5])),
    ):
        before = len(counted)
        other()
        assert len(counted) == before + 1
    kept.write_bytes(b"half a file")
    assert torch.equal(change(compute(MALMEN([1], **SETTINGS), FIRST)), first)
    assert len(counted) == 5


def test_it_learns_from_the_base_whatever_edits_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = trainings(monkeypatch)
    editor = MALMEN([1], **SETTINGS)
    first = compute(editor, FIRST)
    both = compute(MALMEN([1], **SETTINGS), SECOND, previous=first)
    assert len(counted) == 1
    found = both.changes[WEIGHT]
    assert isinstance(found, LowRank)
    assert torch.equal(found.left[:, :3] @ found.right[:3], change(first))


def test_held_out_requests_are_not_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: dict[str, Any] = {}

    def fit(training: Any, learnt: Any, held_out: Any, *rest: Any) -> None:
        parts.update(learnt=learnt, held_out=held_out)

    monkeypatch.setattr("hotfix.editors.malmen.fit", fit)
    compute(MALMEN([1], **{**SETTINGS, "held_out": 0.3}), FIRST)
    assert [x.edit.id for x in parts["held_out"]] == ["b0", "b3"]
    assert [x.edit.id for x in parts["learnt"]] == ["b1", "b2", "b4", "b5"]


def test_a_neighbour_keeps_what_the_base_writes() -> None:
    model = tiny_model()
    [lesson, *_] = lessons(model, TOKENIZER, LEARNT, 4)
    for kept, prompt in zip(lesson.kept, LEARNT[0].neighbours, strict=True):
        ids = TOKENIZER(prompt)["input_ids"]
        written = model.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)[0, len(ids) :].tolist()
        assert (kept.prompt, kept.target) == (ids, written)
    assert [x.target for x in lesson.asked] == [lesson.edit.target] * 3


@pytest.mark.parametrize("requests", [[], LEARNT[:1]])
def test_nothing_to_learn_from(requests: list[EditRequest]) -> None:
    with pytest.raises(ConfigError, match=r"there are \d; name a split .* with model.init_args.learns_from"):
        compute(MALMEN(**SETTINGS), FIRST, background=Background(requests))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": []}, "layers is empty, expected indices of blocks, or null"),
        ({"rank": 0}, "rank is 0, expected more than 0"),
        ({"held_out": 1.0}, r"held_out is 1\.0, expected a share between 0 and 1"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MALMEN(**arguments)
