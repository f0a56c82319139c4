"""The token can't be found from within the program by walking everything that Python can walk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hotfix.sandbox import program

# Looks for any other object equal to the token, whose value it is told, along frames and the garbage collector.
HUNT = """
import gc, hashlib, signal, sys, threading
found = []
want = hashlib.sha256(b"spam").digest()[:16]
def hunt():
    gc.unfreeze()
    todo, seen, found = list(gc.get_objects()), set(), 0
    for frame in sys._current_frames().values():
        while frame:
            todo += [frame, *frame.f_locals.values()]
            frame = frame.f_back
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        found += isinstance(thing, (bytes, bytearray)) and thing == want and thing is not want
        todo += gc.get_referents(thing)
    return found
def hold(call):
    planted = bytes(bytearray(want))
    return call()
"""

HARNESS = """
import hashlib, os, socket, sys
sys.path.insert(0, {root!r})
from hotfix.sandbox.limits import Limits
from hotfix.sandbox.program import become_program
ours, theirs = socket.socketpair()
pid = os.fork()
if pid == 0:
    become_program({source!r}.encode(), Limits(memory_mib=4096), False, 1, theirs.fileno())
theirs.close()
token = hashlib.sha256(b"spam").digest()[:16]
ours.sendall(token)
report = ours.recv(100)
assert os.waitpid(pid, 0)[1] == 0 or report != token
print("passed" if report == token else report[1:].decode().strip())
"""


def outcome(source: str) -> str:
    code = HARNESS.format(root=str(Path(program.__file__).parents[2]), source=source)
    found = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "where",
    [
        "found.append(hunt())",
        "t = threading.Thread(target=lambda: found.append(hunt())); t.start(); t.join()",
        "signal.signal(signal.SIGUSR1, lambda n, f: found.append(hunt())); signal.raise_signal(signal.SIGUSR1)",
        "sys.settrace(lambda *a: found.append(hunt()) if not found else None); (lambda: 0)(); sys.settrace(None)",
    ],
)
def test_token_is_out_of_reach(where: str) -> None:
    assert outcome(HUNT + where + "\nassert found == [0], found") == "passed"


def test_the_hunt_would_find_it_in_a_frame() -> None:
    assert outcome(HUNT + "assert hold(hunt) == 1") == "passed"
    assert outcome(HUNT + "assert hold(hunt) == 0") == "AssertionError"


def test_a_failing_program_never_returns_the_token() -> None:
    assert outcome("raise ValueError('no')") == "ValueError: no"
    assert outcome("import sys; sys.exit(0)") == "SystemExit: 0"
