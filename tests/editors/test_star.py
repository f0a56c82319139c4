"""STAR: the prior moves what it says it moves, the descent repairs, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from facts import TOKENIZER, Facts, known_facts, request, wrong_answers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Starcoder2Config,
)

from hotfix.data.edits import EditRequest, EncodedRequest, encode_request
from hotfix.editors import STAR, Background
from hotfix.editors.repair.descent import look
from hotfix.editors.repair.failures import detect
from hotfix.editors.repair.layers import bypass_losses, chosen_layers
from hotfix.editors.repair.prior import minimum_norm
from hotfix.editors.repair.semantics import semantics
from hotfix.editors.repair.workspace import Workspace
from hotfix.editors.rows import target_rows
from hotfix.errors import DataError
from hotfix.models.layout import feed_forward_output
from hotfix.models.resume import Entering
from hotfix.models.tiny import tiny_model
from hotfix.models.trace import captured
from hotfix.patches import WeightDelta, worn

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 257}
WIDE: dict[str, Any] = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**WIDE),
    "qwen2": Qwen2Config(**WIDE),
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=257, n_positions=64),
    "starcoder2": Starcoder2Config(**WIDE, residual_dropout=0.1, embedding_dropout=0.1),
}


def build(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(FAMILIES[kind])
    return model.eval().requires_grad_(requires_grad=False)  # type: ignore[no-any-return]


def workspace(model: PreTrainedModel) -> Workspace:
    model.requires_grad_(requires_grad=False)
    return Workspace(model, 257, lambda: semantics(model))


def written(model: PreTrainedModel, ids: list[int], layer: int) -> Tensor:
    """What a block's feed-forward part writes at each position, by the model's own forward pass, [T, D]."""
    module = feed_forward_output(model, layer).module
    with torch.no_grad(), captured({"it": module}, "output") as seen:
        model(input_ids=torch.tensor([ids]))
    return seen["it"][0]


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_prior_moves_the_predicting_position_by_the_steer_and_others_not(kind: str) -> None:
    # Orientation, position and key at once: off by one, or transposed, and the output moves somewhere else.
    model, layer = build(kind), 1
    each = EncodedRequest("1", [5, 80, 7], [9, 200, 31])
    work = workspace(model)
    rows = target_rows([each], "cpu")
    seen = look(work, [rows], [Entering(0, None)], [layer])
    steers = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    steers[1] = 0
    before = written(model, each.ids, layer)
    move = minimum_norm(seen.keys[layer], steers).dense()
    with work.worn(work.moved({layer: 0.1 * move})):
        moved = written(model, each.ids, layer) - before
    predicting = [2, 3, 4]
    torch.testing.assert_close(moved[predicting], 0.1 * steers, rtol=1e-2, atol=2e-4)
    assert moved[3].abs().max() < 1e-4


@pytest.mark.parametrize("kind", FAMILIES)
def test_gradients_are_autograd_s_in_every_layout(kind: str) -> None:
    model = build(kind)
    each = EncodedRequest("1", [5, 80, 7], [9, 200])
    work = workspace(model)
    seen = look(work, [target_rows([each], "cpu")], [Entering(0, None)], [0, 2])
    for layer in (0, 2):
        place = feed_forward_output(model, layer)
        place.module.weight.requires_grad_(True)
        logits = model(input_ids=torch.tensor([each.ids])).logits[0, 2:4]
        loss = nn.functional.cross_entropy(logits, torch.tensor(each.target))
        (gradient,) = torch.autograd.grad(loss, place.module.weight)
        place.module.weight.requires_grad_(False)
        gradient = gradient.T if place.transposed else gradient
        torch.testing.assert_close(seen.gradients[layer], gradient, rtol=1e-3, atol=1e-6)
        assert seen.loss == pytest.approx(float(loss.detach()), rel=1e-4)


def test_bypass_loss_is_that_of_a_part_that_passes_its_input_on() -> None:
    model = tiny_model()
    each = EncodedRequest("1", [5, 80, 7], [9, 200])
    rows = target_rows([each], "cpu")
    found = bypass_losses(model, rows)
    for layer in (0, 1):
        handle = model.model.layers[layer].mlp.register_forward_hook(lambda module, args, result: args[0])
        logits = model(input_ids=torch.tensor([each.ids])).logits[0, 2:4]
        handle.remove()
        expected = nn.functional.cross_entropy(logits, torch.tensor(each.target))
        assert float(found[layer]) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert chosen_layers(model, rows, "one") == [int(found.argmax())]
    assert chosen_layers(model, rows, "all") == [0, 1]


class _Spy(STAR):
    """Notes what is added and along which gradient."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seen: list[tuple[Any, dict[int, Tensor]]] = []

    def directions(self, course: Any, seen: Any) -> Any:
        moves = super().directions(course, seen)
        self.seen.append((seen, dict(moves)))
        return moves


