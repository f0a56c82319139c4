"""LoRA as an editor: a few dozen steps on the requests' targets, folded into the weights at the end.

Hu et al. 2021 (https://arxiv.org/abs/2106.09685); for code models low-rank fine-tuning is the best of ten editors in
EDAPIBench (https://arxiv.org/abs/2511.21022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EncodedRequest
from hotfix.data.packing import pack_texts
from hotfix.editors.base import Background, WeightEditor
from hotfix.editors.descent import descend
from hotfix.editors.rows import target_rows
from hotfix.errors import ConfigError
from hotfix.functional import token_kl
from hotfix.models.layout import attention_output, feed_forward_output, find_blocks
from hotfix.models.resume import entering_each
from hotfix.models.rows import TokenRows
from hotfix.models.states import head_logits, hidden_states
from hotfix.models.weights import swapped_weights
from hotfix.patches import LowRank, WeightDelta
from hotfix.patches.weight_delta import Change

__all__ = ["LoRAEdit"]

_TEXT_LENGTH = 64


class LoRAEdit(WeightEditor):
    """Low-rank changes of output matrices by Adam on the mean over target tokens of -log p.

    At each step the model computes with the sum of weight and change rounded to its own precision, as it will with the
    patch on: in bfloat16 a change that an adapter beside the weight would show can be lost when it is folded in.

    Args:
        layers: indices of the blocks; None takes all.
        matrices: which of a block's output matrices.
        rank: of each change.
        steps: at most so many.
        learning_rate: of Adam, for both factors.
        scale: a change is `scale * B A`, with B 0 at the start.
        enough: stop when the mean loss is below this, in nats a token.
        drift: weight of the mean KL(base || edited) on background texts, in nats; 0 looks at none.
        texts: how many background texts, 64 tokens each at most.
        batch_size: requests of one pass; the gradient is of all of them whatever it is.
    """

    def __init__(
        self,
        layers: list[int] | None = None,
        matrices: Literal["feed_forward", "attention", "both"] = "feed_forward",
        rank: int = 4,
        steps: int = 30,
        learning_rate: float = 5e-4,
        scale: float = 2.0,
        enough: float = 1e-2,
        drift: float = 0.0,
        texts: int = 4,
        batch_size: int = 32,
    ) -> None:
        if layers is not None and not layers:
            raise ConfigError("editor.init_args.layers is empty, expected indices of blocks, or null")
        numbers = {"rank": rank, "steps": steps, "texts": texts, "batch_size": batch_size}
        for name, value in {**numbers, "learning_rate": learning_rate, "scale": scale}.items():
            if value <= 0:
                raise ConfigError(f"editor.init_args.{name} is {value}, expected more than 0")
        self.layers = layers
        self.matrices = matrices
        self.rank = rank
        self.steps = steps
        self.learning_rate = learning_rate
        self.scale = scale
        self.enough = enough
        self.drift = drift
        self.texts = texts
        self.batch_size = batch_size

    def changes(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EncodedRequest],
        background: Background,
        previous: WeightDelta | None,
    ) -> Mapping[str, Change]:
        """Train the factors, and return their products."""
        layers = self._layers(model)
        names = self._names(model, layers)
        own = {name: p.detach() for name, p in model.named_parameters() if name in names}
        factors = {name: _factors(own[name], self.rank) for name in names}
        optimizer = torch.optim.Adam([f for pair in factors.values() for f in pair], lr=self.learning_rate)
        parts = [requests[i : i + self.batch_size] for i in range(0, len(requests), self.batch_size)]
        rows = [target_rows(part, model.device) for part in parts]
        doors = entering_each(model, [batch.rows for batch in rows], min(layers))
        anchor = self._anchor(model, background) if self.drift else None
        for _ in range(self.steps):
            sums = {name: own[name].float() + self.scale * (up @ down) for name, (up, down) in factors.items()}
            worn = {name: nn.Parameter(total.detach().to(own[name].dtype)) for name, total in sums.items()}
            if descend(model, worn, rows, doors) < self.enough:
                break
            if anchor is not None:
                self._hold(model, worn, *anchor)
            optimizer.zero_grad()
            torch.autograd.backward(list(sums.values()), [cast("Tensor", worn[name].grad).float() for name in sums])
            optimizer.step()
        return {name: LowRank(self.scale * up.detach(), down.detach()) for name, (up, down) in factors.items()}

    def _layers(self, model: PreTrainedModel) -> Sequence[int]:
        return range(len(find_blocks(cast("nn.Module", model)).blocks)) if self.layers is None else self.layers

    def _names(self, model: PreTrainedModel, layers: Sequence[int]) -> list[str]:
        kinds = {"feed_forward": [feed_forward_output], "attention": [attention_output]}
        found = kinds.get(self.matrices, [feed_forward_output, attention_output])
        return [place(cast("nn.Module", model), layer).name for layer in layers for place in found]

    def _anchor(self, model: PreTrainedModel, background: Background) -> tuple[TokenRows, Tensor]:
        """Rows of background texts, and the model's own logits on them [N, V]."""
        rows, _ = pack_texts([text[:_TEXT_LENGTH] for text in background.texts[: self.texts]], pad_id=0)
        if rows is None:
            raise ConfigError(
                f"editor.init_args.drift is {self.drift}, but there are no background texts; name some with "
                "data.init_args.retain (stdlib), or set drift to 0"
            )
        rows = rows.to(model.device)
        with torch.no_grad():
            return rows, head_logits(model, hidden_states(model, rows)[rows.branch == 0])

    def _hold(self, model: PreTrainedModel, worn: Mapping[str, nn.Parameter], rows: TokenRows, base: Tensor) -> None:
        """Add the gradient of the drift."""
        with swapped_weights(cast("nn.Module", model), worn):
            logits = head_logits(model, hidden_states(model, rows)[rows.branch == 0])
            loss = self.drift * token_kl(base, logits).mean()
        loss.backward()


def _factors(weight: Tensor, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """B [O, r] of zeros and A [r, I] drawn as peft draws it, for a weight as its model holds it."""
    width = weight.shape[1]
    # On the CPU, so that a device makes no difference.
    down = torch.empty(rank, width).uniform_(-1, 1, generator=torch.Generator().manual_seed(0)) / math.sqrt(width)
    up = torch.zeros(len(weight), rank)
    return nn.Parameter(up.to(weight.device)), nn.Parameter(down.to(weight.device))
