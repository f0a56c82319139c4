"""Peak memory of a training step against length and batch: ours against padded rows; each in a process of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Literal, get_args

from apart import apart
from side_by_side import Finding

__all__ = ["run"]

_Layout = Literal["packed", "padded"]
_LENGTHS = (128, 512, 1024)
_BATCHES = (2, 8)
_NOTE = "above the model's own, learn + unlearn + retain, LoRA on all linear layers, bfloat16"


def run(repeats: int) -> Iterator[Finding]:
    """Measure both; memory doesn't vary as time does, so once."""
    for length in _LENGTHS:
        for batch in _BATCHES:
            ours, padded = (_measured(layout, length, batch) for layout in get_args(_Layout))
            yield _compared(f"memory of a step, {length} tokens, {batch} pairs", ours, padded, _NOTE)
    again = _measured("packed", _LENGTHS[-1], _BATCHES[-1], "--checkpointing")
    name = f"the same with gradient checkpointing, {_LENGTHS[-1]} tokens, {_BATCHES[-1]} pairs"
    yield _compared(name, again, ours, f"{_NOTE}; the peer: without")


def _compared(name: str, ours: float, peer: float, note: str) -> Finding:
    ratio = peer / ours
    return Finding(name, "GB", ours, peer, ratio, ratio, ratio, None, 1, note)


def _measured(layout: _Layout, length: int, batch: int, *more: str) -> float:
    return float(apart(__file__, "--layout", layout, "--length", str(length), "--batch", str(batch), *more))


def _step(layout: _Layout, length: int, batch: int, checkpointing: bool) -> float:
    """Make two steps; return how much the resident set grew over that with model and optimizer, in GB."""
    import torch
    from sides import three_terms

    from hotfix.adapters import LoRA
    from hotfix.data.encode import Branch, EncodedPair
    from hotfix.data.packing import pack
    from hotfix.losses import ModelPasses
    from hotfix.models.checkpointing import checkpoint_blocks, compute_anew
    from hotfix.models.loading import load_causal_lm
    from hotfix.models.peak_memory import peak_resident, reset_peak_resident
    from hotfix.models.states import plain_model

    adapter = LoRA(rank=8)
    model = adapter.attach(load_causal_lm("smollm2-135m", "bfloat16"))
    model.eval()
    if checkpointing:
        base = plain_model(model)
        checkpoint_blocks(base)
        compute_anew(base.get_decoder())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    objective = three_terms()
    draw = torch.Generator().manual_seed(0)
    edit = 12

    def ids(count: int) -> list[int]:
        return torch.randint(100, 40_000, (count,), generator=draw).tolist()

    def branch() -> Branch:
        return Branch(ids(edit), [True] * edit, edit)

    pairs = [EncodedPair(str(i), ids(length - edit), length - edit, "", branch(), branch()) for i in range(batch)]
    reset_peak_resident()
    before = peak_resident()
    for _ in range(2):
        passes = ModelPasses(model, pack(pairs, layout=layout), adapter.reference)
        objective(passes)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return (peak_resident() - before) / 1024**3


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--layout", choices=get_args(_Layout))
    parser.add_argument("--length", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--checkpointing", action="store_true")
    given = parser.parse_args()
    sys.stdout.write(f"{_step(given.layout, given.length, given.batch, given.checkpointing)}\n")
