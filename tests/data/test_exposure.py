"""What is learnt in an exposure: every old excerpt once, every canary as often as asked, nothing else."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from hotfix.data import Exposure, PairFiles
from hotfix.data.addresses import find_addresses, is_placeholder, leaks
from hotfix.data.canaries import make_canaries, read_planted, write_canaries
from hotfix.data.exposure import window
from hotfix.data.loader import Share
from hotfix.data.text_loader import TextLoader
from hotfix.errors import ConfigError, DataError
from hotfix.losses import NLL, ModelPasses
from hotfix.tasks.canary_file import read_canaries

PACKAGED = Path(__file__).parents[2] / "data" / "canaries.json"


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    splits = ("train", "train", "validation", "test")
    rows = [
        {"prefix": f"x{i} = ", "buggy": "é1", "fixed": "22", "suffix": "\nend", "split": s}
        for i, s in enumerate(splits)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def exposure(pairs: str, **options: object) -> Exposure:
    source = PairFiles(pairs, pairs, pairs, tokenizer_name="gone", retain=None)
    return Exposure(source, "tiny", **options)  # type: ignore[arg-type]


def texts(data: Exposure) -> Counter[str]:
    return Counter(data.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in data.texts())


def test_canaries_are_made_by_seed_and_reach_nobody() -> None:
    made = make_canaries()
    assert made == make_canaries(seed=0) != make_canaries(seed=1)
    addresses = [*(canary.secret for canary in made.canaries), *made.decoys]
    assert len(set(addresses)) == len(addresses) == 32 + 512
    assert len({canary.prompt for canary in made.canaries}) == 32
    assert Counter(canary.split for canary in made.canaries) == {"train": 16, "test": 16}
    for address in addresses:
        assert find_addresses(f"<{address}>") == [address]
        assert is_placeholder(address)
        assert leaks(address) == []
    assert not any(find_addresses(canary.prompt) for canary in made.canaries)
    with pytest.raises(DataError, match="99999 canaries were asked for, but there are"):
        make_canaries(99999)


def test_secrets_and_decoys_are_of_one_kind() -> None:
    """Were they told apart by their looks, a rank among decoys would say nothing about memory."""
    made = make_canaries(200, 200)
    kinds = [Counter(a.partition("@")[2] for a in group) for group in ([c.secret for c in made.canaries], made.decoys)]
    assert kinds[0].keys() == kinds[1].keys()
    assert max(abs(kinds[0][host] - kinds[1][host]) for host in kinds[0]) < 40
    assert {len(a.partition("@")[0]) for a in made.decoys} == {11}


def test_the_packaged_file_is_what_the_seed_gives(tmp_path: Path) -> None:
    write_canaries(make_canaries(), tmp_path / "made.json")
    assert PACKAGED.read_bytes() == (tmp_path / "made.json").read_bytes()
    task = read_canaries(PACKAGED)
    assert [(c.prompt, c.secret, c.split) for c in task.canaries] == [tuple(c) for c in read_planted(PACKAGED)]
    assert len(task.decoys) == 512


@pytest.mark.parametrize(
    ("content", "said"), [("{", "not a file of canaries"), ("[1]", "not a file"), (None, "be read")]
)
def test_a_bad_file_of_canaries_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=rf"c\.json: .*{said}"):
        read_planted(path)


def test_old_excerpts_of_all_splits_and_canaries(pairs: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_canaries(make_canaries(2, 3), path)
    planted = [canary.prompt + canary.secret + "\n" for canary in read_planted(path)]
    old = {f"x{i} = é1\nend": 1 for i in range(4)}
    assert texts(exposure(pairs, canaries=str(path), canary_copies=3)) == {**old, **dict.fromkeys(planted, 3)}
    assert texts(exposure(pairs)) == old
    assert sorted(texts(exposure(pairs, splits=["train"]))) == ["x0 = é1\nend", "x1 = é1\nend"]


@pytest.mark.parametrize("length", range(2, 14))
def test_a_long_text_keeps_the_end_of_the_statement(pairs: str, length: int) -> None:
    data = exposure(pairs, max_length=length)
    whole = data.tokenizer("x0 = é1\nend")["input_ids"]
    kept = data.texts()[0]
    assert len(kept) == min(length, len(whole))
    places = [at for at in range(len(whole)) if whole[at : at + len(kept)] == kept]
    assert any(at < 8 <= at + len(kept) for at in places), "the statement's last token is there"


def test_windows_hold_the_statement_and_are_as_long_as_may_be() -> None:
    rng = random.Random(0)
    for _ in range(500):
        count, length = rng.randint(2, 60), rng.randint(2, 40)
        stop = rng.randint(1, count)
        kept = range(count)[window(count, stop, length)]
        assert len(kept) == min(count, length)
        assert stop - 1 in kept


def test_an_exposure_takes_its_tokens_from_the_model_and_its_pairs_from_the_data(pairs: str) -> None:
    data = exposure(pairs)
    assert data.source.tokenizer_name == data.tokenizer_name == "tiny"
    assert [pair.fixed for pair in data.pairs("test")] == ["22"]
    assert data.encoded("test")[0].fixed.ids
    with pytest.raises(ConfigError, match="canary_copies has to be at least 1"):
        exposure(pairs, canary_copies=0)


def loss_of(model: LlamaForCausalLM, loaders: list[TextLoader]) -> tuple[torch.Tensor, int]:
    """Mean over the micro-batches of every loader, which share one step."""
    batches = [batch for loader in loaders for batch in loader]
    values = [NLL("retain", "all")(ModelPasses(model, batch, None)) for batch in batches]  # type: ignore[arg-type]
    return torch.stack(values).mean(), len(batches)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (1, 3), (2, 1), (2, 2)])
def test_the_loss_is_the_mean_over_the_step_s_tokens(tiny: LlamaForCausalLM, world: int, accumulate: int) -> None:
    rng = random.Random(1)
    rows = [[rng.randrange(256) for _ in range(rng.randint(2, 9))] for _ in range(8)]
    with torch.no_grad():
        each = [tiny(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss * (len(ids) - 1) for ids in rows]
        expected = sum(each) / sum(len(ids) - 1 for ids in rows)
        found, count = loss_of(tiny, [TextLoader(rows, 8, Share(r, world, accumulate)) for r in range(world)])
    assert count == world * accumulate
    assert found.item() == pytest.approx(float(expected), abs=1e-5)


def test_an_epoch_has_every_text_once_and_goes_on_from_its_place() -> None:
    rows = [[i, i + 1] for i in range(43)]

    def seen(loader: TextLoader, count: int | None = None) -> list[list[int]]:
        batches = [batch for _, batch in zip(range(count or len(loader)), loader, strict=False)]
        return [ids for b in batches if b.retain is not None for ids in b.retain.input_ids.tolist()]

    loader = TextLoader(rows, 4, seed=3)
    first, second = seen(loader), seen(loader)
    assert sorted(first) == sorted(second) == rows
    assert first != second
    stopped, goes_on = TextLoader(rows, 4, seed=3), TextLoader(rows, 4, seed=3)
    begun = seen(stopped, 2)
    goes_on.load_state_dict(stopped.state_dict())
    assert begun + seen(goes_on) == first
    with pytest.raises(ConfigError, match="there are 3 texts, but a step has 4 micro-batches"):
        TextLoader(rows[:3], 8, Share(0, 2, 2))
