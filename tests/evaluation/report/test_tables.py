"""Tables of a report: every number in its column with its own error, and the marks that a reader trusts."""

import math

import pytest

from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.report.tables import Table, tables_of
from tests.evaluation.measured import row_of

UNITS = {"perplexity": 55.5, "perplexity_stderr": 1.5, "perplexity_per_word": 321.0, "perplexity_per_word_stderr": 12.0}
UNITS |= {"bits_per_char": 1.25, "bits_per_char_stderr": 0.125}
IN_UNITS = {"Perplexity": "55.5 ± 1.5", "Perplexity per word": "321 ± 12", "Bits per character": "1.250 ± 0.125"}
SAMPLED = {"entropy_nats": 4.25, "entropy_stderr": 0.011, "judge_nats_per_token": 3.5, "judge_stderr": 0.022}
JUDGED = {"Entropy": "4.250 ± 0.011", "Judge loss": "3.500 ± 0.022", "Distinct-2": "0.500"}


def table(name: str, rows: list[Row] = (), **result) -> Table:
    return tables_of({"gains": [], "frontier": [], "time_ratios": [], **result}, rows)[name]


def lines(table: Table) -> list[dict[str, str]]:
    """Rows as a reader sees them, by heading."""
    rows = [row for group in table for row in group]
    return [{h: c if isinstance(c, str) else f"{c.text} {c.error}".strip() for h, c in row.items()} for row in rows]


def column(table: Table, heading: str) -> list[str]:
    """Dashes where the whole column is left out."""
    return [line.get(heading, "–") for line in lines(table)]


def kinds(table: Table) -> list[str]:
    """Of each row's last cell."""
    return [[*row.values()][-1].kind for group in table for row in group]


def gain(low, high, beyond="blind") -> dict:
    cell = {"name": "ours", "order": "random", "num_steps": 2, "beyond": beyond}
    return {**cell, "value": 0.3, "low": low, "high": high}


def test_bounds_have_their_own_errors_and_mark_the_lowest():
    rows = [row_of("base", "random", bound_nats_per_token=4.0, bound_stderr=0.11)]
    ours = {"bound_nats_per_token": 3.5, "bound_stderr": 0.12, "gain_nats_per_token": 0.5, "gain_stderr": 0.01}
    rows += [row_of("ours", "left_to_right", 4, bound_nats_per_token=math.inf), row_of("ours", "random", **ours)]
    bounds = table("bounds", rows, gains=[gain(0.2, 0.4)])
    assert column(bounds, "Bound, nats/token") == ["4.000 ± 0.110", "3.500 ± 0.120", "∞"]
    assert column(bounds, "Gain over base") == ["–", "0.500 ± 0.010", "–"]
    assert column(bounds, "Beyond control [95 %]") == ["–", "0.300 [0.200, 0.400]", "–"]
    assert column(bounds, "Order") == ["random", "", "left to right"] and column(bounds, "Passes") == ["2", "", "4"]
    assert [row["Bound, nats/token"].kind for row in bounds[0]] == ["", "best"]


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0.1, 0.3, "gain"), (-0.1, 0.3, "muted"), (-0.3, -0.1, "worse"), (0.0, 0.2, "muted"), (None, None, "muted")],
)
def test_gain_beyond_a_control_needs_the_whole_interval(low, high, kind):
    rows = [row_of("ours", "random", bound_nats_per_token=3.5)]
    assert kinds(table("bounds", rows, gains=[gain(low, high)])) == [kind]
    over_base = table("bounds", rows, gains=[gain(low, high, beyond="base")])  # no control was beaten
    assert column(over_base, "Beyond control [95 %]") == ["–"]


