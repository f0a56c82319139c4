"""Second moments of keys on ordinary code, and what the closed-form editors make of them, kept on disk.

A key is what enters a block's feed-forward output matrix. How keys are spread over ordinary text says which changes of
that matrix are felt there. Nothing in it depends on an edit, so it is computed once for a model, a block and a corpus.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.data.packing import pack_texts
from hotfix.errors import ConfigError, ModelError
from hotfix.models.doors import lower_blocks
from hotfix.models.input_moments import InputMoments
from hotfix.models.kept_files import keep, used
from hotfix.models.layout import feed_forward_output
from hotfix.models.packaged import cache_folder
from hotfix.models.rows import PADDING
from hotfix.models.states import hidden_states

__all__ = ["Derived", "KeyStatistics", "Ordinary", "cholesky_factor", "key_moments", "null_space"]

log = logging.getLogger(__name__)

_PIECE = 512
_TOKENS = 4096
_ROOM = 16 << 30  # bytes; of all moments and factors together, each up to 0.5 GB for a 7B model


def cholesky_factor(moment: Tensor, ridge: float) -> Tensor:
    """Return L with L L^T = C + ridge * mean(diag C) * I: [D, D] -> float32 [D, D].

    >>> cholesky_factor(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), ridge=1.25)
    tensor([[3., 0.],
            [0., 3.]])
    """
    wide = moment.double()
    wide = wide + ridge * wide.diagonal().mean() * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    factor: Tensor = torch.linalg.cholesky(wide)
    return factor.float()


def null_space(moment: Tensor, threshold: float) -> Tensor:
    """Return an orthonormal basis of the directions that ordinary keys hardly use: [D, D] -> float32 [D, m].

    Those are the eigenvectors of the smallest eigenvalues, as many as together hold at most `threshold` of the trace:
    so much of ordinary keys' square length is left in them.

    Raises:
        ConfigError: there is none.

    >>> null_space(torch.diag(torch.tensor([0.01, 9.0])), threshold=0.1).abs()
    tensor([[1.],
            [0.]])
    """
    values, vectors = torch.linalg.eigh(moment.double())
    share = values.clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
    found: Tensor = vectors[:, share <= threshold].float()
    if not found.shape[1]:
        raise ConfigError(
            f"editor.init_args.threshold is {threshold}, but the least used direction of the keys holds "
            f"{share[0]:.2g} of their square length; raise it"
        )
    return found


class Derived(NamedTuple):
    """What is made of a second moment.

    Attributes:
        name: `cholesky_factor` or `null_space`.
        level: its second argument.
    """

    name: Literal["cholesky_factor", "null_space"]
    level: float

    def of(self, moment: Tensor) -> Tensor:
        """Compute it."""
        return (cholesky_factor if self.name == "cholesky_factor" else null_space)(moment, self.level)


class Ordinary(NamedTuple):
    """What is known of one matrix W [O, D] on ordinary code.

    Attributes:
        factor: F, what was derived of the keys' second moment C, float64 [D, m].
        size: |W F|^2: of a Cholesky factor tr(W C W^T), the mean squared length of what W gives.
    """

    factor: Tensor
    size: float


@torch.no_grad()
def key_moments(model: PreTrainedModel, blocks: Sequence[int], texts: Sequence[Sequence[int]]) -> dict[int, Tensor]:
    """Return the mean of k k^T over all tokens, uncentred, for the keys k of each block: float32 [D, D].

    Only sums are kept, and texts run in passes of some thousand tokens, whatever the model's context.
    """
    modules = {block: feed_forward_output(model, block).module for block in blocks}
    moments = InputMoments(list(modules.values()))
    pieces = [text[start : start + _PIECE] for text in texts for start in range(0, len(text), _PIECE)]
    pieces.sort(key=len)
    with lower_blocks(model.get_decoder(), max(blocks) + 1):
        while pieces:
            count = max(1, _TOKENS // len(pieces[-1]))
            rows, _ = pack_texts(pieces[-count:], pad_id=0)
            assert rows is not None
            with moments.over((rows.branch != PADDING).to(model.device)):
                hidden_states(cast("nn.Module", model), rows.to(model.device))
            del pieces[-count:]
    return {block: moments[module] for block, module in modules.items()}


class KeyStatistics:
    """Factors of the keys' second moments, by all that they depend on: in memory, on disk, or computed.

    Edits are solved in float64, and an edit reads the whole factor once. To widen it would cost as much again, so in
    memory it is wide; float32 is enough on disk.

    Args:
        folder: where; by default `key_statistics` in the cache folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._held: dict[tuple[str, Derived], Ordinary] = {}

    def factors(
        self,
        model: PreTrainedModel,
        base: str,
        blocks: Sequence[int],
        texts: Sequence[Sequence[int]],
        derived: Derived,
    ) -> dict[int, Ordinary]:
        """Return the factors of some blocks, in float64 on the model's device, and how large the matrices are in them.

        Args:
            model: the base, with no patch on.
            base: its fingerprint.
            blocks: their indices.
            texts: token ids of ordinary code.
            derived: what is wanted of each moment.

        Raises:
            ModelError: a file on disk is another model's.
        """
        corpus = hashlib.sha256(json.dumps([list(text) for text in texts]).encode()).hexdigest()
        about = {
            block: {
                "model": base,
                "weight": feed_forward_output(model, block).name,
                "precision": str(model.dtype),
                "corpus": corpus,
            }
            for block in blocks
        }
        keys = {block: (_digest(about[block]), derived) for block in blocks}
        self._held = {key: held for key, held in self._held.items() if key in keys.values()}
        missing = [block for block in blocks if keys[block] not in self._held]
        for block, factor in self._derived(model, missing, about, texts, derived).items():
            weight = feed_forward_output(model, block).weight.detach().float()
            size = float((weight @ factor.to(model.device)).square().sum())
            self._held[keys[block]] = Ordinary(factor.to(model.device, torch.float64), size)
        found = {block: self._held[key] for block, key in keys.items()}
        return {block: Ordinary(held.factor.to(model.device), held.size) for block, held in found.items()}

    def _derived(
        self,
        model: PreTrainedModel,
        blocks: Sequence[int],
        about: Mapping[int, Mapping[str, str]],
        texts: Sequence[Sequence[int]],
        derived: Derived,
    ) -> dict[int, Tensor]:
        """Read or compute and write what is derived."""
        suffix = f"{derived.name}-{derived.level:g}"
        found = {block: self._read(about[block], suffix) for block in blocks}
        moments = {block: self._read(about[block], "moment") for block in blocks if found[block] is None}
        computed = [block for block, moment in moments.items() if moment is None]
        if computed:
            for block, moment in key_moments(model, computed, texts).items():
                moments[block] = moment
                self._write(about[block], "moment", moment)
        for block, read in moments.items():
            assert read is not None
            made = found[block] = derived.of(read)
            self._write(about[block], suffix, made)
        return {block: factor for block, factor in found.items() if factor is not None}

    def _path(self, about: Mapping[str, str], suffix: str) -> Path:
        return (self._folder or cache_folder() / "key_statistics") / f"{_digest(about)}.{suffix}.safetensors"

    def _read(self, about: Mapping[str, str], suffix: str) -> Tensor | None:
        path = self._path(about, suffix)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                written, tensor = file.metadata() or {}, cast("Tensor", file.get_tensor("factor"))
        except (OSError, SafetensorError) as error:
            log.warning("%s is damaged (%s) and is computed again", path, error)
            return None
        if written != about:
            raise ModelError(f"{path}: statistics of another model, block or corpus; delete the file")
        used(path)
        return tensor

    def _write(self, about: Mapping[str, str], suffix: str, tensor: Tensor) -> None:
        keep(self._path(about, suffix), {"factor": tensor}, _ROOM, about)


def _digest(about: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode()).hexdigest()[:32]
