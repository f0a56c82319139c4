"""How MALMEN's hyper-networks are trained: edit, look at what came of it, and carry the gradient back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, EncodedRequest, encode_request
from hotfix.data.encode import encode_text
from hotfix.editors.answer_states import AnswerStates, answer_states, request_losses
from hotfix.editors.hypernetwork import HyperNetwork
from hotfix.editors.rows import TargetRows, target_rows
from hotfix.functional import token_kl
from hotfix.generation import greedy
from hotfix.models.layout import Projection
from hotfix.models.lower_states import LowerStates
from hotfix.models.states import head_logits
from hotfix.models.weights import swapped_weights
from hotfix.patches import LowRank

__all__ = ["Lesson", "MetaTraining", "Network", "fit", "lessons"]

log = logging.getLogger(__name__)


class Lesson(NamedTuple):
    """A request to learn from.

    Attributes:
        edit: what is edited.
        asked: the same target behind the prompt and its paraphrases.
        kept: neighbours, with what the model writes behind them.
    """

    edit: EncodedRequest
    asked: list[EncodedRequest]
    kept: list[EncodedRequest]


class Network(NamedTuple):
    """The hyper-network of a matrix.

    Attributes:
        projection: the matrix.
        network: shared by all matrices of its shape.
        matrix: the matrix's place among them.
    """

    projection: Projection
    network: HyperNetwork
    matrix: int

    def change(self, states: AnswerStates) -> tuple[Tensor, Tensor]:
        """Return the factors of the change, float64 [H, N] and [N, D]."""
        return self.network.left(states, self.matrix), states.key.double()


def lessons(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest], length: int
) -> list[Lesson]:
    """Encode requests, and let the model write `length` tokens behind each neighbour, once."""
    prompts = list(dict.fromkeys(n for request in requests for n in request.neighbours))
    encoded = [encode_text(tokenizer, prompt).ids for prompt in prompts]
    written = greedy(cast("nn.Module", model), tokenizer, encoded, length) if prompts else []
    kept = {
        prompt: EncodedRequest(prompt, ids, made.token_ids)
        for prompt, ids, made in zip(prompts, encoded, written, strict=True)
        if made.token_ids
    }
    return [
        Lesson(
            encode_request(tokenizer, request, ending=True),
            [
                encode_request(tokenizer, replace(request, prompt=prompt), ending=True)
                for prompt in (request.prompt, *request.paraphrases)
            ],
            [kept[prompt] for prompt in request.neighbours if prompt in kept],
        )
        for request in requests
    ]


class MetaTraining(LightningModule):
    """Learns to edit a frozen model.

    A step edits a batch of requests, takes the loss of one prompt of each and the divergence at one neighbour of each
    on the edited model, and keeps of the model's pass only the gradients of the changed matrices; from them the
    hyper-networks' gradients follow, a chunk of tokens at a time.

    Args:
        model: frozen.
        networks: by the names of weights.
        learning_rate: of Adam, for the networks; their step sizes and ridges learn by the square root of it.
        keep: weight of the divergence.
        clip: largest norm of the gradient.
        chunk: tokens of a hyper-network's pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        networks: Mapping[str, Network],
        learning_rate: float,
        keep: float,
        clip: float,
        chunk: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        # In a tuple the model is no part of this module: Lightning would move it, and set its modes.
        self._model = (model,)
        self._passes = LowerStates(model, min(n.projection.block for n in networks.values()))
        self._networks = networks
        self.networks = nn.ModuleList({id(n.network): n.network for n in networks.values()}.values())
        self.learning_rate, self.keep, self.clip, self.chunk = learning_rate, keep, clip, chunk
        self.best: tuple[float, dict[str, Tensor]] | None = None

    def training_step(self, batch: list[Lesson], batch_idx: int) -> None:
        """Edit, look, and learn."""
        optimizer = cast("torch.optim.Optimizer", self.optimizers())
        optimizer.zero_grad()
        self.pull(batch, [_drawn(lesson.asked) for lesson in batch], [_drawn(x.kept) for x in batch if x.kept])
        torch.nn.utils.clip_grad_norm_(self.parameters(), self.clip)
        optimizer.step()

    def pull(self, batch: list[Lesson], asked: list[EncodedRequest], kept: list[EncodedRequest]) -> None:
        """Add the gradient of the loss of what is asked, and of the divergence of what is kept."""
        model = self._model[0]
        states = self._states(batch)
        worn = self._worn(states)
        self._edit_loss(worn, asked).backward()
        if kept:
            rows = target_rows(kept, model.device)
            (self.keep * self._divergence(worn, rows, self._logits(rows))).backward()
        for name, (projection, network, matrix) in self._networks.items():
            gradient = cast("Tensor", worn[name].grad)
            network.pull(states[name], matrix, gradient.T if projection.transposed else gradient, self.chunk)

    def validation_step(self, batch: list[Lesson], batch_idx: int) -> None:
        """Look at every prompt and neighbour of requests that nothing is learnt from."""
        worn = self._worn(self._states(batch))
        with torch.no_grad():
            loss = self._edit_loss(worn, [prompt for lesson in batch for prompt in lesson.asked])
            kept = [prompt for lesson in batch for prompt in lesson.kept]
            if kept:
                rows = target_rows(kept, self._model[0].device)
                loss = loss + self.keep * self._divergence(worn, rows, self._logits(rows))
        self.log("held_out", loss, batch_size=len(batch))

    def on_validation_epoch_end(self) -> None:
        """Remember the best networks."""
        loss = float(self.trainer.callback_metrics["held_out"])
        log.info("step %d: loss %.4g on requests that nothing is learnt from", self.trainer.global_step, loss)
        if self.best is None or loss < self.best[0]:
            self.best = loss, {name: value.clone() for name, value in self.state_dict().items()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        scalars = [p for name, p in self.named_parameters() if name.endswith(("log_eta", "log_ridge"))]
        others = [p for name, p in self.named_parameters() if not name.endswith(("log_eta", "log_ridge"))]
        groups = [{"params": others}, {"params": scalars, "lr": self.learning_rate**0.5}]
        return torch.optim.Adam(groups, lr=self.learning_rate)

    def _states(self, batch: Sequence[Lesson]) -> dict[str, AnswerStates]:
        projections = {name: network.projection for name, network in self._networks.items()}
        with torch.enable_grad():
            return answer_states(self._model[0], [lesson.edit for lesson in batch], projections, self._passes)

    def _worn(self, states: Mapping[str, AnswerStates]) -> dict[str, nn.Parameter]:
        """The edited matrices, as the model holds them, with gradients of their own."""
        found = {}
        for name, network in self._networks.items():
            left, right = network.change(states[name])
            own = network.projection.weight.detach()
            edited = LowRank(left, right).added_to(own)
            found[name] = nn.Parameter(edited.T.contiguous() if network.projection.transposed else edited)
        return found

    def _edit_loss(self, worn: Mapping[str, nn.Parameter], asked: Sequence[EncodedRequest]) -> Tensor:
        model = self._model[0]
        with swapped_weights(cast("nn.Module", model), worn):
            return request_losses(model, target_rows(asked, model.device), self._passes).mean()

    def _divergence(self, worn: Mapping[str, nn.Parameter], rows: TargetRows, base: Tensor) -> Tensor:
        """Mean of KL(base || edited) over the tokens that the base wrote, in nats."""
        with swapped_weights(cast("nn.Module", self._model[0]), worn):
            return token_kl(base, self._plain_logits(rows)).mean()

    @torch.no_grad()
    def _logits(self, rows: TargetRows) -> Tensor:
        return self._plain_logits(rows)

    def _plain_logits(self, rows: TargetRows) -> Tensor:
        return head_logits(self._model[0], self._passes.last(rows.rows)[rows.row, rows.column])


def fit(
    training: MetaTraining,
    learnt: Sequence[Lesson],
    held_out: Sequence[Lesson],
    edits: int,
    steps: int,
    every: int,
    patience: int,
) -> None:
    """Train until the loss on held-out requests stops falling, and go back to where it was least.

    Args:
        training: is trained.
        learnt: what it learns from.
        held_out: what only says when to stop.
        edits: requests edited at once.
        steps: at most so many.
        every: steps between two looks at the held-out requests.
        patience: looks without progress.
    """
    device = training._model[0].device
    shuffled = DataLoader(
        cast("torch.utils.data.Dataset[Lesson]", list(learnt)),
        batch_size=edits,
        shuffle=True,
        collate_fn=list,
        generator=torch.Generator().manual_seed(0),
    )
    watched = DataLoader(cast("torch.utils.data.Dataset[Lesson]", list(held_out)), batch_size=edits, collate_fn=list)
    trainer = Trainer(
        accelerator="cpu" if device.type == "cpu" else "cuda",
        strategy=SingleDeviceStrategy(device=device),
        max_steps=steps,
        max_epochs=-1,
        check_val_every_n_epoch=None,
        val_check_interval=every,
        num_sanity_val_steps=0,
        # Editing takes gradients of the model, during validation, too.
        inference_mode=False,
        callbacks=[EarlyStopping("held_out", patience=patience)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(training, shuffled, watched)
    if training.best is not None:
        training.load_state_dict(training.best[1])


def _drawn(items: Sequence[EncodedRequest]) -> EncodedRequest:
    return items[int(torch.randint(len(items), ()))]