@pytest.mark.parametrize(
    ("options", "decided"),
    [
        ({"num_candidates": 4, "group_size": 2}, "k = 4, groups of 2"),
        ({"num_candidates": 4, "scope": "sequence"}, "k = 4, whole sequences"),
        ({"num_candidates": None, "group_size": 1}, "exactly"),
        ({"num_candidates": None, "group_size": 8}, "rounds of 8"),
        ({"num_candidates": None, "window": [0.0, 0.5]}, "exactly, times 0 to 0.5"),
        ({"num_candidates": 4, "inner_draws": 16}, "k = 4, 16 draws in the bound"),
        ({"num_candidates": None, "carry_over": True}, "exactly, carry-over"),
        ({"energy": None, "temperature": 0.7, "top_k": 5}, "temperature 0.7, top-k 5"),
        ({"energy": None}, "–"),
    ],
)
def test_options_of_a_decision_are_named(options, decided):
    assert column(table("bounds", [row_of("ours", **options, bound_nats_per_token=3.5)]), "Decided") == [decided]


def test_columns_that_are_empty_throughout_are_left_out():
    rows = [row_of("base", bound_nats_per_token=4.0), row_of("ours", bound_nats_per_token=3.5)]
    assert [*lines(table("bounds", rows))[0]] == ["Order", "Passes", "Sampler", "Decided", "Bound, nats/token"]
    assert [*lines(table("bounds", rows[:1]))[0]] == ["Order", "Passes", "Sampler", "Bound, nats/token"]
    assert {*lines(table("costs", [*rows, row_of("timed", energy_passes=0)]))[0]} == {
        *("Order", "Passes", "Sampler", "Energy passes")
    }


def test_units_are_in_their_columns():
    (line,) = lines(table("units", [row_of("base", **UNITS, bound_direction="exact")]))
    assert line["Direction"] == "exact" and line.items() >= IN_UNITS.items()


def record(nats, direction) -> dict:
    return {"nats_per_token": nats, "stderr": 0.1, "n": 64, "estimator": "by hand", "direction": direction, **UNITS}


def test_published_formula_is_no_bound_at_each_end():
    bound, estimate = "upper bound of -log p", "estimate"
    ends = {"with_lower": record(2.0, estimate), "with_upper": record(2.5, estimate)}
    published = [{"name": "known", "num_candidates": 0, **ends}, {"name": "drawn", "num_candidates": 16, **ends}]
    continuous = lines(table("continuous", continuous={"nelbo": [record(3.25, bound)], "published": published}))
    assert [(line["Model"], line["Nats/token"], line["Direction"]) for line in continuous] == [
        ("base", "3.250 ± 0.100", bound),
        ("known", "2.000 ± 0.100", "no bound"),
        ("drawn", "2.000 ± 0.100", "no bound"),
        ("drawn", "2.500 ± 0.100", "no bound"),
    ]
    assert all(line.items() >= (IN_UNITS | {"Rows": "64", "Estimator": "by hand"}).items() for line in continuous)
    assert table("continuous") == []


def point(name, verdict, said, difference=-0.25) -> dict:
    cell = {"name": name, "order": "random", "num_steps": 2, "temperature": 0.9, "distinct_2": 0.5}
    return {**cell, **SAMPLED, "verdict": verdict, "said": said, "difference": difference, "difference_stderr": 0.033}


def test_frontier_points_are_marked_by_their_verdict():
    points = [point("base", "on", "on: no difference", 0.0), point("a", "gain", "below: better at equal entropy")]
    points += [point("a", "worse", "above: worse"), point("b", "on", "on: colder, not better")]
    frontier = table("frontier", frontier=[*points, point("b", "outside", "outside of: not judged, since", None)])
    assert kinds(frontier) == ["muted", "gain", "worse", "muted", "muted"]
    verdicts = ["the curve", "better at equal entropy", "worse", "colder, not better", "not judged"]
    assert column(frontier, "Verdict") == verdicts
    assert column(frontier, "Against the curve") == ["–", *["−0.250 ± 0.033"] * 3, "–"]
    assert all(line.items() >= (JUDGED | {"T": "0.9"}).items() for line in lines(frontier))
    assert [sampler.partition(",")[0] for sampler in column(frontier, "Sampler")] == ["base", "a", "", "b", ""]


def test_samples_are_numbered_only_where_measured():
    rows = [row_of("base", distinct_2=0.5, num_samples=64, **SAMPLED), row_of("never")]
    (line,) = lines(table("judged", rows))
    assert line.items() >= (JUDGED | {"Samples": "64"}).items()


