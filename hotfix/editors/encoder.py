"""A-GRACE's encoder: trained to put a prompt near its paraphrases and away from its neighbours, with a radius to match.

Li et al. 2024 (https://arxiv.org/abs/2411.06638). The published code chooses the encoder on the requests that it then
edits and measures, and its radius is a constant. Here both come from other requests alone: one part trains the encoder,
the rest says when to stop and how far a ball may reach.

Training begins with Fisher's linear discriminant: the directions in which texts differ most, compared with how much a
prompt differs from its own paraphrases. From some hundred requests it has most of what there is to learn, while maps
that begin at random have to learn from as few which differences are mere words.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, encode_request
from hotfix.data.encode import encode_text
from hotfix.data.packing import pack_texts
from hotfix.editors.codebook_values import watched
from hotfix.errors import ConfigError
from hotfix.functional import generalised_eigenvectors
from hotfix.models.doors import lower_blocks
from hotfix.models.fingerprint import fingerprint
from hotfix.models.kept_files import keep, used
from hotfix.models.packaged import cache_folder
from hotfix.models.states import hidden_states
from hotfix.patches.codebook import KeyRule, Queries
from hotfix.patches.queries import KeyEncoder

__all__ = ["Contrast", "calibrated_ending", "calibrated_radius", "contrastive_loss", "learnt_rule"]

log = logging.getLogger(__name__)

_ROWS = 16
_MOST = 0.99
_ROOM = 1 << 30  # bytes; of all encoders together


@dataclass(frozen=True)
class Contrast:
    """How the encoder is trained and the radius is chosen; the defaults are the published ones unless said.

    Args:
        hidden: width between the maps, as a share of the projection's input.
        width: of a key, at most. Published: 256.
        ridge: added to what paraphrases differ by, in every direction, as a share of its mean; more for fewer requests.
        slope: of the leaky ReLU below zero.
        dropout: of hidden units. Published: 0.5, with ten thousand requests to learn from; with some seventy it drowns
            what there is to learn.
        margin: distance that neighbours are pushed to, and at which half of them are before training. Published: 1 in
            the code, where nothing says where they begin; the paper's are unknown.
        learning_rate: of Adam.
        weight_decay: of Adam.
        batch_size: pairs a step.
        epochs: at most.
        patience: stop after so many without a lower loss on the held-out pairs.
        held_out: share of the requests that doesn't train. Published: none; the edited requests took that part.
        false_fires: share of the held-out neighbours that may come within the radius of any held-out prompt, at any
            token. Published: the radius is 1.
    """

    hidden: float = 0.25
    width: int = 128
    ridge: float = 1.0
    slope: float = 0.5
    dropout: float = 0.1
    margin: float = 1.0
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    batch_size: int = 64
    epochs: int = 100
    patience: int = 5
    held_out: float = 0.25
    false_fires: float = 0.02


class _Family(NamedTuple):
    """A request's token ids: its prompt, what should fire with it, and what should not."""

    prompt: list[int]
    paraphrases: list[list[int]]
    neighbours: list[list[int]]


def contrastive_loss(distances: Tensor, same: Tensor, margin: float) -> Tensor:
    """Return the mean over pairs of D^2 where both belong together, else of max(0, margin - D)^2.

    Args:
        distances: D of each pair, [N].
        same: 1 where both belong together, else 0, [N].
        margin: beyond which those that don't are left alone.

    >>> contrastive_loss(torch.tensor([0.5, 0.5, 2.0]), torch.tensor([1.0, 0.0, 0.0]), margin=1.0)
    tensor(0.1667)
    """
    apart = (margin - distances).clamp(min=0)
    return (same * distances.square() + (1 - same) * apart.square()).mean()


def calibrated_radius(paraphrases: Tensor, neighbours: Tensor, false_fires: float) -> float:
    """Return the largest radius worth having that holds no more than a share of the neighbours.

    Args:
        paraphrases: distances from prompts to their paraphrases; nothing is won beyond the largest of them.
        neighbours: distances from neighbours to the nearest prompt.
        false_fires: the share.

    >>> calibrated_radius(torch.tensor([0.5, 9.0]), torch.arange(1.0, 11.0), false_fires=0.2) < 3.0
    True
    """
    allowed = int(false_fires * len(neighbours))
    nearest = neighbours.sort().values
    limit = paraphrases.max() if allowed >= len(nearest) else torch.minimum(nearest[allowed], paraphrases.max())
    # Just inside: the neighbour that the limit was taken from is one too many.
    return float(limit) * (1 - 1e-4)


def calibrated_ending(ends: Tensor, others: Tensor) -> float:
    """Return the limit midway between what ends of paraphrases are like and what other tokens are.

    Args:
        ends: distances of paraphrases' last tokens from the prompt's, in lengths of the latter.
        others: distances of all other tokens of prompts and paraphrases; where some are nearer than an end, no end is
            given up for them.

    >>> calibrated_ending(torch.tensor([0.2, 0.4]), torch.tensor([1.0, 1.0]))
    0.7
    """
    widest = float(ends.quantile(_MOST))
    nearest = float(others.quantile(1 - _MOST)) if len(others) else widest
    return round((widest + max(widest, nearest)) / 2, 2)


