"""``edlm compare``: two results of ``edlm evaluate``, in pairs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from edlm.commands.terminal import console
from edlm.evaluation.compare import Difference, StoredResult, differences


@dataclass(frozen=True)
class CompareConfig:
    """What is held against what.

    Args:
        a: Folder or .json file that ``edlm evaluate`` wrote.
        b: Another; differences are its bounds minus those of the first.
        allow_other: Also where denoiser, data or seed differ.
        output: JSON file to write.
    """

    a: str
    b: str
    allow_other: bool = False
    output: str | None = None


def run(config: CompareConfig) -> None:
    """Print the differences; write them where asked to."""
    found = differences(StoredResult.load(config.a), StoredResult.load(config.b), allow_other=config.allow_other)
    console().print(_table(found, config))
    if config.output:
        rows = [asdict(difference) for difference in found]
        Path(config.output).write_text(json.dumps({"a": config.a, "b": config.b, "differences": rows}, indent=1) + "\n")


def _table(found: list[Difference], config: CompareConfig) -> Table:
    pairing = "paired by rows" if found[0].paired else "unpaired: the rows differ"
    table = Table(title=f"bounds in nats per token (low = good), {found[0].n} rows, {pairing}")
    for heading in ("sampler", "order", "passes", config.a, config.b, "difference", "in standard errors"):
        table.add_column(heading, justify="left" if heading in ("sampler", "order") else "right")
    for d in found:
        away = f"{d.difference / d.stderr:+.1f}" if d.stderr > 0 else ""
        numbers = (f"{d.a:.3f}", f"{d.b:.3f}", f"{d.difference:+.4f} ± {d.stderr:.4f}", away)
        table.add_row(d.name, d.order, str(d.num_steps), *numbers)
    return table
