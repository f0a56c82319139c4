"""The forward passes of one step: each run once, on first use, and shared by all loss terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from hotfix.adapters.first_pass import Kind, Reference
from hotfix.data.packing import Batch, Targets
from hotfix.functional import token_kl, token_log_probs
from hotfix.losses.base_states import BaseStates
from hotfix.losses.drift import low_rank_drift
from hotfix.losses.frozen_head import head_divergence, head_log_probs
from hotfix.models.rows import TokenRows
from hotfix.models.states import fixed_head, head_logits, hidden_states, plain_model, upper_states
from hotfix.types import Side, TokenScope

__all__ = ["ModelPasses", "Passes"]

Drift = Callable[[nn.Module], Tensor]
_T = TypeVar("_T")


class Passes(Protocol):
    """What a loss term may ask for; packed and padded rows look the same through it.

    N is the number of tokens of a side in a scope in this micro-batch; it may be 0.
    """

    def log_probs(self, side: Side, scope: TokenScope = "all", keep: Tensor | None = None) -> Tensor:
        """Return the policy's log p of each token, float32 [N], in nats; `keep` (indices [M]) only of those, [M]."""

    def reference_log_probs(self, side: Side, scope: TokenScope = "all") -> Tensor:
        """Return the frozen base's log p of each token, float32 [N], without gradient."""

    def logits(self, side: Side, scope: TokenScope, keep: Tensor | None = None) -> Tensor:
        """Return the policy's logits, float32 [N, V]; `keep` (indices [M]) computes only those rows, [M, V]."""

    def reference_logits(self, side: Side, scope: TokenScope, keep: Tensor | None = None) -> Tensor:
        """Return the frozen base's logits likewise, without gradient."""

    def divergence(self, side: Side, scope: TokenScope, keep: Tensor | None = None, reverse: bool = False) -> Tensor:
        """Return KL(base || policy), or in reverse KL(policy || base), of each token, in nats: float32 [N] or [M]."""

    def rows(self, side: Side, scope: TokenScope = "all") -> Tensor:
        """Return which example of the micro-batch each token belongs to, int64 [N]."""

    def tokens(self, side: Side, scope: TokenScope = "all") -> Tensor:
        """Return each token's id, int64 [N]."""

    def mean(self, values: Tensor, side: Side, scope: TokenScope) -> Tensor:
        """Return this micro-batch's part of the mean over the whole step's tokens of a side and scope: [N] -> []."""

    def example_mean(self, values: Tensor) -> Tensor:
        """Return this micro-batch's part of the mean over the whole step's pairs: [examples] -> []."""

    def squared_drift(self) -> Tensor:
        """Return the squared Euclidean distance of the policy's weights from the base's, float32 []."""


