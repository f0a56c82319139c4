"""Processes of a study: how many at once, what they may use, how they end and that none is left."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from hotfix.study.plan import Run
from hotfix.study.runner import Ended, Watcher, run_all, visible_devices

LOG = "import os, sys, time; out = open(sys.argv[1], 'a'); "


def runs(folder: Path, count: int) -> list[Run]:
    return [Run(f"arm{i}", 0, folder / f"arm{i}", "d", (str(folder / "log"), str(i)), "new", {}) for i in range(count)]


def run_script(
    folder: Path, script: str, count: int, workers: int, watcher: Watcher | None = None, **more: str
) -> Sequence[Ended]:
    environment = {**os.environ, **more}
    program = (sys.executable, "-c", LOG + script)
    return run_all(runs(folder, count), workers, watcher or Watcher(), environment, program=program)


def test_no_more_run_at_once_than_workers(tmp_path: Path) -> None:
    script = "out.write('+'); out.flush(); time.sleep(0.3); out.write('-'); out.flush()"
    ended = run_script(tmp_path, script, 5, 2)
    assert [one.code for one in ended] == [0] * 5
    at_once = highest = 0
    for sign in (tmp_path / "log").read_text(encoding="utf-8"):
        at_once += 1 if sign == "+" else -1
        highest = max(highest, at_once)
    assert (at_once, highest) == (0, 2)


def test_each_worker_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    script = "out.write(os.environ.get('CUDA_VISIBLE_DEVICES', '-') + ' '); out.flush(); time.sleep(0.8)"
    run_script(tmp_path, script, 2, 2, CUDA_VISIBLE_DEVICES="3,5")
    assert sorted((tmp_path / "log").read_text(encoding="utf-8").split()) == ["3", "5"]


def test_one_worker_has_them_all(tmp_path: Path) -> None:
    script = "out.write(os.environ['CUDA_VISIBLE_DEVICES'])"
    run_script(tmp_path, script, 1, 1, CUDA_VISIBLE_DEVICES="3,5")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "3,5"


def test_gpus_are_those_that_the_driver_lists(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho 'GPU 1: A (UUID: y)'\n", encoding="utf-8")
    tool.chmod(0o755)
    assert visible_devices({"PATH": f"{tmp_path}:/bin:/usr/bin"}) == visible_devices({"CUDA_VISIBLE_DEVICES": "0, 1"})
    assert visible_devices({"PATH": ""}) == []


def test_a_failed_run_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    script = "print('reason', sys.argv[2]); sys.exit(3 if sys.argv[2] == '0' else 0)"
    first, second = run_script(tmp_path, script, 2, 1)
    assert (first.run.arm, first.code, first.said) == ("arm0", 3, ("reason 0",))
    assert (second.code, second.said) == (0, ())
    assert (tmp_path / "arm1/output.log").read_text(encoding="utf-8") == "reason 1\n"


class Stopper(Watcher):
    """Presses Ctrl-C once the first process has written something."""

    def __init__(self, log: Path) -> None:
        self.log, self.pressed = log, False

    def tick(self, running: Sequence[Run]) -> None:
        if not self.pressed and self.log.exists() and self.log.read_text(encoding="utf-8"):
            self.pressed = True
            raise KeyboardInterrupt


def alive(pid: int) -> bool:
    """Whether a process still does something."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2] != "Z"
    except OSError:
        return False


def test_ctrl_c_lets_a_process_finish_its_step(tmp_path: Path) -> None:
    script = (
        "import signal; signal.signal(signal.SIGINT, lambda *a: (out.write('saved'), out.flush(), sys.exit(0)));"
        "out.write(f'{os.getpid()} '); out.flush(); time.sleep(60)"
    )
    before = signal.getsignal(signal.SIGTERM)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_script(tmp_path, script, 3, 1, Stopper(tmp_path / "log"))
    assert time.monotonic() - began < 30
    pid, saved = (tmp_path / "log").read_text(encoding="utf-8").split()
    assert saved == "saved"
    assert not alive(int(pid))
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (tmp_path / "arm1").exists()


def test_nothing_outlives_a_second_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that ignores the request, and one that it has started.
    script = (
        "import signal, subprocess; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "out.write(f'{os.getpid()} {child.pid}'); out.flush(); time.sleep(60)"
    )
    threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run_script(tmp_path, script, 1, 1, Stopper(tmp_path / "log"))
    pids = [int(pid) for pid in (tmp_path / "log").read_text(encoding="utf-8").split()]
    until = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(pids) == 2
    assert not any(map(alive, pids))


def test_a_run_keeps_the_study_s_lock(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)

    class Closer(Watcher):
        """Lets the lock go as a killed study would, and looks whether it is free."""

        free: bool | None = None

        def started(self, run: Run) -> None:
            os.close(lock)
            other = os.open(tmp_path / "lock", os.O_RDWR)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.free = True
            except BlockingIOError:
                self.free = False
            os.close(other)

    watcher = Closer()
    environment: Mapping[str, str] = os.environ
    program = (sys.executable, "-c", "import time; time.sleep(0.5)")
    run_all(runs(tmp_path, 1), 1, watcher, environment, lock, program)
    assert watcher.free is False
