"""Two results of ``edlm evaluate``: the bounds of the second minus those of the first, setting by setting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import DEFAULTS

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """One setting in two results; nats per token, low = good.

    Attributes:
        name: Method.
        order: Reveal order.
        num_steps: Denoiser passes.
        a: Bound in the first.
        b: Bound in the second.
        difference: ``b - a``: negative where the second is better.
        stderr: Its standard error over rows, in pairs; unpaired where the rows differ.
        low: Lower end of the interval of the difference, which holds for all settings of the comparison at once
            (balanced bootstrap over rows, `simultaneous_intervals`); None where unpaired.
        high: Upper end.
        n: Rows.
        paired: Whether the rows are the same.
        differs: Sampler options that are not the same in both, by name: "energy" (fingerprint), "num_candidates" ...
    """

    name: str
    order: str
    num_steps: int
    a: float
    b: float
    difference: float
    stderr: float
    low: float | None
    high: float | None
    n: int
    paired: bool
    differs: list[str]


def differences(a: Results, b: Results, *, allow_other: bool = False, generator: torch.Generator) -> list[Difference]:
    """Bounds of the second minus those of the first, for each setting that both have.

    Args:
        a: The first result.
        b: The second.
        allow_other: Also where denoiser, data or seed differ; with different rows the error is unpaired.
        generator: Draws the rows of the bootstrap.

    Raises:
        ValueError: they have no setting in common, or denoiser, data or seed differ and that is not allowed.
    """
    differing = _differing(a.record["identity"], b.record["identity"])
    if differing and not allow_other:
        raise ValueError(
            f"results must be of the same denoiser, data and seed to be compared, got different {', '.join(differing)} "
            f"in {a.path} and {b.path}; set allow_other to compare them all the same"
        )
    of_b = {row.key: row for row in b.rows}
    pairs = [(row, of_b[row.key]) for row in a.rows if row.key in of_b]
    if not pairs:
        raise ValueError(f"results must have a setting in common to be compared, got none in {a.path} and {b.path}")
    nats = [(a.nats_of(one), b.nats_of(other)) for one, other in pairs]
    means = [(mean_of(one), mean_of(other)) for one, other in nats]
    paired = not {"data", "seed"} & set(differing)
    if paired:
        series = torch.stack([other - one for one, other in nats])
        estimates = simultaneous_intervals(series, level=LEVEL, generator=generator)
    else:
        estimates = [Estimate(y.value - x.value, math.hypot(x.stderr, y.stderr), min(x.n, y.n)) for x, y in means]
    return [
        Difference(
            *(one.name, *one.cell, mean_a.value, mean_b.value),
            *(estimate.value, estimate.stderr, estimate.low, estimate.high, estimate.n),
            paired=paired,
            differs=[name for name in DEFAULTS if one.options[name] != other.options[name]],
        )
        for (one, other), (mean_a, mean_b), estimate in zip(pairs, means, estimates, strict=True)
    ]


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Parts of the identity that differ; the name of a denoiser may, since folders are renamed."""

    def renamed(identity: dict[str, Any]) -> dict[str, Any]:
        return {**identity, "denoiser": {**identity["denoiser"], "name": None}}

    a, b = renamed(a), renamed(b)
    return [name for name in a if a[name] != b.get(name)]
