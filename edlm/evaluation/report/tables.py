"""Tables of a report, from its JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from edlm.evaluation.report.html import DASH, large, number, table, with_error

Result = Mapping[str, Any]
_EXAMPLES = 3
_UNITS = ("perplexity per token", "per word", "bits per character")


def bounds(result: Result) -> str:
    """Bounds and gains, by order and passes."""
    beyond = {(g["name"], g["order"], g["num_steps"]): g for g in result["gains"]}
    lowest = {
        cell: min(s["bound_nats_per_token"] or float("inf") for s in some)
        for cell, some in _cells(result["settings"]).items()
    }

    def cells(s: Mapping[str, Any]) -> list[str]:
        bound = with_error(s["bound_nats_per_token"], s["bound_stderr"], 3)
        is_lowest = s["bound_nats_per_token"] == lowest[s["order"], s["num_steps"]]
        return [
            _decided(s),
            f'<span class="best">{bound}</span>' if is_lowest else bound,
            with_error(s["gain_nats_per_token"], s["gain_stderr"], 3),
            _beyond(beyond.get((s["name"], s["order"], s["num_steps"]))),
        ]

    groups = _by_cell(result["settings"], cells)
    headings = ["order", "passes", "sampler", "decided", "bound, nats/token", "gain over base", "beyond control [95 %]"]
    return table(headings, groups, text=(0, 2), wrapped=(3,), label="Likelihood bounds")


def units(result: Result) -> str:
    """Every bound in the units that papers give likelihoods in."""
    groups = _by_cell(result["settings"], lambda s: [escape(s["bound_direction"]), *_in_units(s)])
    headings = ["order", "passes", "sampler", "what it is", *_UNITS]
    return "<h3>In other units</h3>" + table(headings, groups, text=(0, 2, 3), label="Bounds in other units")


def continuous(result: Result) -> str:
    """The base in continuous time, and the published formula with energies; and what each number is."""
    found = result.get("continuous") or {"nelbo": [], "published": []}
    records = [("base", record) for record in found["nelbo"]]
    for record in found["published"]:
        ends = ("with_lower", "with_upper") if record["num_candidates"] else ("with_lower",)  # else log Z is known
        records += [(record["name"], record[end]) for end in ends]
    rows = []
    for name, s in records:
        what = escape(s["direction"]) if s["direction"] != "estimate" else '<span class="worse">no bound</span>'
        nats = with_error(s["nats_per_token"], s["stderr"], 3)
        rows.append([escape(name), nats, *_in_units(s), str(s["n"]), what, escape(s["estimator"])])
    headings = ["model", "nats/token", *_UNITS, "rows", "what it is", "estimator"]
    label = "Likelihoods in continuous time"
    return table(headings, [rows], text=(6,), wrapped=(0, 7), label=label) if rows else ""


def _in_units(record: Mapping[str, Any]) -> list[str]:
    digits = {"perplexity": 1, "perplexity_per_word": 0, "bits_per_char": 3}
    return [with_error(record[name], record[f"{name}_stderr"], digits[name]) for name in digits]


def _beyond(gain: Mapping[str, Any] | None) -> str:
    if gain is None or gain["beyond"] == "base":
        return DASH
    low, high = gain["low"], gain["high"]  # None where the rows can not bound it
    kind = "muted" if low is None else "gain" if low > 0 else "worse" if high < 0 else "muted"
    interval = f'<span class="error">[{number(low, 3)}, {number(high, 3)}]</span>'
    return f'<span class="{kind}">{number(gain["value"], 3)}</span> {interval}'


def frontier(result: Result) -> str:
    """Each point against the base's curve."""
    groups: dict[tuple[str, str, int], list[list[str]]] = {}
    for p in result["frontier"]:
        rows = groups.setdefault((p["name"], p["order"], p["num_steps"]), [])
        kind = {"gain": "gain", "worse": "worse"}.get(p["verdict"], "muted")
        is_base = p["name"] == "base"
        rows.append(
            [
                "" if rows else f"{escape(p['name'])}, {p['num_steps']} passes, {_order(p['order'])}",
                f"{p['temperature']:g}",
                with_error(p["entropy_nats"], p["entropy_stderr"], 3),
                with_error(p["judge_nats_per_token"], p["judge_stderr"], 3),
                number(p["distinct_2"], 3),
                DASH if is_base else with_error(p["difference"], p["difference_stderr"], 3),
                '<span class="muted">the curve</span>' if is_base else f'<span class="{kind}">{_short(p)}</span>',
            ]
        )
    headings = ["sampler", "T", "entropy, nats", "judge, nats/token", "distinct-2", "against the curve", "verdict"]
    return table(headings, groups.values(), text=(0, 6), label="Frontier of judge loss and entropy") if groups else ""


