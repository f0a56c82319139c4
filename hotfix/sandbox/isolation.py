"""Enters the isolation in a process of its own, then becomes the server.

The only place with ctypes: it ends in ``exec``, so that no trace of native calls is left in the server's memory.
Levels, each entered by one command line (`command`):

    bubblewrap   ``bwrap``: user, mount, PID, network, IPC and UTS namespaces
    namespaces   the same by hand; root gives up root for a private user id instead of entering a user namespace
    rlimits      resource limits only: files, network and other processes of the user stay within reach
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import sys
from dataclasses import asdict
from typing import Literal, NamedTuple, NoReturn, TypeAlias

from hotfix.sandbox.limits import Limits
from hotfix.sandbox.tree import APP, FLAGS, SCRATCH, Bind, Tree, boot, environment, visible_tree
from hotfix.sandbox.wire import send

__all__ = ["Identity", "Level", "candidates", "command", "has_bubblewrap", "main"]

Level: TypeAlias = Literal["bubblewrap", "namespaces", "rlimits"]

_CLONE_NEWUSER = 0x10000000
_CLONE_REST = 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000  # mount, PID, network, IPC, UTS
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
# Flags of a mount that a user namespace must keep when it remounts; statvfs spells relatime differently.
_KEPT = {os.ST_NOSUID: 2, os.ST_NODEV: 4, os.ST_NOEXEC: 8, os.ST_NOATIME: 1024, os.ST_NODIRATIME: 2048, 4096: 1 << 21}
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_INSIDE_ID = 1000
# The range that systemd reserves for short-lived users: nobody's files belong to it.
_PRIVATE_IDS = range(61184, 65520)
_SCRATCH_FILES, _SCRATCH_INODES = 4, 1024


class Identity(NamedTuple):
    """User and group that the server runs as, as seen inside."""

    uid: int
    gid: int


def candidates(is_root: bool, has_bubblewrap: bool) -> list[Level]:
    """Returns the levels to try, strongest first.

    Under bubblewrap root stays root of the machine, to whom process limits don't apply; by hand root can be given up.

    >>> candidates(is_root=True, has_bubblewrap=True), candidates(is_root=False, has_bubblewrap=False)
    (['namespaces', 'bubblewrap', 'rlimits'], ['namespaces', 'rlimits'])
    """
    isolated: list[Level] = ["namespaces", "bubblewrap"] if is_root else ["bubblewrap", "namespaces"]
    return [*(level for level in isolated if level == "namespaces" or has_bubblewrap), "rlimits"]


def has_bubblewrap() -> bool:
    """Whether the program ``bwrap`` can be found."""
    return shutil.which("bwrap") is not None


def command(level: Level, limits: Limits, folder: str) -> list[str]:
    """Returns the command line of a server; ``folder`` is an empty folder of its own."""
    package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    if level == "bubblewrap":
        return _bubblewrap(visible_tree(), limits)
    options = {"folder": folder, "level": level, "limits": asdict(limits), "parent": os.getpid()}
    code = boot(package_root, "hotfix.sandbox.isolation")
    return [sys.executable, *FLAGS, "-c", code, json.dumps(options)]


def main(arguments: list[str]) -> NoReturn:
    """Enters the level and becomes the server; tells the caller on standard input why it can't."""
    try:
        options = json.loads(arguments[0])
        limits = Limits(**options["limits"])
        _die_with(options["parent"])
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if options["level"] == "rlimits":
            root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
            _become_server(os.path.realpath(sys.executable), root, limits, options["folder"])
        _isolate(options["folder"], limits)
    except OSError as error:
        with socket.socket(fileno=0) as channel:
            send(channel, str(error).encode())
        os._exit(1)


