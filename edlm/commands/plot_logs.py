"""``edlm plot logs``: a picture of training runs."""

from __future__ import annotations

from dataclasses import dataclass

from edlm.evaluation.plots.table import plot_logs


@dataclass(frozen=True)
class PlotLogsConfig:
    """What is drawn.

    Args:
        logs: log.jsonl files of training runs; their names label the lines.
        output: Picture to write (.svg or .png).
    """

    logs: tuple[str, ...]
    output: str


def run(config: PlotLogsConfig) -> None:
    """Draw the validation losses."""
    plot_logs(config.logs, config.output)
    print(config.output)
