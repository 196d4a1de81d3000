"""Whether a gain is one, and the words for gains, passes and time that verdicts and findings share."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.metrics import format_estimate

Record = Mapping[str, Any]
Cells = Sequence[Record]  # records of one method and order, by passes
NEGLIGIBLE = 0.02  # nats per token: 2 % of the perplexity


def outcome(gain: Record) -> str:
    """What a gain shows: "helps", "hurts", "none" or "unclear".

    It is "none" only where the whole interval is within 0.02 nats: that no difference was found does not say that there
    is none.

    Args:
        gain: With ``value``, ``low`` and ``high``, nats per token, high = good; ends are NaN where they are not known.

    Example:
        >>> outcome({"value": 0.3, "low": 0.1, "high": 0.5}), outcome({"value": 0.3, "low": -0.1, "high": 0.7})
        ('helps', 'unclear')
        >>> outcome({"value": 0.0, "low": -0.01, "high": 0.01})
        'none'
    """
    value, low, high = (gain[key] for key in ("value", "low", "high"))
    if math.isinf(value):  # of an infinite bound
        low = high = value
    if low > 0:
        return "helps"
    if high < 0:
        return "hurts"
    return "none" if low >= -NEGLIGIBLE and high <= NEGLIGIBLE else "unclear"


def key_of(record: Record) -> tuple[str, str, int]:
    """Method, order and passes."""
    return record["name"], record["order"], record["num_steps"]


def lines_of(records: Iterable[Record]) -> list[Cells]:
    """The cells of each method and order."""
    lines: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        lines.setdefault((record["name"], record["order"]), []).append(record)
    return [sorted(cells, key=lambda cell: cell["num_steps"]) for cells in lines.values()]


def grouped(cells: Cells, kind_of: Callable[[Record], str], kinds: Iterable[str]) -> dict[str, list[Record]]:
    """Cells of each kind, in the order of the kinds; kinds without any are left out."""
    groups = {kind: [cell for cell in cells if kind_of(cell) == kind] for kind in kinds}
    return {kind: group for kind, group in groups.items() if group}


def passes_at(cell: Record) -> str:
    """Its mean passes, to three digits.

    Example:
        >>> passes_at({"passes": 8}), passes_at({"passes": 30.75})
        ('8', '30.8')
    """
    return f"{cell['passes']:.3g}"


def passes_of(some: Cells, line: Cells) -> str:
    """Numbers of passes of some cells of a line; those that follow each other in the line as a range.

    Example:
        >>> line = [{"passes": n} for n in (1, 2, 4, 8, 16)]
        >>> passes_of([line[1], line[2], line[4]], line), passes_of(line[3:4], line), passes_of(line[:1], line)
        ('2 to 4 and 16 passes', '8 passes', '1 pass')
    """
    places = [(i, i - n) for n, i in enumerate(i for i, cell in enumerate(line) if cell in some)]
    runs = [[passes_at(line[i]) for i, _ in run] for _, run in groupby(places, lambda place: place[1])]
    texts = [f"{run[0]} to {run[-1]}" if run[1:] else run[0] for run in runs]
    listed = " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))
    return f"{listed} {'pass' if listed == '1' else 'passes'}"


def interval_of(gain: Record, digits: int = 3) -> str:
    """A gain with its interval."""
    return format_estimate(Estimate(gain["value"], low=gain["low"], high=gain["high"]), digits)


def share_of_time(cell: Record) -> str:
    """Time as a share of that of the base for the same likelihood, with its interval."""
    share, low, high = (f"{100 * cell['time'][end]:.0f}" for end in ("share", "low", "high"))
    return f"{share} % [{low}, {high}]"


def beside_control(some: Cells, line: Cells, gains: Iterable[Record]) -> list[str]:
    """Where a control, which cannot see a step's other tokens, is better than cells of a line, or not surely worse.

    Args:
        some: Cells of the line.
        line: The whole line.
        gains: Records of `gains_beyond`.
    """
    beyond = {key_of(gain): gain for gain in gains if gain["beyond"] != "base"}
    rivals = [(cell, beyond.get(key_of(cell))) for cell in some]
    said = {"hurts": "does better", "none": "does as well", "unclear": "may do as well"}
    texts = []
    for kind, words in said.items():
        found = [(cell, gain) for cell, gain in rivals if gain is not None and outcome(gain) == kind]
        if found:
            names = " and ".join(dict.fromkeys(gain["beyond"] for _, gain in found))
            which = "a control" if names == "control" else f"the control {names}"
            texts.append(f"{which} {words} at {passes_of([cell for cell, _ in found], line)}")
    return texts
