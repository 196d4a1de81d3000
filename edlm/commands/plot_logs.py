"""``edlm plot logs``: validation losses of training runs."""

from __future__ import annotations

from dataclasses import dataclass

from edlm.evaluation.plots.table import plot_logs


@dataclass(frozen=True)
class PlotLogsConfig:
    """Which training runs are plotted.

    Args:
        logs: log.jsonl files of training runs; their names label the lines.
        output: Plot to write (.svg or .png).
    """

    logs: tuple[str, ...]
    output: str


def run(config: PlotLogsConfig) -> None:
    """Plot the validation losses."""
    plot_logs(config.logs, config.output)
    print(config.output)
