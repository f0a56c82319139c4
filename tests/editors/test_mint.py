"""MINT: a few named columns of the upper blocks, tried without a write, and taken back where they don't do."""

from __future__ import annotations

import pytest
import torch
from facts import TOKENIZER, known_facts, wrong_answers

from hotfix.data.edits import encode_request
from hotfix.editors import MINT
from hotfix.editors.repair.attribution import Neuron, attributions, best_neurons
from hotfix.editors.repair.failures import detect, judged, masked_logits
from hotfix.editors.repair.mint import _patched, drawn, traction
from hotfix.editors.repair.semantics import semantics
from hotfix.editors.repair.workspace import Workspace
from hotfix.editors.rows import target_rows
from hotfix.models.layout import feed_forward_output
from hotfix.models.resume import entering
from hotfix.models.states import hidden_states
from hotfix.patches import worn


def test_repairs_with_at_most_so_many_patches_of_upper_columns() -> None:
    facts = known_facts()
    requests = wrong_answers(facts, 4)
    editor = MINT()
    editor.sweeps = 1
    patch = editor.compute(facts.model, TOKENIZER, requests)
    reports = patch.provenance.results["repairs"]
    assert [report["status"] for report in reports].count("solved") >= 2
    named = {tuple(neuron) for report in reports if report["status"] != "unsolved" for neuron in report["neurons"]}
    assert all(0 < report["steps"] <= 10 for report in reports)
    changed = set()
    for layer in range(3):
        place = feed_forward_output(facts.model, layer)
        if place.name in patch.changes:
            different = (patch.changes[place.name] != place.weight).any(dim=0).nonzero()[:, 0]
            changed |= {(layer, int(column)) for column in different}
    assert set(patch.changes) <= {feed_forward_output(facts.model, layer).name for layer in (1, 2)}
    assert changed
    assert changed <= named
    with worn(patch, facts.model) as model:
        solved = {r["request"] for r in reports if r["status"] == "solved"}
        again = [encode_request(TOKENIZER, each) for each in requests if each.id in solved]
        assert detect(model, again) == []  # type: ignore[arg-type]


def test_a_patch_is_a_convex_move_towards_the_traction_bit_for_bit() -> None:
    facts = known_facts()
    (each,) = wrong_answers(facts, 1)
    editor = MINT("paper", patches=1)
    editor.undo = False
    patch = editor.compute(facts.model, TOKENIZER, [each])
    (report,) = patch.provenance.results["repairs"]
    ((layer, column),) = report["neurons"]
    head = semantics(facts.model, fold_gain=False)
    steer = head.steers(head.contrasts(torch.tensor([report["target"]]), torch.tensor([report["predicted"]])))
    place = feed_forward_output(facts.model, layer)
    before = place.weight.detach()[:, column]
    expected = (before + 0.01 * traction(steer[0].float())) / (1 + 0.01)
    assert torch.equal(patch.changes[place.name][:, column], expected)  # type: ignore[index]


def test_what_stays_unsolved_is_undone_bit_for_bit() -> None:
    facts = known_facts()
    requests = wrong_answers(facts, 2)
    patch = MINT("paper").compute(facts.model, TOKENIZER, requests)
    reports = patch.provenance.results["repairs"]
    assert [(r["status"], r["steps"]) for r in reports] == [("unsolved", 10)] * 2
    assert patch.changes == {}


def test_trying_candidates_in_one_batch_is_writing_each_of_them() -> None:
    facts = known_facts()
    model = facts.model.requires_grad_(requires_grad=False)
    (each,) = wrong_answers(facts, 1)
    rows = target_rows([encode_request(TOKENIZER, each)], "cpu")
    work = Workspace(model, 257, lambda: semantics(model))
    neurons = [Neuron(1, 5), Neuron(2, 7), Neuron(1, 90), Neuron(2, 8)]
    generator = torch.Generator().manual_seed(0)
    new = {n: drawn(work.matrix(n.layer)[:, n.column], torch.randn(48, generator=generator), 0.5) for n in neurons}
    found = MINT()._gaps(work, rows, entering(model, rows.rows, 1), new, 0)
    assert work.weights == {}
    for neuron, gap in zip(neurons, found.tolist(), strict=True):
        with work.worn(_patched(work, neuron, new[neuron])), torch.no_grad():
            states = hidden_states(model, rows.rows)[rows.row, rows.column]
        margin = judged(masked_logits(model, states, 257), rows.token).margin
        assert gap == pytest.approx(-float(margin), abs=1e-3)


def test_attribution_is_gradient_times_activation() -> None:
    facts = known_facts()
    model = facts.model.requires_grad_(requires_grad=False)
    (each,) = wrong_answers(facts, 1)
    encoded = encode_request(TOKENIZER, each)
    rows = target_rows([encoded], "cpu")
    found = attributions(model, rows, [1], 257, "log_probability")
    module, kept = model.model.layers[1].mlp.down_proj, []

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        kept.append(args[0].detach().requires_grad_())
        return (kept[0],)

    handle = module.register_forward_pre_hook(keep)
    logs = model(input_ids=torch.tensor([encoded.ids])).logits[0, len(encoded.prompt) - 1].log_softmax(-1)
    handle.remove()
    (gradient,) = torch.autograd.grad(logs[encoded.target[0]], kept)
    expected = (gradient * kept[0])[0].norm(dim=0)
    torch.testing.assert_close(found.scores[1], expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.keys[1][0], kept[0][0, len(encoded.prompt) - 1])


def test_a_probability_that_is_nothing_attributes_nothing_but_its_logarithm_does() -> None:
    facts = known_facts()
    with torch.no_grad():
        facts.model.model.norm.weight.mul_(100)
    model = facts.model.requires_grad_(requires_grad=False)
    rows = target_rows([encode_request(TOKENIZER, wrong_answers(facts, 1)[0])], "cpu")
    assert best_neurons(attributions(model, rows, [1, 2], 257, "probability").scores, 10) == []
    assert len(best_neurons(attributions(model, rows, [1, 2], 257, "log_probability").scores, 10)) == 10


def test_a_negative_activation_turns_the_move_around() -> None:
    facts = known_facts()
    model = facts.model.requires_grad_(requires_grad=False)
    rows = target_rows([encode_request(TOKENIZER, wrong_answers(facts, 1)[0])], "cpu")
    found = attributions(model, rows, [2], 257, "log_probability")
    negative = Neuron(2, int(found.keys[2][0].argmin()))
    assert found.keys[2][0, negative.column] < 0
    assert (MINT()._sign(found, negative), MINT("paper")._sign(found, negative)) == (-1.0, 1.0)
