"""Rules of cautions: what a reader must know before believing the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edlm.evaluation.report.finding import Conclusions, Finding
from edlm.evaluation.samples.mauve import FEW
from edlm.evaluation.samples.text import counted

FEW_ROWS, FEW_SAMPLES, SMALL_SHARE = 100, 50, 0.1


def published_formula(of: Conclusions) -> Iterator[Finding]:
    """The published number is no bound of a joint model, and its log Z may be off."""
    published = (of.record.get("continuous") or {}).get("published", [])
    if not published:
        return
    below = {r["name"]: r["marginal"]["nats_per_token"] - r["with_lower"]["nats_per_token"] for r in published}
    name = max(below, key=below.__getitem__)
    clauses = ("published_below_base",) if below[name] > 0 else ()
    yield Finding("published_formula", "caution", {"name": name, "below": below[name]}, clauses)
    untrusted = [f"{r['name']} ({r['untrusted']:.0%} of the noisy rows)" for r in published if r["untrusted"]]
    if untrusted:
        yield Finding("published_untrusted", "caution", {"names": untrusted})


def judge_is_energy(of: Conclusions) -> Iterator[Finding]:
    """A judge that had a part in making the samples."""
    judge = of.record.get("judge")
    if judge is not None and judge["is_energy_of"]:
        yield Finding("judge_is_energy", "caution", {"name": judge["name"], "energies": list(judge["is_energy_of"])})


def spread_energies(of: Conclusions) -> Iterator[Finding]:
    """Energies so far apart that few candidates count, or that log Z is not known."""
    few, untrusted = [], []
    for energy in of.record.get("energy_spreads") or ():
        if not energy["steps"]:
            continue
        name, k = f"{energy['name']} ({energy['order']})", energy["num_candidates"]
        if (ess := _mean(energy, "ess")) < SMALL_SHARE * k:
            few.append(f"{name}: {ess:.1f} of {k}")
        if not energy["normalized"] and _mean(energy, "trustworthy") < 1:
            untrusted.append(f"{name}: spread {_mean(energy, 'spread'):.1f} nats")
    if few:
        yield Finding("few_effective", "caution", {"energies": few})
    if untrusted:
        yield Finding("log_z_untrusted", "caution", {"energies": untrusted})


def _mean(energy: Mapping[str, Any], name: str) -> float:
    """Mean over steps."""
    values = [step[name]["value"] if isinstance(step[name], Mapping) else step[name] for step in energy["steps"]]
    return sum(values) / len(values)


def few_values(of: Conclusions) -> Iterator[Finding]:
    """Rows, samples and timed batches that are too few."""
    rows = min((row["bound_nats_per_token"].n for row in of.rows if row.get("bound_nats_per_token")), default=0)
    if rows < FEW_ROWS:
        yield Finding("few_rows", "caution", {"rows": counted(rows, "held-out row")})
    samples = min((row["entropy_nats"].n for row in of.rows if row.get("entropy_nats")), default=FEW_SAMPLES)
    if samples < FEW_SAMPLES:
        yield Finding("few_samples", "caution", {"samples": counted(samples, "sample")})
    batches = [len(row.notes["seconds_of_batches"]) for row in of.rows if row.notes.get("seconds_of_batches")]
    if batches and min(batches) < 3:
        few = "one timed batch" if min(batches) == 1 else "two timed batches"
        which = "each setting" if max(batches) == min(batches) else "some settings"
        yield Finding("few_batches", "caution", {"batches": few, "which": which})


def rough_bounds(of: Conclusions) -> Iterator[Finding]:
    """Bounds of one draw at sequence scope, and gains from some of the steps."""
    one_draw = [row for row in of.rows if (row.options["scope"], row.options["inner_draws"]) == ("sequence", 1)]
    loose = [row.name for row in one_draw if row.options["num_candidates"] != 1]
    if loose:
        yield Finding("loose_bound", "caution", {"methods": list(dict.fromkeys(loose))})
    if any(row.options["sampled_steps"] for row in of.rows):
        yield Finding("sampled_steps", "caution")


def biased_mauve(of: Conclusions) -> Iterator[Finding]:
    """MAUVE of few texts, or of sets that differ in size."""
    sizes = [(row["mauve"].n, row.notes["mauve_references"]) for row in of.rows if row.get("mauve")]
    if sizes:
        texts, references = min(sizes, key=min)
        data = {"texts": texts, "references": references}
        if min(texts, references) < FEW:
            yield Finding("mauve_biased", "caution", data)
        if texts != references:
            yield Finding("mauve_sizes", "caution", data)


def other_calls(of: Conclusions) -> Iterator[Finding]:
    """Numbers of another revision or machine."""
    if earlier := of.record.get("earlier"):
        revisions = [call["revision"] or "unknown" for call in earlier]
        yield Finding("earlier_calls", "caution", {"revisions": revisions})


def not_judged(of: Conclusions) -> Iterator[Finding]:
    """Points of the frontier that have no neighbours on the base's curve, and samples that were cut."""
    points = [point for point in of.frontier if point["name"] != "base"]
    outside = sum(point["verdict"] == "outside" for point in points)
    if outside:
        yield Finding("outside_entropies", "caution", {"outside": outside, "points": len(points)})
    judged = [row for row in of.rows if row.notes.get("judged_cut") is not None]
    cut = sum(row.notes["judged_cut"] for row in judged)
    if cut:
        samples = sum(row["judge_nats_per_token"].n for row in judged)
        yield Finding("judge_cut", "caution", {"cut": cut, "samples": samples})


CAUTIONS = (  # the gravest first
    published_formula,
    judge_is_energy,
    spread_energies,
    few_values,
    rough_bounds,
    biased_mauve,
    other_calls,
    not_judged,
)
