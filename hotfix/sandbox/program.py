"""The forked process in which one untrusted program runs: from the fork to its last breath."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
import types
from collections.abc import Callable
from typing import NoReturn

from hotfix.sandbox.limits import Limits, apply_rlimits

__all__ = ["FAILED", "MEMORY", "REPORT_FD", "TOKEN_BYTES", "become_program"]

TOKEN_BYTES = 16
REPORT_FD = 3
FAILED, MEMORY = b"F", b"M"
_SERVER_FDS = 256


def become_program(source: bytes, limits: Limits, limit_processes: bool, output: int, report: int) -> NoReturn:
    """Turns a fresh fork of the server into the program and never returns."""
    # Bound before the program runs, so that a program which replaces ``os._exit`` can't fall back into the server.
    leave = os._exit
    status = 1
    try:
        _cut_off(output, report)
        apply_rlimits(limits, limit_processes)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = _run(source)
    finally:
        leave(status)


def _cut_off(output: int, report: int) -> None:
    """Leaves nothing of the server open but the two channels of this program."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(report, REPORT_FD, inheritable=False)
    os.closerange(REPORT_FD + 1, _SERVER_FDS)


def _run(source: bytes) -> int:
    """Runs the program and reports; returns the exit status.

    The token is read inside the call that reports it, so while the program runs it exists only as a temporary on this
    frame's evaluation stack: neither ``f_locals`` of any frame nor the garbage collector leads there. Everything the
    report needs is on that stack before the program's first statement, out of reach of its monkeypatches.
    """
    pid, getpid, write = os.getpid(), os.getpid, os.write
    try:
        namespace = _main_namespace()
        code = compile(source.decode("utf-8", "surrogatepass"), "<program>", "exec", dont_inherit=True)
        _report(pid, getpid, write, os.read(REPORT_FD, TOKEN_BYTES), exec(code, namespace))  # type: ignore[func-returns-value]
    except BaseException as error:  # SystemExit and KeyboardInterrupt are failures as well
        if getpid() == pid:
            write(REPORT_FD, _describe(error))
        return 1
    return 0


def _report(pid: int, getpid: Callable[[], int], write: Callable[[int, bytes], int], token: bytes, _: None) -> None:
    """Returns the token to the server, unless this is a fork that the program made of itself."""
    if getpid() == pid:
        write(REPORT_FD, token)


def _main_namespace() -> dict[str, object]:
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv[:] = [""]
    gc.enable()
    return main.__dict__


def _describe(error: BaseException) -> bytes:
    if isinstance(error, MemoryError):
        return MEMORY + b"MemoryError"
    lines = traceback.format_exception_only(type(error), error)
    return FAILED + "".join(lines).encode("utf-8", "replace")
