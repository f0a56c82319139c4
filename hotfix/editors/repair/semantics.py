"""Which way a hidden state has to move so that one token gains on another, from the head alone.

The bases of Vocabulary-Defined Semantics (https://arxiv.org/abs/2401.16184, section 3.1) are the rows of the
pseudo-inverse of the head, b_v = G^-1 H_v with G = H^T H. One Cholesky factor of G [D, D] gives all of them; a singular
value decomposition of the head [V, D] is never needed.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.models.layout import find_blocks

__all__ = ["Semantics", "final_norm", "norm_gain", "robustly_scaled", "semantics"]

_ROWS = 4096
_RIDGE = 1e-6  # of the Gram matrix's mean diagonal: heads with unused or repeated rows come close to singular


def robustly_scaled(steers: Tensor) -> Tensor:
    """Divide each row by the distance of its quartiles; zero rows stay zero: [N, D] -> [N, D].

    >>> robustly_scaled(torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]]))
    tensor([[0.0000, 0.5000, 1.0000, 1.5000, 2.0000]])
    """
    quartiles = steers.quantile(torch.tensor([0.25, 0.75], dtype=steers.dtype, device=steers.device), dim=1)
    return steers / (quartiles[1] - quartiles[0] + 1e-8)[:, None]


class Semantics(NamedTuple):
    """The head's geometry.

    Attributes:
        head: the head's weight [V, D].
        factor: lower Cholesky factor of G, float64 [D, D].
        gain: of the final norm [D]: what the head's rows are multiplied by, as the state before the norm sees them;
            ones for the raw head.
        centred: whether that norm takes the mean away.
    """

    head: Tensor
    factor: Tensor
    gain: Tensor
    centred: bool

    def contrasts(self, wanted: Tensor, other: Tensor) -> Tensor:
        """Return H_t - H_a as the state before the final norm sees it: int64 [N], int64 [N] -> float64 [N, D]."""
        return self._seen(self.head[wanted].double() - self.head[other].double())

    def steers(self, contrasts: Tensor) -> Tensor:
        """Return b_t - b_a = G^-1 (H_t - H_a): [N, D] -> float64 [N, D]; moving along it always helps the target."""
        return torch.cholesky_solve(contrasts.double().T, self.factor).T

    def _seen(self, rows: Tensor) -> Tensor:
        seen = rows * self.gain.to(rows.dtype)
        return seen - seen.mean(dim=1, keepdim=True) if self.centred else seen


@torch.no_grad()
def semantics(model: PreTrainedModel, *, fold_gain: bool = True) -> Semantics:
    """Compute the head's geometry: 2 V D^2 operations, less than a second for 49,152 tokens of width 576.

    Args:
        model: a causal language model.
        fold_gain: see the head through the final norm; False is the published form.
    """
    head = cast("Tensor", model.get_output_embeddings().weight).detach()
    gain, centred = torch.ones(head.shape[1], device=head.device), False
    norm = final_norm(model) if fold_gain else None
    if norm is not None:
        gain, centred = norm_gain(norm, head.shape[1], head.device)
    gram = torch.zeros(head.shape[1], head.shape[1], dtype=torch.float64, device=head.device)
    found = Semantics(head, gram, gain, centred)
    for rows in head.split(_ROWS):
        seen = found._seen(rows.float())
        gram += (seen.T @ seen).double()
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return found._replace(factor=torch.linalg.cholesky(gram))


def final_norm(model: PreTrainedModel) -> nn.Module | None:
    """Return the norm between the last block and the head: the last module beside the blocks with one weight a unit."""
    width = model.config.get_text_config().hidden_size
    children = list(find_blocks(model.get_decoder()).parent.children())
    beside = [child for child in children if _per_unit(child, width)]
    return beside[-1] if beside else None


def norm_gain(norm: nn.Module, width: int, device: torch.device) -> tuple[Tensor, bool]:
    """Measure a norm's gain [width], and whether it takes the mean away; Gemma's weights are the gain less one.

    >>> norm = nn.LayerNorm(4)
    >>> _ = nn.init.constant_(norm.weight, 3.0)
    >>> norm_gain(norm, 4, torch.device("cpu"))[1]
    True
    """
    weight = cast("Tensor", norm.weight)
    # Mean 0 and mean square 1, so nothing but the gain is between what goes in and what comes out.
    probe = torch.ones(width, device=device)
    probe[1::2] = -1
    with torch.no_grad():
        plus, minus, shifted = (norm(x.to(weight.dtype)).float() for x in (probe, -probe, probe + 1))
    return (plus - minus) / 2 * probe, bool(torch.allclose(shifted, plus, atol=1e-2, rtol=1e-2))


def _per_unit(module: nn.Module, width: int) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and tuple(weight.shape) == (width,)
