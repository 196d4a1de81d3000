"""Tables of measurements: for the terminal, in Markdown, and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import fields

from rich.table import Table

from edlm.evaluation.experiment.measurement import Measurement

_NOT_NUMBERS = ("seconds_of_batches", "examples")  # of several values each


def as_table(measurements: Iterable[Measurement]) -> Table:
    """For the terminal."""
    table = Table(title="likelihood bound of the sampler (upper bound of -log p; low = good)")
    for heading in ("sampler", "order", "passes", "k", "groups", "nats/token", "perplexity", "gain", "s/sequence"):
        table.add_column(heading, justify="left" if heading in ("sampler", "order") else "right")
    for m in measurements:
        gain = "" if m.gain_nats_per_token is None else f"{m.gain_nats_per_token:.3f} ± {m.gain_stderr:.3f}"
        table.add_row(
            m.name,
            m.order,
            str(m.num_steps),
            _candidates(m),
            _groups(m),
            f"{m.bound_nats_per_token:.3f} ± {m.bound_stderr:.3f}",
            f"{m.perplexity:.1f}",
            gain,
            "" if m.seconds_per_sequence is None else f"{m.seconds_per_sequence:.3f}",
        )
    return table


def as_markdown(measurements: Iterable[Measurement]) -> str:
    """All that was measured, a line a setting; a dash where nothing was."""
    columns = {
        "method": lambda m: m.name,
        "order": lambda m: m.order,
        "passes": lambda m: str(m.num_steps),
        "k": _candidates,
        "groups": _groups,
        "bound": lambda m: _with_error(m.bound_nats_per_token, m.bound_stderr, 3),
        "gain": lambda m: _with_error(m.gain_nats_per_token, m.gain_stderr, 4),
        "s/sequence": lambda m: _number(m.seconds_per_sequence, 4),
        "energy passes": lambda m: _number(m.energy_passes, 0),
        "judge": lambda m: _with_error(m.judge_nats_per_token, m.judge_stderr, 3),
        "entropy": lambda m: _with_error(m.entropy_nats, m.entropy_stderr, 3),
        "distinct-2": lambda m: _number(m.distinct_2, 3),
    }
    lines = [columns, ["---"] * len(columns), *([cell(m) for cell in columns.values()] for m in measurements)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(measurements: Iterable[Measurement]) -> str:
    """All numbers of each setting, as the JSON file has them; empty where it has null."""
    names = [field.name for field in fields(Measurement) if field.name not in _NOT_NUMBERS]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for m in measurements:
        values = [getattr(m, name) for name in names]
        writer.writerow(map(_field, values))
    return file.getvalue()


def _field(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    return list(value) if isinstance(value, tuple) else value


def _candidates(m: Measurement) -> str:
    return "exact" if m.num_candidates is None else str(m.num_candidates)


def _groups(m: Measurement) -> str:
    return str(m.group_size or (1 if m.num_candidates is None else "step"))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _with_error(value: float | None, error: float | None, digits: int) -> str:
    return _number(value, digits) + ("" if error is None else f" ± {error:.{digits}f}")