def learnt_rule(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rule: KeyRule,
    requests: Sequence[EditRequest],
    contrast: Contrast,
    encodes: bool,
    at_end: bool,
) -> KeyRule:
    """Return a rule with a trained encoder and calibrated limits, from the cache where it was made before.

    Args:
        model: frozen.
        tokenizer: its own.
        rule: block and pool.
        requests: to learn from.
        contrast: settings.
        encodes: whether there is an encoder, or only a radius.
        at_end: whether edits are to fire at the ends of prompts only.

    Raises:
        ConfigError: there is nothing to learn from.
    """
    families = _families(tokenizer, requests)
    own = [rule.block, rule.pool, encodes, at_end, asdict(contrast)]
    parts = [fingerprint(cast("nn.Module", model)), str(model.dtype), *own, families]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "encoders" / f"{digest}.safetensors"
    found = _cached(path, rule, contrast)
    if found is None:
        found = _learnt(model, rule, families, contrast, encodes)
        if at_end:
            found = replace(found, ending=calibrated_ending(*_ends(model, rule, families)))
        state = {} if found.encoder is None else found.encoder.state_dict()
        keep(path, state, _ROOM, {"limits": json.dumps([found.reach, found.ending])})
    return found


def _learnt(
    model: PreTrainedModel, rule: KeyRule, families: Sequence[_Family], contrast: Contrast, encodes: bool
) -> KeyRule:
    order = torch.randperm(len(families), generator=torch.Generator().manual_seed(0)).tolist()
    count = min(max(1, round(contrast.held_out * len(families))), len(families) - 1)
    held_out, trained = [families[i] for i in order[:count]], [families[i] for i in order[count:]]
    if encodes:
        pairs = [_pairs(model, rule, part) for part in (trained, held_out)]
        rule = replace(rule, encoder=_trained(pairs[0], pairs[1], contrast))
    near, far = _held_out_distances(model, rule, held_out)
    reach = calibrated_radius(near, far, contrast.false_fires)
    log.info(
        "a radius of %.3g holds %.0f%% of %d paraphrases and %.1f%% of %d neighbours that nothing was trained on",
        reach, 100 * (near <= reach).float().mean(), len(near), 100 * (far <= reach).float().mean(), len(far),
    )  # fmt: skip
    return replace(rule, reach=reach)


class _Encoding(LightningModule):
    """Trains an encoder on pairs; it stops by itself, and keeps the best weights, those of the start included."""

    def __init__(self, encoder: KeyEncoder, contrast: Contrast, held_out: TensorDataset) -> None:
        super().__init__()
        self.encoder, self.contrast, self.held_out = encoder, contrast, held_out
        self.waited = 0
        self.best, self.state = self._held_out_loss(), self._copy()

    def loss(self, one: Tensor, other: Tensor, same: Tensor) -> Tensor:
        """Return the loss of pairs, [N, D] each."""
        distances = (self.encoder(one) - self.encoder(other)).square().sum(dim=-1).clamp(min=1e-12).sqrt()
        return contrastive_loss(distances, same, self.contrast.margin)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """One step's loss."""
        return self.loss(*batch)

    def on_train_epoch_end(self) -> None:
        """Look at the held-out pairs."""
        found = self._held_out_loss()
        self.waited += 1
        if found < self.best:
            self.best, self.state, self.waited = found, self._copy(), 0
        self.trainer.should_stop = self.waited > self.contrast.patience

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        own = self.contrast
        return torch.optim.Adam(self.encoder.parameters(), lr=own.learning_rate, weight_decay=own.weight_decay)

    def _held_out_loss(self) -> float:
        self.encoder.eval()
        with torch.no_grad():
            found = float(self.loss(*self.held_out.tensors))
        self.encoder.train()
        return found

    def _copy(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.encoder.state_dict().items()}


def _trained(pairs: TensorDataset, held_out: TensorDataset, contrast: Contrast) -> KeyEncoder:
    width = pairs.tensors[0].shape[1]
    hidden, out = max(1, round(contrast.hidden * width)), min(contrast.width, width)
    encoder = KeyEncoder(width, hidden, out, contrast.slope, contrast.dropout)
    _discriminate(encoder, pairs, contrast)
    module = _Encoding(encoder, contrast, held_out)
    # No logger, checkpoint, progress bar or summary: a part of one edit, inside another trainer's run.
    trainer = Trainer(barebones=True, accelerator="cpu", devices=1, max_epochs=contrast.epochs)
    trainer.fit(module, DataLoader(pairs, batch_size=contrast.batch_size, shuffle=True))
    return KeyEncoder.restored(module.state, contrast.slope)