def _isolate(root: str, limits: Limits) -> NoReturn:
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")
    tree = visible_tree()
    identity = _enter_namespaces()
    _build(root, tree, limits, identity)
    child = os.fork()
    if child:
        os.close(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    # A root that is not the mount namespace's own also forbids user namespaces inside.
    os.chroot(root)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    _die_with(0)
    _become_server(tree.python, APP, limits, SCRATCH)


def _become_server(python: str, root: str, limits: Limits, scratch: str) -> NoReturn:
    os.chdir(scratch)
    options = json.dumps({"limits": asdict(limits), "scratch": scratch})
    code = boot(root, "hotfix.sandbox.server")
    os.execve(python, [python, *FLAGS, "-c", code, options], environment(scratch))


def _enter_namespaces() -> Identity:
    """Leaves the caller's namespaces; root needs no user namespace and drops to a private id later."""
    private = secrets.choice(_PRIVATE_IDS)
    if os.geteuid() == 0:
        _call("unshare", _CLONE_REST)
        return Identity(private, private)
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWUSER | _CLONE_REST)
    maps = {"setgroups": "deny", "uid_map": f"{_INSIDE_ID} {uid} 1", "gid_map": f"{_INSIDE_ID} {gid} 1"}
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    return Identity(_INSIDE_ID, _INSIDE_ID)


def _build(root: str, tree: Tree, limits: Limits, identity: Identity) -> None:
    """Mounts the new root; nothing but scratch can be written."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE, None)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    for bind in tree.binds:
        _show(bind, root)
    for link in tree.links:
        os.makedirs(os.path.dirname(f"{root}{link.target}"), exist_ok=True)
        os.symlink(link.source, f"{root}{link.target}")
    sealed = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    for path in tree.hidden_folders:
        _mount("tmpfs", f"{root}{path}", "tmpfs", sealed | _MS_RDONLY, "size=4k")
    for path in tree.hidden_files:
        _mount("/dev/null", f"{root}{path}", None, _MS_BIND, None)
    os.mkdir(f"{root}{SCRATCH}")
    size = limits.file_mib * _SCRATCH_FILES
    owner = f"size={size}m,nr_inodes={_SCRATCH_INODES},mode=700,uid={identity.uid},gid={identity.gid}"
    _mount("tmpfs", f"{root}{SCRATCH}", "tmpfs", sealed, owner)
    _mount(None, root, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, None)


def _show(bind: Bind, root: str) -> None:
    target = f"{root}{bind.target}"
    if os.path.isdir(bind.source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    _mount(bind.source, target, None, _MS_BIND | _MS_REC, None)
    found = os.statvfs(target).f_flag
    kept = sum(flag for seen, flag in _KEPT.items() if found & seen)
    _mount(None, target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | kept & ~_MS_NOSUID, None)


def _bubblewrap(tree: Tree, limits: Limits) -> list[str]:
    size = str(limits.file_mib * _SCRATCH_FILES * 1024 * 1024)
    ids = ("--uid", str(_INSIDE_ID), "--gid", str(_INSIDE_ID))
    words = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        *ids,
        "--cap-drop",
        "ALL",
    ]
    words += ["--die-with-parent", "--as-pid-1", "--new-session", "--clearenv"]
    for bind in tree.binds:
        kind = "--dev-bind" if stat.S_ISCHR(os.stat(bind.source).st_mode) else "--ro-bind"
        words += [kind, *bind]
    for link in tree.links:
        words += ["--symlink", *link]
    for path in tree.hidden_folders:
        words += ["--perms", "0500", "--tmpfs", path, "--remount-ro", path]
    for path in tree.hidden_files:
        words += ["--dev-bind", "/dev/null", path]
    words += ["--perms", "0700", "--size", size, "--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", SCRATCH]
    for name, value in environment(SCRATCH).items():
        words += ["--setenv", name, value]
    options = json.dumps({"limits": asdict(limits), "scratch": SCRATCH})
    return [*words, "--", tree.python, *FLAGS, "-c", boot(APP, "hotfix.sandbox.server"), options]


def _die_with(parent: int) -> None:
    """Asks for SIGKILL at the parent's death; dies at once if that has happened already."""
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    raw = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _call("mount", raw[0], raw[1], raw[2], ctypes.c_ulong(flags), raw[3], about=target)


def _call(name: str, *arguments: object, about: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", about or None)
