"""MALMEN: a trained hyper-network turns keys and gradients of the answers into a change of weights.

Tan et al. 2024 (https://arxiv.org/abs/2311.04661). One training run a model and set of background requests; then an
edit is one pass forwards and backwards, and one solve a matrix.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, EncodedRequest
from hotfix.editors.answer_states import answer_states, projections_of, stored
from hotfix.editors.base import Background, WeightEditor
from hotfix.editors.hypernetwork import HyperNetwork
from hotfix.editors.meta_training import Lesson, MetaTraining, Network, fit, lessons
from hotfix.editors.ultra_edit import RunningMoments
from hotfix.errors import ConfigError
from hotfix.models.fingerprint import fingerprint
from hotfix.models.kept_files import keep, used
from hotfix.models.packaged import cache_folder
from hotfix.patches import WeightDelta
from hotfix.patches.weight_delta import Change

__all__ = ["MALMEN"]

log = logging.getLogger(__name__)
_VERSION = 2
_ROOM = 8 << 30  # bytes; of all trained networks together


class MALMEN(WeightEditor):
    """MALMEN on feed-forward output matrices, trained on the background's requests when it is first used.

    The trained networks are kept in the cache folder by the base's fingerprint and precision, the settings and the
    requests learnt from. Edits after others are computed on the edited model, by networks that were trained on the
    base: the method isn't made for it.

    Args:
        layers: indices of the blocks; None takes the last 3/16, 6 of 32, as the published settings do.
        rank: of the networks' residual blocks; the paper's is 1920.
        blocks: how many residual blocks; 2 in the paper.
        eta: step size at the start; 1e-6 in the paper.
        learning_rate: of the networks; 1e-5 in the paper.
        keep: weight of the divergence at neighbours; 1 in the paper.
        edits: requests edited together in a step of training; the paper has 512 for mass editing, CLMEEval 1.
        steps: of training, at most; CLMEEval has 1000.
        every: steps between two looks at the held-out requests.
        patience: looks without progress before training stops.
        held_out: share of the background's requests that only say when to stop.
        length: tokens that the model writes behind a neighbour, which are to stay.
        clip: largest norm of the gradient; 1 in the paper.
        chunk: tokens of a hyper-network's pass; 1024 in the paper.
    """

    def __init__(
        self,
        layers: list[int] | None = None,
        rank: int = 256,
        blocks: int = 2,
        eta: float = 1e-3,
        learning_rate: float = 1e-4,
        keep: float = 1.0,
        edits: int = 4,
        steps: int = 300,
        every: int = 25,
        patience: int = 4,
        held_out: float = 0.1,
        length: int = 16,
        clip: float = 1.0,
        chunk: int = 1024,
    ) -> None:
        if layers is not None and not layers:
            raise ConfigError("editor.init_args.layers is empty, expected indices of blocks, or null")
        counts = {"rank": rank, "blocks": blocks, "edits": edits, "steps": steps, "every": every, "length": length}
        numbers = {"eta": eta, "learning_rate": learning_rate, "clip": clip, "chunk": chunk, "patience": patience}
        for name, value in {**counts, **numbers}.items():
            if value <= 0:
                raise ConfigError(f"editor.init_args.{name} is {value}, expected more than 0")
        if not 0 < held_out < 1:
            raise ConfigError(f"editor.init_args.held_out is {held_out}, expected a share between 0 and 1")
        self.layers = layers
        self.rank = rank
        self.blocks = blocks
        self.eta = eta
        self.learning_rate = learning_rate
        self.keep = keep
        self.edits = edits
        self.steps = steps
        self.every = every
        self.patience = patience
        self.held_out = held_out
        self.length = length
        self.clip = clip
        self.chunk = chunk
        self._trained: tuple[str, dict[str, Tensor]] | None = None

    def changes(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EncodedRequest],
        background: Background,
        previous: WeightDelta | None,
    ) -> Mapping[str, Change]:
        """Train, or find what was trained, and edit."""
        networks = self._networks(model)
        # The networks are the base's, whatever edits are on.
        with nullcontext() if previous is None else previous.reference(cast("nn.Module", model)):
            self._prepare(model, tokenizer, networks, background.requests)
        states = answer_states(model, requests, {name: network.projection for name, network in networks.items()})
        return {name: stored(network.projection, *network.change(states[name])) for name, network in networks.items()}

    def _networks(self, model: PreTrainedModel) -> dict[str, Network]:
        """Untrained networks, one a shape."""
        projections = projections_of(model, self.layers)
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name, projection in projections.items():
            shapes.setdefault(tuple(projection.weight.shape), []).append(name)
        found: dict[str, Network] = {}
        for (value_width, key_width), names in shapes.items():
            generator = torch.Generator().manual_seed(0)
            shared = HyperNetwork(key_width, value_width, len(names), self.rank, self.blocks, self.eta, generator)
            shared = shared.to(model.device)
            found |= {name: Network(projections[name], shared, place) for place, name in enumerate(names)}
        return {name: found[name] for name in projections}

    def _prepare(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        networks: Mapping[str, Network],
        requests: Sequence[EditRequest],
    ) -> None:
        """Give the networks their trained weights."""
        if len(requests) < 2:
            raise ConfigError(
                f"MALMEN learns to edit from other requests, and there are {len(requests)}; name a split of at least "
                "two with model.init_args.learns_from"
            )
        held = MetaTraining(model, networks, self.learning_rate, self.keep, self.clip, self.chunk)
        key = self._key(model, networks, requests)
        if self._trained is None or self._trained[0] != key:
            path = cache_folder() / "malmen" / f"{key}.safetensors"
            if not _read(path, held):
                self._train(model, tokenizer, networks, requests, held)
                keep(path, held.state_dict(), _ROOM)
            self._trained = key, {name: value.clone() for name, value in held.state_dict().items()}
        held.load_state_dict(self._trained[1])

    def _train(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        networks: Mapping[str, Network],
        requests: Sequence[EditRequest],
        training: MetaTraining,
    ) -> None:
        found = lessons(model, tokenizer, requests, self.length)
        apart = max(1, min(len(found) - 1, math.ceil(len(found) * self.held_out)))
        # Every so many-th, so that rows in order of topic give both parts of each.
        stride = len(found) / apart
        places = {int(i * stride) for i in range(apart)}
        learnt = [lesson for place, lesson in enumerate(found) if place not in places]
        _normalise(model, networks, learnt)
        watched = [found[place] for place in sorted(places)]
        log.info(
            "MALMEN learns to edit from %d requests, in at most %d steps; that takes minutes, once for this model",
            len(learnt),
            self.steps,
        )
        fit(training, learnt, watched, self.edits, self.steps, self.every, self.patience)

    def _key(self, model: PreTrainedModel, networks: Mapping[str, Network], requests: Sequence[EditRequest]) -> str:
        settings = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        rows = [[r.prompt, r.target, r.paraphrases, r.neighbours] for r in requests]
        parts = [_VERSION, fingerprint(cast("nn.Module", model)), str(model.dtype), list(networks), settings, rows]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _normalise(model: PreTrainedModel, networks: Mapping[str, Network], learnt: Sequence[Lesson]) -> None:
    """Fix each matrix's normalisation by what is learnt from, and by that only."""
    moments: dict[str, RunningMoments] = {}
    for start in range(0, len(learnt), 16):
        part = [lesson.edit for lesson in learnt[start : start + 16]]
        states = answer_states(model, part, {name: network.projection for name, network in networks.items()})
        for name, seen in states.items():
            rows = torch.cat([seen.key, seen.gradient], dim=1).double()
            moments[name] = moments.get(name, RunningMoments.assumed(rows, 0)).after(rows)
    for name, (_, network, matrix) in networks.items():
        known = moments[name]
        network.normalise_by(matrix, known.mean.float(), (known.squares / known.count).float())


def _read(path: Path, training: MetaTraining) -> bool:
    """Load trained networks; False where there are none, or damaged ones."""
    if not path.is_file():
        return False
    try:
        training.load_state_dict(load_file(path))
        used(path)
    except (OSError, SafetensorError, RuntimeError) as error:
        log.warning("%s is damaged (%s) and is trained again", path, error)
        return False
    return True
