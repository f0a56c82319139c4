"""A whole offline run: what is in its `.wandb` file is what the run found."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from wandb.proto import wandb_internal_pb2

from hotfix.callbacks import RunFolder, WandbReport
from hotfix.callbacks.wandb_report import table_rows
from hotfix.errors import ConfigError
from hotfix.modules import FineTune

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--trainer.max_steps=2", "--measure.humaneval=null", "--measure.email_leak=null"] + [
    f"--measure.bug_fix.init_args.{part}_examples=2" for part in ("efficacy", "generalisation", "specificity")
]
BLOCK = 32768


def payloads(path: Path) -> Iterator[bytes]:
    """Records of the LevelDB log behind a header of 7 bytes: checksum, length, kind (whole, first, middle, last)."""
    data, position, part = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        _, size, kind = struct.unpack("<IHB", data[position : position + 7]) if left >= 7 else (0, 0, 0)
        if kind == 0:
            position += left
            continue
        part += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):
            yield part
            part = b""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wandb")
    command = [sys.executable, "-m", "hotfix", "fit"]
    command += ["--config", "configs/recipe/smoke.yaml", "--config", "configs/overlay/wandb.yaml"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    # A proxy that refuses at once: whoever tries the network fails the test's time limit or the run.
    environment |= {"WANDB_MODE": "offline", "HTTPS_PROXY": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    command += ["--trainer.default_root_dir", str(root), "--name", "offline", *SMALL]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture(scope="module")
def records(run: Path) -> list[Any]:
    (log,) = run.rglob("*.wandb")
    found = []
    for payload in payloads(log):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        found.append(record)
    return found


def test_config_is_the_resolved_one(records: list[Any]) -> None:
    updates = [u for r in records for part in (r.run.config.update, r.config.update) for u in part]
    config = {u.key: json.loads(u.value_json) for u in updates if u.key}
    assert config["model"]["init_args"]["adapter"]["init_args"]["rank"] == 4
    assert config["data"]["init_args"]["suffix_tokens"] == 2


def test_curves_have_every_term(records: list[Any]) -> None:
    keys = {i.key or "/".join(i.nested_key) for r in records for i in r.history.item}
    assert {"train/loss", "train/learn", "train/unlearn", "train/retain"} <= keys


def test_table_holds_what_results_json_says(run: Path) -> None:
    (file,) = run.rglob("before_after*.table.json")
    table = json.loads(file.read_text(encoding="utf-8"))
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert len(table["data"]) > 5
    assert table["data"] == table_rows(results)
    found = dict(zip(table["columns"], table["data"][0], strict=True))
    part = results["tasks"][found["task"]][found["slice"]]
    assert found["after"] == part["after"][found["metric"]]["value"]
    assert found["p"] == part["tests"][found["metric"]]["p"]


def test_summary_has_the_numbers_after(run: Path, records: list[Any]) -> None:
    summary = {"/".join(u.nested_key) or u.key: json.loads(u.value_json) for r in records for u in r.summary.update}
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for when in ("before", "after"):
        value = results["tasks"]["bug_fix"]["specificity"][when]["kl"]["value"]
        assert summary[f"{when}/bug_fix/specificity/kl"] == pytest.approx(value, abs=1e-12)


def test_artifact_is_the_patch_with_its_results(records: list[Any]) -> None:
    (artifact,) = [r.artifact for r in records if r.artifact.type == "model"]
    assert artifact.name == "patch-offline"
    names = {entry.path for entry in artifact.manifest.contents}
    assert {"adapter_model.safetensors", "patch.json", "results.json"} <= names


def test_without_its_logger_it_says_what_to_do() -> None:
    trainer = Trainer(logger=False, callbacks=[RunFolder()], enable_progress_bar=False, barebones=False)
    with pytest.raises(ConfigError, match=r"trainer\.logger to be a WandbLogger; use configs/overlay/wandb\.yaml"):
        WandbReport().setup(trainer, FineTune.__new__(FineTune), "fit")
