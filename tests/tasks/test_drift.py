"""Perplexity and divergence by the token: on which text, and against transformers' own loss."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from hotfix.adapters import LoRA
from hotfix.data import PairFiles
from hotfix.errors import ConfigError
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.tasks import Drift, Slice, Subject


def values(part: Slice, records: Any) -> dict[str, float]:
    for metric in part.metrics.values():
        metric.reset()
        for place, record in enumerate(records):
            metric.update(place, record)
    return {name: metric.compute().item() for name, metric in part.metrics.items()}


def observed(task: Drift, part: Slice, subject: Subject, base: Any = None) -> Any:
    return task.observe(subject, part.name, list(enumerate(part.examples)), base)


def test_slices_are_retain_text_by_module_and_unseen_pairs_by_rule(data: PairFiles) -> None:
    retain, unedited = Drift(retain_tokens=20).slices(data, "test")
    assert (retain.name, retain.group_name, retain.precise) == ("retain", "module", True)
    assert [e.id for e in retain.examples][:3] == ["m0:f0", "m0:f1", "m1:f2"]
    assert max(len(e.payload) for e in retain.examples) == 20
    assert (unedited.name, unedited.group_name) == ("unedited", "rule")
    assert len(unedited.examples) == len(data.pairs("test"))
    [only] = Drift(retain_examples=0, pair_examples=2).slices(data, "test")
    assert (only.name, len(only.examples)) == ("unedited", 2)
    [only] = Drift(pair_examples=0).slices(data, "test")
    assert only.name == "retain"


@torch.no_grad()
def test_perplexity_is_exp_of_transformers_loss_over_all_tokens(data: PairFiles, subject: Subject) -> None:
    task = Drift()
    [retain, _] = task.slices(data, "test")
    records = observed(task, retain, subject)
    assert json.loads(json.dumps(records)) == records
    losses, tokens = [], []
    for example in retain.examples:
        ids = torch.tensor([example.payload])
        losses.append(subject.model(ids, labels=ids).loss.item())
        tokens.append(len(example.payload) - 1)
    mean = sum(loss * n for loss, n in zip(losses, tokens, strict=True)) / sum(tokens)
    assert len(set(tokens)) > 3
    assert values(retain, records) == pytest.approx(
        {"perplexity": math.exp(mean), "kl": 0.0, "kl_worst": 0.0}, rel=1e-5
    )


def test_a_patched_model_has_moved_and_an_untrained_one_has_not(data: PairFiles, subject: Subject) -> None:
    task, adapter = Drift(), LoRA(rank=2)
    model = adapter.attach(tiny_model())
    model.eval()
    patched = Subject(model, tiny_tokenizer(), lambda: adapter.reference(model), 3, lambda done: None)
    for part in task.slices(data, "test"):
        base = observed(task, part, subject)
        same = values(part, observed(task, part, patched, base))
        assert same == pytest.approx(values(part, base), abs=1e-6)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    for part in task.slices(data, "test"):
        moved = values(part, observed(task, part, patched, observed(task, part, subject)))
        assert moved["kl_worst"] > moved["kl"] > 1e-3


def test_one_token_has_no_loss() -> None:
    with pytest.raises(ConfigError, match="retain_tokens is 1, expected at least 2"):
        Drift(retain_tokens=1)
