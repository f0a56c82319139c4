"""Half a file is never seen: full disk, kill, exceptions, concurrent writers, each made to happen for real."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hotfix.atomic import atomic_file, atomic_folder, atomic_write, recover
from hotfix.errors import StorageError


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_when_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.stdout.close()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield mount
    subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("content", ["naïve\n", b"\x00\xff", ""])
def test_write_creates_parents_replaces_and_leaves_nothing_else(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "a" / "b" / "out.json"
    atomic_write(path, "old")
    atomic_write(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(path.parent) == ["out.json"]


def test_written_file_has_the_mode_of_an_ordinary_one(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("x")
    atomic_write(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_old_content_is_seen_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    path.write_text("old")
    with atomic_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.name == "out.npz"
        assert all(name.startswith(".") for name in names(tmp_path) if name != "out.npz")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_keeps_the_old_and_removes_the_partial(tmp_path: Path, error: type[BaseException]) -> None:
    atomic_write(tmp_path / "file", "old")
    atomic_write(tmp_path / "folder" / "member", "old")

    def fail_after_writing(half: Path) -> None:
        half.write_text("half")
        raise error

    with pytest.raises(error), atomic_file(tmp_path / "file") as partial:
        fail_after_writing(partial)
    with pytest.raises(error), atomic_folder(tmp_path / "folder") as partial:
        fail_after_writing(partial / "member")
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "member").read_text() == "old"


def test_folder_is_replaced_whole(tmp_path: Path) -> None:
    for generation in ("one", "two"):
        with atomic_folder(tmp_path / "patch") as partial:
            (partial / generation).write_text(generation)
            (partial / "nested").mkdir()
            (partial / "nested" / "x").write_text(generation)
    assert names(tmp_path) == ["patch"]
    assert names(tmp_path / "patch") == ["nested", "two"]
    assert (tmp_path / "patch" / "nested" / "x").read_text() == "two"


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "run-3").mkdir()
    (tmp_path / "latest").symlink_to("run-3")
    with atomic_folder(tmp_path / "latest") as partial:
        (partial / "x").write_text("new")
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "run-3" / "x").read_text() == "new"


def test_longest_file_name_works(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120 + ".json")
    atomic_write(path, "one")
    atomic_write(path, "two")
    assert path.read_text() == "two"


def test_full_disk_keeps_the_old_file(tiny_disk: Path) -> None:
    path = tiny_disk / "results.json"
    atomic_write(path, "old")
    with pytest.raises(StorageError, match=r"results\.json: can't be written: no space left; free some space"):
        atomic_write(path, b"x" * 200_000)
    assert path.read_text() == "old"
    assert names(tiny_disk) == ["results.json"]
    atomic_write(path, "new")
    assert path.read_text() == "new"


def test_full_disk_keeps_the_old_folder_also_for_writers_in_rust(tiny_disk: Path) -> None:
    with atomic_folder(tiny_disk / "patch") as partial:
        save_file({"a": np.ones(10)}, partial / "weights.safetensors")
    before = (tiny_disk / "patch" / "weights.safetensors").read_bytes()
    refused = pytest.raises(StorageError, match="patch: can't be written: no space left")
    with refused, atomic_folder(tiny_disk / "patch") as partial:
        save_file({"a": np.ones(100_000)}, partial / "weights.safetensors")
    assert (tiny_disk / "patch" / "weights.safetensors").read_bytes() == before
    assert names(tiny_disk) == ["patch"]


def test_file_size_limit_is_reported(tmp_path: Path) -> None:
    atomic_write(tmp_path / "out", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(StorageError, match="larger than allowed here; raise the limit"):
            atomic_write(tmp_path / "out", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "out").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_read_only_disk_is_reported(tiny_disk: Path) -> None:
    atomic_write(tiny_disk / "out", "old")
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    with pytest.raises(StorageError, match="out: can't be written: the file system is read-only; choose a folder"):
        atomic_write(tiny_disk / "out", "new")
    assert (tiny_disk / "out").read_text() == "old"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without rights")
def test_missing_permission_is_reported() -> None:
    code = """
        import os, sys
        from hotfix.atomic import atomic_write
        from hotfix.errors import StorageError
        os.chdir(sys.argv[1])
        os.setuid(65534)
        try:
            atomic_write("out", "new")
        except StorageError as error:
            print(error)
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "out").write_text("old")
        said = start(code, folder).communicate(timeout=60)[0]
        assert "out: can't be written: permission denied; make the folder writable" in said
        assert names(folder) == ["out"]
        assert (folder / "out").read_text() == "old"


