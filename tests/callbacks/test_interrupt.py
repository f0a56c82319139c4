"""The command that goes on, and a signal that is given back."""

from __future__ import annotations

import shlex
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from hotfix.callbacks import Interrupt
from hotfix.callbacks.interrupt import next_command


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--config", "a.yaml"],
        ["fit", "--config", "a b.yaml", "--data.init_args.train", '["x.jsonl", "y.jsonl"]'],
        ["fit", "--config", "a.yaml", "--model.init_args.objective.init_args.unlearn", '{"class_path": "m.My$Loss"}'],
    ],
)
def test_a_shell_reads_back_the_same_words(words: list[str]) -> None:
    found = shlex.split(next_command(["/somewhere/bin/hotfix", *words]))
    assert found == ["hotfix", *words, "--ckpt_path", "last"]


@pytest.mark.parametrize("old", [["--ckpt_path", "old.ckpt"], ["--ckpt_path=old.ckpt"], ["--ckpt_path", "last"]])
def test_an_earlier_checkpoint_gives_way(old: list[str]) -> None:
    found = next_command(["hotfix", "fit", *old, "--config", "a.yaml"])
    assert found == "hotfix fit --config a.yaml --ckpt_path last"


def test_first_ctrl_c_is_noted_and_the_second_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt, nothing = Interrupt(), _anything()
    interrupt.on_train_start(nothing, nothing)
    try:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        interrupt.on_train_end(nothing, nothing)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_signal_is_given_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt, nothing = Interrupt(), _anything()
    interrupt.on_train_start(nothing, nothing)
    assert signal.getsignal(signal.SIGINT) is not before
    interrupt.on_exception(nothing, nothing, ValueError())
    assert signal.getsignal(signal.SIGINT) is before


def test_any_process_stops_all_and_only_behind_a_whole_step() -> None:
    asked: list[bool] = []

    def reduce(decision: bool, all: bool) -> bool:  # noqa: A002  the strategy's own name
        assert not all
        asked.append(decision)
        return False

    interrupt = Interrupt()
    trainer: Any = SimpleNamespace(
        world_size=2,
        strategy=SimpleNamespace(reduce_boolean_decision=reduce),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: True)),
    )
    interrupt._ask(2, None)
    interrupt.on_train_batch_end(trainer, _anything(), None, None, 0)
    assert asked == []
    trainer.fit_loop.epoch_loop._should_accumulate = lambda: False
    interrupt.on_train_batch_end(trainer, _anything(), None, None, 1)
    assert asked == [True]


def _anything() -> Any:
    return SimpleNamespace()
