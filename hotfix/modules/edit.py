"""Hotfixing by editing: an editor computes a patch from requests, and no training loop runs."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple, cast

from torch import nn
from transformers import PreTrainedModel

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.edits import EditRequest
from hotfix.data.encode import encode_text
from hotfix.editors import Background, Editor
from hotfix.errors import ConfigError
from hotfix.models.fingerprint import fingerprint, known_fingerprint
from hotfix.models.loading import Dtype, load_causal_lm
from hotfix.models.peak_memory import cost_of
from hotfix.models.states import check_halves
from hotfix.modules.base import Progress
from hotfix.modules.untrained import Untrained
from hotfix.patches import Patch, WeightDelta, load_patch, worn
from hotfix.patches.series import PatchSeries
from hotfix.report.results import write_records
from hotfix.types import Split

__all__ = ["Edit"]

log = logging.getLogger(__name__)


class _Made(NamedTuple):
    """What one computation cost: a line of `edits.jsonl`."""

    ids: list[str]
    seconds: float = math.nan
    peak_bytes: float = math.nan


class Edit(Untrained):
    """Edits a model: `hotfix edit` measures it, computes the patch of the requests, and measures it again.

    Args:
        editor: the method.
        model_name: `smollm2-135m`, a local folder or a Hugging Face id.
        dtype: of the model; `auto` is bfloat16 where the hardware multiplies it.
        mode: `batch` edits all requests at once; `sequential` in order, `chunk` at a time, each on the model that the
            earlier ones left; `single` each by itself on the base, as the published benchmarks do: then tasks measure
            each request's examples with its own patch only, and the patches are in the run's `edits/`.
        chunk: requests of one step of `sequential`.
        edits: split whose requests are edited.
        learns_from: split whose requests the editor may learn from, where its method does; null for none.
        count: edit the first so many; null for all.
        patch: folder of a saved patch to measure or predict with (`hotfix test`, `hotfix predict`).
    """

    def __init__(
        self,
        editor: Editor,
        model_name: str = "smollm2-135m",
        dtype: Dtype = "auto",
        mode: Literal["single", "batch", "sequential"] = "batch",
        chunk: int = 1,
        edits: Split = "train",
        learns_from: Split | None = None,
        count: int | None = None,
        patch: str | None = None,
    ) -> None:
        super().__init__()
        if chunk < 1 or (count is not None and count < 1):
            raise ConfigError(f"model.init_args: chunk is {chunk} and count {count}, expected at least 1")
        if learns_from == edits:
            raise ConfigError(
                f"model.init_args.learns_from is {learns_from}, the split that is edited; name another, or null"
            )
        self.editor = editor
        self.model_name = model_name
        self.dtype_name: Dtype = dtype
        self.mode = mode
        self.chunk = chunk
        self.edits: Split = edits
        self.learns_from: Split | None = learns_from
        self.count = count
        self.patch_folder = patch
        self._patch: Patch | None = None
        self._series: PatchSeries | None = None
        self._only: EditRequest | None = None
        self._costs: list[_Made] = []
        self._digest = ""

    def configure_model(self) -> None:
        """Load the model; Lightning calls it once a process, before anything runs."""
        if self.model is not None:
            return
        patch = None if self.patch_folder is None else load_patch(Path(self.patch_folder))
        base = load_causal_lm(self.model_name, self.dtype_name)
        module = cast("nn.Module", base).to(self.device).requires_grad_(requires_grad=False)
        self.base_fingerprint, self._dtype = fingerprint(module), base.dtype
        check_halves(module)
        self.model, self._patch = module if patch is None else patch.apply(module), patch

    def edit_only(self, request: EditRequest) -> None:
        """Edit this request in place of the data's."""
        self._only, self.mode = request, "batch"

    def requests(self, data: HotfixDataModule) -> list[EditRequest]:
        """Return what is edited, in order."""
        return data.requests(self.edits)[: self.count] if self._only is None else [self._only]

    def view(self, data: HotfixDataModule) -> HotfixDataModule:
        """Show tasks what is edited."""
        return data.editing(self.requests(data))

    def hotfix(self, data: HotfixDataModule, folder: Path, progress: Progress) -> None:
        """Compute the patch, and put it on."""
        requests, background = self.requests(data), self._background(data)
        told = "\n".join(f"{r.id}\0{r.prompt}\0{r.target}" for r in requests)
        self._digest = hashlib.sha256(told.encode()).hexdigest()
        with known_fingerprint(self.policy, self.base_fingerprint):
            if self.mode == "single":
                self._series = self._each(requests, background, folder / "edits", progress)
                self._costs = [_Made([r.id], **self._series.cost(r.id)) for r in requests]
            else:
                patch = self._all(requests, background, progress)
                self._patch, self.model = patch, patch.apply(self._base)
        if not self._trainer or self.trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            write_records(folder / "edits.jsonl", [cost._asdict() for cost in self._costs])

    def made(self) -> dict[str, object]:
        """Return what the edits cost: seconds an edit (median), the first (which fills caches) and all, peak memory."""
        each = [cost.seconds / len(cost.ids) for cost in self._costs if cost.ids]
        seconds = [value for value in each if math.isfinite(value)]
        peaks = [cost.peak_bytes for cost in self._costs if math.isfinite(cost.peak_bytes)]
        return {
            "mode": self.mode,
            "requests": sum(len(cost.ids) for cost in self._costs),
            "seconds_per_edit": median(seconds) if seconds else math.nan,
            "seconds_first": self._costs[0].seconds if self._costs else math.nan,
            "seconds": sum(cost.seconds for cost in self._costs),
            "peak_bytes": max(peaks, default=math.nan),
            "peak_bytes_median": median(peaks) if peaks else math.nan,
        }

    def reference(self) -> AbstractContextManager[None]:
        """Context in which the model is the frozen base."""
        return nullcontext() if self._patch is None else self._patch.reference(self.policy)

    @property
    def apart(self) -> bool:
        """Whether each request has a patch of its own; see `mode`."""
        return self._series is not None

    def alone(self, example: str) -> AbstractContextManager[None]:
        """Context in which the model has the patch of one request on, and only that; see `mode`."""
        return nullcontext() if self._series is None else self._wearing(self._series, example)

    def gates(self) -> tuple[str, ...]:
        """See `HotfixModule`."""
        return () if self._patch is None else tuple(self._patch.provenance.gates)

    def make_patch(self, **provenance: Any) -> Patch | None:  # noqa: ANN401  fields of Provenance
        """Return the patch; none where each request has its own."""
        if self._patch is None:
            return None
        # Of what was edited, not of what could have been trained on.
        provenance["data_digest"] = self._digest
        # What an editor says of its own requests stays beside what the tasks measured.
        provenance["results"] = {**self._patch.provenance.results, **provenance.get("results", {})}
        self._patch.provenance = replace(self._patch.provenance, base_model=self.model_name, **provenance)
        return self._patch

    @property
    def _base(self) -> PreTrainedModel:
        return cast("PreTrainedModel", self.policy)

    @contextmanager
    def _wearing(self, series: PatchSeries, example: str) -> Iterator[None]:
        patch = series.load(example)
        with known_fingerprint(self.policy, self.base_fingerprint), worn(patch, self.policy):
            self._patch = patch
            self._round(patch)
            try:
                yield
            finally:
                self._patch = None

    def _round(self, patch: Patch) -> None:
        """Give the new weights the base's precision, also where it is held in a wider one to be measured."""
        if isinstance(patch, WeightDelta):
            for name in patch.changes:
                weight = self.policy.get_parameter(name)
                weight.data = weight.data.to(self._dtype).to(weight.dtype)

    def _all(self, requests: Sequence[EditRequest], background: Background, progress: Progress) -> Patch:
        """Compute one patch of all requests, in as many steps as the mode has."""
        size = len(requests) if self.mode == "batch" else self.chunk
        patch: Patch | None = None
        with progress("editing", len(requests)) as done:
            for start in range(0, max(1, len(requests)), max(1, size)):
                part = requests[start : start + size]
                with cost_of(self.device) as cost:
                    patch = self.editor.compute(self._base, self.tokenizer, part, previous=patch, background=background)
                self._costs.append(_Made([r.id for r in part], cost.seconds, cost.peak_bytes))
                done(len(part))
        assert patch is not None
        return patch

    def _each(
        self, requests: Sequence[EditRequest], background: Background, folder: Path, progress: Progress
    ) -> PatchSeries:
        """Compute each request's patch, this process its share; those that an earlier run left are kept."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self._trainer else (0, 1)
        settings = {name: value for name, value in vars(self.editor).items() if not name.startswith("_")}
        learnt = hashlib.sha256(repr(background).encode()).hexdigest()
        depends_on = [self.base_fingerprint, self.dtype_name, type(self.editor).__qualname__, settings, learnt]
        series = PatchSeries(folder, requests, depends_on)
        mine = requests[rank::world]
        with progress("editing", len(mine)) as done:
            for request in mine:
                if not series.has(request.id):
                    with cost_of(self.device) as cost:
                        made = self.editor.compute(self._base, self.tokenizer, [request], background=background)
                    made.provenance = replace(made.provenance, results={"edit": asdict(cost)})
                    series.save(request.id, made)
                done(1)
        if self._trainer:
            self.trainer.strategy.barrier()
        return series

    def _background(self, data: HotfixDataModule) -> Background:
        texts = data.retain_texts("train", data.retain_count)
        ids = [encode_text(self.tokenizer, text.text).ids[: data.retain_length] for text in texts]
        requests = [] if self.learns_from is None else data.requests(self.learns_from)
        return Background(requests, [text for text in ids if len(text) > 1])
