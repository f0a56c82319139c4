"""A look-up depends on the text so far alone, and taking an edit out leaves what there would be without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from hotfix.errors import ModelError, PatchError
from hotfix.generation import SamplingConfig, greedy, sample
from hotfix.models.fingerprint import fingerprint
from hotfix.models.layout import feed_forward_output
from hotfix.models.rows import TokenRows
from hotfix.models.states import hidden_states
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.models.trace import captured
from hotfix.patches import Codebook, Provenance, load_patch, save_patch, worn
from hotfix.patches.codebook import KeyRule, Queries
from hotfix.patches.entries import Entries, Entry, ball_radii
from hotfix.patches.nearest import NearestKey
from hotfix.patches.queries import KeyEncoder, Pool, prefix_means

TOKENIZER = tiny_tokenizer()
PROMPTS = [[5, 17, 80, 3], [9, 9, 4, 30, 31, 7, 100], [64, 2], [40, 41, 42]]
NEW = 6


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


def encoder(width: int = 64) -> KeyEncoder:
    torch.manual_seed(3)
    return KeyEncoder(width, 16, 24).eval().requires_grad_(requires_grad=False)


def inputs_of(model: PreTrainedModel, ids: Sequence[int], block: int) -> Tensor:
    """What enters the projection, [T, D], in a plain pass."""
    with torch.no_grad(), captured({"at": feed_forward_output(model, block).module}, "input") as seen:
        model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    return seen["at"][0].float()


def query(model: PreTrainedModel, rule: KeyRule, ids: Sequence[int]) -> Tensor:
    """The query at the last of some tokens, by its definition."""
    inputs = inputs_of(model, ids, rule.block)
    pooled = inputs[-1] if rule.pool == "last" else inputs.mean(dim=0)
    return pooled if rule.encoder is None else rule.encoder(pooled)


def codebook(model: PreTrainedModel, rule: KeyRule, prompts: Sequence[Sequence[int]], radius: float) -> Codebook:
    """A codebook that fires at the end of some prompts, with large random values."""
    generator = torch.Generator().manual_seed(1)
    entries: Entries | None = None
    for i, prompt in enumerate(prompts):
        key, value = query(model, rule, prompt), torch.randn(32, generator=generator) * 5
        end = None if rule.ending is None else inputs_of(model, prompt, rule.block)[-1]
        entries = entries or Entries.none(len(key), 32, 0 if end is None else len(end))
        entries = entries.added(Entry(f"e{i}", tuple(prompt), (i,)), key, value, radius, end)
    assert entries is not None
    return Codebook(Provenance("test", "tiny", fingerprint(model)), rule=rule, entries=entries)


def expected(model: PreTrainedModel, book: Codebook, ids: Sequence[int]) -> list[int]:
    """Greedy tokens by definition: whole texts again and again, each position looked up by brute force."""
    module = feed_forward_output(model, book.rule.values).module
    ids = list(ids)
    for _ in range(NEW):
        queries = torch.stack([query(model, book.rule, ids[: t + 1]) for t in range(len(ids))])
        distances = torch.cdist(queries, book.entries.keys)
        best, at = distances.masked_fill(distances > book.entries.radii, torch.inf).min(dim=1)
        fires = best.isfinite()
        if book.rule.ending is not None:
            ends, own = book.entries.ends[at], inputs_of(model, ids, book.rule.block)
            fires &= (own - ends).norm(dim=1) <= book.rule.ending * ends.norm(dim=1)

        def put(m: nn.Module, args: tuple[Tensor, ...], out: Tensor, fires: Tensor = fires, at: Tensor = at) -> Tensor:
            return torch.where(fires[:, None], book.entries.values[at], out[0])[None]

        handle = module.register_forward_hook(put)
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        handle.remove()
    return ids[-NEW:]


def written(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], use_cache: bool, left: bool = True
) -> list[list[int]]:
    """What transformers' own generation writes in a padded batch."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    found = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, use_cache=use_cache, pad_token_id=0,
        eos_token_id=None,
    )  # fmt: skip
    return [row[width:].tolist() for row in found]


