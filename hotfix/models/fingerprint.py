"""What a patch remembers of its base model, so that it is never put on another one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn

__all__ = ["fingerprint", "known_fingerprint"]

_KNOWN = "_hotfix_fingerprint"


def fingerprint(model: nn.Module) -> str:
    """Digest a model's own parameters: names, shapes and values; adapters put on by peft don't count.

    Floating-point values are taken as bfloat16, so one model gives one digest whether it is loaded in float32 or in
    bfloat16. Buffers don't count: they follow from the configuration.

    Returns:
        64 hexadecimal digits.
    """
    known = _base(model).__dict__.get(_KNOWN)
    if known is not None:
        return str(known)
    total = hashlib.sha256()
    for name, parameter in sorted(_own_parameters(model)):
        total.update(f"{name}{tuple(parameter.shape)}".encode())
        # Blockwise: a copy of the largest matrix of a large model may not fit beside it.
        for block in parameter.detach().reshape(-1).split(1 << 24):
            exact = block.to(torch.bfloat16) if block.is_floating_point() else block
            total.update(exact.cpu().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()


@contextmanager
def known_fingerprint(model: nn.Module, digest: str) -> Iterator[None]:
    """Take a model's digest as read for a while, in which only patches that give the weights back are put on it.

    Reading every weight for every patch of thousands would cost more than the patches.
    """
    base = _base(model)
    before = base.__dict__.get(_KNOWN)
    base.__dict__[_KNOWN] = digest
    try:
        yield
    finally:
        base.__dict__.pop(_KNOWN)
        if before is not None:
            base.__dict__[_KNOWN] = before


def _base(model: nn.Module) -> nn.Module:
    found: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
    return found


def _own_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters of the base by the name they had before peft wrapped it."""
    found = []
    for name, parameter in _base(model).named_parameters():
        plain = name.replace(".base_layer.", ".")
        if not any(mark in plain for mark in (".lora_", ".ia3_", "prompt_encoder.")):
            found.append((plain, parameter))
    return found
