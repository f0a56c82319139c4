"""Turns measurements into intervals, tests, ``results.json`` and tables; imports no torch, so it runs on a laptop."""

from __future__ import annotations

from hotfix.report.paired import Comparison, compare_paired, sign_flip_test
from hotfix.report.results import Results, collect_machine, collect_versions, load_results, write_records
from hotfix.report.statistics import Estimate, mean_interval, rate_interval
from hotfix.report.tables import before_after_table, better_direction, markdown_table, render

__all__ = [
    "Comparison",
    "Estimate",
    "Results",
    "before_after_table",
    "better_direction",
    "collect_machine",
    "collect_versions",
    "compare_paired",
    "load_results",
    "markdown_table",
    "mean_interval",
    "rate_interval",
    "render",
    "sign_flip_test",
    "write_records",
]
