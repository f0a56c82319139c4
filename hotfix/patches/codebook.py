"""Edits kept beside a model: where what enters one layer is near an edit's key, the edit's value comes out of it.

GRACE (https://arxiv.org/abs/2211.11031) looks at one token only and keeps track of which it is; here every position is
looked up, and its key follows from the text up to it. So it makes no difference how the text is padded, what else is in
the batch, what was read into a key-value cache before, or how often a model has generated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from hotfix.errors import PatchError
from hotfix.models.layout import feed_forward_output
from hotfix.patches.base import Patch, Provenance, check_base
from hotfix.patches.entries import Entries, Entry
from hotfix.patches.look_up import LookUp
from hotfix.patches.queries import KeyEncoder, Pool, PrefixMeans, exactly

__all__ = ["Codebook", "KeyRule", "Queries"]

_TENSORS, _FILE = "codebook.safetensors", "codebook.json"
_ENCODER = "encoder."
_COLUMNS = ("keys", "values", "reach", "radii", "ends")


@dataclass(frozen=True)
class KeyRule:
    """What is compared: what enters a block's feed-forward output projection.

    Attributes:
        block: index of the block.
        pool: that of a position's own token (`last`), or the mean over all up to it (`mean`).
        encoder: what it is put through; None for as it is.
        reach: radius of a ball by itself, where it is the same for all.
        ending: how far a token's own input may be from that at an edit's prompt's end for the edit to fire, in lengths
            of the latter; None for any.
        value_block: index of the block where values come out, at or above `block`; None for the same.
    """

    block: int
    pool: Pool = "last"
    encoder: KeyEncoder | None = None
    reach: float | None = None
    ending: float | None = None
    value_block: int | None = None

    @property
    def values(self) -> int:
        """Index of the block where values come out."""
        return self.block if self.value_block is None else self.value_block


class Queries:
    """Computes what is compared with keys, while a model runs.

    Args:
        model: the base.
        rule: what is compared.
    """

    def __init__(self, model: PreTrainedModel, rule: KeyRule) -> None:
        place = feed_forward_output(cast("nn.Module", model), rule.block)
        self.module, self._rule = place.module, rule
        self._encoder = None if rule.encoder is None else rule.encoder.to(place.weight.device)
        self._means = PrefixMeans(model.get_decoder(), place.name) if rule.pool == "mean" else None

    @contextmanager
    def off(self) -> Iterator[None]:
        """Watch nothing for a while."""
        if self._means is None:
            yield
            return
        before, self._means.on = self._means.on, False
        try:
            yield
        finally:
            self._means.on = before

    def attach(self) -> list[RemovableHandle]:
        """Watch every pass from now on, until the handles are removed."""
        return [] if self._means is None else self._means.attach()

    def pooled(self, inputs: Tensor) -> Tensor:
        """Return what would be encoded, of what enters the projection in this pass: [B, Q, D] -> float32 [B, Q, D]."""
        with exactly(inputs.device):
            return inputs.float() if self._means is None else self._means.of(inputs)

    def of(self, inputs: Tensor) -> Tensor:
        """Return the queries, float32 [B, Q, K]."""
        pooled = self.pooled(inputs)
        with exactly(inputs.device):
            return pooled if self._encoder is None else cast("Tensor", self._encoder(pooled))


@dataclass
class _Worn:
    """What is on one model."""

    queries: Queries | None = None
    handles: list[RemovableHandle] = field(default_factory=list)
    on: bool = True
    found: Tensor | None = None  # which edit fires where in the pass that is under way, int64 [B, Q]


class Codebook(Patch):
    """Keys at one block's feed-forward output projection, values at the same or a later one's.

    At every position the projection's input gives a query; where it is in the ball around a key, the nearest such key's
    value takes the place of what the projection of the values' block puts out there. Nothing of the base is changed.

    Args:
        provenance: where it comes from.
        folder: with `codebook.json` and `codebook.safetensors`.
        rule: what is compared with the keys; given with `entries` where there is no folder.
        entries: the edits.

    Raises:
        PatchError: the folder's files are missing or damaged.
    """

    def __init__(
        self,
        provenance: Provenance,
        folder: Path | None = None,
        rule: KeyRule | None = None,
        entries: Entries | None = None,
    ) -> None:
        self.provenance = provenance
        if folder is not None:
            rule, entries = _read(folder)
        if rule is None or entries is None:
            raise PatchError("a codebook is made from a folder, or from a rule and entries")
        self.rule, self.entries = rule, entries
        self._worn: WeakKeyDictionary[nn.Module, _Worn] = WeakKeyDictionary()

    def apply(self, model: nn.Module) -> nn.Module:
        """Put a hook on the projection; the model itself is returned."""
        check_base(self.provenance, model)
        if model in self._worn:
            raise PatchError(f"this patch is on the {type(model).__name__} already; take it off first")
        worn = _Worn()
        if len(self.entries):
            worn.queries = Queries(cast("PreTrainedModel", model), self.rule)
            worn.handles = [*worn.queries.attach(), *self._hooks(model, worn.queries, worn)]
        self._worn[model] = worn
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Take the hook off."""
        for handle in self._of(model).handles:
            handle.remove()
        del self._worn[model]
        return model

    @contextmanager
    def reference(self, model: nn.Module) -> Iterator[None]:
        """Leave every output as it is for a while."""
        worn = self._of(model)
        before, worn.on = worn.on, False
        try:
            with nullcontext() if worn.queries is None else worn.queries.off():
                yield
        finally:
            worn.on = before

    def without(self, ids: Sequence[str]) -> Codebook:
        """Return the patch less some edits; all others are, bit for bit, as if those had never been made.

        Raises:
            PatchError: it holds no such edit.
        """
        missing = [name for name in ids if self.entries.at(name) is None]
        if missing:
            raise PatchError(f"the codebook holds no edit {missing[0]!r}; it has {len(self.entries)}")
        return Codebook(self.provenance, rule=self.rule, entries=self.entries.without(ids))

    def save(self, folder: Path) -> None:
        """Write keys, values, radii, the encoder, and whose they are."""
        entries, encoder = self.entries, self.rule.encoder
        tensors = {name: getattr(entries, name) for name in _COLUMNS}
        tensors |= {} if encoder is None else {_ENCODER + name: t for name, t in encoder.state_dict().items()}
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / _TENSORS)
        described = {
            "block": self.rule.block,
            "pool": self.rule.pool,
            "reach": self.rule.reach,
            "ending": self.rule.ending,
            "value_block": self.rule.value_block,
            "slope": None if encoder is None else encoder.slope,
            "edits": [asdict(edit) for edit in entries.edits],
        }
        (folder / _FILE).write_text(json.dumps(described) + "\n", encoding="utf-8")

    def _hooks(self, model: nn.Module, queries: Queries, worn: _Worn) -> list[RemovableHandle]:
        place = feed_forward_output(model, self.rule.values)
        look_up = LookUp(self.entries, self.rule.ending, place.weight.device)
        values = self.entries.values.to(place.weight.device)

        def look(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            if worn.on:
                with torch.no_grad():
                    asked = queries.of(args[0])
                    with exactly(asked.device):
                        worn.found = look_up.find(asked, args[0])

        def replace(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
            found, worn.found = worn.found, None
            if not worn.on or found is None:
                return None
            fires = found >= 0
            if not bool(fires.any()):
                return None
            replaced = out.clone()
            replaced[fires] = values[found[fires]].to(out.dtype)
            return replaced

        return [queries.module.register_forward_hook(look), place.module.register_forward_hook(replace)]

    def _of(self, model: nn.Module) -> _Worn:
        if model not in self._worn:
            raise PatchError(f"this patch isn't on the {type(model).__name__}; apply it first")
        return self._worn[model]


def _read(folder: Path) -> tuple[KeyRule, Entries]:
    try:
        tensors = load_file(folder / _TENSORS)
        described: dict[str, Any] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        state = {name.removeprefix(_ENCODER): t for name, t in tensors.items() if name.startswith(_ENCODER)}
        encoder = KeyEncoder.restored(state, described["slope"]) if state else None
        edits = tuple(Entry(e["id"], tuple(e["prompt"]), tuple(e["target"]), e["shares"]) for e in described["edits"])
        entries = Entries(edits, *(tensors[name] for name in _COLUMNS))
        if {len(edits)} != {len(getattr(entries, name)) for name in _COLUMNS}:
            raise ValueError(f"{len(edits)} edits, but {len(entries.keys)} keys")
        rule = {name: described[name] for name in ("block", "pool", "reach", "ending", "value_block")}
        return KeyRule(encoder=encoder, **rule), entries
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise PatchError(f"{folder}: the codebook can't be loaded ({error}); make the patch again") from error
