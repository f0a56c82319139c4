"""The caller's side: a pool of isolated servers behind one object."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType

from hotfix.errors import SandboxError
from hotfix.sandbox.isolation import Level, candidates, command, has_bubblewrap
from hotfix.sandbox.limits import Limits
from hotfix.sandbox.verdict import Verdict
from hotfix.sandbox.wire import receive, send

__all__ = ["Sandbox", "ServerProcess"]

_START_S = 30.0
# For the server to notice the wall limit, kill and clean; a server that takes longer is taken for dead.
_GRACE_S = 15.0
_DIED = "the server of this program died"


class ServerProcess:
    """One server in its isolation, with the caller's end of its socket.

    Args:
        level: kind of isolation.
        limits: bounds of every program.
        parent_folder: where this server's own folder is made.

    Raises:
        SandboxError: the level is not available here; says why.
    """

    def __init__(self, level: Level, limits: Limits, parent_folder: str) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(_START_S)
        folder = tempfile.mkdtemp(dir=parent_folder)
        with theirs:
            self.process = subprocess.Popen(
                command(level, limits, folder),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd=folder,
                start_new_session=True,
            )
        answer = self._receive()
        if answer != b"ready":
            self.close()
            raise SandboxError((answer or b"its server ends at once").decode("utf-8", "replace"))
        self.channel.settimeout(limits.wall_s + _GRACE_S)

    def run(self, program: bytes) -> tuple[Verdict, bool]:
        """Returns the verdict and whether the server can take another program."""
        try:
            send(self.channel, program)
        except OSError:
            return Verdict("killed", _DIED, 0.0), False
        answer = self._receive()
        if answer is None:
            return Verdict("killed", _DIED, 0.0), False
        status, detail, seconds, clean = json.loads(answer)
        return Verdict(status, detail, seconds), clean

    def close(self) -> None:
        """Kills the server and with it everything inside."""
        with suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)
        self.channel.close()
        self.process.kill()
        self.process.wait()

    def _receive(self) -> bytes | None:
        try:
            return receive(self.channel)
        except OSError:
            return None


class Sandbox:
    """Runs untrusted Python programs in parallel, in the strongest isolation at hand.

    Args:
        limits: bounds of every program.
        workers: programs that run at the same time, each under a server of its own.
        allow_unsandboxed: accept resource limits alone where no isolation is available.

    Attributes:
        level: the isolation in use: ``namespaces``, ``bubblewrap`` or ``rlimits``.

    Raises:
        SandboxError: no isolation is available and ``allow_unsandboxed`` is false.
        ValueError: ``workers`` is below 1.
    """

    level: Level

    def __init__(self, limits: Limits = Limits(), workers: int = 2, allow_unsandboxed: bool = False) -> None:  # noqa: B008 - frozen
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.limits = limits
        self._folder = tempfile.TemporaryDirectory(prefix="hotfix-sandbox-", ignore_cleanup_errors=True)
        # Servers die with the thread that started them, so every start happens in a thread that lives as long as this.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._idle: queue.SimpleQueue[ServerProcess | None] = queue.SimpleQueue()
        self._servers: set[ServerProcess] = set()
        self._lock = threading.Lock()
        self._closed = False
        try:
            self.level, first = self._threads.submit(self._choose, allow_unsandboxed).result()
        except BaseException:
            self.close()
            raise
        for server in (first, *[None] * (workers - 1)):
            self._idle.put(server)

    def submit(self, program: str) -> Future[Verdict]:
        """Queues one program."""
        return self._threads.submit(self._run, program.encode("utf-8", "surrogatepass"))

    def run(self, programs: Sequence[str]) -> list[Verdict]:
        """Runs all programs and returns their verdicts in the same order."""
        return [future.result() for future in [self.submit(program) for program in programs]]

    def close(self) -> None:
        """Kills what is running and gives everything back."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            servers, self._servers = self._servers, set()
        for server in servers:
            server.close()
        self._threads.shutdown()
        self._folder.cleanup()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _choose(self, allow_unsandboxed: bool) -> tuple[Level, ServerProcess]:
        reasons = []
        for level in candidates(os.geteuid() == 0, has_bubblewrap()):
            if level == "rlimits" and not allow_unsandboxed:
                break
            try:
                return level, self._start(level)
            except (OSError, SandboxError) as error:
                reasons.append(f"{level}: {error}")
        raise SandboxError(
            f"no isolation for untrusted programs is available ({'; '.join(reasons)}); install bubblewrap or allow "
            "user namespaces, or pass allow_unsandboxed=True to run them with resource limits only"
        )

    def _start(self, level: Level) -> ServerProcess:
        server = ServerProcess(level, self.limits, self._folder.name)
        with self._lock:
            closed = self._closed
            if not closed:
                self._servers.add(server)
        if closed:
            server.close()
            raise SandboxError("the sandbox is closed")
        return server

    def _run(self, program: bytes) -> Verdict:
        server = self._idle.get()
        usable = False
        try:
            server = server or self._start(self.level)
            verdict, usable = server.run(program)
        finally:
            if server is not None and not usable:
                self._discard(server)
            self._idle.put(server if usable else None)
        return verdict

    def _discard(self, server: ServerProcess) -> None:
        with self._lock:
            self._servers.discard(server)
        server.close()
