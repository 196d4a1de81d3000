"""``edlm plot logs``: validation losses of training runs."""

import json
from dataclasses import dataclass
from pathlib import Path

from edlm.evaluation.plots.drawing import Line, plot
from edlm.files import reading
from edlm.rules import Config


@dataclass(frozen=True)
class PlotLogsConfig(Config):
    """Which training runs are plotted.

    Args:
        logs: log.jsonl files of training runs (at most 7); their names label the lines.
        output: Plot to write (.svg or .png).
    """

    logs: tuple[str, ...]
    output: str


def run(config: PlotLogsConfig) -> None:
    """Plot the validation losses over updates, a line for each training run.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: a log without validation, no logs or too many, or another suffix.
    """
    lines = [line_of(Path(log)) for log in config.logs]
    title = "validation loss: the same rows and noise at each point of a run"
    labels = {"title": title, "xlabel": "updates", "ylabel": "loss, nats per token (low = good)"}
    plot(config.output, lines, **labels)
    print(config.output)


def line_of(log: Path) -> Line:
    """Validation losses of a run, nats per token, named after its file."""
    with reading(log, "be the log of a training run"):
        records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        valid = [(record["step"], record["loss"]) for record in records if record["split"] == "valid"]
    if not valid:
        raise ValueError(f"a log must hold validation losses, got none in {log}")
    return Line(log.stem, "", *map(list, zip(*valid, strict=True)))