def test_text_proxies_follow_those_of_held_out_text():
    rates = {"unknown_text_rate": 0.5, "unknown_text_stderr": 0.051, "unknown_word_rate": 0.25}
    rates |= {"unknown_word_stderr": 0.0252, "repeated_4gram_rate": 0.125, "repeated_4gram_stderr": 0.0125}
    held_out = {**rates, "unknown_word_rate": 0.0625, "num_texts": 32}
    rows = [row_of("base", num_samples=64, **rates, mauve=0.9, mauve_low=0.8, mauve_high=0.95), row_of("never")]
    people, ours = lines(table("texts", rows, held_out_text=held_out))
    titles = ("Sampler", "Unknown words", "MAUVE", "Samples")
    assert [people[title] for title in titles] == ["held-out text", "0.0625 ± 0.0252", "–", "32"]
    assert [ours[title] for title in titles] == ["base", "0.2500 ± 0.0252", "0.900 [0.800, 0.950]", "64"]
    assert (ours["Samples with an unknown word"], ours["Repeated 4-grams"]) == ("0.500 ± 0.051", "0.1250 ± 0.0125")
    assert table("texts", rows) == []


@pytest.mark.parametrize(
    ("value", "low", "high", "unreached", "share", "kind"),
    [
        (0.5, 0.4, 0.9, 9, "0.500 [0.400, 0.900]", "gain"),
        (0.9, 0.8, 1.1, 9, "0.900 [0.800, 1.100]", "muted"),
        (1.5, 1.2, 1.9, 9, "1.500 [1.200, 1.900]", "worse"),
        (0.9, 0.5, None, 9, "0.900 [0.500, ∞]", "muted"),
        (None, None, None, 9, "∞ [∞, ∞]", "worse"),
        (None, None, None, 0, "–", "muted"),  # of an infinite bound
    ],
)
def test_time_ratio_is_a_gain_only_below_one(value, low, high, unreached, share, kind):
    ratio = {"name": "ours", "order": "dilated", "than": "base", "than_order": "random", "than_steps": 16}
    ratio |= {"value": value, "low": low, "high": high, "num_unreached": unreached}
    known = {**ratio, "value": 1.0, "low": 0.5, "high": 1.5}
    ratios = table("ratios", time_ratios=[known, ratio])
    assert [*lines(ratios)[1].values()] == ["ours, dilated", "base, random, 16 passes", share]
    assert kinds(ratios) == ["muted", kind]


def test_costs_have_their_digits_and_prefixes():
    costs = {"seconds_per_sequence": 0.01234, "tokens_per_second": 8123.4, "flops_per_sequence": 1.953e9}
    costs |= {"denoiser_passes": 4, "energy_passes": 128.4, "peak_memory_bytes": 50_638_848}
    line, never = lines(table("costs", [row_of("ours", **costs), row_of("never")]))
    assert [*line.values()][3:] == ["0.0123", "8123", "1.95 G", "4", "128", "50.64 M"]
    assert set([*never.values()][3:]) == {"–"}


@pytest.mark.parametrize("key", ["energy_spreads", "energies"])  # of this version and of older ones
def test_energies_of_a_step_have_their_columns(key):
    step = {"step": 1, "num_candidates": 32, "spread": {"value": 3.5, "stderr": 0.2}, "trustworthy": 0.25}
    step |= {"ess": {"value": 4.5, "stderr": 0.3}, "log_z_lower": {"value": -1.5, "stderr": 0.11}}
    step["log_z_upper"] = {"value": -0.25, "stderr": 0.22}
    energy = {"name": "ours", "order": "random", "num_steps": 4, "steps": [step]}
    unknown, known = lines(table("energies", **{key: [{**energy, "normalized": known} for known in (False, True)]}))
    cells = ["ours, random", "2 of 4", "3.50", "32", "4.5 ± 0.3", "−1.50 ± 0.11", "−0.25 ± 0.22", "25%"]
    assert [*unknown.values()] == cells and known["Trusted"] == "1 by construction"
