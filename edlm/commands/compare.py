"""``edlm compare``: two results of ``edlm evaluate``, in pairs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table

from edlm.commands.terminal import console
from edlm.evaluation.experiment.provenance import json_value
from edlm.evaluation.report.compare import LEVEL, Difference, StoredResult, differences
from edlm.evaluation.samples.texts import counted

DASH = "–"


@dataclass(frozen=True)
class CompareConfig:
    """What is held against what.

    Args:
        a: Folder or .json file that ``edlm evaluate`` wrote.
        b: Another; differences are its bounds minus those of the first.
        allow_other: Also where denoiser, data or seed differ.
        seed: Draws the rows of the bootstrap.
        output: JSON file to write.
    """

    a: str
    b: str
    allow_other: bool = False
    seed: int = 0
    output: str | None = None


def run(config: CompareConfig) -> None:
    """Print the differences; write them where asked to."""
    a, b = StoredResult.load(config.a), StoredResult.load(config.b)
    generator = torch.Generator().manual_seed(config.seed)
    found = differences(a, b, allow_other=config.allow_other, generator=generator)
    console().print(_table(found, config))
    if config.output:
        rows = [json_value(asdict(difference)) for difference in found]
        Path(config.output).write_text(json.dumps({"a": config.a, "b": config.b, "differences": rows}, indent=1) + "\n")


def _table(found: list[Difference], config: CompareConfig) -> Table:
    paired = found[0].paired
    pairing = "paired by rows" if paired else "unpaired: the rows differ"
    sure = f"{LEVEL:.0%} interval, all at once" if paired else "in standard errors"
    rows = counted(found[0].n, "row")
    table = Table(title=f"bounds in nats per token (low = good), {rows}, {pairing}")
    unlike = ["not the same"] if any(d.differs for d in found) else []  # samplers of one name that are two
    for heading in ("sampler", "order", "passes", config.a, config.b, "difference", sure, *unlike):
        table.add_column(heading, justify="left" if heading in ("sampler", "order", *unlike) else "right")
    for d in found:
        error = f" ± {d.stderr:.4f}" if math.isfinite(d.stderr) else ""
        numbers = (_number(d.a, ".3f"), _number(d.b, ".3f"), _number(d.difference, "+.4f") + error, _sure(d))
        table.add_row(d.name, d.order, str(d.num_steps), *numbers, *[", ".join(d.differs) for _ in unlike])
    return table


def _sure(d: Difference) -> str:
    if d.paired:
        return DASH if math.isnan(d.low) else f"{_number(d.low, '+.4f')} to {_number(d.high, '+.4f')}"
    return f"{d.difference / d.stderr:+.1f}" if d.stderr > 0 else DASH


def _number(value: float, form: str) -> str:
    return DASH if math.isnan(value) else f"{value:{form}}".replace("inf", "∞")
