"""``edlm compare``: two results of ``edlm evaluate``, setting by setting."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from edlm.commands.terminal import print_table
from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.metrics import DASH, format_estimate, format_number
from edlm.evaluation.experiment.provenance import write_json
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.report.compare import LEVEL, Difference, differences
from edlm.evaluation.samples.text import counted


@dataclass(frozen=True)
class CompareConfig:
    """Which results are compared.

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
    """Print the differences, and write them if an output is given."""
    generator = torch.Generator().manual_seed(config.seed)
    compared = differences(
        Results.load(config.a), Results.load(config.b), allow_other=config.allow_other, generator=generator
    )
    paired = compared[0].paired
    columns = {
        "sampler": lambda d: d.name,
        "order": lambda d: d.order,
        "passes": lambda d: str(d.num_steps),
        f"a: {config.a}": lambda d: format_estimate(Estimate(d.a), 3),
        f"b: {config.b}": lambda d: format_estimate(Estimate(d.b), 3),
        "difference": lambda d: format_estimate(Estimate(d.difference, d.stderr), 4, signed=True),
        f"{LEVEL:.0%} interval, all at once" if paired else "in standard errors": _certainty,
    }
    if any(d.differs for d in compared):
        columns["not the same"] = lambda d: ", ".join(d.differs)
    pairing = "paired by rows" if paired else "unpaired: the rows differ"
    title = f"bounds in nats per token (low = good), {counted(compared[0].n, 'row')}, {pairing}"
    print_table(title, compared, columns)
    if config.output:
        write_json(Path(config.output), {"a": config.a, "b": config.b, "differences": [asdict(d) for d in compared]})


def _certainty(d: Difference) -> str:
    if not d.paired:
        return f"{d.difference / d.stderr:+.1f}" if d.stderr > 0 else DASH
    if d.low is None or d.low != d.low:  # a single row
        return DASH
    return f"{format_number(d.low, 4, signed=True)} to {format_number(d.high, 4, signed=True)}"
