"""The small fork server inside the isolation: one forked process per program, one program at a time.

Started by ``isolation`` or bubblewrap with the caller's socket as standard input; imports the standard library only. As
process 1 of its PID namespace it can't be signalled from inside, adopts every orphan, and ``kill(-1)`` reaches exactly
what programs have left behind.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import time
from contextlib import suppress
from typing import NamedTuple

from hotfix.sandbox.limits import Limits, apply_rlimits
from hotfix.sandbox.program import FAILED, MEMORY, TOKEN_BYTES, become_program
from hotfix.sandbox.verdict import Status, Verdict, last_line
from hotfix.sandbox.wire import receive, send

__all__ = ["Ending", "Server", "judge", "main", "wipe"]

# Imported once here, so that no program pays for them.
# fmt: off
_PRELOAD = (
    "abc", "array", "bisect", "calendar", "cmath", "collections.abc", "contextlib", "copy", "dataclasses",
    "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io", "itertools",
    "json", "math", "numbers", "operator", "queue", "random", "re", "statistics", "string", "struct", "sys",
    "textwrap", "threading", "time", "traceback", "types", "typing",
)
# fmt: on
_CHUNK = 1 << 16
_REPORT_BYTES = 1 << 13


class Ending(NamedTuple):
    """What the server saw of a program: nothing in it but ``report`` and ``output`` is the program's own word."""

    wait_status: int
    cpu_s: float
    timed_out: bool
    report: bytes
    output: bytes


def judge(ending: Ending, token: bytes, limits: Limits) -> tuple[Status, str]:
    """Returns status and detail; only the exact token together with exit status 0 is a pass.

    >>> judge(Ending(0, 0.1, False, b"token", b""), b"token", Limits())
    ('passed', '')
    >>> judge(Ending(0, 0.1, False, b"", b""), b"token", Limits())
    ('failed', 'left with exit status 0 before its last statement')
    """
    if ending.timed_out:
        return "timeout", f"wall limit of {limits.wall_s:g} s"
    if os.WIFSIGNALED(ending.wait_status):
        number = os.WTERMSIG(ending.wait_status)
        if number == signal.SIGXCPU or (number == signal.SIGKILL and ending.cpu_s >= limits.cpu_s):
            return "timeout", f"CPU limit of {limits.cpu_s:g} s"
        return "killed", f"killed by {signal.Signals(number).name} {last_line(_text(ending.output))}".strip()
    if ending.report == token and ending.wait_status == 0:
        return "passed", ""
    if ending.report[:1] in (FAILED, MEMORY):
        return "memory" if ending.report[:1] == MEMORY else "failed", last_line(_text(ending.report[1:]))
    code = os.waitstatus_to_exitcode(ending.wait_status)
    return "failed", f"left with exit status {code} before its last statement"


def wipe(folder: str) -> bool:
    """Deletes what the folder holds; returns whether it is empty now."""
    with suppress(OSError, RecursionError):
        _open_up(folder)
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
        return not os.listdir(folder)
    return False


