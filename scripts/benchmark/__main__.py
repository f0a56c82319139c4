"""`scripts/bench`: ours and what users run today, side by side; prints ratios against targets."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from side_by_side import Finding

_PARTS = ("start_up", "sandbox", "sampling", "editing", "training", "scaling", "memory", "many_pairs")


def main() -> None:
    """Run the chosen parts one after the other; exit with 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, metavar="PART", help=", ".join(_PARTS))
    parser.add_argument("--repeats", type=int, default=5, help="how often both ways are timed")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    options = parser.parse_args()
    console = Console(stderr=False)
    found: list[Finding] = []
    for part in options.only:
        console.print(f"{part} ...")
        for one in importlib.import_module(part).run(options.repeats):
            found.append(one)
            # What is known by now isn't lost with a part that fails.
            console.print(f"  {one.name}: {_ratio(one)}")
            if options.json:
                options.json.write_text(_json(found))
    console.print(_table(found))
    missed = [f.name for f in found if not f.met]
    console.print(f"{len(found) - len(missed)} of {len(found)} targets met" + "".join(f"; missed: {m}" for m in missed))
    sys.exit(bool(missed))


def _table(found: list[Finding]) -> Table:
    table = Table(title="ratios above 1: ours is better", show_edge=False)
    for name in ("what", "ours", "peer or limit", "ratio [95%]", "target", "work"):
        table.add_column(name, justify="left" if name in ("what", "work") else "right")
    for one in found:
        peer = "-" if one.peer is None else f"{one.peer:.3g} {one.unit}"
        target = "-" if one.target is None else f"{one.target:g} {'met' if one.met else 'MISSED'}"
        table.add_row(one.name, f"{one.ours:.3g} {one.unit}", peer, _ratio(one), target, one.note)
    return table


def _ratio(one: Finding) -> str:
    return f"{one.ratio:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _json(found: list[Finding]) -> str:
    return json.dumps({"machine": _machine(), "findings": [one.as_json() for one in found]}, indent=2)


def _machine() -> dict[str, object]:
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


if __name__ == "__main__":
    main()
