"""Tables of a report: every number in its column with its own error, and the colours that a reader trusts."""

import re

import pytest

from edlm.evaluation.report import tables
from edlm.evaluation.report.html import large, table, with_error
from edlm.evaluation.report.page import EMPTY

SEEDED = {"identity": {"seed": 40}, "controls": ["blind"]}


def setting(name, order="random", steps=2, **numbers) -> dict:
    usual = {
        "group_size": None,
        "top_k": None,
        "carry_over": False,
        "num_candidates": 1,
        "scope": "step",
        "n": 50,
        "window": (0.0, 1.0),
        "bound_direction": "exact",
    }
    usual |= {"inner_draws": 1, "temperature": 1.0, "top_p": 1.0, "energy": "abc {}"}
    return EMPTY | usual | {"name": name, "order": order, "num_steps": steps} | numbers


def cells(html: str) -> list[list[str]]:
    """Rows of a table as HTML, the headings first."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


def words(html: str) -> list[dict[str, str]]:
    """Rows as a reader sees them, by heading."""
    plain = [[re.sub(r"<[^>]+>", "", cell).replace("&#8239;", " ") for cell in row] for row in cells(html)]
    return [dict(zip(plain[0], row, strict=True)) for row in plain[1:]]


def kinds(html: str) -> list[str | None]:
    """The class of each row's last cell."""
    found = [re.match(r'<span class="(\w+)">', row[-1]) for row in cells(html)[1:]]
    return [match and match[1] for match in found]


def gain(name, order, steps, value, low, high, beyond="blind") -> dict:
    return {"name": name, "order": order, "num_steps": steps, "value": value, "low": low, "high": high} | {
        "beyond": beyond
    }


def test_each_bound_and_gain_has_its_own_error_and_the_lowest_of_a_cell_is_marked():
    settings = [setting("base", bound_nats_per_token=4.0, bound_stderr=0.11)]
    settings += [
        setting("ours", bound_nats_per_token=3.5, bound_stderr=0.12, gain_nats_per_token=0.5, gain_stderr=0.01)
    ]
    settings += [setting("ours", steps=4, bound_nats_per_token=3.0, bound_stderr=0.13, gain_nats_per_token=0.4)]
    settings += [setting("base", steps=4, bound_nats_per_token=None)]
    gains = [gain("ours", "random", 2, 0.3, 0.2, 0.4), gain("ours", "random", 4, 0.2, 0.1, 0.3)]
    html = tables.bounds({"settings": settings, "gains": gains})
    found = words(html)
    assert [row["bound, nats/token"] for row in found] == ["4.000 ± 0.110", "3.500 ± 0.120", "3.000 ± 0.130", "–"]
    assert [row["gain over base"] for row in found] == ["–", "0.500 ± 0.010", "0.400", "–"]
    beyond = ["–", "0.300 [0.200, 0.400]", "0.200 [0.100, 0.300]", "–"]
    assert [row["beyond control [95 %]"] for row in found] == beyond
    assert [(row["order"], row["passes"]) for row in found] == [("random", "2"), ("", ""), ("random", "4"), ("", "")]
    assert ['class="best"' in row[4] for row in cells(html)[1:]] == [False, True, True, False]


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0.1, 0.3, "gain"), (-0.1, 0.3, "muted"), (-0.3, -0.1, "worse"), (0.0, 0.2, "muted"), (None, None, "muted")],
)
def test_what_goes_beyond_a_control_is_a_gain_only_where_the_whole_interval_is(low, high, kind):
    settings = [setting("ours", bound_nats_per_token=3.5)]
    assert kinds(tables.bounds({"settings": settings, "gains": [gain("ours", "random", 2, 0.1, low, high)]})) == [kind]
    over_base = [gain("ours", "random", 2, 0.1, low, high, beyond="base")]  # no control was beaten
    assert words(tables.bounds({"settings": settings, "gains": over_base}))[0]["beyond control [95 %]"] == "–"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"num_candidates": 4}, "k = 4"),
        ({"num_candidates": 4, "group_size": 2}, "k = 4, groups of 2"),
        ({"num_candidates": 4, "scope": "sequence"}, "k = 4, whole sequences"),
        ({"num_candidates": None}, "exactly"),
        ({"num_candidates": None, "group_size": 1}, "exactly"),
        ({"num_candidates": None, "group_size": 8}, "rounds of 8"),
        ({"num_candidates": None, "window": (0.0, 0.5)}, "exactly, times 0 to 0.5"),
        ({"num_candidates": 4, "window": (0.25, 1.0)}, "k = 4, times 0.25 to 1"),
        ({"num_candidates": 4, "inner_draws": 16}, "k = 4, 16 draws in the bound"),
        ({"num_candidates": None, "energy": 'abc {"carry_over": true}'}, "exactly, carry-over"),
        ({"energy": None, "temperature": 0.7, "top_k": 5}, "temperature 0.7, top-k 5"),
        ({"num_candidates": 2, "top_p": 0.9}, "k = 2, top-p 0.9"),
        ({"energy": None}, "–"),
    ],
)
def test_how_a_setting_decides_is_said(how, said):
    settings = [setting("ours", bound_nats_per_token=3.5, **how)]
    assert words(tables.bounds({"settings": settings, "gains": []}))[0]["decided"] == said