RULES: dict[str, Callable[[int], KeyRule]] = {
    "last": lambda width: KeyRule(1, "last"),
    "last, first block": lambda width: KeyRule(0, "last"),
    "mean": lambda width: KeyRule(1, "mean"),
    "mean, first block": lambda width: KeyRule(0, "mean"),
    "encoded mean": lambda width: KeyRule(1, "mean", encoder(width)),
    "mean, at ends": lambda width: KeyRule(1, "mean", ending=0.5),
    "values above keys": lambda width: KeyRule(0, "mean", value_block=1),
    "values above encoded keys, at ends": lambda width: KeyRule(0, "mean", encoder(width), None, 0.8, 1),
}
rules = pytest.mark.parametrize("make_rule", RULES.values(), ids=RULES)
models = pytest.mark.parametrize("make_model", [tiny_model, gpt2], ids=["llama", "gpt2"])


@models
@rules
def test_every_way_to_generate_is_the_definition(
    make_model: Callable[[], PreTrainedModel], make_rule: Callable[[int], KeyRule]
) -> None:
    model = make_model()
    rule = make_rule(64 if make_model is tiny_model else 128)
    rule_radius = 0.3 * float(query(model, rule, PROMPTS[0]).norm())
    book = codebook(model, rule, PROMPTS[:3], rule_radius)
    wanted = [expected(model, book, prompt) for prompt in PROMPTS]
    plain = written(model, PROMPTS, use_cache=True)
    assert plain != wanted, "the edits change nothing, so nothing is tested"
    with worn(book, model):
        for _ in range(3):  # the published code is off from the second generation on
            got = [c.token_ids for c in greedy(model, TOKENIZER, PROMPTS, max_new_tokens=NEW)]
            assert [w[: len(g)] for w, g in zip(wanted, got, strict=True)] == got
            assert written(model, PROMPTS, use_cache=True) == wanted
            assert written(model, PROMPTS, use_cache=False) == wanted
        for prompt, want in zip(PROMPTS, wanted, strict=True):
            assert written(model, [prompt], use_cache=True) == [want]
            with book.reference(model):
                assert written(model, [prompt], use_cache=True)[0] == plain[PROMPTS.index(prompt)]
    assert written(model, PROMPTS, use_cache=True) == plain


@rules
def test_samples_do_not_depend_on_the_batch(make_rule: Callable[[int], KeyRule]) -> None:
    model = tiny_model()
    book = codebook(model, make_rule(64), PROMPTS[:3], 0.5)
    with worn(book, model):
        together, apart = (
            sample(model, TOKENIZER, PROMPTS, SamplingConfig(num_samples=3, max_new_tokens=8, batch_size=size), seed=0)
            for size in (12, 3)
        )
    assert [[c.token_ids for c in made] for made in together] == [[c.token_ids for c in made] for made in apart]


@rules
def test_beams_carry_their_own_sums(make_rule: Callable[[int], KeyRule]) -> None:
    model = tiny_model()
    book = codebook(model, make_rule(64), PROMPTS[:3], 0.5)
    with worn(book, model):
        found = [
            model.generate(
                input_ids=torch.tensor([PROMPTS[1]]), num_beams=3, max_new_tokens=NEW, use_cache=use_cache,
                eos_token_id=None, pad_token_id=0,
            ).tolist()
            for use_cache in (True, False)
        ]  # fmt: skip
    assert found[0] == found[1]


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_two_endings_of_one_row_are_two_texts(pool: Pool) -> None:
    model = tiny_model()
    start, one, other = PROMPTS[1], [1, 2, 3], [200, 201]
    book = codebook(model, KeyRule(0, pool), [[*start, *one[:2]], [*start, other[0]]], 0.3)
    branch = torch.tensor([[0] * 7 + [1] * 3 + [2] * 2])
    steps = torch.tensor([[*range(7), 7, 8, 9, 7, 8]])
    with worn(book, model), torch.no_grad():
        packed = hidden_states(model, TokenRows(torch.tensor([[*start, *one, *other]]), steps, branch))[0]
        for ending, part in ((one, packed[7:10]), (other, packed[10:])):
            ids = torch.tensor([[*start, *ending]])
            plain = model.model(input_ids=ids).last_hidden_state[0, 7:]
            torch.testing.assert_close(part, plain, rtol=1e-4, atol=1e-5)


