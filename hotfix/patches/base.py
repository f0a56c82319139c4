"""The patch seam: what comes out of a run, put on a model and taken off again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from hotfix.errors import PatchError
from hotfix.models.fingerprint import fingerprint
from hotfix.models.quantised import Bits

__all__ = ["Patch", "Provenance", "check_base", "worn"]


@dataclass(frozen=True)
class Provenance:
    """Where a patch comes from; kept in `patch.json` beside its weights.

    Attributes:
        method: class path of what made it.
        base_model: name it was trained on.
        base_fingerprint: of that model's weights; the patch fits no other.
        config_digest: of the resolved configuration.
        data_digest: of the pairs it was made from.
        versions: of the libraries.
        results: measured before and after, as in results.json.
        gates: conditions on what is measured, which the patch was made to hold.
        base_bits: what the base has to be quantised to; None leaves it as it is.
    """

    method: str
    base_model: str
    base_fingerprint: str
    config_digest: str = ""
    data_digest: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    base_bits: Bits | None = None
    gates: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class Patch(ABC):
    """A reversible change of a model.

    Invariant: `revert(apply(model))` is the model bit for bit, because the base's own tensors are never written.
    """

    provenance: Provenance

    @abstractmethod
    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model with the patch on.

        Raises:
            PatchError: it was made for another base model.
        """

    @abstractmethod
    def revert(self, model: nn.Module) -> nn.Module:
        """Return the base model."""

    def reference(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which a model that has the patch on is the base; one without weights changes nothing."""
        return nullcontext()

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights and their description into an empty folder."""


@contextmanager
def worn(patch: Patch | None, model: nn.Module) -> Iterator[nn.Module]:
    """Yield the model with the patch on, and take it off again; None changes nothing."""
    patched = model if patch is None else patch.apply(model)
    try:
        yield patched
    finally:
        if patch is not None:
            patch.revert(patched)


def check_base(provenance: Provenance, model: nn.Module) -> None:
    """Refuse a model that the patch was not made for.

    Raises:
        PatchError: the fingerprints differ.
    """
    found = fingerprint(model)
    if found != provenance.base_fingerprint:
        quantised = f" in {provenance.base_bits} bits" if provenance.base_bits else ""
        raise PatchError(
            f"the patch was made for {provenance.base_model}{quantised} (weights "
            f"{provenance.base_fingerprint[:12]}), but this "
            f"model's weights are {found[:12]}; load that base model, or fit the patch again on this one"
        )
