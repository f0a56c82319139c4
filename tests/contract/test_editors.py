"""What every editor keeps: the model is as it was, the patch is whole, and only the requests say what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from contract_seams import assert_complete
from editor_cases import CASES, Case
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from hotfix.data.edits import EditRequest, encode_request
from hotfix.editors import Background, Editor
from hotfix.errors import DataError, ModelError, PatchError
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.patches import Patch, load_patch, save_patch, worn

editors = pytest.mark.parametrize("case", [case for _, case in CASES.values()], ids=CASES)
LONG, SHORT = EditRequest("1", "def digest(data): return ", "sha256(data)"), EditRequest("2", "x =", " 42")
OTHER = EditRequest("3", "reverse a list:", " xs.reverse()", ("turn a list around:",), ("sort a list:", "copy it:"))
TOKENIZER = tiny_tokenizer()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTFIX_CACHE", str(tmp_path / "cache"))


def background() -> Background:
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(256, (40,), generator=generator).tolist() for _ in range(12)]
    requests = [
        EditRequest(f"b{i}", f"question {i}:", f" answer {i}", (f"ask {i}:",), (f"thing {i}:", f"part {i}:"))
        for i in range(6)
    ]
    return Background(requests, texts)


def compute(case: Case, model: LlamaForCausalLM, *requests: EditRequest, previous: Patch | None = None) -> Patch:
    return case.make().compute(model, TOKENIZER, requests, previous=previous, background=background())


def logits(model: nn.Module) -> Tensor:
    ids = torch.tensor([encode_request(TOKENIZER, LONG).ids])
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).logits
    return found


def patched_logits(patch: Patch) -> Tensor:
    with worn(patch, tiny_model()) as model:
        return logits(model)


def test_every_editor_has_a_case() -> None:
    assert_complete(Editor, [cls for cls, _ in CASES.values()])
    assert all(isinstance(case.make(), cls) for cls, case in CASES.values())


@editors
def test_the_model_is_bit_for_bit_as_it_was(case: Case) -> None:
    model = tiny_model()
    model.model.layers[0].train()
    model.lm_head.weight.requires_grad_(False)
    state = {name: (p, p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = {
        name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in model.named_modules()
    }
    random = torch.get_rng_state()
    patch = compute(case, model, LONG, SHORT)
    for name, p in model.named_parameters():
        same, before, grad = state[name]
        assert p is same
        assert torch.equal(p, before), name
        assert (p.requires_grad, p.grad) == (grad, None), name
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert hooks == {n: len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in model.named_modules()}
    assert torch.equal(random, torch.get_rng_state())
    expected = logits(model)
    with worn(patch, model) as patched:
        assert not torch.equal(logits(patched), expected)
        with patch.reference(patched):
            assert torch.equal(logits(patched), expected)
    assert torch.equal(logits(model), expected)


@editors
def test_an_error_leaves_the_model_as_it_was(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    expected, calls = logits(model), 0
    forward = type(model.model.layers[1].mlp).forward

    def failing(self: nn.Module, states: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls >= case.passes:
            raise RuntimeError("out of memory")
        return forward(self, states)

    with monkeypatch.context() as patched:
        patched.setattr(type(model.model.layers[1].mlp), "forward", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            compute(case, model, LONG)
    assert torch.equal(logits(model), expected)


@editors
def test_a_saved_patch_gives_the_same_logits_on_a_fresh_model(case: Case, tmp_path: Path) -> None:
    patch = compute(case, tiny_model(), LONG, SHORT)
    save_patch(patch, tmp_path / "patch")
    loaded = load_patch(tmp_path / "patch")
    assert type(loaded) is type(patch)
    assert loaded.provenance.method.endswith(type(case.make()).__qualname__)
    assert torch.equal(patched_logits(loaded), patched_logits(patch))
    with pytest.raises(PatchError, match="was made for"):
        loaded.apply(tiny_model(seed=1))


@editors
def test_the_same_again_whatever_came_before(case: Case) -> None:
    torch.manual_seed(1)
    editor = case.make()
    first = editor.compute(tiny_model(), TOKENIZER, [LONG], background=background())
    torch.manual_seed(2)
    # Another model, and other requests, in between.
    editor.compute(tiny_model(seed=1), TOKENIZER, [SHORT, OTHER], background=background())
    again = editor.compute(tiny_model(), TOKENIZER, [LONG], background=background())
    assert torch.equal(patched_logits(first), patched_logits(again))


@editors
def test_the_target_is_likelier(case: Case) -> None:
    if not case.learns:
        pytest.skip("this method promises no such thing")
    request = EditRequest("4", "the answer: ", "7")
    _, prompt, [token] = encode_request(TOKENIZER, request)

    def likely(model: nn.Module) -> float:
        with torch.no_grad():
            found = model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        return float(found[token])

    with worn(compute(case, tiny_model(), request), tiny_model()) as model:
        assert likely(model) > likely(tiny_model())


@editors
def test_no_request_changes_nothing(case: Case) -> None:
    assert torch.equal(patched_logits(compute(case, tiny_model())), logits(tiny_model()))


@editors
def test_earlier_edits_stay_in_the_patch(case: Case) -> None:
    if not case.sequential:
        pytest.skip("this method takes no earlier edits")
    first = compute(case, tiny_model(), LONG)
    both = compute(case, tiny_model(), SHORT, previous=first)
    alone = compute(case, tiny_model(), SHORT)
    assert not torch.equal(patched_logits(both), patched_logits(alone))
    unchanged = compute(case, tiny_model(), previous=first)
    assert torch.equal(patched_logits(unchanged), patched_logits(first))


@editors
@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([EditRequest("7", "a", " \n")], "'7': the target is empty"),
        ([EditRequest("7", "a" * 300, "b" * 300)], "more than the model's context of 512"),
        ([EditRequest("7", "a", "b"), EditRequest("8", "a", "b")], "'7' and '8' are the same"),
        ([EditRequest("7", "a", "b"), EditRequest("8", "a", "c")], "'7' and '8' want different targets"),
        ([EditRequest("7", "a", "b"), EditRequest("7", "c", "d")], "two requests have the id '7'"),
    ],
)
def test_bad_requests_are_refused(case: Case, requests: list[EditRequest], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compute(case, tiny_model(), *requests)


@editors
def test_a_model_without_known_places_is_refused(case: Case) -> None:
    model = tiny_model()
    for block in model.model.layers:
        # As a mixture of experts: several matrices that write to the residual stream.
        block.mlp.expert = nn.Linear(64, 32, bias=False)
    with pytest.raises(ModelError, match=r"feed-forward part of block \d of LlamaForCausalLM has 2 linear maps"):
        compute(case, model, LONG)
