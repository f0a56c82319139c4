"""The study in Weights & Biases: a run of its own with the table, panels of its plots, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hotfix.report.plots import read_curves
from hotfix.study.plan import Run
from hotfix.study.spec import Study

__all__ = ["send_study", "table_rows", "wandb_settings"]

_LOGGER: Final = "lightning.pytorch.loggers.WandbLogger"
_COLUMNS: Final = ("arm", "metric", "value", "low", "high", "base", "change", "ratio", "p", "best", "seeds")
_BARS: Final = ("fixed_rate", "buggy_rate")


def wandb_settings(study: Study, runs: Sequence[Run]) -> dict[str, str] | None:
    """Arguments of the study's run: the study file's, or those of the arms' own logger; None to send nothing."""
    loggers = [run.config.get("trainer", {}).get("logger") for run in runs]
    flat = [one for logger in loggers for one in (logger if isinstance(logger, list) else [logger])]
    found = next((one for one in flat if isinstance(one, Mapping) and one.get("class_path") == _LOGGER), None)
    if study.wandb is None and found is None:
        return None
    told = (found or {}).get("init_args") or {}
    settings = {key: str(told[key]) for key in ("project", "entity") if told.get(key)}
    return {"project": "hotfix", "name": study.name, **settings, **(study.wandb or {})}


def table_rows(study: Mapping[str, Any]) -> list[list[Any]]:
    """A row for each cell of a ``study.json``.

    >>> cells = {"kl": {"value": 0.5, "low": 0.4, "high": 0.6, "best": False}}
    >>> table_rows({"arms": [{"name": "a", "seeds": [0, 1], "cells": cells}]})
    [['a', 'kl', 0.5, 0.4, 0.6, None, None, None, None, False, 2]]
    """
    return [
        [arm["name"], key, *(cell.get(name) for name in _COLUMNS[2:-1]), len(arm["seeds"])]
        for arm in study["arms"]
        for key, cell in arm["cells"].items()
    ]


def send_study(study: Mapping[str, Any], folder: Path, settings: Mapping[str, str]) -> None:
    """Log a ``study.json``, and the page and the curves beside it."""
    import wandb

    # The run's own files go beside the study's.
    run = wandb.init(
        project=settings.get("project"),
        entity=settings.get("entity"),
        name=settings.get("name"),
        group=settings.get("group"),
        job_type="study",
        dir=str(folder),
        config={"arms": [arm["name"] for arm in study["arms"]]},
    )
    try:
        logged: dict[str, Any] = {"study/table": wandb.Table(columns=list(_COLUMNS), data=table_rows(study))}
        logged["study/wide"] = _wide(study)
        logged |= {f"study/{key}": _bars(study, key) for key in _BARS if _values(study, key)}
        logged |= {
            f"study/fixed_rate_against_{key}": plot for key in ("unchanged_rate", "kl") if (plot := _pareto(study, key))
        }
        logged |= {f"curves/{metric}": plot for metric, plot in _curves(study, folder).items()}
        logged["study/report"] = wandb.Html(str(folder / "report.html"), inject=False)
        run.log(logged)
        for arm in study["arms"]:
            for key, cell in arm["cells"].items():
                run.summary[f"{arm['name']}/{key}"] = cell["value"]
    finally:
        run.finish()


def _values(study: Mapping[str, Any], key: str) -> list[list[Any]]:
    return [[arm["name"], arm["cells"][key]["value"]] for arm in study["arms"] if key in arm["cells"]]


def _wide(study: Mapping[str, Any]) -> Any:  # noqa: ANN401  wandb isn't typed
    """The table as people read it: a row an arm."""
    import wandb

    keys = [column["key"] for column in study["columns"]]
    rows = [[arm["name"], *(arm["cells"].get(key, {}).get("value") for key in keys)] for arm in study["arms"]]
    base = [[b["name"], *(b["cells"].get(key, {}).get("value") for key in keys)] for b in study["bases"]]
    return wandb.Table(columns=["arm", *keys], data=base + rows)


def _bars(study: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401  wandb isn't typed
    import wandb

    return wandb.plot.bar(wandb.Table(columns=["arm", key], data=_values(study, key)), "arm", key, title=key)


def _pareto(study: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401  wandb isn't typed
    import wandb

    points = [
        [arm["name"], arm["cells"][key]["value"], arm["cells"]["fixed_rate"]["value"]]
        for arm in study["arms"]
        if {key, "fixed_rate"} <= set(arm["cells"])
    ]
    if not points:
        return None
    table = wandb.Table(columns=["arm", key, "fixed_rate"], data=points)
    return wandb.plot.scatter(table, key, "fixed_rate", title=f"fixed_rate against {key}")


def _curves(study: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A panel a metric, with a line for each arm's first seed."""
    import wandb

    found: dict[str, dict[str, tuple[tuple[float, float], ...]]] = {}
    for place, arm in enumerate(study["arms"]):
        for run in arm["runs"][:1]:
            for metric, curve in read_curves(folder / run["folder"], arm["name"], place).items():
                found.setdefault(metric, {})[arm["name"]] = curve.points
    return {
        metric: wandb.plot.line_series(
            xs=[[x for x, _ in points] for points in by_arm.values()],
            ys=[[y for _, y in points] for points in by_arm.values()],
            keys=list(by_arm),
            title=metric,
            xname="step",
        )
        for metric, by_arm in found.items()
    }