UNITS = {"perplexity": 55.5, "perplexity_stderr": 1.5, "perplexity_per_word": 321.0, "perplexity_per_word_stderr": 12.0}
UNITS |= {"bits_per_char": 1.25, "bits_per_char_stderr": 0.125}
IN_UNITS = {"perplexity per token": "55.5 ± 1.5", "per word": "321 ± 12", "bits per character": "1.250 ± 0.125"}


def test_units_stand_under_their_names_and_what_a_bound_is_beside_them():
    some = [setting("base", **UNITS), setting("ours", bound_direction="upper bound of -log p", **UNITS)]
    found = words(tables.units({"settings": some}))
    assert [row["what it is"] for row in found] == ["exact", "upper bound of -log p"]
    assert all({name: row[name] for name in IN_UNITS} == IN_UNITS for row in found)


def record(nats, direction, **more) -> dict:
    return {
        "nats_per_token": nats,
        "stderr": 0.1,
        "n": 64,
        "estimator": "by hand",
        "direction": direction,
        **UNITS,
    } | more


def test_the_published_formula_is_called_no_bound_at_each_end_that_it_has():
    bound, estimate = "upper bound of -log p", "estimate"
    ends = {"with_lower": record(2.0, estimate), "with_upper": record(2.5, estimate), "marginal": record(3.5, bound)}
    published = [{"name": "known", "num_candidates": 0, **ends}, {"name": "drawn", "num_candidates": 16, **ends}]
    found = words(tables.continuous({"continuous": {"nelbo": [record(3.25, bound)], "published": published}}))
    assert [(row["model"], row["nats/token"], row["what it is"]) for row in found] == [
        ("base", "3.250 ± 0.100", bound),
        ("known", "2.000 ± 0.100", "no bound"),
        ("drawn", "2.000 ± 0.100", "no bound"),
        ("drawn", "2.500 ± 0.100", "no bound"),
    ]
    for row in found:
        assert {name: row[name] for name in IN_UNITS} == IN_UNITS and (row["rows"], row["estimator"]) == (
            "64",
            "by hand",
        )
    assert tables.continuous({}) == tables.continuous({"continuous": {"nelbo": [], "published": []}}) == ""


def point(name, verdict, said, difference=-0.25, steps=2) -> dict:
    how = {"name": name, "order": "random", "num_steps": steps, "temperature": 0.9, "distinct_2": 0.5}
    numbers = {"entropy_nats": 4.25, "entropy_stderr": 0.011, "judge_nats_per_token": 3.5, "judge_stderr": 0.022}
    return how | numbers | {"verdict": verdict, "said": said, "difference": difference, "difference_stderr": 0.033}


