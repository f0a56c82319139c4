"""ROME, EMMET, MEMIT, AlphaEdit and PMET on small models: what they write is what they searched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from hotfix.data.edits import EditRequest, EncodedRequest, encode_request
from hotfix.editors import EMMET, MEMIT, PMET, ROME, AlphaEdit, Background, Search, locate_then_edit
from hotfix.editors import key_statistics as statistics
from hotfix.editors.base import Remembered, frozen
from hotfix.editors.contexts import Surroundings, contrasts, in_contexts, surroundings
from hotfix.editors.key_statistics import key_moments
from hotfix.editors.locate_then_edit import LocateThenEdit, Observed
from hotfix.editors.readings import Readings
from hotfix.editors.rows import target_rows
from hotfix.editors.values import search_values
from hotfix.errors import ConfigError, DataError
from hotfix.models.layout import feed_forward_output
from hotfix.models.states import hidden_states
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.models.trace import captured
from hotfix.patches import LowRank, WeightDelta, worn

TOKENIZER = tiny_tokenizer()
GENERATOR = torch.Generator().manual_seed(0)
BACKGROUND = Background(texts=[torch.randint(256, (40,), generator=GENERATOR).tolist() for _ in range(12)])
FIRST, SECOND = EditRequest("1", "reverse a list:", " xs[::-1]"), EditRequest("2", "sort a list:", " sorted(xs)")
BARE = Search(steps=5, prefixes=0, others=1)
AROUND = Search(steps=5, prefixes=2, others=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTFIX_CACHE", str(tmp_path / "cache"))


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=128)).eval()


def encoded(request: EditRequest) -> EncodedRequest:
    return encode_request(TOKENIZER, request)


def drawn(search: Search, longest: int | None = 512) -> Surroundings:
    return surroundings(TOKENIZER, BACKGROUND, search.prefixes, search.prefix_length, search.others, longest)


def output(model: PreTrainedModel, request: EncodedRequest, module: torch.nn.Module) -> Tensor:
    """What a module puts out at the prompt's last token."""
    rows = target_rows([request], "cpu")
    with torch.no_grad(), captured({"m": module}, "output") as seen:
        hidden_states(model, rows.rows)
    return seen["m"][0, rows.last[0]]


def patch_of(editor: LocateThenEdit, model: PreTrainedModel, *requests: EditRequest) -> WeightDelta:
    return editor.compute(model, TOKENIZER, requests, background=BACKGROUND)


@pytest.mark.parametrize("make", [tiny_model, gpt2])
@pytest.mark.parametrize("window", [None, 4])
def test_memit_without_lambda_writes_the_values_exactly(make: type[PreTrainedModel], window: int | None) -> None:
    model = make()
    editor = MEMIT([0, 1], BARE, weight=0.0, window=window)
    patch = patch_of(editor, model, FIRST, SECOND)
    assert set(patch.changes) == {feed_forward_output(model, block).name for block in (0, 1)}
    for request in (FIRST, SECOND):
        whole = encoded(request)
        first = whole._replace(target=whole.target[:window])
        place = editor.place(model, 1)
        with frozen(model):
            [wanted] = search_values(
                model, place, [first], drawn(BARE, getattr(model.config, "n_positions", 512)), BARE
            )
        with worn(patch, model):
            found = output(model, first, place.modules["block"])
        torch.testing.assert_close(found, wanted.target("block"), rtol=1e-3, atol=1e-4)
        assert wanted.shift["block"].norm() > 0.1


@pytest.mark.parametrize("make", [tiny_model, gpt2])
@pytest.mark.parametrize("protocol", ["consistent", "paper"])
def test_rome_writes_the_value_at_its_key(make: type[PreTrainedModel], protocol: str) -> None:
    """At the mean key over all contexts; as published, at the bare prompt's."""
    model = make()
    editor = ROME([1], AROUND, protocol=protocol)  # type: ignore[arg-type]
    around, request = drawn(AROUND, getattr(model.config, "n_positions", 512)), encoded(FIRST)
    projection, place = feed_forward_output(model, 1), editor.place(model, 1)
    with frozen(model):
        wanted = search_values(model, place, [request], around, AROUND)[0].target(editor.written)
    prompts = [one.prompt for one in in_contexts(request, around)]
    seen = Observed(*Readings(model, 1, prompts).read(1, projection.module))
    key = editor.key(seen) if protocol == "consistent" else seen.keys[0]
    [change] = patch_of(editor, model, FIRST).changes.values()
    assert isinstance(change, LowRank)
    assert change.left.shape[1] == 1
    with torch.no_grad():
        before = projection.module(key[None])[0]
    with worn(WeightDelta(editor.provenance(model), changes={projection.name: change}), model), torch.no_grad():
        found = projection.module(key[None])[0]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert (found - before).norm() > 0.01 * before.norm()


