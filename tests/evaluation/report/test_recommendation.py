"""The recommendation: made-up results of which it is known what they say."""

import math

import pytest

from edlm.evaluation.report.recommendation import recommend

inf, nan = math.inf, math.nan


def effect(steps=2, gain=0.5, half=0.1, name="ours", order="bisecting", **about) -> dict:
    """A gain with half the length of its interval; without times, from many texts."""
    ends = {"value": gain, "low": gain - half, "high": gain + half, "n": 200}
    cell = {"name": name, "order": order, "num_steps": steps, "passes": steps, "is_control": False}
    return {**cell, **ends, "better_base": None, "time": None, **about}


def timed(share, half=0.05, passes=4.3, batches=3) -> dict:
    return {"time": {"share": share, "low": share - half, "high": share + half, "passes": passes, "batches": batches}}


def beyond(steps=2, gain=0.3, half=0.1, **about) -> dict:
    """A gain beyond a control."""
    return {**effect(steps, gain, half), "beyond": "blind", **about}


def verdict(*effects, gains=()) -> str:
    return recommend(effects, gains)[0]


def test_where_it_helps_it_is_for_its_time_and_elsewhere_not():
    effects = [effect(2, **timed(0.7)), effect(3, 0.3, **timed(0.5, passes=15.6)), effect(4, 0.2, **timed(0.9, 0.2))]
    effects += [effect(8, 0.0, 0.01), effect(16, 0.0, 0.02), effect(32, -0.3)]
    assert recommend(effects[::-1], []) == (
        "Use it at 2 to 4 passes: the likelihood of 16 base passes in 50 % of their time (at 3). "
        "No benefit at 8 to 16 passes, worse than the base at 32 passes.",
        {"name": "ours", "order": "bisecting", "num_steps": [2, 3, 4]},
    )
    assert verdict(effect(1, **timed(0.7))) == (
        "Use it at 1 pass: the likelihood of 4.3 base passes in 70 % of their time."
    )


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ({}, "; time was not measured."),
        (timed(0.95), "; not sure whether it saves time."),
        (timed(0.5, batches=2), "; timed too seldom to tell whether it saves time."),
        (timed(0.0), ", which the base does not reach in up to 2, the most that were measured."),
    ],
    ids=["untimed", "no faster", "timed twice", "beyond the base"],
)
def test_gain_in_likelihood_is_said_where_time_is_not_sure(time, said):
    text = verdict(effect(**time))
    assert text.endswith(said) and text.startswith(
        "Use it at 2 passes: 39 % less perplexity than the base in as many passes"
    )


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (effect(8, 0.0, 0.01), "No benefit at 8 passes."),
        (effect(8, 0.019, 0.01), "It gains less than 2 % at 8 passes."),
        (effect(8, -0.05, 0.04), "Worse than the base at 8 passes."),
        (effect(8, -inf, nan), "Worse than the base at 8 passes."),  # rules out some held-out text
        (effect(8, 0.1, 0.2), "Too few texts to tell at 8 passes."),
        (effect(8, 0.1, inf), "Too few texts to tell at 8 passes."),
        (effect(8, 0.1, nan), "Too few texts to tell at 8 passes."),
        (effect(8, 0.5, **timed(1.2, 0.1)), "At 8 passes the base with more passes is as good sooner."),
        (effect(8, 0.5, better_base="dilated"), "At 8 passes the base in another order is better."),
    ],
)
def test_passes_that_are_not_recommended_have_their_reason(other, said):
    (text, found), (_, alone) = recommend([effect(), other], []), recommend([other], [])
    assert text.endswith(f"time was not measured. {said}") and found["num_steps"] == [2] and alone is None


def test_time_that_may_be_longer_is_no_reason_against():
    assert recommend([effect(8, **timed(1.2, 0.3))], [])[1]["num_steps"] == [8]


def test_control_that_beats_it_is_said():
    effects = [effect(2), effect(4), effect(8), effect(8, name="blind", is_control=True)]
    gains = [beyond(2), beyond(4, -0.01, 0.005), beyond(8, 0.1, 0.2)]
    text, found = recommend(effects, gains)
    assert found["num_steps"] == [2, 8]
    assert text.endswith("measured. At 4 passes a control is better. The control blind may do as well at 8 passes.")
    assert verdict(effect(4), gains=[gains[1]]) == "Do not use it: at 4 passes a control is better."
    assert "control" not in verdict(
        effect(4), gains=[{**gains[1], "beyond": "base"}]
    )  # which is better than the control


def test_of_several_energies_that_which_saves_most_time_is_named():
    slow, fast = effect(name="slow", **timed(0.8)), effect(4, 0.1, 0.01, "fast", **timed(0.4))
    great = effect(gain=0.9, name="great")
    assert recommend([slow, fast, great], [])[1] == {"name": "fast", "order": "bisecting", "num_steps": [4]}
    assert verdict(slow, fast, great).startswith("Use fast at 4 passes: the likelihood of 4.3 base passes in 40 %")
    noisy = effect(gain=2.0, half=1.9, name="noisy")
    assert verdict(noisy, great).startswith("Use great at 2 passes: 59 % less")
    seldom = effect(name="seldom", **timed(0.1, batches=1))
    assert verdict(seldom, great, slow).startswith("Use slow at 2 passes")


def test_orders_are_named_where_there_are_several():
    two = [effect(order="left_to_right"), effect(gain=0.1, half=0.01, order="random")]
    assert verdict(*two).startswith("Use it at 2 passes in left to right order: ")


def test_nothing_that_helps_is_not_to_be_used():
    none, hurts = effect(2, 0.0, 0.01), effect(4, -0.5)
    assert verdict(none, hurts) == "Do not use it: no benefit at 2 passes, worse than the base at 4 passes."
    assert verdict(none, effect(4, 0.0, 0.1)) == (
        "Do not use it yet: no benefit at 2 passes, too few texts to tell at 4 passes."
    )
    slow = effect(**timed(3.0), name="slow")
    assert verdict(slow, {**hurts, "name": "bad"}, {**none, "name": "bad"}) == (
        "Do not use any of slow, bad: the base with more passes is as good sooner in 1, no benefit in 1, "
        "worse than the base in 1 of 3 settings."
    )
    assert verdict(*(effect(gain=-1, name=name) for name in "abcd")).startswith("Do not use any of 4 energies: worse")


def test_too_few_texts_are_said():
    assert verdict(effect(n=99)).endswith(" Only 99 held-out texts: measure more before relying on it.")
    assert verdict(effect(2, 0.5, inf, n=3), effect(4, 0.5, nan, n=3)) == (
        "Too few texts to tell: with 3 held-out texts no gain and no loss is certain; measure more (num_rows)."
    )


def test_controls_and_nothing_are_not_recommended():
    control = effect(name="blind", is_control=True)
    assert recommend([], []) == ("Nothing to recommend: no energy was measured against the base.", None)
    assert recommend([control], []) == (
        "Nothing to recommend: no energy but controls was measured against the base.",
        None,
    )
    assert recommend([{**control, **timed(0.1)}, effect()], [])[1]["name"] == "ours"
