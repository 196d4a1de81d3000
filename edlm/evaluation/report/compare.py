"""Two results of the same rows, setting by setting, in pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.estimates.estimate import mean_of
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import DEFAULTS

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """One setting in two results; nats per token, low = good.

    Attributes:
        name: Of the method.
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
        differs: What of the sampler is not the same in both, by the fields' names: "energy" (its weights or settings),
            "num_candidates" ...
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


@dataclass(frozen=True)
class StoredResult:
    """What a result's files hold.

    Attributes:
        path: The JSON file.
        identity: Denoiser, data and seed.
        settings: By name, order and steps.
        rows: Nats per token of each row, by the setting's key.
    """

    path: Path
    identity: dict[str, Any]
    settings: dict[tuple[str, str, int], dict[str, Any]]
    rows: dict[str, Tensor]

    @classmethod
    def load(cls, path: str | Path) -> StoredResult:
        """Read a folder that ``edlm evaluate`` wrote, or its JSON file.

        Raises:
            FileNotFoundError: there is none, or its rows are missing.
            ValueError: it is no result of ``edlm evaluate``.
        """
        results = Results.load(path)
        settings = {(row.name, *row.cell): dict(row.options) for row in results.rows}
        return cls(results.path, results.record["identity"], settings, dict(results.nats))

    def rows_of(self, key: tuple[str, str, int]) -> Tensor:
        """Nats per token of each row of a setting, ``[n]``, float64."""
        name, order, num_steps = key
        return self.rows[f"{name}, {order}, {num_steps} steps"].double()

    def sampler_of(self, key: tuple[str, str, int]) -> dict[str, Any]:
        """Options of a setting's sampler other than its key."""
        return {name: self.settings[key][name] for name in DEFAULTS}


def differences(
    a: StoredResult, b: StoredResult, *, allow_other: bool = False, generator: torch.Generator
) -> list[Difference]:
    """Bounds of the second minus those of the first, for each setting that both have.

    Args:
        a: The first result.
        b: The second.
        allow_other: Also where denoiser, data or seed differ; of different rows the error is unpaired.
        generator: Draws the rows of the bootstrap.

    Raises:
        ValueError: they have no setting in common, or denoiser, data or seed differ and that is not allowed.
    """
    differing = _differing(a.identity, b.identity)
    if differing and not allow_other:
        raise ValueError(
            f"results must be of the same denoiser, data and seed to be compared, got different {', '.join(differing)} "
            f"in {a.path} and {b.path}; set allow_other to compare them all the same"
        )
    paired = not {"data", "seed"} & set(differing)
    common = [key for key in a.settings if key in b.settings]
    if not common:
        raise ValueError(f"results must have a setting in common to be compared, got none in {a.path} and {b.path}")
    rows = [(a.rows_of(key), b.rows_of(key)) for key in common]
    found = _paired(rows, generator) if paired else [_unpaired(*pair) for pair in rows]
    together = []
    for key, pair, of_both in zip(common, rows, found, strict=True):
        one, other = map(mean_of, pair)
        unlike = _unlike(a.sampler_of(key), b.sampler_of(key))
        together.append(Difference(*key, one.value, other.value, *of_both, min(one.n, other.n), paired, unlike))
    return together


def _paired(rows: list[tuple[Tensor, Tensor]], generator: torch.Generator) -> list[tuple[float, float, float, float]]:
    """Difference, its standard error, and its interval's ends."""
    series = torch.stack([other - one for one, other in rows])
    return [
        (e.value, e.stderr, e.low, e.high) for e in simultaneous_intervals(series, level=LEVEL, generator=generator)
    ]


def _unpaired(a: Tensor, b: Tensor) -> tuple[float, float, None, None]:
    one, other = mean_of(a), mean_of(b)
    return other.value - one.value, (one.stderr**2 + other.stderr**2) ** 0.5, None, None


def _unlike(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of the fields that differ."""
    return [name for name in a if a[name] != b[name]]


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of what differs; a denoiser's name alone may, since folders are renamed."""

    def essence(identity: dict[str, Any]) -> dict[str, Any]:
        denoiser = {name: value for name, value in identity["denoiser"].items() if name != "name"}
        return {**identity, "denoiser": denoiser}

    mine, theirs = essence(a), essence(b)
    return [name for name in mine if mine[name] != theirs.get(name)]
