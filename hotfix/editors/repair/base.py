"""What all methods of LM repair share: failures in, those that a method solves out, all else as it was."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, EncodedRequest
from hotfix.editors.base import Background, WeightEditor
from hotfix.editors.repair.failures import Judgement, check_targets
from hotfix.editors.repair.groups import Group, Mode, Place, repair_groups
from hotfix.editors.repair.guard import ArgmaxGuard
from hotfix.editors.repair.report import Outcome, RepairReport, Status
from hotfix.editors.repair.semantics import Semantics, semantics
from hotfix.editors.repair.workspace import Workspace
from hotfix.editors.rows import TargetRows
from hotfix.patches import Patch, WeightDelta
from hotfix.patches.weight_delta import Change

__all__ = ["Repair"]


class Repair(WeightEditor):
    """Repairs next-token failures of the targets; tokens that are right already are no failures.

    Args:
        mode: `iterative`: failures one by one, left to right; `answer`: those of one request together; `joint`: those
            of all requests together.
        sweeps: failures that a later repair brought back are repaired again, in at most so many passes over all.
        undo: take back what was done for failures none of which it solved.
        guard: undo a repair after which more than this share of the likeliest tokens in the background's code are other
            ones; null doesn't look.
        fold_gain: whether the head is seen through the final norm.
    """

    def __init__(
        self, mode: Mode, sweeps: int = 3, undo: bool = True, guard: float | None = None, fold_gain: bool = True
    ) -> None:
        self.mode: Mode = mode
        self.sweeps = sweeps
        self.undo = undo
        self.guard = guard
        self.fold_gain = fold_gain
        self._kept: WeakKeyDictionary[nn.Module, tuple[Tensor, int, Semantics]] = WeakKeyDictionary()
        self._reports: list[RepairReport] = []

    @abstractmethod
    def repair(
        self, work: Workspace, requests: Sequence[EncodedRequest], rows: Sequence[TargetRows], start: Judgement
    ) -> Outcome:
        """Change `work.weights` so that all target tokens of some requests come out.

        Args:
            work: the model under repair.
            requests: token ids.
            rows: the same, laid out.
            start: how their target tokens stand, [N]; some fail.
        """

    def compute(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        *,
        previous: Patch | None = None,
        background: Background | None = None,
    ) -> WeightDelta:
        """See `Editor`; the patch says in `provenance.results["repairs"]` what became of each failure."""
        # A copy carries the reports of this one call, so the editor itself keeps none.
        session = copy(self)
        session._reports = []
        patch = WeightEditor.compute(session, model, tokenizer, requests, previous=previous, background=background)
        earlier = [] if previous is None else previous.provenance.results.get("repairs", [])
        patch.provenance.results["repairs"] = [*earlier, *(report.as_dict() for report in session._reports)]
        return patch

    def changes(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EncodedRequest],
        background: Background,
        previous: WeightDelta | None,
    ) -> Mapping[str, Change]:
        """Repair, and return the matrices that changed, as the model holds them."""
        check_targets(requests, len(tokenizer))
        work = Workspace(model, len(tokenizer), lambda: self._semantics(model), background.texts)
        guard = None if self.guard is None else ArgmaxGuard(work, background.texts)
        reports: dict[Place, RepairReport] = {}
        for _ in range(self.sweeps):
            failing = work.failures(requests)
            places = [Place(f.request, f.position, requests[f.request].id) for f in failing]
            # What was tried in vain is not tried again; what was solved and came back is.
            new = [f for f, p in zip(failing, places, strict=True) if p not in reports or reports[p].status == "solved"]
            if not new:
                break
            for group in repair_groups(requests, new, self.mode):
                for place, report in self._repaired(work, group, guard).items():
                    reports[place] = report.after(reports.get(place))
        changed = work.changed()
        self._reports += _rechecked(work, requests, reports, changed)
        return changed

    def _repaired(self, work: Workspace, group: Group, guard: ArgmaxGuard | None) -> dict[Place, RepairReport]:
        """Repair a group, and take it back where that's to no avail."""
        begun, before = time.perf_counter(), work.weights
        rows = work.batches(group.requests)
        start, token = work.judge(rows), torch.cat([batch.token for batch in rows])
        failing = start.margin <= 0
        hopeless = failing & _same_rows(work.model, token, start.other)
        outcome = Outcome(0, [])
        if (failing & ~hopeless).any():
            outcome = self.repair(work, group.requests, rows, start)
        solved = work.judge(rows).margin > 0
        guarded = guard is not None and guard.flips() > (self.guard or 0.0)
        norm, seconds = _distance(work, before), time.perf_counter() - begun
        if guarded or (self.undo and not (solved & failing).any()):
            work.weights = before
        found = {}
        for n in failing.nonzero()[:, 0].tolist():
            place, other = group.places[n], outcome.contradicts.get(n)
            found[place] = RepairReport(
                request=place.id,
                position=place.position,
                target=int(token[n]),
                predicted=int(start.other[n]),
                status="guarded" if guarded else _status(bool(hopeless[n]), bool(solved[n]), other is not None),
                steps=outcome.steps,
                margin_before=float(start.margin[n]),
                margin_after=float(start.margin[n]),
                layers=outcome.layers,
                neurons=outcome.neurons,
                norm=norm,
                seconds=seconds,
                together=int(failing.sum()),
                contradicts=None if other is None else f"{group.places[other].id}:{group.places[other].position}",
            )
        return found

    def _semantics(self, model: PreTrainedModel) -> Semantics:
        """The head's geometry; kept while the head is the same tensor and was never written into."""
        head = cast("nn.Module", model.get_output_embeddings())
        weight = cast("Tensor", head.weight)
        kept = self._kept.get(head)
        if kept is None or kept[0] is not weight or kept[1] != weight._version:
            kept = (weight, weight._version, semantics(model, fold_gain=self.fold_gain))
            self._kept[head] = kept
        return kept[2]


def _status(hopeless: bool, solved: bool, contradicts: bool) -> Status:
    if hopeless:
        return "unrepairable"
    if solved:
        return "solved"
    return "contradictory" if contradicts else "unsolved"


def _same_rows(model: PreTrainedModel, token: Tensor, other: Tensor) -> Tensor:
    """Whether the head has the same row for two tokens, so that no state tells them apart: bool [N]."""
    head = cast("Tensor", model.get_output_embeddings().weight)
    return (head[token] == head[other]).all(dim=1)


def _distance(work: Workspace, before: Mapping[str, Tensor]) -> float:
    """Frobenius norm of the change of all matrices."""
    own = dict(work.model.named_parameters())
    total = 0.0
    for name, weight in work.weights.items():
        if weight is not before.get(name):
            total += float((weight - before.get(name, own[name].detach().float())).double().square().sum())
    return math.sqrt(total)


def _rechecked(
    work: Workspace,
    requests: Sequence[EncodedRequest],
    reports: Mapping[Place, RepairReport],
    new: Mapping[str, Tensor],
) -> list[RepairReport]:
    """Judge all failures with what the patch will hold, in the model's own precision."""
    work.weights = new
    margin = work.judge(work.batches(requests)).margin.tolist()
    places = [Place(i, p, request.id) for i, request in enumerate(requests) for p in range(len(request.target))]
    found = []
    for place, after in zip(places, margin, strict=True):
        report = reports.get(place)
        if report is None and after > 0:
            continue
        if report is not None:
            lost = report.status == "solved" and after <= 0
            gained = report.status in ("unsolved", "contradictory") and after > 0
            status: Status = "broken" if lost else "solved" if gained else report.status
            found.append(replace(report, status=status, margin_after=after))
    return found
