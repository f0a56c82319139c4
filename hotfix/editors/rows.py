"""Requests as the rows of one forward pass, and where in them each target token is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from hotfix.data.edits import EncodedRequest
from hotfix.data.packing import pack_texts
from hotfix.models.rows import TokenRows

__all__ = ["TargetRows", "row_means", "target_rows"]


@dataclass(frozen=True)
class TargetRows:
    """A row a request, prompt and target, padded on the right.

    Attributes:
        rows: of B requests.
        last: position of each prompt's last token, int64 [B].
        length: of each row, int64 [B].
        row: of each target token, int64 [N].
        column: of the position that predicts it, int64 [N].
        token: its id, int64 [N].
    """

    rows: TokenRows
    last: Tensor
    length: Tensor
    row: Tensor
    column: Tensor
    token: Tensor

    def at_prompt_end(self) -> Self:
        """Predict every target token from the prompt's last position."""
        return replace(self, column=self.last[self.row])


def target_rows(
    requests: Sequence[EncodedRequest], device: torch.device | str, before: Sequence[Sequence[int]] = ((),)
) -> TargetRows:
    """Lay out requests, each behind every one of some contexts.

    Args:
        requests: R of them.
        device: where the rows are put.
        before: token ids that stand before the prompt, C of them; none but the empty one by default.

    Returns:
        B = R C rows, the contexts of the first request first.
    """
    texts = [[*context, *request.ids] for request in requests for context in before]
    ends = [len(context) + len(request.prompt) for request in requests for context in before]
    rows, targets = pack_texts(texts, pad_id=0)
    assert rows is not None
    last = torch.tensor(ends) - 1
    wanted = targets.where(targets.column >= last[targets.example])
    return TargetRows(
        rows.to(device),
        last.to(device),
        torch.tensor([len(text) for text in texts], device=device),
        wanted.row.to(device),
        wanted.column.to(device),
        wanted.token.to(device),
    )


def row_means(values: Tensor, row: Tensor, count: int) -> Tensor:
    """Average by row: [N] of rows [N] -> [count], 0 for a row that has none.

    >>> row_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), 3)
    tensor([2., 0., 5.])
    """
    return values.new_zeros(count).index_add(0, row, values) / row.bincount(minlength=count).clamp(min=1)
