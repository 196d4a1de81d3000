"""``edlm compare``: two results of ``edlm evaluate``, setting by setting."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edlm.commands.terminal import print_table
from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.experiment.metrics import DASH, format_estimate, format_number
from edlm.evaluation.experiment.provenance import write_json
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import DEFAULTS
from edlm.evaluation.samples.text import counted
from edlm.files import check_writable
from edlm.rules import Config

LEVEL = 0.95


@dataclass(frozen=True)
class CompareConfig(Config):
    """The two results that are compared.

    Args:
        a: Folder or .json file that ``edlm evaluate`` wrote.
        b: Another; differences are its bounds minus those of the first.
        allow_other: Compare results of different denoisers, data or seeds as well.
        seed: Seed of the bootstrap over rows.
        output: JSON file to write.
    """

    a: str
    b: str
    allow_other: bool = False
    seed: int = 0
    output: str | None = None


def run(config: CompareConfig) -> None:
    """Print the differences, and write them if an output is given."""
    check_writable(config.output)
    generator = torch.Generator().manual_seed(config.seed)
    records = differences(
        Results.load(config.a), Results.load(config.b), allow_other=config.allow_other, generator=generator
    )
    paired, rows = records[0]["paired"], counted(records[0]["n"], "row")
    columns = {
        "sampler": lambda r: r["name"],
        "order": lambda r: r["order"],
        "passes": lambda r: str(r["num_steps"]),
        f"a: {config.a}": lambda r: format_estimate(Estimate(r["a"]), 3),
        f"b: {config.b}": lambda r: format_estimate(Estimate(r["b"]), 3),
        "difference": lambda r: format_estimate(Estimate(r["difference"], r["stderr"]), 4, signed=True),
        f"{LEVEL:.0%} interval, all at once" if paired else "in standard errors": _certainty,
    }
    if any(r["differs"] for r in records):
        columns["not the same"] = lambda r: ", ".join(r["differs"])
    pairing = "paired by rows" if paired else "unpaired: the rows differ"
    print_table(f"bounds in nats per token (low = good), {rows}, {pairing}", records, columns)
    if config.output:
        write_json(Path(config.output), {"a": config.a, "b": config.b, "differences": records})


def differences(a: Results, b: Results, *, allow_other: bool, generator: torch.Generator) -> list[dict[str, Any]]:
    """Bounds of the second result minus those of the first, for each setting that both have.

    Args:
        a: The first result.
        b: The second.
        allow_other: Also where denoiser, data or seed differ; with different rows the error is unpaired.
        generator: Draws the rows of the bootstrap.

    Returns:
        A record for each setting, in nats per token: ``name``, ``order``, ``num_steps``; the bounds ``a`` and ``b``,
        low = good; ``difference``, ``b - a``, with ``stderr`` over ``n`` rows, in pairs, and the ends ``low`` and
        ``high`` of its interval, which holds for all records at once (`simultaneous_intervals`; None where unpaired);
        ``paired``, whether the rows are the same; and ``differs``, the sampler options that are not the same in both,
        by name: "energy" (fingerprint), "num_candidates" ...

    Raises:
        ValueError: they have no setting in common, or denoiser, data or seed differ and that is not allowed.
    """
    other = _differing(a.record["identity"], b.record["identity"])
    if other and not allow_other:
        raise ValueError(
            f"results must be of the same denoiser, data and seed to be compared, got different {', '.join(other)} "
            f"in {a.path} and {b.path}; set allow_other to compare them all the same"
        )
    rows_of_b = {row.key: row for row in b.rows}
    pairs = [(row, rows_of_b[row.key]) for row in a.rows if row.key in rows_of_b]
    if not pairs:
        raise ValueError(f"results must have a setting in common to be compared, got none in {a.path} and {b.path}")
    nats = [(a.nats_of(first), b.nats_of(second)) for first, second in pairs]
    means = [(mean_of(first), mean_of(second)) for first, second in nats]
    paired = not {"data", "seed"} & set(other)
    if paired:
        series = torch.stack([second - first for first, second in nats])
        estimates = simultaneous_intervals(series, level=LEVEL, generator=generator)
    else:
        estimates = [Estimate(y.value - x.value, math.hypot(x.stderr, y.stderr), min(x.n, y.n)) for x, y in means]
    return [
        {
            **{"name": first.name, "order": first.order, "num_steps": first.num_steps},
            **{"a": mean_a.value, "b": mean_b.value, "difference": estimate.value},
            **{field: getattr(estimate, field) for field in ("stderr", "low", "high", "n")},
            "paired": paired,
            "differs": [name for name in DEFAULTS if first.options[name] != second.options[name]],
        }
        for (first, second), (mean_a, mean_b), estimate in zip(pairs, means, estimates, strict=True)
    ]


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Parts of the identity that differ; the name of a denoiser may, since folders are renamed."""

    def renamed(identity: Mapping[str, Any]) -> dict[str, Any]:
        return {**identity, "denoiser": {**identity["denoiser"], "name": None}}

    a, b = renamed(a), renamed(b)
    return [name for name in a if a[name] != b.get(name)]


def _certainty(record: Mapping[str, Any]) -> str:
    """The interval of the difference, or how many standard errors it is."""
    if not record["paired"]:
        return f"{record['difference'] / record['stderr']:+.1f}" if record["stderr"] > 0 else DASH
    if math.isnan(record["low"]):  # a single row
        return DASH
    return " to ".join(format_number(record[end], 4, signed=True) for end in ("low", "high"))
