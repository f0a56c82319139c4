"""The baseline is torch's own optimizer on the same matrices; ASTRA's closed form closes what it says it closes."""

from __future__ import annotations

import pytest
import torch
from facts import TOKENIZER, known_facts, wrong_answers
from torch import nn

from hotfix.data.edits import encode_request
from hotfix.editors import ASTRA, SGD
from hotfix.editors.repair.astra import closing
from hotfix.editors.repair.failures import detect
from hotfix.models.layout import feed_forward_output
from hotfix.modules import Edit
from hotfix.patches import worn


def test_the_published_baseline_is_torch_s_sgd() -> None:
    facts = known_facts()
    (each,) = wrong_answers(facts, 1)
    patch = SGD("paper").compute(facts.model, TOKENIZER, [each])
    encoded = encode_request(TOKENIZER, each)
    places = [feed_forward_output(facts.model, layer) for layer in range(3)]
    facts.model.requires_grad_(requires_grad=False)
    for place in places:
        place.module.weight.requires_grad_(True)
    optimizer = torch.optim.SGD([place.module.weight for place in places], lr=1e-2)  # type: ignore[list-item]
    for _ in range(10):
        logits = facts.model(input_ids=torch.tensor([encoded.prompt])).logits[:, -1]
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, torch.tensor(encoded.target)).backward()
        optimizer.step()
    assert set(patch.changes) == {place.name for place in places}
    for place in places:
        torch.testing.assert_close(patch.changes[place.name], place.weight.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rate", [1e-2, "auto"])
def test_sgd_repairs(rate: float) -> None:
    facts = known_facts()
    requests = wrong_answers(facts, 2, length=2)
    patch = SGD(learning_rate=rate, most_steps=80).compute(facts.model, TOKENIZER, requests)
    with worn(patch, facts.model) as model:
        assert detect(model, [encode_request(TOKENIZER, each) for each in requests]) == []  # type: ignore[arg-type]


def test_the_closed_form_closes_linear_gaps() -> None:
    generator = torch.Generator().manual_seed(0)
    contrasts = torch.randn(3, 8, generator=generator).double()
    keys = [torch.randn(3, 20, generator=generator) for _ in range(2)]
    directions, gaps = contrasts / contrasts.square().sum(dim=1, keepdim=True), torch.tensor([1.0, 2.0, 3.0])
    residual = torch.tensor([0.5, 1.0, 2.0])
    share = closing(contrasts, directions, keys, residual, gaps, ridge=0.0)
    # What each matrix writes at each key, through the contrast, over what the norm divides by.
    written = sum((share[:, None] * directions).T @ key.double() @ key.double().T for key in keys)
    torch.testing.assert_close((contrasts * written.T).sum(dim=1) / residual, gaps.double())  # type: ignore[union-attr]


@pytest.mark.parametrize("neurons", [16, None])
def test_astra_repairs_in_few_rounds(neurons: int | None) -> None:
    facts = known_facts()
    requests = wrong_answers(facts, 3)
    patch = ASTRA(neurons=neurons).compute(facts.model, TOKENIZER, requests)
    reports = patch.provenance.results["repairs"]
    assert {report["status"] for report in reports} == {"solved"}
    assert max(report["steps"] for report in reports) <= 10
    with worn(patch, facts.model) as model:
        assert detect(model, [encode_request(TOKENIZER, each) for each in requests]) == []  # type: ignore[arg-type]


def test_a_run_s_patch_holds_the_reports_beside_what_the_tasks_measured() -> None:
    module = Edit(SGD(), "tiny", dtype="float32")
    facts = known_facts()
    module._patch = SGD().compute(facts.model, TOKENIZER, wrong_answers(facts, 1))
    patch = module.make_patch(results={"bug_fix": {"after": 1.0}})
    assert patch is not None
    assert patch.provenance.results["bug_fix"] == {"after": 1.0}
    assert [report["position"] for report in patch.provenance.results["repairs"]] == [0]
