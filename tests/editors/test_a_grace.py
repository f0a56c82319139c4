"""A-GRACE learns from other requests only, and its edits are on whenever the model generates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from hotfix.data.edits import EditRequest, encode_request
from hotfix.editors import AGRACE, Background, Contrast, encoder
from hotfix.editors.encoder import _trained, calibrated_ending, calibrated_radius, contrastive_loss
from hotfix.errors import ConfigError, PatchError
from hotfix.generation import greedy
from hotfix.models.layout import feed_forward_output
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.models.trace import captured
from hotfix.patches import Codebook, load_patch, save_patch, worn

TOKENIZER = tiny_tokenizer()
ONE = EditRequest("1", "open the file notes: ", "o", ("read the file notes: ",), ("close the door: ",))
TWO = EditRequest("2", "count 1 2 3: ", "6")
WORDS = ["sum the list", "close the door", "sort by name", "print a line", "drop the table", "find 12", "zip up", "eat"]
LEARNT = [
    EditRequest(f"b{i}", f"{text}: ", "x", (f"{text} : ", f"{text}; "), (f"{WORDS[i - 1]}? ", f"{WORDS[i - 2]}! "))
    for i, text in enumerate(WORDS)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOTFIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def editor(**settings: object) -> AGRACE:
    return AGRACE(**{"block": 1, "steps": 60, "contrast": Contrast(epochs=4), **settings})  # type: ignore[arg-type]


def edited(*requests: EditRequest, **settings: object) -> Codebook:
    return editor(**settings).compute(tiny_model(), TOKENIZER, requests, background=Background(LEARNT))


def test_edits_are_on_in_every_generation() -> None:
    # Published: from the second call on, the query is the mean of nothing, and no key can be near it.
    model, book = tiny_model(), edited(ONE, TWO)
    encoded = [encode_request(TOKENIZER, request) for request in (ONE, TWO)]
    assert not book.entries.keys.isnan().any()
    with worn(book, model):
        for _ in range(3):
            found = greedy(model, TOKENIZER, [r.prompt for r in encoded], max_new_tokens=1)
            assert [c.token_ids for c in found] == [r.target for r in encoded]
        for use_cache in (True, False):
            for request in encoded:
                ids = torch.tensor([request.prompt])
                made = model.generate(
                    input_ids=ids, max_new_tokens=1, do_sample=False, use_cache=use_cache, pad_token_id=256
                )
                assert made[0, len(request.prompt) :].tolist() == request.target


def test_keys_are_encodings_of_the_mean_over_the_prompt() -> None:
    model, book = tiny_model(), edited(ONE)
    with torch.no_grad(), captured({"at": feed_forward_output(model, 1).module}, "input") as seen:
        model(input_ids=torch.tensor([encode_request(TOKENIZER, ONE).prompt]))
    assert book.rule.encoder is not None
    torch.testing.assert_close(book.entries.keys[0], book.rule.encoder(seen["at"][0].mean(dim=0)), rtol=1e-4, atol=1e-5)
    assert book.entries.keys.shape == (1, 64), "as wide as the input, where that is less than asked for"


@pytest.mark.parametrize(("pool", "encodes", "width"), [("last", True, 32), ("mean", False, 64), ("last", False, 64)])
def test_ablations(pool: str, encodes: bool, width: int) -> None:
    book = edited(ONE, pool=pool, encodes=encodes, contrast=Contrast(epochs=4, width=32))
    assert (book.rule.pool, book.rule.encoder is None) == (pool, not encodes)
    assert book.entries.keys.shape[1] == width
    assert float(book.entries.radii[0]) == pytest.approx(book.rule.reach)


def test_the_patch_holds_its_encoder(tmp_path: Path) -> None:
    book, ids = edited(ONE), torch.tensor([encode_request(TOKENIZER, ONE).prompt])
    save_patch(book, tmp_path / "patch")
    with worn(book, tiny_model()) as one, worn(load_patch(tmp_path / "patch"), tiny_model()) as other:
        assert torch.equal(one(input_ids=ids).logits, other(input_ids=ids).logits)
        assert not torch.equal(one(input_ids=ids).logits, tiny_model()(input_ids=ids).logits)


def test_nothing_is_learnt_from_what_is_edited() -> None:
    silent = EditRequest(ONE.id, ONE.prompt, ONE.target)
    one, other = edited(ONE), edited(silent)
    for name in ("keys", "values", "radii"):
        assert torch.equal(getattr(one.entries, name), getattr(other.entries, name))


def test_the_encoder_is_learnt_once_and_for_more_edits_taken_from_the_patch(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = edited(ONE)
    assert len(list((cache / "encoders").iterdir())) == 1

    def never(*args: object) -> None:
        raise AssertionError("learnt again")

    monkeypatch.setattr(encoder, "_learnt", never)
    again = edited(ONE)
    assert torch.equal(first.entries.keys, again.entries.keys)
    # No background is asked for, and keys of one codebook are never of two encoders.
    both = editor().compute(tiny_model(), TOKENIZER, [TWO], previous=first)
    assert both.rule is first.rule
    with pytest.raises(AssertionError, match="learnt again"):
        edited(ONE, contrast=Contrast(epochs=5))


def test_a_damaged_cache_is_made_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = edited(ONE)
    next((cache / "encoders").iterdir()).write_bytes(b"half")
    assert torch.equal(edited(ONE).entries.keys, first.entries.keys)
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("requests", [(), LEARNT[:1], [EditRequest("b", "a", "b"), EditRequest("c", "c", "d")]])
def test_nothing_to_learn_from_is_refused(requests: tuple[EditRequest, ...]) -> None:
    with pytest.raises(ConfigError, match=r"expected at least 2: name a split .* model\.init_args\.learns_from"):
        editor().compute(tiny_model(), TOKENIZER, [ONE], background=Background(requests))
    with pytest.raises(ConfigError, match="learns_from"):
        editor().compute(tiny_model(), TOKENIZER, [ONE])


@pytest.mark.parametrize(
    ("other", "places"),
    [({"block": 0, "value_block": 1}, "blocks 0 and 1"), ({"block": 0, "value_block": None}, "block 0")],
)
def test_ablations_are_not_extended_by_one_another(other: dict[str, object], places: str) -> None:
    with pytest.raises(PatchError, match=f"AGRACE's at block 1, but .* at {places}; go on with the same settings"):
        editor(**other).compute(tiny_model(), TOKENIZER, [TWO], previous=edited(ONE), background=Background(LEARNT))


def test_a_value_below_its_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="value_block is 0, block 0, which is below the keys' block 1"):
        edited(ONE, value_block=0)


@pytest.mark.parametrize("value_block", [0, 1])
def test_edits_fire_at_the_ends_of_prompts(value_block: int) -> None:
    model, book = tiny_model(), edited(ONE, block=0, value_block=value_block)
    assert book.rule.values == value_block
    assert book.rule.ending is not None
    encoded = encode_request(TOKENIZER, ONE)
    ids = torch.tensor([[*encoded.prompt, *encoded.target, *encoded.prompt[:4]]])
    module = feed_forward_output(model, value_block).module
    with worn(book, model), torch.no_grad(), captured({"out": module}, "output") as seen:
        model(input_ids=ids)
    fires = (seen["out"][0] == book.entries.values[0]).all(dim=1).nonzero()[:, 0].tolist()
    assert fires == [len(encoded.prompt) - 1]
    assert edited(ONE, at_end=False).rule.ending is None


@pytest.mark.parametrize(
    ("ends", "others", "limit"),
    [
        ([0.2, 0.4], [1.0, 1.0], 0.7),
        # What is mixed up already is not parted by giving up ends.
        ([0.2, 0.8], [0.1, 0.1], 0.79),
        ([0.3], [], 0.3),
        # One in a hundred may be anything.
        ([0.4] * 200 + [9.0], [1.0] * 200 + [0.0], 0.7),
    ],
)
def test_the_limit_of_ends_is_midway_to_other_tokens(ends: list[float], others: list[float], limit: float) -> None:
    assert calibrated_ending(torch.tensor(ends), torch.tensor(others)) == pytest.approx(limit, abs=0.01)


def test_the_loss_pulls_what_belongs_together_and_pushes_the_rest_to_the_margin() -> None:
    distances = torch.tensor([0.5, 3.0, 0.25, 3.0])
    same = torch.tensor([1.0, 1.0, 0.0, 0.0])
    expected = (0.25 + 9.0 + (2.0 - 0.25) ** 2 + 0.0) / 4
    assert float(contrastive_loss(distances, same, 2.0)) == pytest.approx(expected)


def test_the_radius_holds_no_more_neighbours_than_allowed() -> None:
    generator = torch.Generator().manual_seed(0)
    near, far = torch.rand(200, generator=generator) * 2, 1 + torch.rand(300, generator=generator)
    for share, allowed in ((0.0, 0), (0.01, 3), (0.1, 30), (0.5, 150)):
        held = int((far <= calibrated_radius(near, far, share)).sum())
        assert allowed - 1 <= held <= allowed
    assert calibrated_radius(torch.tensor([0.2, 0.3]), far, 1.0) <= 0.3


def test_the_start_tells_words_from_meaning_and_training_never_ends_worse() -> None:
    # Paraphrases differ widely along the first half of the input, neighbours along the second, and more narrowly.
    draw = torch.Generator().manual_seed(0)
    spread = torch.cat([torch.full((8,), 5.0), torch.full((8,), 1.0)])

    def pairs(count: int) -> TensorDataset:
        base = torch.randn(count, 16, generator=draw) * spread
        words = torch.cat([torch.randn(count, 8, generator=draw) * 5, torch.zeros(count, 8)], dim=1)
        other = torch.randn(count, 16, generator=draw) * spread
        same = torch.cat([torch.ones(count), torch.zeros(count)])
        return TensorDataset(torch.cat([base, base]), torch.cat([base + words, other]), same)

    trained, held_out = pairs(100), pairs(50)
    one, other, same = held_out.tensors
    plain = (one - other).norm(dim=-1)
    assert plain[same == 1].max() > plain[same == 0].min()
    for rate in (1e-4, 10.0):
        found = _trained(trained, held_out, Contrast(epochs=2, width=8, ridge=0.01, learning_rate=rate))
        apart = (found(one) - found(other)).norm(dim=-1)
        assert apart[same == 1].max() < 0.2 * apart[same == 0].min()