def _short(point: Mapping[str, Any]) -> str:
    return "not judged" if point["verdict"] == "outside" else escape(point["said"].rpartition(": ")[2])


def judged(result: Result) -> str:
    """Judge, entropy and distinct-2 of every setting at its own temperature."""
    groups = _by_cell(
        [s for s in result["settings"] if s["entropy_nats"] is not None],
        lambda s: [
            with_error(s["judge_nats_per_token"], s["judge_stderr"], 3),
            with_error(s["entropy_nats"], s["entropy_stderr"], 3),
            number(s["distinct_2"], 3),
            str(s["num_samples"]),
        ],
    )
    headings = ["order", "passes", "sampler", "judge, nats/token", "entropy, nats", "distinct-2", "samples"]
    return "<h3>Every setting</h3>" + table(headings, groups, text=(0, 2), label="Judge, entropy and diversity")


def texts(result: Result) -> str:
    """Stand-ins for errors, and MAUVE, of held-out text and of every setting's samples."""
    measured = [s for s in result["settings"] if s["repeated_4gram_rate"] is not None]
    if not measured or "held_out_text" not in result:
        return ""
    held_out = result["held_out_text"]
    people = [["", "", "held-out text", *_text_measures(held_out), str(held_out["num_texts"])]]
    groups = [people, *_by_cell(measured, lambda s: [*_text_measures(s), str(s["num_samples"])])]
    measures = ["with an unknown word", "unknown words", "repeated 4-grams", "MAUVE [95 %]"]
    headings = ["order", "passes", "sampler", *measures, "samples"]
    return table(headings, groups, text=(0, 2), label="Stand-ins for errors")


def _text_measures(record: Mapping[str, Any]) -> list[str]:
    mauve = DASH
    if record.get("mauve") is not None:
        ends = f'<span class="error">[{number(record["mauve_low"], 3)}, {number(record["mauve_high"], 3)}]</span>'
        mauve = f"{number(record['mauve'], 3)} {ends}"
    digits = {"unknown_text": 3, "unknown_word": 4, "repeated_4gram": 4}
    return [*(with_error(record.get(f"{n}_rate"), record.get(f"{n}_stderr"), d) for n, d in digits.items()), mauve]


def ratios(result: Result) -> str:
    """Time at equal bound."""
    rows = []
    for r in result["time_ratios"]:
        never = "never" if r["num_unreached"] else DASH
        low, high, value = (never if r[name] is None else number(r[name], 3) for name in ("low", "high", "value"))
        faster = r["high"] is not None and r["high"] < 1
        slower = r["num_unreached"] > 0 if r["low"] is None else r["low"] > 1
        kind = "gain" if faster else "worse" if slower else "muted"
        rows.append(
            [
                f"{escape(r['name'])}, {_order(r['order'])}",
                f"{escape(r['than'])}, {_order(r['than_order'])}, {r['than_steps']} passes",
                f'<span class="{kind}">{value}</span> <span class="error">[{low}, {high}]</span>',
            ]
        )
    headings = ["sampler", "reaches the bound of", "share of its time [95 %]"]
    return table(headings, [rows], text=(0, 1), label="Time at equal bound") if rows else ""


def costs(result: Result) -> str:
    """Seconds, tokens per second, operations, passes and memory."""
    groups = _by_cell(
        result["settings"],
        lambda s: [
            number(s["seconds_per_sequence"], 4),
            number(s["tokens_per_second"], 0),
            large(s["flops_per_sequence"]),
            DASH if s["denoiser_passes"] is None else str(s["denoiser_passes"]),
            number(s["energy_passes"], 0),
            large(s["peak_memory_bytes"], ("B", "kB", "MB", "GB")),
        ],
    )
    headings = ["order", "passes", "sampler", "s/sequence", "tokens/s", "FLOP/sequence", "denoiser", "energy", "memory"]
    return "<h3>Every setting</h3>" + table(headings, groups, text=(0, 2), label="Cost of every setting")