def test_several_requests_of_rome_are_solved_one_after_the_other() -> None:
    both = patch_of(ROME([1], AROUND), tiny_model(), FIRST, SECOND)
    first = patch_of(ROME([1], AROUND), tiny_model(), FIRST)
    then = ROME([1], AROUND).compute(tiny_model(), TOKENIZER, [SECOND], previous=first, background=BACKGROUND)
    [one], [other] = both.changes.values(), then.changes.values()
    assert isinstance(one, LowRank)
    assert isinstance(other, LowRank)
    torch.testing.assert_close(one.left @ one.right, other.left @ other.right, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("editor", [ROME([1], AROUND), MEMIT([0, 1], AROUND), PMET([0, 1], AROUND)])
def test_the_tokenizer_s_padding_makes_no_difference(editor: LocateThenEdit) -> None:
    left = tiny_tokenizer()
    left.padding_side = "left"
    one = patch_of(editor, tiny_model(), FIRST, SECOND)
    two = editor.compute(tiny_model(), left, [FIRST, SECOND], background=BACKGROUND)
    for name, change in one.changes.items():
        other = two.changes[name]
        assert isinstance(change, LowRank)
        assert isinstance(other, LowRank)
        assert torch.equal(change.right, other.right)
        assert torch.equal(change.left, other.left)


@pytest.mark.parametrize("kind", [MEMIT, EMMET, AlphaEdit])
def test_what_earlier_edits_give_is_held(kind: type[LocateThenEdit]) -> None:
    """The memory is in the patch; without it, the second edit moves more of the first."""
    model, moved = tiny_model(), []
    projection = feed_forward_output(model, 1)
    first_key = None
    for remember in (True, False):
        options = {AlphaEdit: {"threshold": 0.5, "ridge": 1e-3}, MEMIT: {"weight": 1e-2}}.get(kind, {})
        editor = kind([1], AROUND, remember=remember, **options)  # type: ignore[call-arg]
        first = patch_of(editor, model, FIRST)
        both = editor.compute(model, TOKENIZER, [SECOND], previous=first, background=BACKGROUND)
        assert {n: k.shape for n, k in both.memory.items()} == ({projection.name: (64, 2)} if remember else {})
        first_key = first.memory.get(projection.name, first_key)
        one, two = first.changes[projection.name], both.changes[projection.name]
        assert isinstance(one, LowRank)
        assert isinstance(two, LowRank)
        assert first_key is not None
        moved.append(float(((two.left @ two.right - one.left @ one.right) @ first_key).norm()))
    assert moved[0] < 0.5 * moved[1]


def test_statistics_are_the_base_s_whatever_edits_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    compute, runs = statistics.key_moments, []

    def counted(*args: object) -> dict[int, Tensor]:
        runs.append(1)
        return compute(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(statistics, "key_moments", counted)
    first = patch_of(MEMIT([1], AROUND), tiny_model(), FIRST)
    MEMIT([1], AROUND).compute(tiny_model(), TOKENIZER, [SECOND], previous=first, background=BACKGROUND)
    assert len(runs) == 1


def test_prompts_that_end_alike_are_held() -> None:
    model, around = tiny_model(), drawn(AROUND)
    module = feed_forward_output(model, 1).module
    others = contrasts(encoded(FIRST), around, 3)
    before = [output(model, other, module) for other in others]
    moved = []
    for hold in (0, 3):
        with worn(patch_of(ROME([1], AROUND, hold=hold), model, FIRST), model):
            moved.append(max(float((output(model, o, module) - b).norm()) for o, b in zip(others, before, strict=True)))
    assert moved[1] < 1e-3 * moved[0]


def test_pmet_writes_the_feed_forward_value_only() -> None:
    model = tiny_model()
    editor = PMET([1], BARE, weight=0.0)
    request = encoded(FIRST)
    place = editor.place(model, 1)
    with frozen(model):
        [wanted] = search_values(model, place, [request], drawn(BARE), BARE)
    assert wanted.shift["attention"].norm() > 0
    with worn(patch_of(editor, model, FIRST), model):
        found = {name: output(model, request, module) for name, module in place.modules.items()}
    torch.testing.assert_close(found["feed-forward"], wanted.target("feed-forward"), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found["attention"], wanted.start["attention"], rtol=1e-4, atol=1e-6)


def test_requests_are_read_behind_every_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[list[list[int]]] = []

    class Noted(Readings):
        def __init__(self, model: PreTrainedModel, first: int, read: list[list[int]]) -> None:
            texts.append(read)
            super().__init__(model, first, read)

    monkeypatch.setattr("hotfix.editors.locate_then_edit.Readings", Noted)
    patch_of(MEMIT([0, 1], AROUND), tiny_model(), FIRST, SECOND)
    around = drawn(AROUND)
    assert texts == [[one.prompt for r in (FIRST, SECOND) for one in in_contexts(encoded(r), around)]]
    assert len(texts[0]) == 6


def test_without_ordinary_code_there_is_a_clear_error() -> None:
    with pytest.raises(DataError, match=r"MEMIT has to know .* set data.init_args.retain"):
        MEMIT([1]).compute(tiny_model(), TOKENIZER, [FIRST], background=Background())


@pytest.mark.parametrize("layers", [[], [2], [0, 0], [-1]])
def test_blocks_that_are_not_there_are_refused(layers: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"layers is \[.*expected different indices of blocks from 0 to 1"):
        patch_of(MEMIT(layers, BARE), tiny_model(), FIRST)


def test_settings_that_can_t_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected one block for ROME"):
        ROME([0, 1])
    with pytest.raises(ConfigError, match="window is 0, expected at least 1"):
        MEMIT(window=0)
    with pytest.raises(ConfigError, match="threshold is 0"):
        AlphaEdit(threshold=0)


def test_auto_takes_the_best_run_of_blocks_whatever_is_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def scored(model: PreTrainedModel, requests: list[EncodedRequest], *rest: object) -> list[float]:
        asked.append([r.ids for r in requests])
        return [0.2, 0.1]

    monkeypatch.setattr("hotfix.editors.locate_then_edit.block_scores", scored)
    for request, block in ((FIRST, 0), (SECOND, 0)):
        patch = patch_of(ROME("auto", BARE), tiny_model(), request)
        assert list(patch.changes) == [feed_forward_output(tiny_model(), block).name]
    assert asked[0] == asked[1]
    assert asked[0]


def test_other_requests_prompts_are_held_but_none_that_is_edited() -> None:
    model, other = tiny_model(), EditRequest("3", "copy a list:", " list(xs)")
    known = Background([other, SECOND], BACKGROUND.texts)
    module = feed_forward_output(model, 1).module
    before = output(model, encoded(other), module)
    editor = EMMET([1], BARE, mu=0.0, hold=2)
    patch = editor.compute(model, TOKENIZER, [FIRST, SECOND], background=known)
    alone = EMMET([1], BARE, mu=0.0).compute(model, TOKENIZER, [FIRST, SECOND], background=known)
    with worn(patch, model):
        torch.testing.assert_close(output(model, encoded(other), module), before, rtol=1e-4, atol=1e-6)
        held = output(model, encoded(SECOND), module)
    with worn(alone, model):
        torch.testing.assert_close(output(model, encoded(SECOND), module), held, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("editor", [ROME, EMMET, MEMIT, AlphaEdit, PMET])
def test_more_rounds_write_what_one_leaves_and_no_more_are_made_than_needed(
    editor: type[LocateThenEdit], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(steps=40, clamp=20.0, prefixes=2, others=1)
    request = EditRequest("1", FIRST.prompt, " x", ending="\n")
    whole = encode_request(TOKENIZER, request, ending=True)
    solved: list[int] = []
    solve = LocateThenEdit._solve

    def counted(self: LocateThenEdit, *args: Any) -> Any:
        solved.append(1)
        return solve(self, *args)

    monkeypatch.setattr(LocateThenEdit, "_solve", counted)
    right = {}
    for rounds in (1, 8):
        solved.clear()
        layers = [1] if issubclass(editor, ROME) else [0, 1]
        patch = patch_of(editor(layers, search, window=1, rounds=rounds), tiny_model(), request)  # type: ignore[call-arg]
        with worn(patch, tiny_model()) as model, torch.no_grad():
            likeliest = model(input_ids=torch.tensor([whole.ids])).logits[0].argmax(-1)
        wanted = torch.tensor(whole.target)
        right[rounds] = int((likeliest[len(whole.prompt) - 1 : -1] == wanted).sum())
        assert len(solved) <= rounds
        assert (right[rounds] == len(wanted)) or len(solved) == rounds
    assert right[8] == len(whole.target), f"one round writes {right[1]} of them"
    # What is written already is edited once, as the published editors would, and no further.
    solved.clear()
    editor(layers, search, window=1, rounds=8).compute(  # type: ignore[call-arg]
        tiny_model(), TOKENIZER, [request], previous=patch, background=BACKGROUND
    )
    assert len(solved) == 1


def test_windows_are_as_short_as_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of 64 keys: one target may have a vector a token, two may not, and what is remembered counts."""
    solved: list[list[EncodedRequest]] = []

    def noted(self: LocateThenEdit, *args: Any) -> Remembered:
        model, _, group, _ = args
        solved.append(group.requests)
        name = feed_forward_output(model, 0).name
        earlier = group.memory.get(name, torch.zeros(64, 0))
        return Remembered({}, {name: torch.zeros(64, earlier.shape[1] + len(group.requests))})

    monkeypatch.setattr(LocateThenEdit, "_solve", noted)
    one, two = encoded(FIRST), encoded(SECOND)
    assert max(len(one.target), len(two.target)) <= 64 // 4 < len(one.target) + len(two.target)
    editor = MEMIT([0, 1], BARE, window="auto")
    first = patch_of(editor, tiny_model(), FIRST)
    patch_of(editor, tiny_model(), FIRST, SECOND)
    editor.compute(tiny_model(), TOKENIZER, [SECOND], previous=first, background=BACKGROUND)
    assert [part.target for part in solved[0]] == [[token] for token in one.target]
    assert {len(part.target) for part in solved[1][:-1]} <= {1, 2}
    assert max(len(part.target) for part in solved[1]) == 2
    left = 64 // 4 - len(one.target)
    assert len(solved[2]) <= left
    assert sum(len(part.target) for part in solved[2]) == len(two.target)


def test_rounds_count_from_1() -> None:
    with pytest.raises(ConfigError, match="rounds is 0, expected at least 1"):
        MEMIT(rounds=0)


@pytest.mark.parametrize("make", [tiny_model, gpt2])
@pytest.mark.parametrize("editor", [ROME, EMMET, MEMIT, AlphaEdit, PMET])
def test_no_solve_moves_ordinary_values_further_than_drift(
    make: Callable[[], PreTrainedModel], editor: type[LocateThenEdit]
) -> None:
    layers = [1] if issubclass(editor, ROME) else [0, 1]
    threshold = {"threshold": 0.5} if editor is AlphaEdit else {}
    far = {}
    for drift in (None, 0.01):
        model = make()
        one = editor(layers, BARE, drift=drift, **threshold)  # type: ignore[call-arg]
        patch = patch_of(one, model, FIRST)
        moments = key_moments(model, layers, BACKGROUND.texts)
        for block in layers:
            projection = feed_forward_output(model, block)
            factor = one.derived().of(moments[block])
            change = patch.changes[projection.name].added_to(torch.zeros_like(projection.module.weight))
            moved = (change.T if projection.transposed else change) @ factor
            far[drift, block] = float(moved.norm() / (projection.weight.detach() @ factor).norm())
    assert any(far[None, block] > 0.02 for block in layers)
    assert all(far[0.01, block] <= 0.01 * 1.001 for block in layers)


def test_of_the_rounds_that_one_stays_which_leaves_fewest_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = iter([["one", "another"], ["one"], ["one", "another"], ["one"]])
    monkeypatch.setattr(locate_then_edit, "detect", lambda *_: next(wrong))
    found = patch_of(MEMIT([0, 1], BARE, window=1, rounds=4), tiny_model(), FIRST)
    assert next(wrong, None) is None
    wrong = iter([["one", "another"], ["one"]])
    kept = patch_of(MEMIT([0, 1], BARE, window=1, rounds=2), tiny_model(), FIRST)
    for name, change in kept.changes.items():
        assert torch.equal(found.changes[name].added_to(torch.zeros(())), change.added_to(torch.zeros(())))  # type: ignore[union-attr]
    assert {name: keys.shape for name, keys in found.memory.items()} == {n: k.shape for n, k in kept.memory.items()}


def test_drift_is_more_than_nothing() -> None:
    with pytest.raises(ConfigError, match=r"drift is 0\.0, expected more than 0, or null for no limit"):
        MEMIT(drift=0.0)
