"""Two results of ``edlm evaluate``, setting by setting: what differs, how surely, and a verdict in words."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.experiment.metrics import DASH, format_estimate, format_number
from edlm.evaluation.experiment.provenance import json_value, write_json
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import DEFAULTS, markdown_table
from edlm.evaluation.experiment.store import write_atomically
from edlm.evaluation.report.cells import table_of, words
from edlm.evaluation.report.outcomes import Cells, Record, grouped, interval_of, lines_of, outcome, passes_at, passes_of
from edlm.evaluation.report.page import write_page
from edlm.evaluation.samples.text import counted

LEVEL = 0.95
NOTE = "Likelihood bounds of held-out text in nats per token; low = good, so b is better where b - a is below 0."
_VERDICTS = {"helps": "better", "hurts": "worse", "none": "no difference", "unclear": "too few texts to tell"}
_SURE = ("better", "worse")
_MOST = 3  # lines of settings that a verdict names


@dataclass(frozen=True)
class Comparison:
    """What differs between two results.

    Attributes:
        a: What the first is called.
        b: The second.
        differences: A record for each setting that both have, see `differences_of`.
        alone: Methods that only one of them has, with the "a" or "b" that has them.
    """

    a: str
    b: str
    differences: Sequence[Record]
    alone: Sequence[str] = ()

    @classmethod
    def of(cls, a: str, b: str, *, allow_other: bool, generator: torch.Generator) -> Comparison:
        """Of two folders or .json files; errors are those of `Results.load` and `differences_of`."""
        results = Results.load(a), Results.load(b)
        records = differences_of(*results, allow_other=allow_other, generator=generator)
        names = {letter: {row.name: None for row in result.rows} for letter, result in zip("ab", results, strict=True)}
        alone = [f"{name} ({one})" for one, other in ("ab", "ba") for name in names[one] if name not in names[other]]
        return cls(a, b, records, alone)

    @property
    def verdict(self) -> str:
        """Whether the second is better, in which settings, by how much at most, and over how many texts."""
        records = self.differences
        groups = grouped(records, lambda record: record["verdict"], _VERDICTS.values())
        parts = []
        for verdict, group in groups.items():
            parts.append(f"{verdict} in {len(group)} of {counted(len(records), 'setting')}")
            if verdict in _SURE:
                parts[-1] += f" ({_settings(group, records)}), by up to {_greatest(group)} nats per token"
        sure = [verdict for verdict in groups if verdict in _SURE]
        if sure:
            head = f"{self.b} is {'better here and worse there' if sure[1:] else sure[0]} than {self.a}"
        else:
            head = "No" if [*groups] == ["no difference"] else "Too few texts to tell a"
            head += f" difference between {self.b} and {self.a}"
        texts = f"{counted(records[0]['n'], 'held-out text')}, {'paired' if records[0]['paired'] else 'unpaired'}"
        alone = f" Not compared, since in one alone: {', '.join(self.alone)}." if self.alone else ""
        return f"{head}: {'; '.join(parts)}; over {texts}.{alone}"

    @property
    def columns(self) -> dict[str, Callable[[Record], str]]:
        """Headings of a table of differences, and the cells of a record below them."""

        def interval(record: Record) -> str:
            ends = [format_number(record[end], 4, signed=True) for end in ("low", "high")]
            return DASH if math.isnan(record["low"]) else " to ".join(ends)

        columns = {
            "Sampler": lambda r: r["name"],
            "Order": lambda r: r["order"],
            "Passes": passes_at,
            f"a: {self.a}": lambda r: format_estimate(Estimate(r["a"]), 3),
            f"b: {self.b}": lambda r: format_estimate(Estimate(r["b"]), 3),
            "b - a": lambda r: format_estimate(Estimate(r["difference"], r["stderr"]), 4, signed=True),
            f"{100 * LEVEL:.0f} % interval, all at once": interval,
            "Verdict": lambda r: r["verdict"],
        }
        if any(record["differs"] for record in self.differences):
            columns["Not the same"] = lambda r: ", ".join(r["differs"])
        return columns

    def write(self, path: Path) -> None:
        """Write what the suffix names, one of `FORMATS`; a CSV file holds the records alone."""
        FORMATS[path.suffix](self, path)

    def _write_json(self, path: Path) -> None:
        write_json(path, {**vars(self), "verdict": self.verdict})

    def _write_markdown(self, path: Path) -> None:
        table = markdown_table(self.columns, self.differences)
        write_atomically(path, f"{self.verdict}\n\n{NOTE}\n\n{table}".encode())

    def _write_csv(self, path: Path) -> None:
        file = io.StringIO()
        writer = csv.DictWriter(file, self.differences[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(json_value({**record, "differs": " ".join(record["differs"])}) for record in self.differences)
        write_atomically(path, file.getvalue().encode())

    def _write_page(self, path: Path) -> None:
        table = table_of(self.differences, self.columns, num_shared=2)
        write_page("comparison.html.j2", path, comparison=self, note=NOTE, differences=table)


FORMATS = {
    ".json": Comparison._write_json,
    ".md": Comparison._write_markdown,
    ".csv": Comparison._write_csv,
    ".html": Comparison._write_page,
}


def differences_of(a: Results, b: Results, *, allow_other: bool, generator: torch.Generator) -> list[dict[str, Any]]:
    """Bounds of the second result minus those of the first, for each setting that both have.

    Args:
        a: The first result.
        b: The second.
        allow_other: Also where denoiser, data or seed differ; with different rows the error is unpaired.
        generator: Draws the rows of the bootstrap.

    Returns:
        A record for each setting, in nats per token: those of `Row.place`; the bounds ``a`` and ``b``,
        low = good; ``difference``, ``b - a``, with ``stderr`` over ``n`` texts and the ends ``low`` and ``high`` of its
        interval, which holds for all records at once (in pairs that of `simultaneous_intervals`, else Student's with
        Bonferroni's correction; NaN for a single text); ``paired``, whether the rows are the same; ``verdict``,
        "better", "worse", "no difference" (surely within 0.02) or "too few texts to tell"; and ``differs``, the sampler
        options that are not the same in both, by name: "energy" (fingerprint), "num_candidates" ...

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
        estimates = [_unpaired(*of_both, share=(1 - LEVEL) / len(means)) for of_both in means]
    return [
        {
            **first.place,
            **{"a": mean_a.value, "b": mean_b.value, "difference": estimate.value},
            **{field: getattr(estimate, field) for field in ("stderr", "low", "high", "n")},
            "paired": paired,
            "verdict": _VERDICTS[outcome({"value": -estimate.value, "low": -estimate.high, "high": -estimate.low})],
            "differs": [name for name in DEFAULTS if first.options[name] != second.options[name]],
        }
        for (first, second), (mean_a, mean_b), estimate in zip(pairs, means, estimates, strict=True)
    ]


def _unpaired(a: Estimate, b: Estimate, share: float) -> Estimate:
    """``b - a`` of different texts, with an interval that misses it with a chance of ``share``."""
    n, value, stderr = min(a.n, b.n), b.value - a.value, math.hypot(a.stderr, b.stderr)
    half = float(student.isf(share / 2, n - 1)) * stderr if n > 1 else math.nan
    return Estimate(value, stderr, n, value - half, value + half)


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Parts of the identity that differ; the name of a denoiser may, since folders are renamed."""

    def renamed(identity: Mapping[str, Any]) -> dict[str, Any]:
        return {**identity, "denoiser": {**identity["denoiser"], "name": None}}

    a, b = renamed(a), renamed(b)
    return [name for name in a if a[name] != b.get(name)]


def _settings(group: Cells, records: Sequence[Record]) -> str:
    """Names, passes and orders of a group."""
    lines = {(line[0]["name"], line[0]["order"]): line for line in lines_of(records)}
    named = [
        f"{name} at {passes_of(cells, lines[name, order])} in {words(order)} order"
        for cells in lines_of(group)
        for name, order in [(cells[0]["name"], cells[0]["order"])]
    ]
    return ", ".join([*named[:_MOST], *([f"{len(named) - _MOST} more"] if len(named) > _MOST else [])])


def _greatest(group: Sequence[Record]) -> str:
    """The greatest difference without its sign, and its interval."""
    record = max(group, key=lambda record: abs(record["difference"]))
    ends = [record["low"], record["high"]] if record["difference"] > 0 else [-record["high"], -record["low"]]
    return interval_of({"value": abs(record["difference"]), "low": ends[0], "high": ends[1]}, 4)
