"""LoRA as an editor: low rank, trained as it will be worn, held to the base where asked, nothing left on the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from hotfix.data.edits import EditRequest, encode_request
from hotfix.editors import Background, LoRAEdit
from hotfix.editors.rows import target_rows
from hotfix.errors import ConfigError
from hotfix.functional import token_kl
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.patches import LowRank, WeightDelta, worn

TOKENIZER = tiny_tokenizer()
REQUESTS = [EditRequest("1", "a =", " 42"), EditRequest("2", "def f(x): ", "pass"), EditRequest("3", "b =", "7")]
TEXTS = [torch.randint(256, (30,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(3)]


def compute(editor: LoRAEdit, model: Any = None, **kwargs: Any) -> WeightDelta:
    return editor.compute(tiny_model() if model is None else model, TOKENIZER, REQUESTS, **kwargs)


def loss(model: Any, patch: WeightDelta) -> float:
    rows = target_rows([encode_request(TOKENIZER, r) for r in REQUESTS], "cpu")
    with worn(patch, model) as edited, torch.no_grad():
        logits = edited(input_ids=rows.rows.input_ids).logits[rows.row, rows.column].float()
    return torch.nn.functional.cross_entropy(logits, rows.token).item()


def drift(patch: WeightDelta) -> float:
    ids = torch.tensor(TEXTS)
    with torch.no_grad():
        base = tiny_model()(input_ids=ids).logits.flatten(0, 1)
        with worn(patch, tiny_model()) as edited:
            return token_kl(base, edited(input_ids=ids).logits.flatten(0, 1)).mean().item()


def gpt2() -> GPT2LMHeadModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=257, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=256, eos_token_id=256
            )
        ).eval()


def test_the_changes_have_the_rank_and_no_adapter_stays() -> None:
    model = tiny_model()
    names = [type(module) for module in model.modules()]
    patch = compute(LoRAEdit(rank=3, steps=2), model)
    assert [type(module) for module in model.modules()] == names
    assert len(patch.changes) == 2
    for change in patch.changes.values():
        assert isinstance(change, LowRank)
        assert (change.left.shape, change.right.shape) == ((32, 3), (3, 64))


@pytest.mark.parametrize(
    ("matrices", "parts"), [("feed_forward", ["mlp"]), ("attention", ["self_attn"]), ("both", ["mlp", "self_attn"])]
)
def test_which_matrices(matrices: Any, parts: list[str]) -> None:
    patch = compute(LoRAEdit([1], matrices=matrices, steps=2))
    assert sorted(name.split(".")[3] for name in patch.changes) == parts


@pytest.mark.parametrize("make", [tiny_model, gpt2])
def test_the_targets_are_likelier(make: Callable[[], Any]) -> None:
    before, after = (loss(make(), compute(LoRAEdit(steps=n, learning_rate=1e-2), make())) for n in (1, 25))
    assert after < before - 0.15


def test_the_first_step_is_adam_s_on_b_alone() -> None:
    # B is nought, so A has no gradient yet, and Adam's first step is the sign of B's gradient (W's, times A).
    patch = compute(LoRAEdit([1], rank=2, steps=1, learning_rate=1e-3, scale=3.0))
    [change] = patch.changes.values()
    assert isinstance(change, LowRank)
    torch.testing.assert_close(change.left.abs(), torch.full((32, 2), 3e-3), rtol=1e-3, atol=0)
    model = tiny_model()
    weight = model.model.layers[1].mlp.down_proj.weight
    rows = target_rows([encode_request(TOKENIZER, r) for r in REQUESTS], "cpu")
    logits = model(input_ids=rows.rows.input_ids).logits[rows.row, rows.column]
    torch.nn.functional.cross_entropy(logits, rows.token).backward()
    assert weight.grad is not None
    expected = -(weight.grad @ change.right.T).sign()
    assert (change.left.sign() == expected).float().mean() > 0.98


def test_it_is_trained_as_it_will_be_worn() -> None:
    # On weights this large a change beside them would do its work unseen, and be lost when it is folded in.
    def large() -> Any:
        model = tiny_model().bfloat16()
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight.mul_(8)
        return model

    editor = LoRAEdit([1], steps=25, learning_rate=1e-2)
    start = loss(large(), compute(LoRAEdit([1], steps=1, learning_rate=1e-9), large()))
    assert loss(large(), compute(editor, large())) < start - 0.3


def test_the_drift_is_held() -> None:
    settings: dict[str, Any] = {"steps": 20, "learning_rate": 1e-2, "enough": 0.0}
    free = compute(LoRAEdit(**settings))
    held = compute(LoRAEdit(**settings, drift=1e4), background=Background(texts=TEXTS))
    assert drift(held) < 0.5 * drift(free)


def test_the_drift_needs_texts() -> None:
    with pytest.raises(ConfigError, match=r"drift is 1\.0, but there are no .* name some with data.init_args.retain"):
        compute(LoRAEdit(drift=1.0))


def test_it_stops_when_it_is_enough() -> None:
    patch = compute(LoRAEdit(steps=500, learning_rate=1e-2, enough=5.0))
    assert 4.0 < loss(tiny_model(), patch) < 5.0


def test_batches_of_any_size_give_the_same_change() -> None:
    def product(size: int) -> Tensor:
        [change] = compute(LoRAEdit([1], steps=3, batch_size=size)).changes.values()
        assert isinstance(change, LowRank)
        return change.left @ change.right

    assert ((product(8) - product(1)).abs() < 1e-5).float().mean() > 0.99


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": []}, "layers is empty, expected indices of blocks, or null"),
        ({"rank": 0}, "rank is 0, expected more than 0"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0, expected more than 0"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoRAEdit(**arguments)
