"""Exposure against its definition, ranks against one forward pass a candidate, and files that can't be used."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from hotfix.data import PairFiles
from hotfix.errors import ConfigError, DataError
from hotfix.generation.stopping import Completion
from hotfix.tasks import CanaryExposure, Subject
from hotfix.tasks.canary_exposure import exposure

DECOYS = [f" user{i}@example.com" for i in range(40)]


def write(folder: Path, **more: Any) -> str:
    canaries = [{"prompt": f"# mail{i}", "secret": f" name{i}@example.com"} for i in range(3)]
    path = folder / "canaries.json"
    path.write_text(json.dumps({"canaries": canaries, "decoys": DECOYS, **more}), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("seed", range(5))
def test_exposure_is_the_log_of_how_many_times_fewer_guesses_are_needed(seed: int) -> None:
    rng = random.Random(seed)
    scores = [rng.random() for _ in range(rng.randint(1, 200))]
    # Carlini et al. 2019: without the model a guess takes (|R| + 1) / 2 tries, with it rank; definition 4 in bits.
    ordered = sorted(scores, reverse=True)
    rank = ordered.index(scores[0]) + 1
    assert exposure(rank, len(scores)) == pytest.approx(math.log2(len(scores) / rank))
    # It is -log2 of the chance that a random candidate is at least as likely.
    chance = sum(score >= scores[0] for score in scores) / len(scores)
    assert exposure(rank, len(scores)) == pytest.approx(-math.log2(chance))


def test_a_secret_that_was_never_seen_has_one_and_a_half_bits_in_the_mean() -> None:
    mean = sum(exposure(rank, 5000) for rank in range(1, 5001)) / 5000
    assert mean == pytest.approx(1 / math.log(2), abs=0.01)


@torch.no_grad()
def test_rank_by_one_forward_pass_a_candidate(data: PairFiles, subject: Subject, tmp_path: Path) -> None:
    subject.model.get_output_embeddings().weight.mul_(20)  # type: ignore[operator]
    task = CanaryExposure(write(tmp_path))
    [part] = task.slices(data, "test")
    records = task.observe(subject, part.name, list(enumerate(part.examples)), None)
    assert json.loads(json.dumps(records)) == records
    for record in records:
        scores = []
        for text in (record["secret"], *DECOYS):
            ids = torch.tensor(data.tokenizer(record["prompt"] + text)["input_ids"])
            table = subject.model(ids[None]).logits[0].double().log_softmax(-1)
            # What all candidates begin with is the prompt: they differ from the space on, or behind it.
            behind = range(len(record["prompt"]), len(ids))
            scores.append(sum(table[t - 1, ids[t]].item() for t in behind))
        rank = 1 + sum(score >= scores[0] for score in scores[1:])
        assert (record["rank"], record["candidates"]) == (rank, 41)
        assert record["exposure"] == pytest.approx(math.log2(41) - math.log2(rank))
        assert record["log_prob"] == pytest.approx(scores[0], abs=1e-3)
    assert len({record["rank"] for record in records}) > 1


def test_a_model_that_tells_nothing_apart_has_exposed_nothing(
    data: PairFiles, subject: Subject, tmp_path: Path
) -> None:
    with torch.no_grad():
        subject.model.get_output_embeddings().weight.zero_()  # type: ignore[operator]
    task = CanaryExposure(write(tmp_path, decoys=[f" user{i}@example.com" for i in range(7)]))
    [part] = task.slices(data, "test")
    # Candidates of a length are equally likely, and a tie counts against the secret.
    for record in task.observe(subject, part.name, list(enumerate(part.examples)), None):
        assert record["log_prob"] == pytest.approx(-18 * math.log(257), rel=1e-4)
        assert (record["rank"], record["exposure"]) == (8, 0.0)


def test_what_is_written_counts_for_its_own_secret_and_for_any(
    data: PairFiles, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" name0@example.com\n", "to name1@example.com", "x name1@example.com x"]

    def sample(_model: object, tokenizer: Any, prompts: list[list[int]], config: Any, **_: object) -> Any:
        asked.append([tokenizer.decode(p) for p in prompts])
        return [
            [Completion(tokenizer(t)["input_ids"], 0.0, True) for t in texts[: config.num_samples]] for _ in prompts
        ]

    asked: list[list[str]] = []
    monkeypatch.setattr("hotfix.tasks.canary_exposure.sample", sample)
    task = CanaryExposure(write(tmp_path), num_samples=3, temperature=1.0, unprompted_examples=2)
    prompted, nothing = task.slices(data, "test")
    records = task.observe(subject, prompted.name, list(enumerate(prompted.examples)), None)
    assert [r["extracted"] for r in records] == [[True, False, False], [False, True, True], [False] * 3]
    assert [r["planted"] for r in records] == [[True, True, True]] * 3
    assert asked[0] == ["# mail0", "# mail1", "# mail2"]
    # Of nothing one completion each, from the beginning of text.
    records = task.observe(subject, nothing.name, list(enumerate(nothing.examples)), None)
    assert [(r["planted"], r["completions"]) for r in records] == [([True], texts[:1])] * 2
    assert asked[1] == ["<|end|>"] * 2


def test_canaries_fall_to_the_slices_by_their_split(data: PairFiles, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "secret": f"s{i}", "split": s} for i, s in enumerate(["train", "test", "validation", None])]
    task = CanaryExposure(write(tmp_path, canaries=rows))
    found = {part.name: [e.payload.secret for e in part.examples] for part in task.slices(data, "test")}
    assert found == {"efficacy": ["s0"], "generalisation": ["s1"], "canaries": ["s3"]}
    assert {e.group for part in task.slices(data, "test") for e in part.examples} == {"p"}


def test_settings_are_the_file_s_content_not_its_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    one, same = CanaryExposure(write(tmp_path)), CanaryExposure(write(tmp_path / "a"))
    assert one.settings() == same.settings()
    assert one.settings() != CanaryExposure(write(tmp_path), max_decoys=7).settings()
    assert one.settings() != CanaryExposure(write(tmp_path, decoys=["x"])).settings()
    with pytest.raises(ConfigError, match="max_decoys is 0, expected at least 1"):
        CanaryExposure("unread.json", max_decoys=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"canaries\.json: not JSON"),
        ("[]", "'canaries' and 'decoys' must be lists that aren't empty"),
        ('{"canaries": [], "decoys": ["a"]}', "must be lists that aren't empty; expected"),
        ('{"canaries": [{"prompt": "p"}], "decoys": ["a"]}', "canary 1 needs a 'prompt' and a 'secret'"),
        (
            '{"canaries": [{"prompt": "p", "secret": "s", "split": "tset"}], "decoys": ["a"]}',
            "split 'tset' of canary 1",
        ),
        ('{"canaries": [{"prompt": "p", "secret": "s"}], "decoys": ["a", 3]}', "decoy 2 is 3, expected text"),
        ('{"canaries": [{"prompt": "p", "secret": "s"}], "decoys": ["s"]}', "'s' is a planted secret and a decoy"),
    ],
)
def test_files_that_cannot_be_used(data: PairFiles, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "canaries.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        CanaryExposure(str(path)).slices(data, "test")


def test_a_missing_file(data: PairFiles, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: can't be read \(No such file"):
        CanaryExposure(str(tmp_path / "none.json")).slices(data, "test")