def energies(result: Result) -> str:
    """Spread, effective sample size and bounds of log Z, at each step."""
    groups = []
    for look in result["energy_spreads"]:
        rows = []
        for step in look["steps"]:
            trusted = "1 by construction" if look["normalized"] else f"{step['trustworthy']:.0%}"
            ess = with_error(step["ess"]["value"], step["ess"]["stderr"], 1)
            rows.append(
                [
                    "" if rows else f"{escape(look['name'])}, {_order(look['order'])}",
                    f"{step['step'] + 1} of {look['num_steps']}",
                    number(step["spread"]["value"], 2),
                    f"{ess} of {step['num_candidates']}",
                    with_error(step["log_z_lower"]["value"], step["log_z_lower"]["stderr"], 2),
                    with_error(step["log_z_upper"]["value"], step["log_z_upper"]["stderr"], 2),
                    trusted,
                ]
            )
        groups.append(rows)
    headings = ["energy", "step", "spread, nats", "effective candidates", "log Z, lower", "log Z, upper", "trusted"]
    return table(headings, groups, text=(0,), label="Energies of candidates")


def samples(result: Result) -> str:
    """Texts of the base and of one method, in the cell where its gain is greatest."""
    settings = [s for s in result["settings"] if s["examples"]]
    methods = [s for s in settings if s["name"] != "base" and s["name"] not in result["controls"]]
    best = max(methods, key=lambda s: s["gain_nats_per_token"] or 0.0, default=None)
    cell = [s for s in settings if best and (s["order"], s["num_steps"]) == (best["order"], best["num_steps"])]
    base = next((s for s in cell if s["name"] == "base"), None)
    if base is None:
        return ""
    title = f"<h3>{best['num_steps']} passes, {_order(best['order'])} order</h3>"
    pairs = zip(range(_EXAMPLES), base["examples"], best["examples"], strict=False)
    seed = result["identity"]["seed"]
    return title + "".join(
        f'<div class="samples">{_sample(base, one, seed + i)}{_sample(best, other, seed + i)}</div>'
        for i, one, other in pairs
    )


def _sample(setting: Mapping[str, Any], text: str, seed: int) -> str:
    return f"<div><h4>{escape(setting['name'])}, seed {seed}</h4><p>{escape(text)}</p></div>"


def _cells(settings: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], list[Mapping[str, Any]]]:
    """By order as they come, then by number of steps."""
    orders = list(dict.fromkeys(s["order"] for s in settings))
    cells: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for s in sorted(settings, key=lambda s: (orders.index(s["order"]), s["num_steps"])):
        cells.setdefault((s["order"], s["num_steps"]), []).append(s)
    return cells


def _by_cell(
    settings: Sequence[Mapping[str, Any]], cells: Callable[[Mapping[str, Any]], list[str]]
) -> list[list[list[str]]]:
    """Rows that begin with order, passes and name, in a group for each order and number of passes, which names them."""
    return [
        [
            [*((_order(order), str(steps)) if i == 0 else ("", "")), escape(s["name"]), *cells(s)]
            for i, s in enumerate(cell)
        ]
        for (order, steps), cell in _cells(settings).items()
    ]


def _order(order: str) -> str:
    return escape(order.replace("_", " "))


def _decided(s: Mapping[str, Any]) -> str:
    """How tokens are decided, with all that is not as usual."""
    said = []
    if s["energy"] is not None:
        exact, size = s["num_candidates"] is None, s["group_size"]
        if exact:
            said.append("exactly" if not size or size == 1 else f"rounds of {size}")
        else:
            said.append(f"k = {s['num_candidates']}")
            said += [f"groups of {size}"] if size else []
            said += ["whole sequences"] if s["scope"] == "sequence" else []
        said += ["carry-over"] if s.get("carry_over") or '"carry_over": true' in s["energy"] else []
        low, high = s["window"]
        said += [f"times {low:g} to {high:g}"] if (low, high) != (0, 1) else []
        said += [f"{s['inner_draws']} draws in the bound"] if s["inner_draws"] != 1 else []
    usual = {"temperature": 1, "top_p": 1, "top_k": None}
    said += [f"{name.replace('_', '-')} {s[name]:g}" for name, value in usual.items() if s[name] != value]
    return ", ".join(said) or DASH
