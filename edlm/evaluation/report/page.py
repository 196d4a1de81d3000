"""One self-contained page of an evaluation, made from its JSON and its pictures; nothing is fetched, nothing runs."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from edlm.evaluation.experiment.metrics import METRICS
from edlm.evaluation.plots.report import inline
from edlm.evaluation.report import tables
from edlm.evaluation.report.html import figure, listed
from edlm.evaluation.samples.texts import counted

Result = Mapping[str, Any]
EMPTY = dict.fromkeys(key for metric in METRICS.values() for key in metric.names.values()) | {"examples": None}


def write_report(result: Result, pictures: Mapping[str, str], path: str | Path) -> None:
    """Write the page.

    Args:
        result: What ``results.json`` holds.
        pictures: SVG by name: "bounds", "energies", "frontier" and further ones that begin so.
        path: Where to, ``.html``.
    """
    result = {**result, "settings": [{**EMPTY, **setting} for setting in result["settings"]]}
    if isinstance(result.get("energies"), list):  # of older versions
        result["energy_spreads"] = result["energies"]
    template = files("edlm.evaluation.report").joinpath("template.html").read_text(encoding="utf-8")
    body = "\n".join(found for part in _PARTS if (found := part(result, pictures)))
    denoiser = result["config"]["denoiser"]
    page = Template(template).substitute(title=f"Evaluation of {escape(denoiser)}", about=_about(result), body=body)
    Path(path).write_text(page, encoding="utf-8")


def _about(result: Result) -> str:
    data, machine = result["data"], result["machine"]
    where = machine["gpu"] or f"CPU of {machine['cpus']} cores, {counted(machine['threads'], 'thread')}"
    said = [
        f"{data['rows']} held-out blocks of {data['length']} tokens",
        f"edlm {result['versions']['edlm']}, revision {result['revision'] or 'unknown'}",
        where,
        f"seed {result['identity']['seed']}",
    ]
    return " · ".join(map(escape, said))


def _verdict(result: Result, pictures: Mapping[str, str]) -> str:
    facts = [escape(fact).replace("(-", "(−") for fact in result["facts"]]
    verdict = f'<p class="verdict" id="verdict">{escape(result["verdict"])}</p>'
    return verdict + (listed(facts, "facts") if facts else "")


def _warnings(result: Result, pictures: Mapping[str, str]) -> str:
    if not result["warnings"]:
        return ""
    return f'<aside class="warnings"><h2>Before believing it</h2>{listed(map(escape, result["warnings"]))}</aside>'


def _bounds(result: Result, pictures: Mapping[str, str]) -> str:
    cost = "seconds per sequence" if any(s["seconds_per_sequence"] for s in result["settings"]) else "denoiser passes"
    caption = (
        f"Upper bound of −log p against {cost}: low and left is good. "
        f"Numbers count denoiser passes of the base. Solid lines: {result['settings'][-1]['order']} order."
    )
    lead = (
        "Upper bounds of −log p of held-out text under the very sampler that writes, in nats per token: low is good. "
        "Gains are paired, row by row. What goes beyond the blind control is joint modelling of a step's tokens; the "
        "rest corrects marginals. In deterministic orders (all but random and ancestral) the numbers of the base and "
        "of exact decisions are exact likelihoods."
    )
    picture = _picture(pictures, "bounds", "Likelihood bound against cost", caption)
    return _section("Likelihood", lead, picture + tables.bounds(result) + tables.units(result))


def _continuous(result: Result, pictures: Mapping[str, str]) -> str:
    shown = tables.continuous(result)
    lead = (
        "What the literature reports of a masked diffusion model does not depend on how is sampled: the bound of "
        "infinitely many steps in random order. The first estimator is the published one, the second has no cut-off "
        "and less noise. The published formula for an energy model is shown to be compared with papers only: it is no "
        "bound, and can be far below the truth."
    )
    return _section("In continuous time", lead, shown) if shown else ""


def _has_samples(result: Result) -> bool:
    """Whether this call asked for samples; those of an earlier one are kept, and not shown."""
    return result["config"]["samples"]["judged"] > 0 and any(s["num_samples"] for s in result["settings"])


def _frontier(result: Result, pictures: Mapping[str, str]) -> str:
    if not _has_samples(result):
        return ""
    judge = result["judge"]
    if judge is None:
        lead = "Diversity of samples. No judge was asked, so nothing is said of their quality."
        return _section("Samples in numbers", lead, tables.judged(result))
    lead = (
        f"Loss of samples under {escape(judge['name'])}, beside their entropy. A colder proposal lowers both, so a low "
        "loss is no praise by itself: a method gains only where its point lies below the curve that the base draws "
        f"over temperatures, at equal entropy, by more than {result['config']['frontier']['sigmas']:g} standard errors."
    )
    caption = "Judge loss against entropy. T is the temperature of the proposal; down and right is good."
    shown = "".join(_picture(pictures, name, "Frontier", caption) for name in pictures if name.startswith("frontier"))
    return _section("Quality against diversity", lead, shown + tables.frontier(result) + tables.judged(result))


def _texts(result: Result, pictures: Mapping[str, str]) -> str:
    shown = tables.texts(result) if _has_samples(result) else ""
    if not shown:
        return ""
    lead = (
        "No truth is known of text, so these stand in for a rate of wrong sequences: samples with a word that the "
        "training text lacks, such words, and 4-grams of words that a sample repeats. They see spelling and loops, "
        "nothing of grammar or sense; what counts is how near they are to those of held-out text. "
        f"Held against: {escape(result['held_out_text']['texts_held_against'])}."
    )
    return _section("Cheap stand-ins for errors", lead, shown)


def _speed(result: Result, pictures: Mapping[str, str]) -> str:
    if not any(s["seconds_per_sequence"] or s["flops_per_sequence"] for s in result["settings"]):
        return ""
    lead = (
        "What a sequence costs, and how much of the base's time a method needs for a bound as low as the base's (95 % "
        "interval, over rows and timed batches). Seconds are medians of batches, on this machine alone."
    )
    return _section("Cost", lead, tables.ratios(result) + tables.costs(result))


def _energies(result: Result, pictures: Mapping[str, str]) -> str:
    if not result.get("energy_spreads"):
        return ""
    lead = (
        "Energies of whole-step candidates that each energy judges: how far they lie apart says how many candidates "
        "count, and whether log Z can be known from them. Exact decisions need no candidates; they are looked at as if "
        "they drew some."
    )
    caption = "Energies about the mean of their decision. Low is plausible."
    picture = _picture(pictures, "energies", "Energies of candidates", caption)
    return _section("Energies", lead, picture + tables.energies(result))


def _samples(result: Result, pictures: Mapping[str, str]) -> str:
    shown = tables.samples(result) if _has_samples(result) else ""
    return _section("Samples side by side", "The same seeds on both sides, in the order drawn.", shown) if shown else ""


def _method(result: Result, pictures: Mapping[str, str]) -> str:
    pairs = {}
    if judge := result["judge"]:
        pairs["Judge"] = f"{judge['name']} ({judge['class']}, weights {judge['weights']})"
        pairs["Its context"] = f"{judge['context']}; at most {judge['max_tokens']} tokens, {judge['longer_texts']}"
        pairs["Ends"] = f"a document's end: {judge['end_of_document']}; a sample's end: {judge['end_of_text']}"
    if result.get("memory"):
        pairs["Memory"] = result["memory"]
    metrics = [metric for name, metric in METRICS.items() if _is_measured(result, name)]
    pairs |= {metric.title: metric.note for metric in metrics}
    body = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs.items())
    return _section("How it was measured", "", f"<dl>{body}</dl>")


def _is_measured(result: Result, name: str) -> bool:
    return any(setting.get(name) is not None for setting in result["settings"])


def _reproduce(result: Result, pictures: Mapping[str, str]) -> str:
    machine, versions = result["machine"], result["versions"]
    pairs = {
        "Revision": result["revision"] or "unknown",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Machine": ", ".join(f"{name}: {value}" for name, value in machine.items()),
        "Denoiser": f"{result['identity']['denoiser']['name']}, weights {result['identity']['denoiser']['revision']}",
        "Data": result["identity"]["data"],
        "Seed": str(result["identity"]["seed"]),
    }
    body = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs.items())
    return _section("Do it again", "", f"<pre><code>{escape(result['command'])}</code></pre><dl>{body}</dl>")


def _section(title: str, lead: str, content: str) -> str:
    said = f'<p class="lead">{lead}</p>' if lead else ""
    return f"<section><h2>{title}</h2>{said}{content}</section>"


def _picture(pictures: Mapping[str, str], name: str, described: str, caption: str) -> str:
    return figure(inline(pictures[name], described), caption, name) if name in pictures else ""


_PARTS = (
    _verdict,
    _warnings,
    _bounds,
    _continuous,
    _frontier,
    _texts,
    _speed,
    _energies,
    _samples,
    _method,
    _reproduce,
)
