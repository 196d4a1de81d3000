"""From what is asked for to settings, points of the frontier and comparisons of time."""

import pytest

from edlm.config import SamplerConfig
from edlm.evaluation.experiment.asked import TEMPERATURES, frontier_of, ratios_of, rows_in_continuous_time, settings_of
from edlm.evaluation.experiment.measurement import Setting
from edlm.evaluation.experiment.plan import (
    ContinuousConfig,
    EvaluateConfig,
    FrontierConfig,
    MethodConfig,
    RatioConfig,
    SamplesConfig,
)
from tests.enumerable import random_denoiser

COLD = MethodConfig("cold", None, temperature=0.7)
NARROW = MethodConfig("narrow", None, top_p=0.8, top_k=5, orders=("random",))
ORDERS = {"orders": ("random", "bisecting"), "num_steps": (2, 4)}


def asked(**more) -> EvaluateConfig:
    return EvaluateConfig(**{**ORDERS, "methods": (COLD, NARROW), **more})


def setting(name, order, steps, temperature=1.0) -> Setting:
    energy = None if name in ("base", "cold") else object()
    return Setting(name, energy, SamplerConfig(num_steps=steps, order=order, temperature=temperature))


def cells(settings) -> list[tuple]:
    return [(s.name, s.sampler.order, s.sampler.num_steps) for s in settings]


def test_every_cell_has_a_base_and_the_methods_that_are_asked_for_there():
    found = settings_of(asked(num_steps_of={"random": (8,)}))
    assert cells(found) == [
        *((name, "random", 8) for name in ("base", "cold", "narrow")),
        *((name, "bisecting", steps) for steps in (2, 4) for name in ("base", "cold")),
    ]
    narrow = found[2].sampler
    assert (narrow.temperature, narrow.top_p, narrow.top_k) == (1.0, 0.8, 5) and found[1].sampler.temperature == 0.7
    for s in found:  # nothing decides, whatever a method says of candidates
        assert s.sampler.num_candidates == 1 and s.sampler.build(random_denoiser(), s.energy).candidates_weighed == 1


@pytest.mark.parametrize(("sampled", "expected"), [(1, [1, 1]), (2, [None, 2]), (4, [None, None]), (None, [None] * 2)])
def test_as_many_sampled_steps_as_there_are_are_all_of_them(sampled, expected):
    method = MethodConfig("some", None, temperature=0.9, sampled_steps=sampled)
    found = settings_of(asked(methods=(method,), orders=("random",)))
    assert [s.sampled_steps for s in found if s.name == "some"] == expected


def test_an_energy_is_loaded_once_for_each_way_to_count_its_terms():
    how = {"energy": "tinystories/autoregressive", "num_candidates": 2, "scope": "sequence"}
    methods = [MethodConfig(name, carry_over=carry, **how) for name, carry in (("a", False), ("b", True), ("c", False))]
    found = {s.name: s.energy for s in settings_of(asked(methods=tuple(methods), orders=("random",), num_steps=(2,)))}
    assert found["a"] is found["c"] is not found["b"]
    assert (found["a"].carry_over, found["b"].carry_over) == (False, True)


CELLS = [(order, steps) for order in ("random", "bisecting") for steps in (2, 4)]
ALL = [setting(name, *cell) for cell in CELLS for name in ("base", "ours", "other")]
ALL += [setting("cold", "bisecting", 4, 0.7)]


def test_a_frontier_is_of_base_and_methods_where_steps_suffice_in_the_last_order():
    config = asked(output="folder")
    found = frontier_of(config, ALL)
    points = [(s.name, s.sampler.order, s.sampler.num_steps, s.sampler.temperature) for s in found]
    curves = [(name, "bisecting", 4, t) for name in ("base", "ours", "other") for t in TEMPERATURES]
    assert points == [*curves, ("cold", "bisecting", 4, 0.7)]  # a temperature of its own is one point
    assert 1.0 in TEMPERATURES and [s.energy for s in found[5:10]] == [ALL[10].energy] * 5
    assert frontier_of(asked(output="numbers.json"), ALL) == frontier_of(asked(), ALL) == []


def test_a_frontier_always_has_the_base_that_methods_are_held_against():
    how = FrontierConfig(temperatures=(0.9,), methods=("other",), orders=("random",), num_steps=(2,))
    assert cells(frontier_of(asked(frontier=how), ALL)) == [("base", "random", 2), ("other", "random", 2)]
    many = [setting("base", "bisecting", steps) for steps in (2, 4, 8)]
    found = frontier_of(asked(frontier=FrontierConfig(temperatures=(0.9,))), many)
    assert cells(found) == [("base", "bisecting", 4)]  # the fewest of at least four
    few = [s for s in ALL if s.sampler.num_steps == 2]
    found = frontier_of(asked(frontier=FrontierConfig(temperatures=(0.9,))), few)  # none has four: the most
    assert cells(found) == [(name, "bisecting", 2) for name in ("base", "ours", "other")]


def test_rows_in_continuous_time_are_for_reports_or_asked_for():
    some = ContinuousConfig(num_rows=3)
    expected = {("folder", None): 64, ("a.json", None): 0, (None, None): 0, ("folder", some): 3, (None, some): 3}
    for (output, continuous), rows in expected.items():
        how = {"continuous": continuous} if continuous else {}
        assert rows_in_continuous_time(asked(output=output, **how)) == rows


def test_times_are_held_against_the_base_at_its_most_steps_in_each_order_and_in_the_first():
    settings = [*ALL, setting("base", "random", 16)]
    assert ratios_of(asked(output="folder"), settings) == [
        *(RatioConfig(name, "random", "base", "random", 16) for name in ("ours", "other")),
        *(RatioConfig(name, "bisecting", "base", "bisecting", 4) for name in ("ours", "other", "cold")),
        *(RatioConfig(name, "bisecting", "base", "random", 16) for name in ("base", "ours", "other", "cold")),
    ]
    one = [s for s in ALL if s.sampler.order == "random"]
    expected = [RatioConfig(name, "random", "base", "random", 4) for name in ("ours", "other")]
    assert ratios_of(asked(output="folder", orders=("random",)), one) == expected


def test_times_are_held_against_each_other_for_reports_that_have_them_or_where_asked_for():
    untimed = SamplesConfig(timed_batches=0)
    assert ratios_of(asked(), ALL) == ratios_of(asked(output="folder", samples=untimed), ALL) == []
    own = (RatioConfig("ours", "random", "other", "bisecting", 2),)
    assert ratios_of(asked(time_ratios=own, samples=untimed), ALL) == [*own]
    assert ratios_of(asked(output="folder", time_ratios=()), ALL) == []
