"""A folder holds a whole patch or the whole old one, and a damaged one says so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from hotfix.adapters import LoRA
from hotfix.errors import PatchError
from hotfix.models.fingerprint import fingerprint
from hotfix.models.tiny import tiny_model
from hotfix.patches import AdapterPatch, Provenance, load_patch, save_patch


def make_patch(seed: int, **more: Any) -> AdapterPatch:
    torch.manual_seed(seed)
    model = LoRA(rank=2, target_modules=["q_proj"]).attach(tiny_model())
    return AdapterPatch(Provenance("hotfix.adapters.LoRA", "tiny", fingerprint(model), **more), model=model)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_provenance_survives(tmp_path: Path, tiny: LlamaForCausalLM) -> None:
    more: dict[str, Any] = {
        "config_digest": "c", "data_digest": "d", "versions": {"torch": "2"}, "results": {"rate": [0.5, None]}
    }  # fmt: skip
    patch = make_patch(0, **more)
    save_patch(patch, tmp_path / "run" / "patch")
    loaded = load_patch(tmp_path / "run" / "patch")
    assert loaded.provenance == patch.provenance
    assert loaded.provenance.base_fingerprint == fingerprint(tiny)
    assert isinstance(loaded, AdapterPatch)
    described = json.loads((tmp_path / "run" / "patch" / "patch.json").read_text(encoding="utf-8"))
    assert described["kind"] == "adapter"
    assert described["method"] == "hotfix.adapters.LoRA"


def test_results_that_are_no_number_are_written_as_json(tmp_path: Path) -> None:
    save_patch(make_patch(0, results={"kl": float("nan")}), tmp_path / "patch")
    text = (tmp_path / "patch" / "patch.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["results"] == {"kl": None}


def test_a_key_of_a_later_version_is_passed_over(tmp_path: Path) -> None:
    save_patch(make_patch(0), tmp_path / "patch")
    file = tmp_path / "patch" / "patch.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "future": 1}), encoding="utf-8")
    assert load_patch(tmp_path / "patch").provenance.base_model == "tiny"


def test_a_new_patch_replaces_the_old_one_whole(tmp_path: Path) -> None:
    folder = tmp_path / "patch"
    save_patch(make_patch(0), folder)
    old = content(folder)
    (folder / "stray.txt").write_text("left over")
    save_patch(make_patch(1), folder)
    new = content(folder)
    assert set(new) == set(old)
    assert new["adapter_model.safetensors"] != old["adapter_model.safetensors"]


@pytest.mark.parametrize("moment", ["before the weights", "after the weights", "at the description"])
def test_a_save_that_fails_midway_leaves_the_old_folder_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder = tmp_path / "patch"
    save_patch(make_patch(0), folder)
    old, save = content(folder), AdapterPatch.save

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("pulled the plug")

    def save_then_fail(self: AdapterPatch, target: Path) -> None:
        save(self, target)
        fail()

    if moment == "at the description":
        monkeypatch.setattr("hotfix.patches.store.to_json", fail)
    else:
        monkeypatch.setattr(AdapterPatch, "save", fail if moment == "before the weights" else save_then_fail)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        save_patch(make_patch(1), folder)
    assert content(folder) == old
    assert [path.name for path in tmp_path.iterdir()] == ["patch"]
    load_patch(folder).apply(tiny_model())


def test_a_folder_without_a_patch(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        expected = f"{folder}: no patch.json there; expected a run's patch folder, as runs/lora/patch"
        with pytest.raises(PatchError, match=f"^{re.escape(expected)}$"):
            load_patch(folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"x"', "{}", '{"kind": "adapter"}', '{"kind": "nothing", "method": "m"}', "null", '{"kind": []}',
     b"\xff\xfe"],
)  # fmt: skip
def test_a_damaged_description(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "patch.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    place = re.escape(str(tmp_path / "patch.json"))
    with pytest.raises(PatchError, match=rf"^{place}: damaged \(.+\); fit the patch again, or restore the file$"):
        load_patch(tmp_path)
