"""Completions from causal language models: every prompt is computed once and branched into its samples."""

from __future__ import annotations

from hotfix.generation.config import SamplingConfig
from hotfix.generation.sampling import greedy, sample
from hotfix.generation.stopping import Completion, StopAfterLines, StopCriterion, StopStrings

__all__ = ["Completion", "SamplingConfig", "StopAfterLines", "StopCriterion", "StopStrings", "greedy", "sample"]
