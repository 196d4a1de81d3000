"""The same numbers in wandb, if requested."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edlm.evaluation.experiment.metrics import METRICS

COLUMNS = ("name", "order", "num_steps", "num_candidates", "group_size", "scope")
_NUMBERS = [m.names[part] for m in METRICS.values() for part in ("value", "stderr") if part in m.names]


def log_to_wandb(result: Mapping[str, Any], *, mode: str, project: str, folder: str | Path) -> None:
    """Write a run: every number of every setting in its summary, and the settings as a table.

    Args:
        result: Content of ``results.json``.
        mode: "offline" or "online".
        project: Name of the project.
        folder: Where an offline run goes.
    """
    import wandb

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"project": project, "name": folder.name, "config": dict(result["config"])}
    with wandb.init(mode=mode, dir=str(folder), **about) as run:
        columns = [*COLUMNS, *_NUMBERS]
        rows = [[setting.get(column) for column in columns] for setting in result["settings"]]
        run.log({"settings": wandb.Table(columns=columns, data=rows)})
        run.summary.update(summary_of(result))


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers by ``name/order/steps/metric``, and the verdict."""
    numbers = {
        f"{setting['name']}/{setting['order']}/{setting['num_steps']}/{key}": setting[key]
        for setting in result["settings"]
        for key in _NUMBERS
        if setting.get(key) is not None
    }
    return {"verdict": result["verdict"], **numbers}