def test_wrong_kinds_are_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="a part of this path is a file"):
        atomic_write(tmp_path / "file" / "x", "new")
    with pytest.raises(StorageError, match="folder: can't be written: it is a folder"):
        atomic_write(tmp_path / "folder", "new")
    with pytest.raises(StorageError, match="is a file, not a folder"), atomic_folder(tmp_path / "file"):
        pass
    assert names(tmp_path) == ["file", "folder"]


def test_errors_about_other_files_are_not_blamed_on_the_target(tmp_path: Path) -> None:
    other = PermissionError(errno.EACCES, "denied", str(tmp_path / "input.jsonl"))
    with pytest.raises(PermissionError, match="denied"), atomic_file(tmp_path / "out"):
        raise other


def test_kill_in_the_middle_of_a_file(tmp_path: Path) -> None:
    code = """
        import sys, time
        from hotfix.atomic import atomic_file
        with atomic_file(sys.argv[1]) as partial:
            partial.write_text("half")
            print("ready", flush=True)
            time.sleep(60)
    """
    path = tmp_path / "out"
    path.write_text("old")
    kill_when_ready(start(code, path))
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    atomic_write(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(("renames", "expected"), [(0, "old"), (1, "new"), (2, "new")])
def test_kill_between_the_renames_of_a_folder(tmp_path: Path, renames: int, expected: str) -> None:
    code = """
        import os, sys, time
        from hotfix.atomic import atomic_folder
        left, rename = int(sys.argv[2]), os.rename
        def limited(source, target):
            global left
            if left:
                rename(source, target)
                left -= 1
            if not left:
                print("ready", flush=True)
                time.sleep(60)
        os.rename = limited
        with atomic_folder(sys.argv[1]) as partial:
            (partial / "x").write_text("new")
    """
    path = tmp_path / "patch"
    atomic_write(path / "x", "old")
    kill_when_ready(start(code, path, renames))
    assert path.exists() == (renames != 1)
    assert recover(path) == (renames == 1)
    assert not recover(path)
    assert (path / "x").read_text() == expected
    with atomic_folder(path) as partial:
        (partial / "x").write_text("newer")
    assert (path / "x").read_text() == "newer"
    assert names(tmp_path) == ["patch"]


def test_failed_last_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write(tmp_path / "patch" / "x", "old")
    rename = os.rename

    def fail_second(source: Path, target: Path) -> None:
        if source.parent.name.endswith(".partial") and source.name == "patch":
            raise OSError(errno.EIO, "broken")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(StorageError, match="input/output error"), atomic_folder(tmp_path / "patch"):
        pass
    assert (tmp_path / "patch" / "x").read_text() == "old"
    assert names(tmp_path) == ["patch"]


def test_living_writers_are_not_swept(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "out") as slow:
        slow.write_text("slow")
        atomic_write(tmp_path / "out", "quick")
        assert slow.read_text() == "slow"
    assert (tmp_path / "out").read_text() == "slow"


def test_neighbours_with_similar_names_are_not_swept(tmp_path: Path) -> None:
    others = [".out.bak.partial", ".out.json.abcdefgh.partial", "out.abcdefgh.partial"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.abcdefgh.partial").mkdir()
    atomic_write(tmp_path / "out", "new")
    assert names(tmp_path) == sorted([*others, "out"])


def test_concurrent_writers_of_a_folder_leave_one_whole_folder(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def write(writer: int) -> None:
        try:
            for _ in range(20):
                with atomic_folder(tmp_path / "patch") as partial:
                    for name in "abc":
                        (partial / name).write_text(str(writer))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names(tmp_path) == ["patch"]
    assert len({(tmp_path / "patch" / name).read_text() for name in "abc"}) == 1


def test_writers_take_turns_to_enter_and_to_swap(tmp_path: Path) -> None:
    entered, leave, done = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        with atomic_folder(tmp_path / "patch"):
            entered.set()
            leave.wait(30)
        done.set()

    writer = threading.Thread(target=write)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    writer.start()
    assert not entered.wait(0.2)
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    assert entered.wait(30)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    leave.set()
    assert not done.wait(0.2)
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    assert done.wait(30)
    writer.join()
    os.close(descriptor)


def test_recover_without_anything_to_recover(tmp_path: Path) -> None:
    assert not recover(tmp_path / "absent" / "patch")
    assert not recover(tmp_path / "patch")