def test_every_layer_steps_down_its_own_gradient() -> None:
    facts = known_facts()
    spy = _Spy(steps=3, most_steps=3)
    spy.compute(facts.model, TOKENIZER, wrong_answers(facts, 1))
    seen, moves = spy.seen[0]
    assert sorted(moves) == [0, 1, 2]
    for layer, move in moves.items():
        gradient = seen.gradients[layer]
        assert (move[gradient == 0] == 0).all()
        assert (torch.sign(move) == -torch.sign(gradient))[move != 0].all()
        assert (move * gradient).sum() < 0


def patched(facts: Facts, requests: list[EditRequest], **settings: Any) -> WeightDelta:
    return STAR(**settings).compute(facts.model, TOKENIZER, requests)


def failures(model: nn.Module, requests: list[EditRequest]) -> int:
    return len(detect(model, [encode_request(TOKENIZER, each) for each in requests]))  # type: ignore[arg-type]


def test_single_tokens_are_repaired_and_other_facts_stay() -> None:
    facts, solved, lost = known_facts(), 0, 0
    requests = wrong_answers(facts, 8)
    others = [request(p, a) for p, a in zip(facts.prompts[8:], facts.answers[8:], strict=True)]
    for each in requests:
        with worn(patched(facts, [each], steps=40, most_steps=120), facts.model) as model:
            solved += failures(model, [each]) == 0
            lost += failures(model, others)
    assert solved >= 0.9 * len(requests)
    assert lost <= 0.01 * len(requests) * 3 * len(others)


@pytest.mark.parametrize("mode", ["iterative", "answer", "joint"])
def test_a_full_repair_makes_greedy_decoding_write_the_target(mode: Any) -> None:
    facts = known_facts()
    # One by one, a repair may take back what the one before solved; only tokens seen together are kept together.
    requests = wrong_answers(facts, 2, length=1 if mode == "iterative" else 3)
    patch = patched(facts, requests, mode=mode, most_steps=120)
    repairs = patch.provenance.results["repairs"]
    assert {report["status"] for report in repairs} == {"solved"}
    with worn(patch, facts.model) as model:
        for each in requests:
            ids = torch.tensor([TOKENIZER(each.prompt)["input_ids"]])
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(each.target), do_sample=False
            )  # type: ignore[operator]
            assert TOKENIZER.decode(out[0, ids.shape[1] :]) == each.target


def test_nothing_fails_nothing_is_written() -> None:
    facts = known_facts()
    known = [request(*pair) for pair in zip(facts.prompts, facts.answers, strict=True)]
    patch = patched(facts, known[:4])
    assert patch.changes == {}
    assert patch.provenance.results["repairs"] == []


def test_only_feed_forward_outputs_change_and_revert_is_bit_exact() -> None:
    facts = known_facts()
    tensors = {**dict(facts.model.named_parameters()), **dict(facts.model.named_buffers())}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    patch = patched(facts, wrong_answers(facts, 2))
    allowed = {feed_forward_output(facts.model, layer).name for layer in range(3)}
    assert set(patch.changes) <= allowed
    assert patch.changes
    with worn(patch, facts.model) as model:
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()  # type: ignore[union-attr]
    for name, tensor in {**dict(facts.model.named_parameters()), **dict(facts.model.named_buffers())}.items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("sparsity", ["autoly", "layerly"])
def test_sparse_repairs_change_the_named_columns_only(sparsity: Any) -> None:
    facts = known_facts()
    patch = patched(facts, wrong_answers(facts, 1), sparsity=sparsity, ratio=0.25, most_steps=60)
    (report,) = patch.provenance.results["repairs"]
    assert report["status"] == "solved"
    named = {tuple(neuron) for neuron in report["neurons"]}
    assert 0 < len(named) <= 32
    changed = set()
    for layer in range(3):
        place = feed_forward_output(facts.model, layer)
        if place.name in patch.changes:
            different = (patch.changes[place.name] != place.weight).any(dim=0).nonzero()[:, 0]
            changed |= {(layer, int(column)) for column in different}
    assert changed <= named
    assert changed
    assert sparsity == "autoly" or len({layer for layer, _ in changed}) == 1