class Server:
    """Runs the programs that arrive on ``channel``.

    Args:
        channel: the caller's socket.
        limits: bounds of every program.
        scratch: the only writable folder.
    """

    def __init__(self, channel: socket.socket, limits: Limits, scratch: str) -> None:
        self.channel, self.limits, self.scratch = channel, limits, scratch
        self.is_init = os.getpid() == 1
        self.limit_processes = _can_limit_processes(limits)

    def serve(self) -> None:
        """Answers until the caller hangs up, or until scratch can't be cleaned for the next program."""
        while (program := receive(self.channel)) is not None:
            verdict = self.run(program)
            clean = wipe(self.scratch)
            send(self.channel, json.dumps([*verdict, clean]).encode())
            if not clean:
                return

    def run(self, program: bytes) -> Verdict:
        """Runs one program and kills everything it started."""
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            become_program(program, self.limits, self.limit_processes, writer, theirs.fileno())
        theirs.close()
        os.close(writer)
        # Made after the fork, so that no copy is in the program's memory, and for this program only.
        token = os.urandom(TOKEN_BYTES)
        with suppress(OSError):
            ours.sendall(token)
        with ours:
            ending = self._watch(pid, ours.fileno(), reader, started + self.limits.wall_s)
        os.close(reader)
        return Verdict(*judge(ending, token, self.limits), time.monotonic() - started)

    def _watch(self, pid: int, report: int, output: int, deadline: float) -> Ending:
        kept = {report: bytearray(), output: bytearray()}
        bounds = {report: _REPORT_BYTES, output: self.limits.output_kib * 1024}
        process = os.pidfd_open(pid)
        timed_out = not self._drain_until(process, kept, bounds, deadline)
        os.close(process)
        # Not reaped yet, so its number can't have been given to another process.
        if timed_out:
            os.kill(pid, signal.SIGKILL)
        self._kill_rest(pid)
        _, wait_status, usage = os.wait4(pid, 0)
        self._reap()
        for fd in kept:
            os.set_blocking(fd, False)
            _drain(fd, kept[fd], bounds[fd])
        cpu_s = usage.ru_utime + usage.ru_stime
        return Ending(wait_status, cpu_s, timed_out, bytes(kept[report]), bytes(kept[output]))

    def _drain_until(self, process: int, kept: dict[int, bytearray], bounds: dict[int, int], deadline: float) -> bool:
        """Empties both channels until the process ends (true) or the time is up (false)."""
        poll = select.poll()
        for fd in (process, *kept):
            poll.register(fd, select.POLLIN)
        poll.register(self.channel, select.POLLRDHUP)
        while (left := deadline - time.monotonic()) > 0:
            ready = [fd for fd, _ in poll.poll(left * 1000)]
            if process in ready:
                return True
            if self.channel.fileno() in ready:
                self._kill_rest(0)
                raise SystemExit
            for fd in ready:
                if not _read(fd, kept[fd], bounds[fd]):
                    poll.unregister(fd)
        return False

    def _kill_rest(self, group: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            if self.is_init:
                os.kill(-1, signal.SIGKILL)
            elif group:
                os.killpg(group, signal.SIGKILL)

    def _reap(self) -> None:
        """Waits for every orphan; all of them have been killed."""
        with suppress(ChildProcessError):
            while self.is_init:
                os.waitpid(-1, 0)


def main(arguments: list[str]) -> None:
    """Serves on standard input until the caller hangs up; the argument is JSON with ``limits`` and ``scratch``."""
    options = json.loads(arguments[0])
    channel = socket.socket(fileno=os.dup(0))
    # Process 1 gets only the signals it handles, and Python handles this one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.chdir(options["scratch"])
    for name in _PRELOAD:
        importlib.import_module(name)
    server = Server(channel, Limits(**options["limits"]), options["scratch"])
    gc.collect()
    gc.freeze()
    send(channel, b"ready")
    server.serve()


def _can_limit_processes(limits: Limits) -> bool:
    """Whether the process limit counts this sandbox only: a fork under it must succeed (not so before Linux 5.14)."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    with suppress(BaseException):
        apply_rlimits(limits, limit_processes=True)
        inner = os.fork()
        if inner:
            os.waitpid(inner, 0)
        os._exit(0)
    os._exit(1)


def _read(fd: int, kept: bytearray, bound: int) -> bool:
    try:
        part = os.read(fd, _CHUNK)
    except (BlockingIOError, ConnectionResetError):
        return False
    kept += part[: bound - len(kept)]
    return bool(part)


def _drain(fd: int, kept: bytearray, bound: int) -> None:
    while _read(fd, kept, bound):
        pass


def _open_up(folder: str) -> None:
    """Makes a tree deletable again that a program has locked."""
    os.chmod(folder, 0o700)
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            _open_up(entry.path)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