def test_an_edit_that_fires_at_ends_only_leaves_what_is_near_before_and_behind() -> None:
    model, prompt = tiny_model(), PROMPTS[1]
    everywhere, at_end = (codebook(model, KeyRule(0, "mean", ending=limit), [prompt], 1e3) for limit in (None, 1e-3))
    ids = torch.tensor([[*prompt, 1, 2, 3]])
    out = feed_forward_output(model, 0).module
    for book, wanted in ((everywhere, [True] * 10), (at_end, [t == len(prompt) - 1 for t in range(10)])):
        with worn(book, model), torch.no_grad(), captured({"out": out}, "output") as seen:
            model(input_ids=ids)
        assert (seen["out"][0] == book.entries.values[0]).all(dim=1).tolist() == wanted


def test_it_never_fires_outside_its_radius() -> None:
    model = tiny_model()
    rule = KeyRule(1, "last")
    inputs = inputs_of(model, PROMPTS[1], 1)
    gap = float((inputs[-1] - inputs[:-1]).norm(dim=-1).min())
    for factor, fires in ((0.99, False), (1.01, True)):
        book = codebook(model, rule, [PROMPTS[1]], gap * factor)
        ids = torch.tensor([PROMPTS[1][:-1]])
        before = model(input_ids=ids).logits
        with worn(book, model):
            assert torch.equal(model(input_ids=ids).logits, before) != fires


