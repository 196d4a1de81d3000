"""A row of results: one setting and the metrics that were measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edlm.evaluation.estimates.estimate import Estimate


@dataclass(frozen=True)
class Row:
    """One setting with its metrics.

    Attributes:
        options: JSON values that say what was run, by the flat keys of ``results.json``: ``name``, ``order``,
            ``num_steps``, ``num_candidates``, ``scope``, ..., ``energy`` (fingerprint; None for the base).
        metrics: Estimates by the names of `METRICS`; what was not measured is absent.
        notes: JSON values that belong to the metrics: ``seconds_of_batches``, ``examples``, ``judge``, ...
    """

    options: Mapping[str, Any]
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.options["name"]

    @property
    def order(self) -> str:
        """Reveal order."""
        return self.options["order"]

    @property
    def num_steps(self) -> int:
        """Denoiser passes."""
        return self.options["num_steps"]

    def __getitem__(self, metric: str) -> Estimate:
        return self.metrics[metric]

    def get(self, metric: str) -> Estimate | None:
        """The estimate of a metric, or None where it was not measured."""
        return self.metrics.get(metric)
