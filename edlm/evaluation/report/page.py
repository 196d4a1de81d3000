"""One self-contained page of an evaluation, made from its JSON and its plots."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edlm.evaluation.experiment.metrics import METRICS
from edlm.evaluation.experiment.rows import Row, row_of_flat
from edlm.evaluation.plots.evaluation import inline
from edlm.evaluation.report import tables
from edlm.evaluation.report.findings import published_formula
from edlm.evaluation.report.samples import samples_of
from edlm.files import write_atomically

Result = Mapping[str, Any]


def write_report(result: Result, pictures: Mapping[str, str], path: str | Path) -> None:
    """Write the page: numbers are formatted here and in `tables`, words and layout are those of ``report.html.j2``.

    Args:
        result: Content of ``results.json``, of this version or an older one.
        pictures: SVG by name: "bounds", "energies", "frontier" and further ones that begin so.
        path: Where to, ``.html``.
    """
    write_page("report.html.j2", path, pictures=pictures, **_context(result))


def write_page(template: str, path: str | Path, **context: Any) -> None:
    """Write a page; texts are escaped, and a variable that is missing is an error."""
    env = Environment(
        loader=PackageLoader("edlm.evaluation.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["inline"] = lambda svg, description: Markup(inline(svg, description))
    env.filters["minus"] = lambda text: re.sub(r"(?<![\w-])-(?=[\d∞])", "−", text)
    write_atomically(path, env.get_template(template).render(context))


def _context(result: Result) -> dict[str, Any]:
    """Variables of the template."""
    rows = [row_of_flat(setting) for setting in result["settings"]]
    found, formula = tables.tables_of(result, rows), [*published_formula(result)]
    return {
        "result": {"judge": None, "memory": None, **result},
        "lines": result.get("by_energy", []),
        "warnings": [warning for warning in result["warnings"] if warning not in formula],
        "formula": formula,
        "samples": samples_of(result, rows),
        "sections": _sections(result, rows, found),
        "tables": found,
        "timed": any(row.get("seconds_per_sequence") for row in rows),
        "last_order": tables.words(rows[-1].order),
        "several_orders": len({row.order for row in rows}) > 1,
        "metrics": [metric for metric in METRICS.values() if any(row.get(metric.name) for row in rows)],
    }


def _sections(result: Result, rows: Sequence[Row], found: Mapping[str, tables.Table]) -> dict[str, str]:
    """Titles of what is folded, by name; what was not measured has none."""
    is_sampled = result["config"]["samples"]["judged"] > 0 and bool(found["judged"])
    has_costs = any(row.get("seconds_per_sequence") or row.get("flops_per_sequence") for row in rows)
    sections = {
        "likelihood": ("Likelihoods in numbers", found["bounds"]),
        "continuous": ("Likelihoods in continuous time", found["continuous"]),
        "quality": ("Quality against diversity" if result.get("judge") else "Diversity of samples", is_sampled),
        "texts": ("Proxies for errors", is_sampled and found["texts"]),
        "costs": ("Cost", has_costs),
        "energies": ("Energies of candidates", found["energies"]),
        "method": ("Words, and how it was measured", True),
        "again": ("Do it again", True),
    }
    return {name: title for name, (title, is_present) in sections.items() if is_present}
