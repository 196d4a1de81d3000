"""What the numbers say, in one sentence that claims no more than they do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import Row

LEVEL = 0.95


@dataclass(frozen=True)
class GainBeyond:
    """How much lower a method's bound is than that of what it must beat, on the same rows; nats per token.

    Attributes:
        name: The method.
        order: Reveal order.
        num_steps: Denoiser passes.
        beyond: The control, or "base" where there is none.
        value: Mean of the paired differences, high = good.
        stderr: Its standard error.
        low: Lower end of the interval, which holds for all comparisons of the table at once (balanced bootstrap over
            rows, `simultaneous_intervals`); -inf of rows too few or too alike to bound it, NaN of bounds that are
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


def gains_beyond(results: Results, *, generator: torch.Generator) -> list[GainBeyond]:
    """Every method against the best that corrects marginals only: the blind control of its cell, or else the base.

    Of base and control, the one with the lower bound in the cell is what a method must beat. A single row has no
    spread, and nothing is said of it.

    Args:
        results: Nats per token of the same rows in every setting.
        generator: Draws the rows of the bootstrap.
    """
    rows = [row for row in results.rows if row.key in results.nats]
    bases = {row.cell: row for row in rows if row.is_base}
    controls = {row.cell: row for row in rows if row.name in results.controls}
    judged = [row for row in rows if row.options["energy"] is not None and row.name not in results.controls]
    judged = [row for row in judged if row["bound_nats_per_token"].n > 1]
    if not judged:
        return []
    rivals = [_rival(results, bases[s.cell], controls.get(s.cell)) for s in judged]
    below = torch.stack([_below(results, s, rival) for s, rival in zip(judged, rivals, strict=True)])
    gains = []
    intervals = simultaneous_intervals(below, level=LEVEL, generator=generator)
    for setting, rival, found in zip(judged, rivals, intervals, strict=True):
        over_base = _below(results, setting, bases[setting.cell]).mean().item()
        numbers = (found.value, found.stderr, found.low, found.high, over_base, found.n)
        gains.append(GainBeyond(setting.name, *setting.cell, rival.name, *numbers, setting.cell in controls))
    return gains


def verdict_of(gains: Sequence[GainBeyond], *, rows: Sequence[Row] = (), controls: Sequence[str] = ()) -> str:
    """One sentence: where the gain is greatest, how great, and where there is none.

    Where some are beyond a control, only these count. The greatest lower end of an interval is named, so that noise
    is not what is chosen.

    Args:
        gains: Of `gains_beyond`.
        rows: What was measured, which says why there are no gains.
        controls: Names of controls.
    """
    if not gains:
        return _why_none(rows, controls)
    has_control = any(gain.controlled for gain in gains)
    gains = [gain for gain in gains if gain.controlled == has_control]
    best = max(gains, key=lambda gain: -math.inf if math.isnan(gain.low) else gain.low)
    where = f"{_passes(best.num_steps)} in {best.order.replace('_', ' ')} order"
    rival = "the base" if best.beyond == "base" else f"the control {best.beyond}"
    amount = f"{best.value:.3f} [{best.low:.3f}, {best.high:.3f}] nats per token"
    if not best.low > 0:
        rivals = "base and control" if has_control else "the base"
        return (
            f"No gain: no method's bound is below {rivals} by more than chance allows "
            f"(the best, {best.name} with {where}, by {amount})."
        )
    beside = "" if best.beyond == "base" else f" ({best.over_base:.3f} over the base)"
    without = [gain for gain in gains if gain.name == best.name and gain.order == best.order and not gain.low > 0]
    none = sorted({gain.num_steps for gain in without})
    limits = f", and shows no gain at {_list(none)} passes" if none else ""
    caution = "" if has_control else "; no control was measured, so part of it may be a correction of the marginals"
    return f"With {where}, {best.name} lowers the bound by {amount} beyond {rival}{beside}{limits}{caution}."


def _why_none(rows: Sequence[Row], controls: Sequence[str]) -> str:
    """Why no gain was held against anything."""
    others = [row for row in rows if not row.is_base]
    energies = [row for row in others if row.options["energy"] is not None]
    if not others:
        return "Nothing was measured beside the base, so nothing can be said of a gain."
    if not energies:
        return "No energy was measured, only other proposals beside the base, so nothing can be said of its gain."
    if all(row.name in controls for row in energies):
        return "No energy was measured but controls, so nothing can be said of a gain beyond them."
    return "A single row was measured, which has no spread, so nothing can be said of a gain."


def _passes(count: int) -> str:
    return f"{count} denoiser {'pass' if count == 1 else 'passes'}"


def _list(numbers: Sequence[int]) -> str:
    words = [str(number) for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _rival(results: Results, base: Row, control: Row | None) -> Row:
    return base if control is None or _mean(results, base) < _mean(results, control) else control


def _below(results: Results, setting: Row, rival: Row) -> Tensor:
    """How far each row lies below the rival's, ``[n]``, float64."""
    return results.nats_of(rival) - results.nats_of(setting)


def _mean(results: Results, setting: Row) -> float:
    return results.nats_of(setting).mean().item()
