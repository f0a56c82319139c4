"""The editor seam: requests in, a patch out, and the model as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, EncodedRequest, check_requests, encode_request
from hotfix.errors import ModelError, PatchError
from hotfix.models.fingerprint import fingerprint
from hotfix.models.modes import evaluating
from hotfix.patches import Patch, Provenance, WeightDelta, worn
from hotfix.patches.weight_delta import Change, composed

__all__ = ["Background", "Editor", "Remembered", "WeightEditor", "encoded_requests", "frozen"]


@dataclass(frozen=True)
class Background:
    """What an editor may learn from beside the requests themselves.

    Attributes:
        requests: other requests, with paraphrases and neighbours; none of them is edited or measured.
        texts: token ids of ordinary code.
    """

    requests: Sequence[EditRequest] = ()
    texts: Sequence[Sequence[int]] = ()


class Editor(ABC):
    """Computes a patch that makes a model write something else; its constructor's arguments are the method's settings.

    Invariants: the model is bit-identical on return, also after an error, with the same modes and `requires_grad`;
    nothing is kept between calls but what depends on the model, the background and the settings alone; the result
    depends neither on other requests' padding nor on the state of global random numbers.
    """

    @abstractmethod
    def compute(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        *,
        previous: Patch | None = None,
        background: Background | None = None,
    ) -> Patch:
        """Return a patch of the base that answers all requests, found together.

        Args:
            model: the base, without any patch or adapter on.
            tokenizer: its own.
            requests: what to edit; none gives a patch that changes nothing.
            previous: what this editor returned for earlier requests; the result holds those edits, too.
            background: what may be learnt from.

        Raises:
            DataError: an empty or overlong target, requests that are the same or contradict each other.
            ModelError: the model has no such place, or is one that can't be edited.
            PatchError: `previous` isn't of this editor's kind, or of another base.
        """

    def provenance(self, model: PreTrainedModel) -> Provenance:
        """Return what a patch of this editor says about itself."""
        kind = type(self)
        return Provenance(
            method=f"{kind.__module__}.{kind.__qualname__}",
            base_model=model.config.name_or_path or type(model).__name__,
            base_fingerprint=fingerprint(cast("nn.Module", model)),
        )


class Remembered(NamedTuple):
    """Changes, and what the next edit has to know of all edits up to these.

    Attributes:
        changes: by the names of weights.
        memory: by the editor's own names, in the place of the earlier edits' memory; kept in the patch.
    """

    changes: Mapping[str, Change]
    memory: Mapping[str, Tensor]


class WeightEditor(Editor):
    """An editor that changes weights of the base."""

    def compute(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        *,
        previous: Patch | None = None,
        background: Background | None = None,
    ) -> WeightDelta:
        """See `Editor`."""
        encoded = encoded_requests(model, tokenizer, requests)
        if previous is not None and not isinstance(previous, WeightDelta):
            raise PatchError(
                f"{type(self).__name__} changes weights, but the patch of the earlier edits is a "
                f"{type(previous).__name__}; go on with the editor that made it"
            )
        described = self.provenance(model)
        earlier, memory = ({}, {}) if previous is None else (previous.changes, previous.memory)
        if not encoded:
            return WeightDelta(described, changes=earlier, memory=memory)
        with worn(previous, cast("nn.Module", model)), frozen(model):
            found = self.changes(model, tokenizer, encoded, background or Background(), previous)
        found = found if isinstance(found, Remembered) else Remembered(found, memory)
        return WeightDelta(described, changes=composed(earlier, found.changes), memory=found.memory)

    @abstractmethod
    def changes(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EncodedRequest],
        background: Background,
        previous: WeightDelta | None,
    ) -> Mapping[str, Change] | Remembered:
        """Return the changes, by the names of weights, relative to the model as it is handed over.

        Args:
            model: with the earlier edits on, frozen, in evaluation mode.
            tokenizer: its own.
            requests: at least one.
            background: what may be learnt from.
            previous: the earlier edits, which are on the model.
        """


def encoded_requests(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
) -> list[EncodedRequest]:
    """Check requests and model, and encode them; see `Editor.compute` for the errors."""
    check_requests(requests)
    if isinstance(cast("nn.Module", model), PeftModel):
        raise ModelError("the model has an adapter on; edit the base, or fold the adapter into it first")
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return [encode_request(tokenizer, request, context, ending=True) for request in requests]


@contextmanager
def frozen(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and no weight with a gradient; afterwards all is as it was, random numbers included."""
    module = cast("nn.Module", model)
    trained = [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with evaluating(module), torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
            torch.manual_seed(0)
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
