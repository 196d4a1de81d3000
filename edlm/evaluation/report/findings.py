"""What the numbers say, as sentences: a line for each energy, facts, and what to know before believing them.

Effects, gains, time ratios and frontier points are records of ``results.json``, as
`edlm.evaluation.report.conclusions` makes them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.metrics import format_estimate
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.likelihood.published import WARNING
from edlm.evaluation.report.cells import words
from edlm.evaluation.report.outcomes import (
    NEGLIGIBLE,
    Cells,
    Record,
    beside_control,
    grouped,
    interval_of,
    lines_of,
    outcome,
    passes_at,
    passes_of,
    share_of_time,
)
from edlm.evaluation.report.recommendation import FEW_BATCHES, FEW_TEXTS, is_timed
from edlm.evaluation.samples.mauve import FEW
from edlm.evaluation.samples.text import counted

FEW_SAMPLES, SMALL_SHARE = 50, 0.1


def energy_lines(effects: Sequence[Record], gains: Sequence[Record]) -> list[dict[str, Any]]:
    """What each energy does in each order.

    Args:
        effects: Records of `effects_of`.
        gains: Records of `gains_beyond`.

    Returns:
        A record for each: ``name``, ``order``; ``outcome``, "mixed" where it helps at some numbers of passes and hurts
        at others, else the first of "helps", "none", "hurts" and "unclear" that there is; and ``text``.
    """
    return [_energy_line(line, gains) for line in lines_of(effects)]


def _energy_line(line: Cells, gains: Sequence[Record]) -> dict[str, Any]:
    is_control = line[0]["is_control"]
    no_gain = ("no gain", "no gain") if is_control else ("no difference", "too few texts to tell")
    said = {"helps": "helps", "little": "helps by less than 2 %", "none": no_gain[0], "hurts": "hurts"}
    said |= {"unclear": no_gain[1]}
    groups, parts = grouped(line, _outcome, said), []
    for kind, cells in groups.items():
        shown = cells if len(cells) < 4 else [cells[0], cells[-1]]
        values = [interval_of(cell) + (f" at {passes_at(cell)}" if cells[1:] else "") for cell in shown]
        parts.append(f"{said[kind]} at {passes_of(cells, line)}: {(', ' if shown == cells else ' to ').join(values)}")
    reached = [cell for cell in groups.get("helps", ()) if is_timed(cell) and cell["time"]["share"] > 0]
    if reached:
        best = min(reached, key=lambda cell: cell["time"]["share"])
        where = f" (at {passes_at(best)})" if line[1:] else ""
        parts.append(f"as good as the base in {share_of_time(best)} of its time{where}")
    parts += beside_control(line, line, gains)
    name, order = line[0]["name"], line[0]["order"]
    about = f"{name} ({words(order)} order{', a control' if is_control else ''})"
    found = "mixed" if {"helps", "hurts"} <= set(groups) else [*groups][0].replace("little", "none")
    return {"name": name, "order": order, "outcome": found, "text": f"{about}: {'; '.join(parts)}."}


def _outcome(cell: Record) -> str:
    found = outcome(cell)
    return "little" if found == "helps" and cell["value"] < NEGLIGIBLE else found


def judged_at_equal_entropy(frontier: Sequence[Record]) -> Iterator[str]:
    """Position of each method on the frontier, at the temperature nearest to 1."""
    cells: dict[tuple[str, str, int], list[Record]] = {}
    for point in frontier:
        if point["name"] != "base":
            cells.setdefault((point["name"], point["order"], point["num_steps"]), []).append(point)
    for points in cells.values():
        point = min(points, key=lambda p: abs(p["temperature"] - 1))
        at = "" if point["temperature"] == 1 else f", temperature {point['temperature']:g}"
        said = point["said"].rpartition(": ")[2].removesuffix(" at equal entropy")
        text = f"Samples of {point['name']} ({words(point['order'])} order, {point['num_steps']} passes{at}) under the "
        text += f"judge, at equal entropy: {said}"
        if point["difference"] is not None:
            difference = Estimate(point["difference"], point["difference_stderr"])
            text += f" ({format_estimate(difference, 3, signed=True)} nats per token)"
        below = [f"{p['temperature']:g}" for p in points if p["verdict"] == "gain" != point["verdict"]]
        yield f"{text}{f'; better at temperature {_listed(below)}' if below else ''}."


def cautions(results: Results, frontier: Sequence[Record]) -> list[str]:
    """What a reader must know before believing the numbers, the gravest first."""
    return [text for rule in CAUTIONS for text in rule(results)] + [*outside_entropies(frontier)]


def published_formula(record: Record) -> Iterator[str]:
    """The published number is no bound of a joint model, and its log Z may be off.

    Args:
        record: Of `Results`, or the content of ``results.json``.
    """
    published = (record.get("continuous") or {}).get("published", [])
    if not published:
        return
    below = {r["name"]: r["marginal"]["nats_per_token"] - r["with_lower"]["nats_per_token"] for r in published}
    name = max(below, key=below.__getitem__)
    here = f" Here it puts {name} {below[name]:.3f} nats per token below what it gives the base, which is no gain: "
    yield WARNING + (f"{here}see the bounds." if below[name] > 0 else "")
    untrusted = [f"{r['name']} ({r['untrusted']:.0%} of the noisy rows)" for r in published if r["untrusted"]]
    if untrusted:
        yield (
            f"Its log Z is from too few draws for such a spread of energies for {_listed(untrusted)}: there even the "
            "upper estimate may be too low, which makes the number look better than it is."
        )


def judge_is_energy(results: Results) -> Iterator[str]:
    """A judge that had a part in making the samples."""
    judge = results.record.get("judge")
    if judge is not None and (names := judge["is_energy_of"]):
        yield f"The judge ({judge['name']}) is the energy of {_listed(names)}: their losses are no evidence of quality."


def spread_energies(results: Results) -> Iterator[str]:
    """Energies so far apart that few candidates count, or that log Z is not known."""
    few, untrusted = [], []
    for energy in results.record.get("energy_spreads") or ():
        if not energy["steps"]:
            continue
        name, k = f"{energy['name']} ({energy['order']})", energy["num_candidates"]
        ess, spread = (_mean([step[key]["value"] for step in energy["steps"]]) for key in ("ess", "spread"))
        if ess < SMALL_SHARE * k:
            few.append(f"{name}: {ess:.1f} of {k}")
        if not energy["normalized"] and _mean([step["trustworthy"] for step in energy["steps"]]) < 1:
            untrusted.append(f"{name}: spread {spread:.1f} nats")
    if few:
        yield (
            f"Small effective sample size of whole-step candidates: {_listed(few)}. A few candidates carry all the "
            "weight; more of them, smaller groups or exact decisions are needed."
        )
    if untrusted:
        yield (
            f"The upper bound of log Z is not to be trusted for {_listed(untrusted)}: with energies so far apart it "
            "can lie below log Z."
        )


def few_values(results: Results) -> Iterator[str]:
    """Rows, samples and timed batches that are too few."""
    rows = min((row["bound_nats_per_token"].n for row in results.rows if row.get("bound_nats_per_token")), default=0)
    if 0 < rows < FEW_TEXTS:
        yield f"Only {counted(rows, 'independent held-out row')}: intervals are wide, and rough themselves."
    samples = min((row["entropy_nats"].n for row in results.rows if row.get("entropy_nats")), default=FEW_SAMPLES)
    if samples < FEW_SAMPLES:
        yield f"Only {counted(samples, 'sample')} of each setting: entropy, distinct-2 and judge losses are rough."
    batches = [len(row.notes["seconds_of_batches"]) for row in results.rows if row.notes.get("seconds_of_batches")]
    if batches and min(batches) < FEW_BATCHES:
        few = "one timed batch" if min(batches) == 1 else "two timed batches"
        which = "each setting" if max(batches) == min(batches) else "some settings"
        yield f"Seconds are of {few} of {which}: too few to know how they scatter."


def no_control(results: Results) -> Iterator[str]:
    """Gains of which it is not known what they come from."""
    if not results.controls and any(row.options["energy"] and row.get("bound_nats_per_token") for row in results.rows):
        yield (
            "No control was measured (an energy that cannot see the other tokens of a step): part of a gain may be "
            "better predictions of single tokens, not their choice together."
        )


def rough_bounds(results: Results) -> Iterator[str]:
    """Bounds of one draw at sequence scope, and gains from some of the steps."""
    one_draw = [row for row in results.rows if (row.options["scope"], row.options["inner_draws"]) == ("sequence", 1)]
    loose = dict.fromkeys(row.name for row in one_draw if row.options["num_candidates"] != 1)
    if loose:
        yield (
            f"At sequence scope the bound of one draw is very loose, and says little of {_listed(loose)}: set "
            "inner_draws to 16."
        )
    if any(row.options["sampled_steps"] for row in results.rows):
        yield "Some gains are estimated from some of the steps of each row."


def biased_mauve(results: Results) -> Iterator[str]:
    """MAUVE of few texts, or of sets that differ in size."""
    sizes = [(row["mauve"].n, row.notes["mauve_references"]) for row in results.rows if row.get("mauve")]
    if not sizes:
        return
    texts, references = min(sizes, key=min)
    sets = f"{texts} samples and {references} held-out texts"
    if min(texts, references) < FEW:
        yield f"MAUVE of {sets} (fewer than {FEW}) is biased: compare it only with values of as many."
    if texts != references:
        yield f"MAUVE needs sets of one size, got {sets}."


def other_calls(results: Results) -> Iterator[str]:
    """Numbers of another revision or machine."""
    if earlier := results.record.get("earlier"):
        revisions = _listed(call["revision"] or "unknown" for call in earlier)
        yield f"Some numbers were kept from earlier calls, at another revision or on another machine ({revisions})."


def cut_samples(results: Results) -> Iterator[str]:
    """Samples that the judge did not read to their end."""
    judged = [row for row in results.rows if row.notes.get("judged_cut") is not None]
    cut = sum(row.notes["judged_cut"] for row in judged)
    if cut:
        samples = sum(row["judge_nats_per_token"].n for row in judged)
        yield f"The judge read only the beginning of {cut} of {samples} samples, which do not fit its context."


def outside_entropies(frontier: Sequence[Record]) -> Iterator[str]:
    """Points of the frontier that have no neighbours on the base's curve."""
    verdicts = [point["verdict"] for point in frontier if point["name"] != "base"]
    if "outside" in verdicts:
        yield (
            f"{verdicts.count('outside')} of {len(verdicts)} points lie outside of the entropies that the base reaches "
            "at these temperatures: they are not judged, since nothing is extrapolated."
        )


CAUTIONS = (
    judge_is_energy,
    spread_energies,
    few_values,
    no_control,
    rough_bounds,
    biased_mauve,
    other_calls,
    cut_samples,
)


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
