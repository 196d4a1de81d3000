"""The same numbers in wandb, where asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edlm.evaluation.experiment.metrics import METRICS

COLUMNS = ("name", "order", "num_steps", "num_candidates", "group_size", "scope")


def check_wandb(mode: str) -> None:
    """Before hours of work.

    Raises:
        ImportError: ``mode`` is not "off" and wandb is not installed.
    """
    if mode != "off" and importlib.util.find_spec("wandb") is None:
        raise ImportError(f"wandb must be installed, or 'off'; got {mode!r} without it")


def log_to_wandb(result: Mapping[str, Any], *, mode: str, project: str, folder: str | Path) -> None:
    """Write a run: every number of every setting in its summary, and the settings as a table.

    Args:
        result: What ``results.json`` holds.
        mode: "offline" or "online".
        project: Name of the project.
        folder: Where an offline run goes.
    """
    import wandb

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(project=project, mode=mode, dir=str(folder), name=folder.name, config=dict(result["config"]))
    try:
        fields = [*COLUMNS, *METRICS, *(metric.error_name for metric in METRICS.values() if metric.error_name)]
        rows = [[setting.get(field) for field in fields] for setting in result["settings"]]
        run.log({"settings": wandb.Table(columns=fields, data=rows)})
        run.summary.update(summary_of(result))
    finally:
        run.finish()


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers by ``name/order/steps/metric``, and the verdict."""
    numbers = {"verdict": result["verdict"]}
    for setting in result["settings"]:
        prefix = f"{setting['name']}/{setting['order']}/{setting['num_steps']}"
        for name, metric in METRICS.items():
            for field in (name, metric.error_name):
                if field is not None and setting.get(field) is not None:
                    numbers[f"{prefix}/{field}"] = setting[field]
    return numbers
