"""Whether to use an energy, at which numbers of passes and for what, in one sentence."""

import math
from collections.abc import Sequence
from typing import Any

from edlm.evaluation.report.outcomes import (
    NEGLIGIBLE,
    Cells,
    Record,
    beside_control,
    grouped,
    key_of,
    lines_of,
    outcome,
    passes_at,
    passes_of,
)
from edlm.evaluation.samples.text import counted

FEW_TEXTS, FEW_BATCHES = 100, 3
# Why not, in words about numbers of passes, and about settings.
_WHY_NOT = {
    "slower": ("at {} the base with more passes is as good sooner", "the base with more passes is as good sooner"),
    "other order": ("at {} the base in another order is better", "the base in another order is better"),
    "control": ("at {} a control is better", "a control is better"),
    "little": ("it gains less than 2 % at {}", "it gains less than 2 %"),
    "none": ("no benefit at {}", "no benefit"),
    "hurts": ("worse than the base at {}", "worse than the base"),
    "unclear": ("too few texts to tell at {}", "too few texts to tell"),
}


def recommend(effects: Sequence[Record], gains: Sequence[Record]) -> tuple[str, dict[str, Any] | None]:
    """The sentence, and what it recommends.

    An energy is worth using at the numbers of passes where it is surely better than the base, by 0.02 nats or more, no
    control is surely better, nor the base in another order in as many passes, and the base with more passes is not
    surely as good sooner. Of several, that which saves the most time is named; if none surely saves any, that with the
    surest gain.

    Args:
        effects: Records of `effects_of`.
        gains: Records of `gains_beyond`.

    Returns:
        The sentence; and ``name``, ``order`` and ``num_steps`` (a list) of what to use, None where there is nothing.
    """
    beaten = [key_of(gain) for gain in gains if gain["beyond"] != "base" and outcome(gain) == "hurts"]
    judged = [{**effect, "standing": _standing(effect, key_of(effect) in beaten)} for effect in effects]
    lines = lines_of(cell for cell in judged if not cell["is_control"])
    if not lines:
        but = "but controls " if effects else ""
        return f"Nothing to recommend: no energy {but}was measured against the base.", None
    found = [(used, line) for line in lines if (used := [cell for cell in line if cell["standing"] == "worth"])]
    if not found:
        return _against(lines), None
    used, line = min(found, key=lambda pair: _rank(pair[0]))
    names, orders = ({cells[0][key] for cells in lines} for key in ("name", "order"))
    name, order = line[0]["name"], line[0]["order"]
    use = f"use {name if len(names) > 1 else 'it'} at {passes_of(used, line)}"
    use += f" in {order.replace('_', ' ')} order" if len(orders) > 1 else ""
    sentences = [f"{use}: {_benefit(used, line)}", ", ".join(_exceptions(line)), *beside_control(used, line, gains)]
    if (texts := min(cell["n"] for cell in used)) < FEW_TEXTS:
        sentences.append(f"only {counted(texts, 'held-out text')}: measure more before relying on it")
    verdict = " ".join(f"{text[0].upper()}{text[1:]}." for text in sentences if text)
    return verdict, {"name": name, "order": order, "num_steps": [cell["num_steps"] for cell in used]}


def _standing(cell: Record, beaten: bool) -> str:
    """Whether it is "worth" it, or why not; ``beaten`` by a control."""
    found = outcome(cell)
    if found != "helps":
        return found
    if cell["value"] < NEGLIGIBLE:
        return "little"
    if beaten or cell["better_base"] is not None:
        return "control" if beaten else "other order"
    return "slower" if is_timed(cell) and cell["time"]["low"] > 1 else "worth"


def is_timed(cell: Record) -> bool:
    """Whether a cell was timed often enough to know how its seconds scatter."""
    return cell["time"] is not None and cell["time"]["batches"] >= FEW_BATCHES


def _saves_time(cell: Record) -> bool:
    return is_timed(cell) and cell["time"]["share"] > 0 and cell["time"]["high"] < 1


def _rank(used: Cells) -> tuple[bool, float]:
    shares = [cell["time"]["share"] for cell in used if _saves_time(cell)]
    return not shares, min(shares) if shares else -max(cell["low"] for cell in used)


def _benefit(used: Cells, line: Cells) -> str:
    """Time saved at equal likelihood; where none surely is, likelihood gained in as many passes."""
    faster = [cell for cell in used if _saves_time(cell)]
    if faster:
        cell = min(faster, key=lambda cell: cell["time"]["share"])
        passes, share = cell["time"]["passes"], 100 * cell["time"]["share"]
        where = f" (at {passes_at(cell)})" if used[1:] else ""
        return f"the likelihood of {passes:.{int(passes < 10)}f} base passes in {share:.0f} % of their time{where}"
    cell = max(used, key=lambda cell: cell["low"])
    where = f" (at {passes_at(cell)})" if used[1:] else ""
    text = f"{100 * (1 - math.exp(-cell['value'])):.0f} % less perplexity than the base in as many passes{where}"
    time = cell["time"]
    if time is None:
        return f"{text}; time was not measured"
    if time["share"] == 0:
        most = max(cell["num_steps"] for cell in line)
        return f"{text}, which the base does not reach in up to {most}, the most that were measured"
    return f"{text}; {'not sure' if is_timed(cell) else 'timed too seldom to tell'} whether it saves time"


def _exceptions(line: Cells) -> list[str]:
    groups = grouped(line, _standing_of, _WHY_NOT)
    return [_WHY_NOT[kind][0].format(passes_of(cells, line)) for kind, cells in groups.items()]


def _standing_of(cell: Record) -> str:
    return cell["standing"]


def _against(lines: Sequence[Cells]) -> str:
    """Do not use it, or too little is known."""
    cells = [cell for line in lines for cell in line]
    names, groups = list(dict.fromkeys(cell["name"] for cell in cells)), grouped(cells, _standing_of, _WHY_NOT)
    if [*groups] == ["unclear"]:
        texts = counted(min(cell["n"] for cell in cells), "held-out text")
        return f"Too few texts to tell: with {texts} no gain and no loss is certain; measure more (num_rows)."
    reasons = ", ".join(f"{_WHY_NOT[kind][1]} in {len(group)}" for kind, group in groups.items())
    reasons = f"{reasons} of {len(cells)} settings" if lines[1:] else ", ".join(_exceptions(lines[0]))
    which = (
        "it" if not names[1:] else f"any of {', '.join(names)}" if len(names) < 4 else f"any of {len(names)} energies"
    )
    return f"Do not use {which}{' yet' if 'unclear' in groups else ''}: {reasons}."