def test_a_token_that_the_head_cannot_tell_apart_is_unrepairable() -> None:
    facts = known_facts()
    ids = {letter: TOKENIZER(letter)["input_ids"][0] for letter in (facts.answers[0][0], "z")}
    weight = nn.Parameter(facts.model.lm_head.weight.detach().clone(), requires_grad=False)
    weight[ids["z"]] = weight[ids[facts.answers[0][0]]]
    facts.model.lm_head.weight = weight
    patch = patched(facts, [request(facts.prompts[0], "z")])
    assert [report["status"] for report in patch.provenance.results["repairs"]] == ["unrepairable"]
    assert patch.changes == {}


def test_what_is_not_solved_is_undone_and_says_so() -> None:
    facts = known_facts()
    patch = patched(facts, wrong_answers(facts, 1), steps=1, most_steps=1, learning_rate=1e-6)
    (report,) = patch.provenance.results["repairs"]
    assert report["status"] == "unsolved"
    assert report["margin_after"] == pytest.approx(report["margin_before"], abs=1e-4)
    assert patch.changes == {}


def test_published_constants_are_exactly_that() -> None:
    facts = known_facts()
    patch = STAR("paper", margin=9.0, most_steps=99).compute(facts.model, TOKENIZER, wrong_answers(facts, 1, 2))
    reports = patch.provenance.results["repairs"]
    assert [(r["steps"], r["together"], r["layers"]) for r in reports] == [(10, 1, [0, 1, 2])] * 2


def test_a_guard_undoes_what_breaks_ordinary_code() -> None:
    facts = known_facts()
    texts = [TOKENIZER(p + a)["input_ids"] for p, a in zip(facts.prompts, facts.answers, strict=True)]
    editor = STAR(guard=0.0)
    # The fact itself is among the guarded texts, so any repair of it flips something.
    patch = editor.compute(facts.model, TOKENIZER, wrong_answers(facts, 1), background=Background((), texts))
    assert [report["status"] for report in patch.provenance.results["repairs"]] == ["guarded"]
    assert patch.changes == {}
    patch = STAR(guard=0.5).compute(facts.model, TOKENIZER, wrong_answers(facts, 1), background=Background((), texts))
    assert [report["status"] for report in patch.provenance.results["repairs"]] == ["solved"]


def test_dropout_training_mode_and_another_run_change_nothing() -> None:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(FAMILIES["starcoder2"]).eval()
    plain.config.residual_dropout = 0.0
    one, two = EditRequest("1", "x =", " 4"), STAR(steps=3, most_steps=5)
    first = two.compute(plain, TOKENIZER, [one])
    plain.train()
    second = two.compute(plain, TOKENIZER, [one])
    assert plain.training
    assert first.changes
    for name, change in first.changes.items():
        assert torch.equal(change, second.changes[name])  # type: ignore[arg-type]


def test_rounded_to_half_precision_the_repair_still_holds() -> None:
    facts = known_facts()
    facts.model.to(torch.bfloat16)
    requests = wrong_answers(facts, 2)
    patch = patched(facts, requests)
    assert all(change.dtype == torch.bfloat16 for change in patch.changes.values())  # type: ignore[union-attr]
    reports = patch.provenance.results["repairs"]
    assert {report["status"] for report in reports} == {"solved"}
    with worn(patch, facts.model) as model:
        encoded = [encode_request(TOKENIZER, each) for each in requests]
        assert detect(model, encoded) == []  # type: ignore[arg-type]


def test_an_error_in_the_middle_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = known_facts()
    before = {name: p.detach().clone() for name, p in facts.model.named_parameters()}
    calls = 0
    step: Callable[..., Any] = STAR.directions

    def failing(self: STAR, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise RuntimeError("out of memory")
        return step(self, *args)

    monkeypatch.setattr(STAR, "directions", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        patched(facts, wrong_answers(facts, 1), steps=50)
    for name, p in facts.model.named_parameters():
        assert torch.equal(p, before[name])
        assert (p.requires_grad, p.grad) == (True, None)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in facts.model.modules())


def test_earlier_repairs_stay_on_and_are_reported() -> None:
    facts = known_facts()
    one, two = wrong_answers(facts, 2)
    first = patched(facts, [one])
    both = STAR().compute(facts.model, TOKENIZER, [two], previous=first)
    assert [report["request"] for report in both.provenance.results["repairs"]] == [one.id, two.id]
    with worn(both, facts.model) as model:
        assert failures(model, [two]) == 0
    assert [report["request"] for report in first.provenance.results["repairs"]] == [one.id]


def test_contradictory_targets_are_refused() -> None:
    with pytest.raises(DataError, match="want different tokens"):
        STAR(mode="joint").compute(tiny_model(), TOKENIZER, [request("a", "bc"), request("ab", "d")])
