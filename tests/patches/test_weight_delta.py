"""Patches of the base's own weights: exact on and off, in any precision, and refused where they don't fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hotfix.errors import PatchError
from hotfix.models.fingerprint import fingerprint
from hotfix.models.tiny import tiny_model
from hotfix.patches import LowRank, Provenance, WeightDelta, load_patch, save_patch
from hotfix.patches.weight_delta import Change, composed

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"
IDS = torch.arange(1, 41).reshape(2, 20)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def changes() -> dict[str, Change]:
    generator = torch.Generator().manual_seed(0)
    whole, left, right = (torch.randn(s, generator=generator) for s in ((64, 32), (32, 2), (2, 64)))
    return {UP: whole, DOWN: LowRank(left, right)}


def patch(made: dict[str, Change] | None = None) -> WeightDelta:
    return WeightDelta(
        Provenance("test", "tiny", fingerprint(tiny_model())), changes=changes() if made is None else made
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_apply_writes_what_plain_assignment_writes_and_revert_brings_the_base_back(dtype: torch.dtype) -> None:
    by_hand, base, model = (tiny_model().to(dtype) for _ in range(3))
    made, wanted = patch(), changes()
    low = wanted[DOWN]
    assert isinstance(low, LowRank)
    assert isinstance(wanted[UP], Tensor)
    with torch.no_grad():
        own = dict(by_hand.named_parameters())
        own[UP].copy_(wanted[UP].to(dtype))
        own[DOWN].copy_((own[DOWN].float() + low.left @ low.right).to(dtype))
    before = dict(model.named_parameters())
    patched = made.apply(model)
    assert torch.equal(logits(patched), logits(by_hand))
    assert not torch.equal(logits(patched), logits(base))
    with made.reference(patched):
        assert torch.equal(logits(patched), logits(base))
    assert torch.equal(logits(patched), logits(by_hand))
    reverted = made.revert(patched)
    after = dict(reverted.named_parameters())
    assert all(after[name] is before[name] for name in before)
    assert fingerprint(reverted) == made.provenance.base_fingerprint


def test_values_that_no_difference_could_reach_are_kept_exactly(tmp_path: Path) -> None:
    tiny = {UP: torch.full((64, 32), 1e-30)}
    save_patch(patch(tiny), tmp_path / "patch")
    model = load_patch(tmp_path / "patch").apply(tiny_model())
    assert torch.equal(dict(model.named_parameters())[UP], tiny[UP])


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    expected = logits(patch().apply(tiny_model()))
    save_patch(patch(), tmp_path / "patch")
    loaded = load_patch(tmp_path / "patch")
    assert isinstance(loaded, WeightDelta)
    model = loaded.apply(tiny_model())
    assert torch.equal(logits(model), expected)
    assert torch.equal(logits(loaded.revert(model)), logits(tiny_model()))
    size = (tmp_path / "patch" / "weights.safetensors").stat().st_size
    assert size < 4 * (64 * 32 + 2 * (32 + 64)) + 1000


def test_what_the_editor_remembers_is_saved_and_touches_no_weight(tmp_path: Path) -> None:
    memory = {"mean": torch.tensor([1.0, 2.0], dtype=torch.float64), DOWN: torch.ones(3)}
    made = patch()
    save_patch(WeightDelta(made.provenance, changes=made.changes, memory=memory), tmp_path / "patch")
    loaded = load_patch(tmp_path / "patch")
    assert isinstance(loaded, WeightDelta)
    assert loaded.changes.keys() == made.changes.keys()
    assert loaded.memory.keys() == memory.keys()
    assert all(torch.equal(loaded.memory[name], memory[name]) for name in memory)
    assert loaded.memory["mean"].dtype == torch.float64
    assert torch.equal(logits(loaded.apply(tiny_model())), logits(made.apply(tiny_model())))


def test_an_empty_patch_changes_nothing() -> None:
    assert torch.equal(logits(patch({}).apply(tiny_model())), logits(tiny_model()))


PLAIN = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
unexpected = model.load_state_dict(load_file(sys.argv[2]), strict=False).unexpected_keys
assert not unexpected and not any(name.split(".")[0] == "hotfix" for name in sys.modules)
with torch.no_grad():
    torch.save(model(input_ids=torch.arange(1, 41).reshape(2, 20)).logits, sys.argv[3])
"""


def test_plain_transformers_loads_new_values(tmp_path: Path) -> None:
    whole = patch({UP: changes()[UP]})
    tiny_model().save_pretrained(tmp_path / "base")
    save_patch(whole, tmp_path / "patch")
    arguments = [str(tmp_path / name) for name in ("base", "patch/weights.safetensors", "logits.pt")]
    done = subprocess.run([sys.executable, "-c", PLAIN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits(whole.apply(tiny_model())))


def test_another_base_is_refused_and_left_alone() -> None:
    other = tiny_model(seed=1)
    before = dict(other.named_parameters())
    with pytest.raises(PatchError, match=r"the patch was made for tiny \(weights [0-9a-f]{12}\), but this"):
        patch().apply(other)
    assert all(p is before[name] for name, p in other.named_parameters())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"model.nothing": torch.zeros(2)}, r"changes model\.nothing of shape \[2\], which in this model is missing"),
        ({UP: torch.zeros(2, 2)}, r"up_proj\.weight of shape \[2, 2\], which in this model is of shape \[64, 32\]"),
        ({UP: LowRank(torch.zeros(64, 1), torch.zeros(1, 3))}, r"of shape \[64, 3\], which in this model is of shape"),
    ],
)
def test_a_change_that_does_not_fit(made: dict[str, Change], message: str) -> None:
    with pytest.raises(PatchError, match=message):
        patch(made).apply(tiny_model())


def test_revert_before_apply() -> None:
    with pytest.raises(PatchError, match="this patch isn't on the LlamaForCausalLM; apply it first"):
        patch().revert(tiny_model())


@pytest.mark.parametrize("damage", ["cut", "gone", "half"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    save_patch(patch(), tmp_path / "patch")
    path = tmp_path / "patch" / "weights.safetensors"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.write_bytes(path.read_bytes().replace(b".right", b".wrong"))
    with pytest.raises(PatchError, match=r"weights\.safetensors: the weights can't be loaded .*; fit the patch again"):
        load_patch(tmp_path / "patch")


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_many_changes_of_low_rank_take_no_more_room_than_the_matrix_and_an_identity(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    outs, ins = shape
    parts = [
        LowRank(torch.randn(outs, 4, generator=generator), torch.randn(4, ins, generator=generator)) for _ in range(3)
    ]
    both: dict[str, Change] = {}
    for part, rank in zip(parts, (4, 6, 6), strict=True):
        both = composed(both, {"w": part})
        change = both["w"]
        assert isinstance(change, LowRank)
        assert change.left.shape == (outs, rank)
        assert change.right.shape == (rank, ins)
    wanted = sum(part.left.double() @ part.right.double() for part in parts)
    torch.testing.assert_close(both["w"].added_to(torch.zeros(shape)).double(), wanted, rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]