@torch.no_grad()
def _discriminate(encoder: KeyEncoder, pairs: TensorDataset, contrast: Contrast) -> None:
    """Start at the discriminant, with half of the neighbours beyond the margin.

    From farther off, training would unlearn what is near first.
    """
    one, other, same = pairs.tensors
    texts = torch.cat([one, other])
    encoder.middle.copy_(texts.mean(dim=0))
    apart, together = texts - encoder.middle, (one - other)[same == 1]
    between, within = (x.T @ x / len(x) for x in (apart, together))
    encoder.directions.copy_(generalised_eigenvectors(between, within, len(encoder.directions), contrast.ridge))
    middle = (encoder(one) - encoder(other)).norm(dim=-1)[same == 0].median()
    encoder.directions.mul_(contrast.margin / middle.clamp(min=1e-6))


def _pairs(model: PreTrainedModel, rule: KeyRule, families: Sequence[_Family]) -> TensorDataset:
    """Return pooled inputs at the ends of prompts and of what they are compared with, and whether both are one's."""
    texts = [text for f in families for text in (f.prompt, *f.paraphrases, *f.neighbours)]
    ends = iter(torch.cat(_queries(model, rule, texts, ends=True)))
    one, other, same = [], [], []
    for family in families:
        prompt = next(ends)
        for is_same, texts in ((1.0, family.paraphrases), (0.0, family.neighbours)):
            one += [prompt] * len(texts)
            other += [next(ends) for _ in texts]
            same += [is_same] * len(texts)
    return TensorDataset(torch.stack(one), torch.stack(other), torch.tensor(same))


def _held_out_distances(model: PreTrainedModel, rule: KeyRule, families: Sequence[_Family]) -> tuple[Tensor, Tensor]:
    """Return the distances from prompts' ends to paraphrases' ends, and from each neighbour to the nearest prompt."""
    keys = torch.cat(_queries(model, rule, [f.prompt for f in families], ends=True))
    others = iter(_queries(model, rule, [text for f in families for text in f.paraphrases], ends=True))
    near = [(next(others) - key).norm() for key, f in zip(keys, families, strict=True) for _ in f.paraphrases]
    # A codebook holds many keys, and every token is looked up while a text is read: the nearest says whether it fires.
    read = _queries(model, rule, [text for f in families for text in f.neighbours])
    return torch.stack(near), torch.stack([torch.cdist(queries, keys).min() for queries in read])


def _ends(model: PreTrainedModel, rule: KeyRule, families: Sequence[_Family]) -> tuple[Tensor, Tensor]:
    """Return how far paraphrases' last tokens are from the prompt's, and all other tokens, in the latter's lengths.

    Nothing is trained on them, so every family may say.
    """
    texts = [text for f in families for text in (f.prompt, *f.paraphrases)]
    inputs = iter(_queries(model, KeyRule(rule.block), texts))
    ends, others = list[Tensor](), list[Tensor]()
    for family in families:
        prompt = next(inputs)
        key = prompt[-1]
        others.append((prompt[:-1] - key).norm(dim=-1) / key.norm())
        for _ in family.paraphrases:
            distances = (next(inputs) - key).norm(dim=-1) / key.norm()
            ends.append(distances[-1:])
            others.append(distances[:-1])
    return torch.cat(ends), torch.cat(others)


@torch.no_grad()
def _queries(
    model: PreTrainedModel, rule: KeyRule, texts: Sequence[Sequence[int]], *, ends: bool = False
) -> list[Tensor]:
    """Return the queries at every token of some texts, on the CPU: [T, K] a text; [1, K], at its end, with `ends`."""
    queries, found = Queries(model, rule), dict[int, Tensor]()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), _ROWS):
        chosen = order[start : start + _ROWS]
        rows, _ = pack_texts([list(texts[i]) for i in chosen], pad_id=0)
        assert rows is not None
        with watched(queries, queries.of) as seen, lower_blocks(model.get_decoder(), rule.block + 1):
            hidden_states(cast("nn.Module", model), rows.to(model.device))
        for row, i in enumerate(chosen):
            length = len(texts[i])
            # A copy: a part would keep the whole pass in memory.
            found[i] = seen[0][row, length - 1 if ends else 0 : length].cpu().clone()
    return [found[i] for i in range(len(texts))]


def _families(tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> list[_Family]:
    """Encode what there is to learn from."""
    found = [
        _Family(
            encode_request(tokenizer, r).prompt,
            [encode_request(tokenizer, replace(r, prompt=text)).prompt for text in r.paraphrases],
            [encode_text(tokenizer, text).ids for text in r.neighbours],
        )
        for r in requests
    ]
    found = [family for family in found if family.paraphrases and family.neighbours]
    if len(found) < 2:
        raise ConfigError(
            f"A-GRACE learns from requests that are not edited, with paraphrases and neighbours; there are {len(found)}"
            ", expected at least 2: name a split that has some as model.init_args.learns_from"
        )
    return found


def _cached(path: Path, rule: KeyRule, contrast: Contrast) -> KeyRule | None:
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            reach, ending = json.loads(file.metadata()["limits"])
        encoder = KeyEncoder.restored(state, contrast.slope) if state else None
        used(path)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        log.warning("%s is damaged (%s) and is made again", path, error)
        return None
    return replace(rule, encoder=encoder, reach=reach, ending=ending)
