"""Runs untrusted Python programs by the thousand and says which of them ran to their end.

Small fork servers, one per worker, live inside the strongest isolation that the machine offers (``Sandbox.level``).
Each program is a fork of such a server, in a scratch folder that is emptied afterwards, under resource limits, with
only the standard library. The servers are started as programs of their own, so memory, secrets and open files of the
caller are never in reach. Neither torch nor anything else outside the standard library is imported.

Covered at the levels ``namespaces`` and ``bubblewrap``:

- Files: an interpreter, its standard library and the system's shared libraries can be read; nothing else of the
  machine exists; only a small scratch folder in memory can be written, and nothing can be executed from it (at
  ``namespaces``). There is no ``/proc``, no shell and no program but the interpreter.
- Network: none; not even the loopback interface is up (under bubblewrap one of its own is). Sockets of the machine are
  out of reach.
- Processes: only its own are visible. All of them are killed at the program's end, daemons included, and everything
  dies with the caller. Their number is limited (for user ids of the machine other than root, from Linux 5.14 on).
- CPU time, address space, file size and open files of each process; wall time and output of the program.
- Environment: replaced. Programs can't affect one another: each one starts from the same memory and an empty folder.
- Early exits: a program passes only if its process returns a fresh random token and ends with status 0. The token is
  returned after the last statement, and while the program runs it is reachable neither through frames nor through
  the garbage collector; ctypes, which could search memory, is hidden. Leaving by ``os._exit(0)`` or ``sys.exit(0)``,
  killing itself or its server, or writing to every open file is not a pass.

Not covered:

- Programs that make their own tests meaningless. Solution and tests share one interpreter, so an object that equals
  everything, a replaced check, or a trace function that jumps over the assertions passes.
- Native code made from within the interpreter (forged bytecode, or ctypes where it is built into the interpreter): it
  may find the token, and may forge verdicts of later programs of the same server; it stays inside the isolation.
- Defects of the kernel: there is no system call filter. Side channels by time and load. Secrets that are stored among
  the shared libraries.
- Sums: memory and CPU time are bounded for each process, so a program can use ``processes`` times as much until the
  wall limit. Disk is not used, but scratch counts as memory, up to four times ``file_mib``.
- Programs that need more than the standard library, ``/proc``, ``/dev/shm`` (locks of multiprocessing) or a terminal.

At the level ``rlimits`` only the limits, the environment and the early exits hold. Programs can read and write whatever
the user can, reach the network, kill processes of the user and leave daemons behind.
"""

from __future__ import annotations

from hotfix.sandbox.client import Sandbox
from hotfix.sandbox.limits import Limits
from hotfix.sandbox.verdict import Verdict

__all__ = ["Limits", "Sandbox", "Verdict"]
