"""A finding: one statement about the results, with the values behind it."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.metrics import format_estimate
from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.report.texts import TEXTS

Severity = Literal["headline", "conclusion", "caution"]


@dataclass(frozen=True)
class Gain:
    """How much lower a method's bound is than that of its rival, on the same rows; nats per token.

    Attributes:
        name: The method.
        order: Reveal order.
        num_steps: Denoiser passes.
        beyond: Name of the rival: the control, or "base" where there is none or where its bound is lower.
        value: Mean of the paired differences, high = good.
        stderr: Its standard error.
        low: Lower end of the interval, which holds for all comparisons of the table at once (balanced bootstrap over
            rows, `simultaneous_intervals`); -inf if the rows are too few or too alike to bound it, NaN if a bound is
            not finite.
        high: Upper end.
        over_base: Mean gain over the base.
        n: Rows.
        controlled: Whether a control was measured in the same order and at the same passes.
    """

    name: str
    order: str
    num_steps: int
    beyond: str
    value: float
    stderr: float
    low: float
    high: float
    over_base: float
    n: int
    controlled: bool


@dataclass(frozen=True)
class Conclusions:
    """The numbers that rules read.

    Attributes:
        rows: What was measured.
        controls: Names of methods that correct marginals only.
        record: Other JSON values of the result: ``judge``, ``energy_spreads``, ``continuous``, ``earlier``.
        gains: Of the methods beyond their rivals.
        ratios: Time at equal bound: fields of `RatioConfig` and `TimeRatio`.
        frontier: Points with their positions relative to the base's curve.
    """

    rows: Sequence[Row]
    controls: Sequence[str] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    gains: Sequence[Gain] = ()
    ratios: Sequence[Mapping[str, Any]] = ()
    frontier: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Finding:
    """One statement about the results.

    Attributes:
        kind: Key of its text in `TEXTS`.
        severity: "headline", "conclusion" or "caution".
        data: Values that the text names; estimates, numbers, and lists of names.
        clauses: Keys of further texts that complete the sentence.
    """

    kind: str
    severity: Severity
    data: Mapping[str, Any] = field(default_factory=dict)
    clauses: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The sentence."""
        return _WORDS.format("".join(TEXTS[key] for key in (self.kind, *self.clauses)), **self.data) + "."


class _Words(string.Formatter):
    """Estimates take their digits as format (``{gain:3}``, signed ``{gain:+3}``); lists are joined by commas."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Estimate):
            return format_estimate(value, int(format_spec), signed=format_spec.startswith("+"))
        return ", ".join(map(str, value)) if isinstance(value, list) else super().format_field(value, format_spec)


_WORDS = _Words()
