"""The pool: order, parallelism, dead servers, levels, and what is left after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from hotfix.errors import SandboxError
from hotfix.sandbox import Limits, Sandbox, Verdict, client
from hotfix.sandbox.isolation import Level


@pytest.fixture(scope="module")
def pool() -> Iterator[Sandbox]:
    try:
        made = Sandbox(Limits(wall_s=15), workers=2)
    except SandboxError as error:
        pytest.skip(str(error))
    with made:
        yield made


@pytest.fixture
def only_rlimits(monkeypatch: pytest.MonkeyPatch) -> None:
    def levels(is_root: bool, has_bubblewrap: bool) -> list[Level]:
        return ["rlimits"]

    monkeypatch.setattr(client, "candidates", levels)


def wait_until_gone(pids: set[int], seconds: float = 10) -> set[int]:
    end = time.monotonic() + seconds
    while (left := {pid for pid in pids if Path(f"/proc/{pid}").exists()}) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def test_verdicts_are_in_order(pool: Sandbox) -> None:
    programs = [f"import time; time.sleep({(7 * i) % 5 / 100}); assert {i} % 3" for i in range(30)]
    assert [verdict.passed for verdict in pool.run(programs)] == [bool(i % 3) for i in range(30)]
    assert pool.run([]) == []


def test_workers_run_in_parallel(pool: Sandbox) -> None:
    pool.run(["", ""])
    started = time.monotonic()
    pool.run(["import time; time.sleep(1)"] * 2)
    assert time.monotonic() - started < 1.8


def test_submit_returns_before_the_end(pool: Sandbox) -> None:
    slow, quick = pool.submit("import time; time.sleep(1)"), pool.submit("")
    assert quick.result().passed
    assert not slow.done()
    assert slow.result().passed


def test_dead_server_costs_only_its_own_program(pool: Sandbox) -> None:
    pool.run(["", ""])
    victim, neighbour = (pool.submit("import time; time.sleep(1.5)") for _ in range(2))
    later = [pool.submit("") for _ in range(4)]
    time.sleep(0.3)
    next(iter(pool._servers)).process.kill()
    verdicts = [victim.result(), neighbour.result()]
    assert sorted(verdict.status for verdict in verdicts) == ["killed", "passed"]
    assert next(v.detail for v in verdicts if not v.passed) == "the server of this program died"
    assert all(future.result().passed for future in later)


def test_huge_program(pool: Sandbox) -> None:
    assert pool.run(["x = '" + "a" * 5_000_000 + "'\nassert len(x) == 5_000_000"])[0].passed


def test_level_is_recorded(pool: Sandbox) -> None:
    assert pool.level in ("namespaces", "bubblewrap")


def test_close_kills_what_runs_and_leaves_nothing(below: Callable[[int], set[int]], pool: Sandbox) -> None:
    before = below(os.getpid())
    folders = set(Path(tempfile.gettempdir()).glob("hotfix-sandbox-*"))
    with Sandbox(workers=2) as sandbox:
        futures = [sandbox.submit("import time; time.sleep(60)") for _ in range(5)]
        time.sleep(0.5)
        started = below(os.getpid()) - before
        assert len(started) >= 6
        assert set(Path(tempfile.gettempdir()).glob("hotfix-sandbox-*")) > folders
    assert wait_until_gone(started) == set()
    assert set(Path(tempfile.gettempdir()).glob("hotfix-sandbox-*")) == folders
    assert sorted(_outcome(future) for future in futures) == ["cancelled"] * 3 + ["killed"] * 2


def _outcome(future: Future[Verdict]) -> str:
    try:
        return future.result().status
    except CancelledError:
        return "cancelled"


def test_nothing_survives_a_killed_caller(below: Callable[[int], set[int]], pool: Sandbox, tmp_path: Path) -> None:
    code = """
import sys
from hotfix.sandbox import Sandbox
sandbox = Sandbox(workers=1)
future = sandbox.submit("import os, time; os.fork(); time.sleep(60)")
print("started", flush=True)
future.result()
"""
    root = Path(client.__file__).parents[2]
    # A killed caller can't remove its empty folder.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    caller = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment)
    assert caller.stdout is not None
    assert caller.stdout.readline() == "started\n"
    end = time.monotonic() + 10
    while len(started := below(caller.pid)) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    caller.stdout.close()
    assert len(started) >= 4
    assert wait_until_gone(started) == set()


def test_servers_outlive_the_thread_that_made_the_sandbox(pool: Sandbox) -> None:
    with ThreadPoolExecutor(1) as threads:
        sandbox = threads.submit(Sandbox, Limits(), 1).result()
    with sandbox:
        time.sleep(0.2)
        assert sandbox.run([""])[0].passed


@pytest.mark.usefixtures("only_rlimits")
def test_resource_limits_alone_must_be_asked_for() -> None:
    with pytest.raises(
        SandboxError, match="install bubblewrap or allow user namespaces, or pass allow_unsandboxed=True"
    ):
        Sandbox()


@pytest.mark.usefixtures("only_rlimits")
def test_resource_limits_alone(below: Callable[[int], set[int]]) -> None:
    programs = ["assert 1", "assert 0", "import os; os._exit(0)", "x = bytearray(10**10)", "while True: pass"]
    kill_server = "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(9)"
    with Sandbox(Limits(cpu_s=1), workers=1, allow_unsandboxed=True) as sandbox:
        assert sandbox.level == "rlimits"
        statuses = [verdict.status for verdict in sandbox.run([*programs, kill_server, "assert 1"])]
        scratch = sandbox.run(["import os; open('x', 'w').close(); raise ValueError(os.getcwd())", "open('x')"])
        server = next(iter(sandbox._servers)).process.pid
        assert below(server) == set()
    assert statuses == ["passed", "failed", "failed", "memory", "timeout", "killed", "passed"]
    assert "hotfix-sandbox-" in scratch[0].detail
    assert scratch[1].detail.startswith("FileNotFoundError")


def test_reason_why_a_level_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(level: Level, limits: Limits, folder: str) -> list[str]:
        return ["/nonexistent/server"]

    monkeypatch.setattr(client, "command", broken)
    with pytest.raises(SandboxError, match=r"namespaces: .*No such file or directory: '/nonexistent/server'"):
        Sandbox()


def test_at_least_one_worker() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        Sandbox(workers=0)


def test_imports_only_the_standard_library() -> None:
    code = "import sys, hotfix.sandbox; print({m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names)"
    root = Path(client.__file__).parents[2]
    found = subprocess.run([sys.executable, "-S", "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert set(eval(found.stdout)) - {"__main__"} == {"hotfix"}


def test_is_faster_than_a_process_per_program(pool: Sandbox) -> None:
    programs = ["import math, re, typing, collections, itertools\nassert math.pi > 3"] * 16

    def fresh(program: str) -> bool:
        return subprocess.run([sys.executable, "-I", "-S", "-c", program], check=False).returncode == 0

    def best(run: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return min(times)

    with ThreadPoolExecutor(2) as threads:
        assert best(lambda: pool.run(programs)) < best(lambda: list(threads.map(fresh, programs)))
