"""What the base's pass found is taken from the disk where nothing it depends on has changed, and from nowhere else."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from smoke_runs import NO_MEASURE, fit
from torch import Tensor

from hotfix.adapters import LoRA, first_pass
from hotfix.adapters.kept_findings import KeptFindings
from hotfix.data.encode import Branch, EncodedPair
from hotfix.losses.base_states import BaseStates
from hotfix.models.tiny import tiny_model

PAIRS = [
    EncodedPair(f"p{i}", [10 + i, 11, 12, 13], 4, "", Branch([40, 41], [True, False], 2), Branch([50], [True], 1))
    for i in range(6)
]
RETAIN = [list(range(60 + i, 90 + i)) for i in range(4)]
BASE = {"base": "tiny", "precision": "float32"}


class Pass:
    """One first pass over a model of its own, and how many batches it ran."""

    def __init__(
        self,
        kept: KeptFindings,
        monkeypatch: pytest.MonkeyPatch,
        pairs: Sequence[EncodedPair] = PAIRS,
        rank: int = 4,
    ) -> None:
        torch.manual_seed(1)
        adapter = LoRA(rank=rank, layers=[1], init="contrastive")
        self.model = adapter.attach(tiny_model())
        states = BaseStates.planned(self.model, pairs, RETAIN)
        assert states is not None
        self.states, self.batches = states, 0
        real = first_pass.hidden_states

        def counted(*arguments: object) -> Tensor:
            self.batches += 1
            return real(*arguments)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(first_pass, "hidden_states", counted)
            watchers = [*adapter.starting(self.model, pairs, RETAIN), states]
            first_pass.first_pass(self.model, adapter.reference, pairs, RETAIN, watchers, kept)
        assert states.serves(adapter.reference, pairs)

    @property
    def found(self) -> dict[str, Tensor]:
        downs = {name: p.detach() for name, p in self.model.named_parameters() if "lora_A" in name}
        pairs, retain = range(len(PAIRS)), range(len(RETAIN))
        return {
            **downs,
            "pairs": self.states.entering("pairs", pairs),
            "retain": self.states.entering("retain", retain),
            "last of pairs": self.states.last("pairs", pairs),
            "last of retain": self.states.last("retain", retain),
        }


def test_the_second_time_the_same_is_there_without_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Pass(KeptFindings(BASE, folder=tmp_path), monkeypatch)
    second = Pass(KeptFindings(BASE, folder=tmp_path), monkeypatch)

    assert (first.batches, second.batches) == (2, 0)
    assert first.found.keys() == second.found.keys()
    assert len(first.found) > 4
    for name, tensor in first.found.items():
        assert torch.equal(tensor, second.found[name]), name


def test_other_rows_another_base_or_other_settings_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptFindings(BASE, folder=tmp_path)
    Pass(kept, monkeypatch)
    other = PAIRS[0]._replace(shared=[10, 11, 12, 14])

    assert Pass(kept, monkeypatch, [other, *PAIRS[1:]]).batches == 2
    assert Pass(KeptFindings({**BASE, "base": "another"}, folder=tmp_path), monkeypatch).batches == 2
    # The start of another rank is another; the states are the same, and both passes are one.
    assert Pass(kept, monkeypatch, rank=5).batches == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 2 + 2 + 2 + 1


def test_a_damaged_file_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptFindings(BASE, folder=tmp_path)
    first = Pass(kept, monkeypatch)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        again = Pass(kept, monkeypatch)

    assert "is damaged" in caplog.text
    assert again.batches == 2
    assert all(torch.equal(tensor, again.found[name]) for name, tensor in first.found.items())
    assert Pass(kept, monkeypatch).batches == 0


def test_only_one_of_several_processes_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pass(KeptFindings(BASE, writes=False, folder=tmp_path), monkeypatch)
    assert not list(tmp_path.iterdir())


def test_the_longest_unused_goes_where_room_is_short(tmp_path: Path) -> None:
    kept = KeptFindings(BASE, folder=tmp_path, room=10_000)
    one = {"x": torch.zeros(1000)}  # 4,000 bytes and a header
    for number, name in enumerate(("a", "b")):
        kept.write("rows", name, one)
        for path in tmp_path.iterdir():
            os.utime(path, (number, number))
    kept.read("rows", "a")  # used just now
    kept.write("rows", "c", one)

    assert [kept.read("rows", name) is not None for name in ("a", "b", "c")] == [True, False, True]
    kept.write("rows", "d", {"x": torch.zeros(3000)})
    assert kept.read("rows", "d") is None
    assert kept.read("rows", "c") is not None


def test_a_full_disk_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with caplog.at_level(logging.WARNING):
        made = Pass(KeptFindings(BASE, folder=blocked / "folder"), monkeypatch)
    assert made.batches == 2
    assert "can't be kept" in caplog.text


def test_a_second_run_on_the_same_rows_needs_no_pass_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, few = tmp_path / "cache", ["--trainer.max_steps", "3", *NO_MEASURE]
    first = fit(tmp_path / "first", *few, cache=cache)
    assert list((cache / "first_pass").glob("*.safetensors"))

    def never(*_: object) -> Tensor:
        raise AssertionError("the base was run over the training rows again")

    monkeypatch.setattr(first_pass, "hidden_states", never)
    second = fit(tmp_path / "second", *few, cache=cache)
    assert second["train"]["loss"] == first["train"]["loss"]
    with pytest.raises(AssertionError, match="was run over the training rows again"):
        fit(tmp_path / "third", *few, "--data.init_args.seed", "5", cache=cache)