def test_autocast_does_not_round_queries() -> None:
    model = tiny_model()
    queries, inputs = Queries(model, KeyRule(1, "mean", encoder())), torch.randn(1, 5, 64)
    exact = queries.of(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(queries.of(inputs), exact)


def test_a_cache_from_before_the_patch_is_refused() -> None:
    model = tiny_model()
    book = codebook(model, KeyRule(1, "mean"), [PROMPTS[1]], 0.5)
    cache = model(input_ids=torch.tensor([PROMPTS[1]]), use_cache=True).past_key_values
    with (
        worn(book, model),
        pytest.raises(ModelError, match="holds 7 positions, of which the codebook has seen 0; read"),
    ):
        model(input_ids=torch.tensor([[3]]), past_key_values=cache)


def test_tokens_can_not_be_taken_back_from_a_mean() -> None:
    model = tiny_model()
    with worn(codebook(model, KeyRule(1, "mean"), [PROMPTS[1]], 0.5), model):
        cache = model(input_ids=torch.tensor([PROMPTS[1]]), use_cache=True).past_key_values
    assert not cache.is_croppable
    with pytest.raises(ModelError, match="generate without an assistant"):
        cache.crop(-1)


def test_padding_that_is_no_number_is_left_out() -> None:
    inputs = torch.tensor([[[torch.nan], [2.0], [4.0]]])
    sums, counts = prefix_means(inputs, torch.tensor([[0, 1, 1]]))
    assert (sums / counts.clamp(min=1))[0, :, 0].tolist() == [0.0, 2.0, 3.0]


def test_masks_of_all_kinds_mean_the_same() -> None:
    inputs = torch.randn(2, 4, 3)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    square = (torch.ones(4, 4).tril().bool() & mask[:, None].bool())[:, None]
    added = torch.zeros(square.shape).masked_fill(~square, torch.finfo(torch.float32).min)
    flat = prefix_means(inputs, mask)
    for other in (square, added):
        for one, two in zip(flat, prefix_means(inputs, other), strict=True):
            torch.testing.assert_close(one, two)


def test_two_models_do_not_mix() -> None:
    one, other = tiny_model(), tiny_model()
    first, second = (codebook(one, KeyRule(1, "mean"), [PROMPTS[i]], 0.5) for i in (0, 1))
    plain = written(other, PROMPTS, use_cache=True)
    first.apply(one)
    alone = written(one, PROMPTS, use_cache=True)
    assert alone != plain
    assert written(other, PROMPTS, use_cache=True) == plain
    with worn(second, other), first.reference(one):
        assert written(other, PROMPTS, use_cache=True) != plain
        assert written(one, PROMPTS, use_cache=True) == plain
    assert written(one, PROMPTS, use_cache=True) == alone
    with worn(first, other):
        assert written(other, PROMPTS, use_cache=True) == alone
    assert written(other, PROMPTS, use_cache=True) == plain


def test_a_patch_is_put_on_once_and_taken_off_once() -> None:
    model = tiny_model()
    book = codebook(model, KeyRule(1), [PROMPTS[0]], 0.5)
    with worn(book, model), pytest.raises(PatchError, match="is on the LlamaForCausalLM already"):
        book.apply(model)
    with pytest.raises(PatchError, match="isn't on the LlamaForCausalLM"):
        book.revert(model)
    with pytest.raises(PatchError, match="was made for"):
        book.apply(tiny_model(seed=1))


def test_a_folder_keeps_every_bit(tmp_path: Path) -> None:
    model = tiny_model()
    book = codebook(model, KeyRule(0, "mean", encoder(), 0.5, 0.75, 1), PROMPTS[:2], 0.5)
    save_patch(book, tmp_path / "patch")
    loaded = load_patch(tmp_path / "patch")
    assert isinstance(loaded, Codebook)
    assert loaded.entries.edits == book.entries.edits
    assert loaded.rule.encoder is not None
    assert replace(loaded.rule, encoder=None) == KeyRule(0, "mean", None, 0.5, 0.75, 1)
    for name in ("keys", "values", "reach", "radii", "ends"):
        assert torch.equal(getattr(loaded.entries, name), getattr(book.entries, name))
    with worn(book, tiny_model()) as one, worn(loaded, tiny_model()) as other:
        ids = torch.tensor([PROMPTS[0]])
        assert torch.equal(one(input_ids=ids).logits, other(input_ids=ids).logits)


@pytest.mark.parametrize("damage", ["no file", "no tensor", "too few"])
def test_a_damaged_folder_says_so(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "patch"
    save_patch(codebook(tiny_model(), KeyRule(1), PROMPTS[:2], 0.5), folder)
    if damage == "no file":
        (folder / "codebook.json").unlink()
    elif damage == "no tensor":
        tensors = load_file(folder / "codebook.safetensors")
        tensors.pop("radii")
        save_file(tensors, folder / "codebook.safetensors")
    else:
        described = json.loads((folder / "codebook.json").read_text(encoding="utf-8"))
        described["edits"].pop()
        (folder / "codebook.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(PatchError, match="the codebook can't be loaded"):
        load_patch(folder)


def entries_of(*edits: tuple[float, int, str]) -> Entries:
    """Edits on a line: place of the key, target, and whose value is shared."""
    found = Entries.none(1, 1)
    for i, (place, target, shares) in enumerate(edits):
        edit = Entry(f"e{i}", (i,), (target,), shares)
        found = found.added(edit, torch.tensor([place]), torch.tensor([float(i)]), 1.0)
    return found


@pytest.mark.parametrize("out", [0, 1, 2])
def test_the_others_are_bit_for_bit_as_without_it(out: int) -> None:
    places = [(0.0, 7, ""), (1.2, 8, ""), (2.0, 9, "")]
    left = entries_of(*places).without([f"e{out}"])
    never = Entries.none(1, 1)
    for i, (place, target, _) in enumerate(places):
        if i != out:
            edit = Entry(f"e{i}", (i,), (target,))
            never = never.added(edit, torch.tensor([place]), torch.tensor([float(i)]), 1.0)
    assert left.edits == never.edits
    for name in ("keys", "values", "reach", "radii"):
        assert torch.equal(getattr(left, name), getattr(never, name)), name


def test_an_unknown_edit_is_not_taken_out() -> None:
    book = codebook(tiny_model(), KeyRule(1), PROMPTS[:2], 0.5)
    assert [edit.id for edit in book.without(["e0"]).entries.edits] == ["e1"]
    with pytest.raises(PatchError, match="holds no edit 'x'; it has 2"):
        book.without(["x"])


def test_balls_of_different_targets_are_split_and_never_widened_again() -> None:
    # GRACE sets the radius to half the distance to the last comer, even where it was less: 0.25 would be 0.7 again.
    radii = entries_of((0.0, 7, ""), (0.5, 8, ""), (-1.4, 9, "")).radii
    torch.testing.assert_close(radii, torch.tensor([0.25, 0.25, 1.0]), rtol=0, atol=1e-5)


def test_a_split_looks_at_every_ball_that_is_touched() -> None:
    # The nearest key, at 1.2, has a small ball; the one behind it reaches farther.
    radii = entries_of((0.0, 7, ""), (0.4, 8, ""), (-1.8, 9, ""), (-0.2, 6, "")).radii
    keys = torch.tensor([0.0, 0.4, -1.8, -0.2])
    gaps = (keys[:, None] - keys[None]).abs() + torch.eye(4) * 9
    assert bool((radii[:, None] + radii[None] <= gaps + torch.eye(4) * 9).all())


def test_targets_are_compared_by_their_ids_not_their_mean() -> None:
    one, other = Entry("a", (1,), (3, 5)), Entry("b", (2,), (5, 3))
    radii = ball_radii([one, other], torch.tensor([[0.0], [1.0]]), torch.ones(2))
    torch.testing.assert_close(radii, torch.tensor([0.5, 0.5]))
    same = ball_radii([one, Entry("b", (2,), (3, 5))], torch.tensor([[0.0], [1.0]]), torch.ones(2))
    assert same.tolist() == [1.0, 1.0]


def test_a_shared_value_s_ball_is_widened() -> None:
    found = entries_of((0.0, 7, ""), (1.5, 7, "e0"))
    assert found.radii.tolist() == [2.0, -1.0]
    # Without its owner it stands by itself, with the same value.
    alone = found.without(["e0"])
    assert alone.radii.tolist() == [1.0]
    assert torch.equal(alone.values, found.values[1:])


def test_a_ball_is_not_widened_into_another_target_s() -> None:
    found = entries_of((0.0, 7, ""), (2.5, 8, ""), (1.4, 7, "e0"))
    assert float(found.radii[0]) == 1.0
    assert float(found.radii[2]) == pytest.approx(0.55, abs=1e-4)


def test_a_later_edit_of_the_same_prompt_takes_its_place() -> None:
    key, first, then = torch.zeros(1), Entry("a", (1, 2), (7,)), Entry("b", (1, 2), (8,))
    found = Entries.none(1, 1).added(first, key, key, 1.0).added(then, key, key, 1.0)
    assert found.radii.tolist() == [-1.0, 1.0]
    assert found.without(["b"]).radii.tolist() == [1.0]


@pytest.mark.parametrize(("count", "width"), [(1, 3), (40, 5), (500, 200), (300, 64)])
def test_the_nearest_ball_is_the_one_that_brute_force_finds(count: int, width: int) -> None:
    generator = torch.Generator().manual_seed(count)
    keys = torch.randn(count, width, generator=generator) + 100
    gap = torch.cdist(keys, keys).max() / 3 + 0.1
    radii = torch.rand(count, generator=generator) * gap
    radii[1::7] = -1.0
    queries = torch.cat([keys + 0.3 * torch.randn(keys.shape, generator=generator), keys[::3], keys[::5] + 50])
    distances = torch.cdist(queries.double(), keys.double()).float()
    inside = distances.masked_fill(distances > radii, torch.inf)
    best, at = inside.min(dim=1)
    found = NearestKey(keys, radii).find(queries)
    assert (best.isfinite() & (found >= 0)).any()
    close = ((distances - radii).abs() < 1e-3).any(dim=1)  # on a border either is right
    assert torch.equal(found[~close], at.where(best.isfinite(), -1)[~close])


def test_no_key_is_found_nowhere() -> None:
    assert NearestKey(torch.zeros(0, 3), torch.zeros(0)).find(torch.zeros(2, 3)).tolist() == [-1, -1]
