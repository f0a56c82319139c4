"""Run folders with known content, made without a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hotfix.report.paired import compare_paired
from hotfix.report.results import to_json, write_records
from hotfix.report.statistics import mean_interval

__all__ = ["HOSTILE", "make_run"]

HOSTILE = "</script><script>alert(1)</script> <b>&amp;\" ' <!-- \u2028 x < y && z"


def make_run(
    folder: Path,
    after: Sequence[Sequence[str]],
    before: Sequence[Sequence[str]] | None = None,
    kl: Sequence[float] = (0.0, 0.5),
    text: str = "return x",
) -> Path:
    """Write a run whose examples have these verdicts; groups are pairs of examples in a row.

    Args:
        folder: to write.
        after: verdicts of each example.
        before: the same of the base; all buggy by default.
        kl: of each unrelated example.
        text: that every prompt, statement and completion holds.
    """
    before = before or [["buggy"] * len(verdicts) for verdicts in after]
    groups = [f"rule{i // 2}" for i in range(len(after))]
    records = [
        {"task": "bug_fix", "slice": "generalisation", "when": when, "id": f"p{i}", "group": groups[i], "prompt": text,
         "fixed": f"{text} fixed", "buggy": f"{text} buggy", "completions": [f"{text} {v}" for v in verdicts],
         "verdicts": list(verdicts), "p_fixed": 0.25, "p_buggy": 0.5,
         "token_log_probs": {"fixed": [[text, -0.5], [" fixed", -1.5]], "buggy": [[text, -0.5]]}}
        for when, examples in (("before", before), ("after", after))
        for i, verdicts in enumerate(examples)
    ] + [
        {"task": "bug_fix", "slice": "specificity", "when": when, "id": f"u{i}", "group": f"m{i}",
         "continuation": f"{text} {when}", "tokens": [1], "unchanged": when == "before", "kl": value}
        for when in ("before", "after")
        for i, value in enumerate([0.0] * len(kl) if when == "before" else kl)
    ]  # fmt: skip
    rates = {f"{v}_rate": ([_share(x, v) for x in before], [_share(x, v) for x in after]) for v in ("fixed", "buggy")}
    tasks = {
        "bug_fix": {
            "generalisation": _slice(rates, groups),
            "specificity": _slice({"kl": ([0.0] * len(kl), list(kl))}, [f"m{i}" for i in range(len(kl))]),
        }
    }
    results = {"name": "x", "tasks": tasks, "train": {"seconds": 10.0}, "seconds": {"train": 10.0}, "versions": {}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(to_json(results)), encoding="utf-8")
    write_records(folder / "records.jsonl", records)
    (folder / "config.yaml").write_text(f"name: {json.dumps(text)}\n", encoding="utf-8")
    (folder / "curves").mkdir(exist_ok=True)
    rows = "\n".join(f"0,{i},{4 - i / 10}" for i in range(20))
    (folder / "curves/metrics.csv").write_text(f"epoch,step,train/loss\n{rows}\n", encoding="utf-8")
    return folder


def _share(verdicts: Sequence[str], wanted: str) -> float:
    return sum(v == wanted for v in verdicts) / len(verdicts)


def _slice(values: Mapping[str, tuple[list[float], list[float]]], groups: list[str]) -> dict[str, Any]:
    return {
        "before": {name: mean_interval(old, groups)._asdict() for name, (old, _) in values.items()},
        "after": {name: mean_interval(new, groups)._asdict() for name, (_, new) in values.items()},
        "tests": {
            name: compare_paired(old, new, groups, "rate", "rule")._asdict() for name, (old, new) in values.items()
        },
    }
