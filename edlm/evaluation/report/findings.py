"""What the numbers say: rules that turn them into findings.

A headline claims no more than the rows show, and a conclusion states a fact; cautions have a module of their own. A new
finding is a text in `TEXTS` and a rule in `RULES`; the order of the rules is that of the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.report.cautions import CAUTIONS
from edlm.evaluation.report.finding import Conclusions, Finding


def findings(of: Conclusions) -> list[Finding]:
    """Everything that `RULES` find, in their order."""
    return [finding for rule in RULES for finding in rule(of)]


def greatest_gain(of: Conclusions) -> Iterator[Finding]:
    """Where the gain is greatest, how great, and where there is none.

    If some gains are beyond a control, only these count. The greatest lower end of an interval is named, so that noise
    is not what is chosen.
    """
    if not of.gains:
        yield Finding(_why_no_gains(of), "headline")
        return
    controlled = any(gain.controlled for gain in of.gains)
    gains = [gain for gain in of.gains if gain.controlled == controlled]
    best = max(gains, key=lambda gain: -math.inf if math.isnan(gain.low) else gain.low)
    without = {g.num_steps for g in gains if (g.name, g.order) == (best.name, best.order) and not g.low > 0}
    data = {
        "name": best.name,
        "passes": f"{best.num_steps} denoiser {'pass' if best.num_steps == 1 else 'passes'}",
        "order": best.order.replace("_", " "),
        "gain": Estimate(best.value, None, best.n, best.low, best.high),
        "rival": "the base" if best.beyond == "base" else f"the control {best.beyond}",
        "rivals": "base and control" if controlled else "the base",
        "over_base": best.over_base,
        "without": " and ".join(", ".join(map(str, sorted(without))).rsplit(", ", 1)),
    }
    if not best.low > 0:
        yield Finding("no_gain", "headline", data)
        return
    applies = {"over_base": best.beyond != "base", "no_gain_at": bool(without), "uncontrolled": not controlled}
    yield Finding("gain", "headline", data, tuple(name for name, does in applies.items() if does))


def _why_no_gains(of: Conclusions) -> str:
    """Why no comparison was possible."""
    others = [row for row in of.rows if not row.is_base]
    with_energy = [row for row in others if row.options["energy"] is not None]
    if not others:
        return "only_base"
    if not with_energy:
        return "only_proposals"
    return "only_controls" if all(row.name in of.controls for row in with_energy) else "single_row"


def fastest(of: Conclusions) -> Iterator[Finding]:
    """Fastest method of the last order relative to the base, in that order and in another."""
    order, methods = of.rows[-1].order if of.rows else None, {gain.name for gain in of.gains}
    for same in (True, False):
        compared = [r for r in of.ratios if r["order"] == order and (r["than_order"] == order) == same]
        reached = [r for r in compared if r["value"] < math.inf]
        best = min((r for r in reached if r["name"] in methods), key=lambda r: r["value"], default=None)
        if best is not None:
            alone = next((r for r in reached if r["name"] == "base"), None)
            data = {**best, "share": _share(best), "alone": alone and _share(alone)}
            yield Finding("faster", "conclusion", data, () if alone is None else ("order_alone",))


def _share(ratio: Mapping[str, Any]) -> Estimate:
    return Estimate(ratio["value"], low=ratio["low"], high=ratio["high"])


def judged_at_equal_entropy(of: Conclusions) -> Iterator[Finding]:
    """Position of each method on the frontier, at the temperature nearest to 1."""
    cells: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for point in of.frontier:
        if point["name"] != "base":
            cells.setdefault((point["name"], point["order"], point["num_steps"]), []).append(point)
    for points in cells.values():
        point = min(points, key=lambda p: abs(p["temperature"] - 1))
        below = [f"{p['temperature']:g}" for p in points if p["verdict"] == "gain" != point["verdict"]]
        data = {
            **point,
            "at": "" if point["temperature"] == 1 else f", temperature {point['temperature']:g}",
            "difference": Estimate(point["difference"] or 0.0, point["difference_stderr"]),
            "below": below,
        }
        applies = {"by": point["difference"] is not None, "below_elsewhere": bool(below)}
        yield Finding("frontier", "conclusion", data, tuple(name for name, does in applies.items() if does))


Rule = Callable[[Conclusions], Iterable[Finding]]
RULES: tuple[Rule, ...] = (greatest_gain, fastest, judged_at_equal_entropy, *CAUTIONS)