class ModelPasses:
    """`Passes` of a causal language model over one batch.

    Args:
        model: with its adapter.
        batch: packed or padded rows, on the model's device.
        reference: context in which the model is the frozen base.
        base: what the base was found to compute of the training rows; None computes it anew.
        drift: squared distance of the model's weights from the base's, with a gradient; only an adapter that changes
            the base's own weights needs to say it.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        reference: Reference,
        base: BaseStates | None = None,
        drift: Drift = low_rank_drift,
    ) -> None:
        self._model, self._batch, self._reference, self._drift = model, batch, reference, drift
        self._base = base if batch.places else None
        self._kept: dict[tuple[str, str, str], Tensor] = {}

    def ahead(self, kinds: Sequence[Kind]) -> Tensor:
        """Run what the terms may ask for before they do, and for rows that aren't there a single token.

        Where processes run the model's blocks together, each has to run as many passes, in the same order, forward and
        backward; which tokens its own micro-batch has must not matter.

        Returns:
            Zero, with a gradient through every pass of the policy; to be added to the loss.
        """
        through = self._zero()
        for kind in kinds:
            side: Side = "retain" if kind == "retain" else "fixed"
            nothing = self._rows(side) is None
            states = self._filler(self._base) if nothing else self._policy_states(side)
            through = through + 0.0 * states.float().sum()
            with torch.no_grad(), self._reference(self._model):
                if not nothing:
                    self._reference_states(side)
                elif self._base is None:
                    self._filler(None)
        return through

    def log_probs(self, side: Side, scope: TokenScope = "all", keep: Tensor | None = None) -> Tensor:
        """See `Passes`."""
        if keep is not None:
            return self._log_probs(self._policy_states, side, scope, keep)
        return self._once("log_probs", side, scope, lambda: self._log_probs(self._policy_states, side, scope))

    @torch.no_grad()
    def reference_log_probs(self, side: Side, scope: TokenScope = "all") -> Tensor:
        """See `Passes`."""
        with self._reference(self._model):
            return self._once("reference", side, scope, lambda: self._log_probs(self._reference_states, side, scope))

    def logits(self, side: Side, scope: TokenScope, keep: Tensor | None = None) -> Tensor:
        """See `Passes`."""
        return self._logits(self._policy_states, side, scope, keep)

    @torch.no_grad()
    def reference_logits(self, side: Side, scope: TokenScope, keep: Tensor | None = None) -> Tensor:
        """See `Passes`."""
        with self._reference(self._model):
            return self._logits(self._reference_states, side, scope, keep)

    def divergence(self, side: Side, scope: TokenScope, keep: Tensor | None = None, reverse: bool = False) -> Tensor:
        """See `Passes`."""
        head = fixed_head(self._model)
        if head is not None and self._rows(side) is not None:
            row, column = self._points(side, scope, keep)
            with torch.no_grad(), self._reference(self._model):
                base = self._reference_states(side)[row, column]
            return head_divergence(head, base, self._policy_states(side)[row, column], reverse)
        reference, policy = self.reference_logits(side, scope, keep), self.logits(side, scope, keep)
        return token_kl(policy, reference) if reverse else token_kl(reference, policy)

    def rows(self, side: Side, scope: TokenScope = "all") -> Tensor:
        """See `Passes`."""
        return self._targets(side, scope).example

    def tokens(self, side: Side, scope: TokenScope = "all") -> Tensor:
        """See `Passes`."""
        return self._targets(side, scope).token

    def mean(self, values: Tensor, side: Side, scope: TokenScope) -> Tensor:
        """See `Passes`."""
        return values.sum() / max(1e-9, self._batch.counts[side, scope]) if len(values) else self._zero()

    def example_mean(self, values: Tensor) -> Tensor:
        """See `Passes`."""
        return values.sum() / max(1e-9, self._batch.num_examples) if len(values) else self._zero()

    def squared_drift(self) -> Tensor:
        """See `Passes`."""
        return self._drift(self._model)

    def _targets(self, side: Side, scope: TokenScope, keep: Tensor | None = None) -> Targets:
        targets = self._batch.targets[side].in_scope(scope)
        return targets if keep is None else targets.where(keep)

    def _log_probs(
        self, states: Callable[[Side], Tensor], side: Side, scope: TokenScope, keep: Tensor | None = None
    ) -> Tensor:
        targets = self._targets(side, scope, keep)
        if not len(targets.token):
            return torch.zeros(0, device=targets.token.device)
        head = fixed_head(self._model)
        if head is not None:
            return head_log_probs(head, states(side)[targets.row, targets.column], targets.token)
        return token_log_probs(self._logits(states, side, scope, keep), targets.token)

    def _logits(self, states: Callable[[Side], Tensor], side: Side, scope: TokenScope, keep: Tensor | None) -> Tensor:
        row, column = self._points(side, scope, keep)
        return head_logits(self._model, states(side)[row, column])

    def _points(self, side: Side, scope: TokenScope, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rows and columns of the states that predict the tokens."""
        targets = self._targets(side, scope, keep)
        return targets.row, targets.column

    def _policy_states(self, side: Side) -> Tensor:
        return self._once("policy states", _trunk(side), "", partial(self._policy, side))

    def _policy(self, side: Side) -> Tensor:
        rows = self._rows(side)
        if self._base is None or self._base.first is None or rows is None:
            return self._states(side)
        kind = _trunk(side)
        entering = self._base.entering(kind, self._batch.places[kind])
        return upper_states(self._model, rows, entering, self._base.first)

    def _reference_states(self, side: Side) -> Tensor:
        """To be called inside the reference context."""
        if self._base is not None and self._rows(side) is not None:
            kind = _trunk(side)
            return self._once("reference states", kind, "", partial(self._base.last, kind, self._batch.places[kind]))
        return self._once("reference states", _trunk(side), "", partial(self._states, side))

    def _states(self, side: Side) -> Tensor:
        rows = self._rows(side)
        if rows is None:  # no targets either, so nothing will be taken from it
            return torch.zeros(0, 0, 1)
        return hidden_states(self._model, rows)

    def _filler(self, base: BaseStates | None) -> Tensor:
        """Run the blocks that a pass over rows runs, on one token."""
        one = torch.zeros(1, 1, dtype=torch.long, device=next(self._model.parameters()).device)
        rows = TokenRows(one, one, one)
        if base is None or base.first is None:
            return hidden_states(self._model, rows)
        width = plain_model(self._model).config.get_text_config().hidden_size
        return upper_states(self._model, rows, torch.zeros(1, 1, width, device=one.device), base.first)

    def _rows(self, side: Side) -> TokenRows | None:
        return self._batch.retain if side == "retain" else self._batch.pairs

    def _once(self, what: str, side: str, scope: str, compute: Callable[[], Tensor]) -> Tensor:
        key = (what, side, scope)
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def _zero(self) -> Tensor:
        """Zero without a gradient, on the right device."""
        return torch.zeros((), device=next(self._model.parameters()).device)


def _trunk(side: Side) -> Kind:
    """Both sides of a pair come out of one forward pass."""
    return "retain" if side == "retain" else "pairs"