def test_a_point_is_coloured_by_its_verdict_and_outside_is_not_judged():
    points = [point("base", "on", "on the base's frontier: no difference", 0.0)]
    points += [
        point("a", "gain", "below: better at equal entropy"),
        point("a", "worse", "above: worse at equal entropy"),
    ]
    points += [point("b", "on", "on: colder, not better"), point("b", "outside", "outside of: not judged, since", None)]
    html = tables.frontier({"frontier": points})
    found = words(html)
    assert kinds(html) == ["muted", "gain", "worse", "muted", "muted"]
    assert [row["verdict"] for row in found] == [
        *("the curve", "better at equal entropy", "worse at equal entropy", "colder, not better", "not judged"),
    ]
    assert [row["against the curve"] for row in found] == ["–", *["−0.250 ± 0.033"] * 3, "–"]
    assert {(row["entropy, nats"], row["judge, nats/token"]) for row in found} == {("4.250 ± 0.011", "3.500 ± 0.022")}
    assert [row["sampler"] for row in found] == [
        "base, 2 passes, random",
        "a, 2 passes, random",
        "",
        *("b, 2 passes, random", ""),
    ]
    assert tables.frontier({"frontier": []}) == ""


def test_samples_in_numbers_have_their_own_errors_and_what_was_not_sampled_is_left_out():
    numbers = {"entropy_nats": 4.25, "entropy_stderr": 0.011, "judge_nats_per_token": 3.5, "judge_stderr": 0.022}
    settings = [setting("base", distinct_2=0.5, num_samples=64, **numbers), setting("never")]
    (found,) = words(tables.judged({"settings": settings}))
    assert (found["judge, nats/token"], found["entropy, nats"]) == ("3.500 ± 0.022", "4.250 ± 0.011")
    assert (found["distinct-2"], found["samples"]) == ("0.500", "64")


def test_stand_ins_of_samples_stand_below_those_of_held_out_text():
    rates = {"unknown_text_rate": 0.5, "unknown_text_stderr": 0.051, "unknown_word_rate": 0.25}
    rates |= {"unknown_word_stderr": 0.0252, "repeated_4gram_rate": 0.125, "repeated_4gram_stderr": 0.0125}
    mauve = {"mauve": 0.9, "mauve_low": 0.8, "mauve_high": 0.95}
    held_out = {**rates, "unknown_word_rate": 0.0625, "num_texts": 32}
    settings = [setting("base", num_samples=64, **rates, **mauve), setting("never")]
    people, ours = words(tables.texts({"settings": settings, "held_out_text": held_out}))
    assert (people["sampler"], people["unknown words"], people["samples"]) == ("held-out text", "0.0625 ± 0.0252", "32")
    assert people["MAUVE [95 %]"] == "–" and ours["MAUVE [95 %]"] == "0.900 [0.800, 0.950]" and ours["samples"] == "64"
    assert (ours["with an unknown word"], ours["unknown words"]) == ("0.500 ± 0.051", "0.2500 ± 0.0252")
    assert ours["repeated 4-grams"] == "0.1250 ± 0.0125"
    assert tables.texts({"settings": settings}) == tables.texts({"settings": settings[1:], "held_out_text": {}}) == ""


@pytest.mark.parametrize(
    ("value", "low", "high", "said", "kind"),
    [
        (0.5, 0.4, 0.9, "0.500 [0.400, 0.900]", "gain"),
        (0.9, 0.8, 1.1, "0.900 [0.800, 1.100]", "muted"),
        (1.5, 1.2, 1.9, "1.500 [1.200, 1.900]", "worse"),
        (0.9, 0.5, None, "0.900 [0.500, never]", "muted"),
        (None, 1.5, None, "never [1.500, never]", "worse"),
        (None, None, None, "never [never, never]", "worse"),
    ],
)
def test_a_method_is_faster_only_where_its_whole_interval_is_and_never_is_said(value, low, high, said, kind):
    how = {"name": "ours", "order": "dilated", "than": "base", "than_order": "random", "than_steps": 16}
    html = tables.ratios({"time_ratios": [{**how, "value": value, "low": low, "high": high, "num_unreached": 9}]})
    (found,) = words(html)
    assert (found["sampler"], found["reaches the bound of"]) == ("ours, dilated", "base, random, 16 passes")
    assert found["share of its time [95 %]"] == said and kinds(html) == [kind]
    unknown = {**how, "value": None, "low": None, "high": None, "num_unreached": 0}  # of an infinite bound
    (found,) = words(tables.ratios({"time_ratios": [unknown]}))
    assert found["share of its time [95 %]"] == "– [–, –]"


