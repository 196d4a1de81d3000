"""One self-contained page of an evaluation, made from its JSON and its plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edlm.evaluation.experiment.metrics import METRICS
from edlm.evaluation.experiment.rows import Row, row_of_flat
from edlm.evaluation.plots.evaluation import inline
from edlm.evaluation.report import tables
from edlm.files import write_atomically

Result = Mapping[str, Any]


def write_report(result: Result, pictures: Mapping[str, str], path: str | Path) -> None:
    """Write the page: numbers are formatted here and in `tables`, words and layout are those of ``report.html.j2``.

    Args:
        result: Content of ``results.json``, of this version or an older one.
        pictures: SVG by name: "bounds", "energies", "frontier" and further ones that begin so.
        path: Where to, ``.html``.
    """
    env = Environment(
        loader=PackageLoader("edlm.evaluation.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["inline"] = lambda svg, description: Markup(inline(svg, description))
    page = env.get_template("report.html.j2").render(pictures=pictures, **_context(result))
    write_atomically(path, page)


def _context(result: Result) -> dict[str, Any]:
    """Variables of the template."""
    rows = [row_of_flat(setting) for setting in result["settings"]]
    return {
        "result": {"judge": None, "memory": None, **result},
        "tables": tables.tables_of(result, rows),
        "timed": any(row.get("seconds_per_sequence") for row in rows),
        "last_order": rows[-1].order,
        "has_samples": result["config"]["samples"]["judged"] > 0 and any(row.get("entropy_nats") for row in rows),
        "has_costs": any(row.get("seconds_per_sequence") or row.get("flops_per_sequence") for row in rows),
        "samples": _with_examples(result, rows),
        "metrics": [metric for metric in METRICS.values() if any(row.get(metric.name) for row in rows)],
    }


def _with_examples(result: Result, rows: Sequence[Row]) -> list[Row]:
    """The base and one method, in the cell where its gain is greatest; none where they have no texts."""
    rows = [row for row in rows if row.notes.get("examples")]
    methods = [row for row in rows if row.name != "base" and row.name not in result["controls"]]
    gains = {row.key: gain.value for row in methods if (gain := row.get("gain_nats_per_token"))}
    best = max(methods, key=lambda row: gains.get(row.key, 0.0), default=None)
    base = next((row for row in rows if best is not None and row.name == "base" and row.cell == best.cell), None)
    return [] if base is None else [base, best]
