"""What a reader must know before believing the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.likelihood.published import WARNING
from edlm.evaluation.samples.mauve import FEW
from edlm.evaluation.samples.texts import counted

FEW_ROWS, FEW_SAMPLES, SMALL_SHARE = 100, 50, 0.1


def cautions(
    measured: Sequence[Row],
    *,
    judge: dict[str, Any] | None,
    frontier: Sequence[dict[str, Any]],
    energies: Sequence[dict[str, Any]],
    published: Sequence[dict[str, Any]],
    earlier: Sequence[dict[str, Any]] = (),
) -> list[str]:
    """Warnings, the gravest first.

    Args:
        measured: All settings.
        judge: What is said of the judge, with ``is_energy_of``.
        frontier: Points with their placements.
        energies: Spread of energies of each method.
        published: What the published formula gave, with its warning.
        earlier: Other revisions and machines that some numbers are of.
    """
    found = _of_published(published)
    if judge is not None and judge["is_energy_of"]:
        names = ", ".join(judge["is_energy_of"])
        found.append(f"The judge ({judge['name']}) is the energy of {names}: their losses are no evidence of quality.")
    found += _of_energies(energies)
    found += [*_of_numbers(measured), *_of_mauve(measured)]
    if earlier:
        revisions = ", ".join(str(call["revision"] or "unknown") for call in earlier)
        found.append(
            f"Some numbers were kept from earlier calls, at another revision or on another machine ({revisions})."
        )
    points = [point for point in frontier if point["name"] != "base"]
    outside = sum(point["verdict"] == "outside" for point in points)
    if outside:
        found.append(
            f"{outside} of {len(points)} points lie outside of the entropies that the base reaches at these "
            "temperatures: they are not judged, since nothing is extrapolated."
        )
    cut = sum(m.notes.get("judged_cut") or 0 for m in measured)
    if cut:
        total = sum(m["judge_nats_per_token"].n for m in measured if m.notes.get("judged_cut") is not None)
        found.append(f"The judge read only the beginning of {cut} of {total} samples, which do not fit its context.")
    return found


def _of_published(published: Sequence[dict[str, Any]]) -> list[str]:
    if not published:
        return []
    gains = {r["name"]: r["marginal"]["nats_per_token"] - r["with_lower"]["nats_per_token"] for r in published}
    name = max(gains, key=gains.get)
    found = [
        f"{WARNING} Here it puts {name} {gains[name]:.3f} nats per token below what it gives the base, which is no "
        "gain: see the bounds."
        if gains[name] > 0
        else WARNING
    ]
    untrusted = [f"{r['name']} ({r['untrusted']:.0%} of the noisy rows)" for r in published if r["untrusted"]]
    if untrusted:
        found.append(
            f"Its log Z is from too few draws for such a spread of energies for {', '.join(untrusted)}: there even the "
            "upper estimate may be too low, which makes the number look better than it is."
        )
    return found


def _of_energies(energies: Sequence[dict[str, Any]]) -> list[str]:
    found = []
    small = [look for look in energies if look["steps"] and _mean(look, "ess") < SMALL_SHARE * look["num_candidates"]]
    if small:
        said = [
            f"{look['name']} ({look['order']}): {_mean(look, 'ess'):.1f} of {look['num_candidates']}" for look in small
        ]
        found.append(
            f"Small effective sample size of whole-step candidates: {', '.join(said)}. A few candidates carry all the "
            "weight; more of them, smaller groups or exact decisions are needed."
        )
    wide = [look for look in energies if not look["normalized"] and look["steps"] and _mean(look, "trustworthy") < 1]
    if wide:
        said = [f"{look['name']} ({look['order']}): spread {_mean(look, 'spread'):.1f} nats" for look in wide]
        found.append(
            f"The upper bound of log Z is not to be trusted for {', '.join(said)}: with energies so far apart it can "
            "lie below log Z."
        )
    return found


def _of_numbers(measured: Sequence[Row]) -> list[str]:
    found = []
    rows = min((m["bound_nats_per_token"].n for m in measured if m.get("bound_nats_per_token")), default=0)
    if rows < FEW_ROWS:
        found.append(f"Only {counted(rows, 'held-out row')}: errors are large, and errors of errors too.")
    samples = min((m["entropy_nats"].n for m in measured if m.get("entropy_nats")), default=FEW_SAMPLES)
    if samples < FEW_SAMPLES:
        of_each = f"{counted(samples, 'sample')} of each setting"
        found.append(f"Only {of_each}: entropy, distinct-2 and judge losses are rough.")
    batches = [len(m.notes["seconds_of_batches"]) for m in measured if m.notes.get("seconds_of_batches")]
    if batches and min(batches) < 3:
        few = "one timed batch" if min(batches) == 1 else "two timed batches"
        which = "each setting" if max(batches) == min(batches) else "some settings"
        found.append(f"Seconds are of {few} of {which}: too few to know how they scatter.")
    loose = [
        m
        for m in measured
        if (m.options["scope"], m.options["inner_draws"]) == ("sequence", 1) and m.options["num_candidates"] != 1
    ]
    if loose:
        names = ", ".join(dict.fromkeys(m.name for m in loose))
        found.append(
            f"At sequence scope the bound of one draw is very loose, and says little of {names}: set inner_draws to 16."
        )
    if any(m.options["sampled_steps"] for m in measured):
        found.append("Some gains are estimated from some of the steps of each row.")
    return found


def _of_mauve(measured: Sequence[Row]) -> list[str]:
    sizes = [(m["mauve"].n, m.notes["mauve_references"]) for m in measured if m.get("mauve")]
    if not sizes:
        return []
    found, (texts, references) = [], min(sizes, key=min)
    if min(texts, references) < FEW:
        found.append(
            f"MAUVE of {texts} samples and {references} held-out texts (fewer than {FEW}) is biased: compare it only "
            "with values of as many."
        )
    if texts != references:
        found.append(f"MAUVE wants sets of one size, got {texts} samples and {references} held-out texts.")
    return found


def _mean(look: dict[str, Any], field: str) -> float:
    values = [step[field]["value"] if isinstance(step[field], dict) else step[field] for step in look["steps"]]
    return sum(values) / len(values)