def test_costs_have_their_units():
    some = setting("ours", seconds_per_sequence=0.01234, tokens_per_second=8123.4, flops_per_sequence=1.953e9)
    some |= {"denoiser_passes": 4, "energy_passes": 128.4, "peak_memory_bytes": 50_638_848}
    (found,) = words(tables.costs({"settings": [some]}))
    assert (found["s/sequence"], found["tokens/s"], found["FLOP/sequence"]) == ("0.0123", "8123", "1.95 G")
    assert (found["denoiser"], found["energy"], found["memory"]) == ("4", "128", "50.6 MB")
    (never,) = words(tables.costs({"settings": [setting("ours")]}))
    assert {never[name] for name in ("s/sequence", "tokens/s", "FLOP/sequence", "denoiser", "memory")} == {"–"}


def look(normalized) -> dict:
    def mean(value, stderr):
        return {"value": value, "stderr": stderr, "n": 16}

    step = {"step": 1, "num_candidates": 32, "spread": mean(3.5, 0.2), "ess": mean(4.5, 0.3), "trustworthy": 0.25}
    step |= {"log_z_lower": mean(-1.5, 0.11), "log_z_upper": mean(-0.25, 0.22)}
    return {"name": "ours", "order": "random", "num_steps": 4, "normalized": normalized, "steps": [step]}


@pytest.mark.parametrize(("normalized", "trusted"), [(False, "25%"), (True, "1 by construction")])
def test_energies_of_a_step_and_whether_their_log_z_is_known(normalized, trusted):
    (found,) = words(tables.energies({"energy_spreads": [look(normalized)]}))
    assert (found["energy"], found["step"], found["trusted"]) == ("ours, random", "2 of 4", trusted)
    assert (found["spread, nats"], found["effective candidates"]) == ("3.50", "4.5 ± 0.3 of 32")
    assert (found["log Z, lower"], found["log Z, upper"]) == ("−1.50 ± 0.11", "−0.25 ± 0.22")


def drawn(name, steps, gain=None, order="random") -> dict:
    texts = [f"{name} {order} {steps} {i}" for i in range(4)]
    return setting(name, order, steps, gain_nats_per_token=gain, examples=texts)


def test_samples_of_the_best_method_stand_beside_the_bases_of_its_cell_and_a_control_is_none():
    settings = [
        drawn("base", 2),
        drawn("base", 4),
        drawn("ours", 4, 0.3),
        drawn("ours", 2, 0.1),
        drawn("blind", 4, 0.9),
    ]
    settings += [drawn("base", 4, order="dilated")]
    html = tables.samples({**SEEDED, "settings": settings})
    assert "<h3>4 passes, random order</h3>" in html
    texts = re.findall(r"<h4>(.*?)</h4><p>(.*?)</p>", html)
    assert texts == [(f"{name}, seed {40 + i}", f"{name} random 4 {i}") for i in range(3) for name in ("base", "ours")]
    without = [s | {"examples": None} for s in settings]
    assert tables.samples({**SEEDED, "settings": without}) == tables.samples({**SEEDED, "settings": settings[:2]}) == ""


def test_pieces_of_a_page():
    assert large(2.5e15) == "2500&#8239;T" and large(2.5e12, ("B", "kB", "MB", "GB")) == "2500&#8239;GB"
    assert large(0.5) == "0.50" and large(999.0) == "999" and large(None) == with_error(None, 0.1, 2)
    assert "<th>a &lt; b</th>" in table(["a < b"], [], text=(), label="x & y") and "x &amp; y" in table(
        [], [], label="x & y"
    )
