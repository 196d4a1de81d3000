"""``edlm compare``: two results of ``edlm evaluate``, setting by setting."""

from dataclasses import dataclass
from pathlib import Path

import torch

from edlm.commands.terminal import print_table
from edlm.evaluation.report.comparison import FORMATS, Comparison
from edlm.files import check_writable
from edlm.rules import Config


@dataclass(frozen=True)
class CompareConfig(Config):
    """The two results that are compared.

    Args:
        a: Folder or .json file that ``edlm evaluate`` wrote.
        b: Another; differences are its bounds minus those of the first.
        allow_other: Compare results of different denoisers, data or seeds as well.
        seed: Seed of the bootstrap over rows.
        output: File to write: .json, .md, .csv or .html.
    """

    a: str
    b: str
    allow_other: bool = False
    seed: int = 0
    output: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None and Path(self.output).suffix not in FORMATS:
            raise ValueError(f"output must end in .json, .md, .csv or .html, got {self.output!r}")


def run(config: CompareConfig) -> None:
    """Print the verdict and the differences, and write them if an output is given."""
    check_writable(config.output)
    generator = torch.Generator().manual_seed(config.seed)
    found = Comparison.of(config.a, config.b, allow_other=config.allow_other, generator=generator)
    print(found.verdict)
    print_table("bounds in nats per token (low = good)", found.differences, found.columns)
    if config.output:
        found.write(Path(config.output))
        print(config.output)
