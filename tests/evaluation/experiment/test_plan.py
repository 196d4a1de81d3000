"""From options to settings: cells, orders of energies, frontier, ratios, and what is refused."""

from dataclasses import asdict

import pytest

import edlm
from edlm.denoisers.identity import weights_fingerprint
from edlm.diffusion.dependency import DependencyPredictor
from edlm.evaluation.evaluation import evaluate
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.parts import FrontierConfig, MethodConfig, RatioConfig, SamplesConfig
from edlm.evaluation.experiment.plan import frontier_settings, judged_settings, ratios_of, settings_of
from edlm.evaluation.experiment.rows import OPTIONS

HEAD = MethodConfig(name="head", energy="tinystories/head")
LEFT = MethodConfig(name="left", energy="tinystories/head_random", num_steps=(4,), orders=("left_to_right",))
COLD = MethodConfig(name="cold", energy=None, temperature=0.7, orders=("random",))


@pytest.fixture(scope="module")
def denoiser():
    return edlm.load_denoiser("tinystories")


def config(*methods, **options) -> EvaluateConfig:
    return EvaluateConfig(**{"methods": methods, "num_steps": (2, 4), "output": "folder", **options})


def cells(settings) -> list[tuple]:
    return [(s.name, *s.row.cell) for s in settings]


def test_settings_are_every_method_in_its_cells_bases_first(denoiser):
    settings = settings_of(
        config(LEFT, COLD, orders=("random", "left_to_right"), num_steps_of={"random": (3,)}), denoiser
    )
    left = [("base", "left_to_right", 2), ("base", "left_to_right", 4), ("left", "left_to_right", 4)]
    assert cells(settings) == [("base", "random", 3), ("cold", "random", 3), *left]
    assert settings[-1].energy is settings[-1].sampler.energy and settings[-1].row.options["num_candidates"] is None
    for s in settings:
        assert set(s.row.options) == set(OPTIONS) and s.row.is_base == (s.name == "base")
        assert (s.row.options["energy"] is None) == (s.name != "left")
    assert settings[1].sampler.proposal.temperature == settings[1].row.options["temperature"] == 0.7


def test_orders_that_are_not_given_are_those_of_the_energies(denoiser):
    def orders(*methods, **options):
        return [*dict.fromkeys(s.row.order for s in settings_of(config(*methods, **options), denoiser))]

    assert orders(HEAD) == ["bisecting"] and orders(HEAD, LEFT) == ["bisecting", "left_to_right"]
    assert orders(COLD) == ["random"] and orders(MethodConfig(name="a", energy=None)) == ["random", "bisecting"]
    mixed = settings_of(config(HEAD, LEFT), denoiser)
    assert {s.row.order for s in mixed if s.name == "left"} == {"left_to_right"}
    assert EvaluateConfig().orders == ("random", "bisecting")
    given = settings_of(config(HEAD, orders=("random",)), denoiser)  # whatever it was trained for
    assert cells(given)[-1] == ("head", "random", 4)


def test_energies_are_loaded_once_for_each_carry_over(denoiser):
    ar = {"energy": "tinystories/autoregressive", "scope": "sequence", "num_candidates": 2, "orders": ("random",)}
    methods = [MethodConfig(name=n, carry_over=c, **ar) for n, c in (("a", False), ("b", True), ("c", True))]
    settings = settings_of(config(*methods, num_steps=(2,)), denoiser)
    _, a, b, c = settings
    assert b.energy is c.energy is not a.energy and b.energy.carry_over and not a.energy.carry_over
    assert a.row.options["energy"] != b.row.options["energy"] == c.row.options["energy"]
    assert [s.row.options["carry_over"] for s in settings] == [False, False, True, True]


def test_settings_of_one_name_or_options_that_break_a_rule_are_refused(denoiser):
    for methods, rule in (
        ((HEAD, HEAD), "methods must differ"),
        ((MethodConfig(name="a", energy=None, top_p=0.0, orders=("random",)),), "top_p"),
    ):
        with pytest.raises(ValueError, match=rule):
            settings_of(config(*methods), denoiser)
    assert MethodConfig(order="random") == MethodConfig(order="random", orders=("random",))
    both = {"order": "random", "orders": ("dilated",)}
    for options, rule in (
        ({"sampled_steps": 0}, "sampled_steps"),
        ({"inner_draws": 0}, "inner_draws"),
        (both, "order"),
    ):
        with pytest.raises(ValueError, match=rule):
            MethodConfig(**options)
    with pytest.raises(ValueError, match="num_steps_of"):
        config(orders=("random",), num_steps_of={"dilated": (2,)})


def test_an_order_in_blocks_has_its_own_length_and_cells(denoiser):
    blocks = "confidence in blocks of 32"
    requested = config(HEAD, orders=("confidence", blocks), num_steps_of={blocks: (8,)}, plotted_orders=(blocks,))
    settings = settings_of(requested, denoiser)
    whole = [(name, "confidence", steps) for steps in (2, 4) for name in ("base", "head")]
    assert sorted(cells(settings)) == sorted([*whole, ("base", blocks, 8), ("head", blocks, 8)])
    for s in settings:
        expected = ("confidence", 32 if s.order == blocks else None)
        assert (s.sampler.order, s.sampler.block_length) == expected
        assert (s.row.options["order"], s.row.options["block_length"]) == (s.order, expected[1])
    assert settings[-1].row.key == f"head, {blocks}, 8 steps"
    for name in ("confidence in blocks of 0", "confidence in blocks of ", "confidence in blocks of x", "bisect"):
        with pytest.raises(ValueError, match="order must be one of|blocks must be of a number of tokens"):
            config(orders=(name,))
    with pytest.raises(ValueError, match="no option 'block_length'"):  # one way to say it
        evaluate(block_length=32)


def test_a_row_knows_the_network_of_its_order(denoiser, tmp_path):
    made = DependencyPredictor(denoiser.hidden_size, 2)
    made.target.weight.data.fill_(0.5)
    made.save_pretrained(tmp_path / "a")
    order = f"dependency_bounded(0.5, {tmp_path / 'a'})"
    networks = [s.row.options["order_network"] for s in settings_of(config(orders=("bisecting", order)), denoiser)]
    assert networks == [None, None, weights_fingerprint(made), weights_fingerprint(made)]
    assert weights_fingerprint(made) != weights_fingerprint(DependencyPredictor(denoiser.hidden_size, 2))


def test_frontier_is_in_the_last_order_at_the_fewest_steps_of_at_least_4(denoiser):
    options = {"orders": ("random", "bisecting"), "num_steps": (2, 4, 8)}
    requested = config(HEAD, COLD, **options, frontier=FrontierConfig((0.8, 1.0)))
    settings = settings_of(requested, denoiser)
    points = frontier_settings(requested, settings)
    assert [(s.name, *s.row.cell, s.sampler.proposal.temperature) for s in points] == [
        (name, "bisecting", 4, temperature) for name in ("base", "head") for temperature in (0.8, 1.0)
    ]
    cold = config(HEAD, COLD, **options, frontier=FrontierConfig((0.8, 1.0), (8,), ("random",), ("cold",)))
    points = frontier_settings(cold, settings)  # with a temperature of its own it is one point
    assert [(s.name, s.row.num_steps, s.temperature) for s in points] == [
        *(("base", 8, 0.8), ("base", 8, 1.0), ("cold", 8, 0.7))
    ]
    assert frontier_settings(config(HEAD, samples=SamplesConfig(judged=1)), settings) == []
    few = config(HEAD, samples=SamplesConfig(judged_steps=(4,), judged_orders=("random",), judged_methods=("head",)))
    assert cells(judged_settings(few, settings)) == [("head", "random", 4)]


def test_ratios_compare_with_the_base_at_its_most_steps(denoiser):
    requested = config(HEAD, orders=("random", "bisecting"), num_steps_of={"bisecting": (8,)})
    rows = [s.row for s in settings_of(requested, denoiser)]
    expected = [("head", "random", "random", 4), ("head", "bisecting", "bisecting", 8)]
    expected += [("base", "bisecting", "random", 4), ("head", "bisecting", "random", 4)]
    assert ratios_of(requested, rows) == [RatioConfig(n, o, "base", than, steps) for n, o, than, steps in expected]
    for none in ({"output": None}, {"output": "a.json"}, {"samples": SamplesConfig(timed_batches=0)}):
        assert ratios_of(config(HEAD, **none), rows) == []
    ratio = RatioConfig("head", "random", "head", "bisecting", 8)
    assert ratios_of(config(HEAD, output=None, time_ratios=(ratio,)), rows) == [ratio]
    with pytest.raises(ValueError, match="time_ratios"):
        ratios_of(config(HEAD, time_ratios=(RatioConfig(**{**asdict(ratio), "than_steps": 2}),)), rows)


@pytest.mark.parametrize(("sampled", "expected"), [(1, [1, 1]), (2, [None, 2]), (4, [None, None]), (None, [None] * 2)])
def test_as_many_sampled_steps_as_steps_are_all_of_them(sampled, expected, denoiser):
    method = MethodConfig(name="some", energy=None, temperature=0.9, sampled_steps=sampled)
    settings = settings_of(config(method, orders=("random",)), denoiser)
    assert [s.sampled_steps for s in settings if s.name == "some"] == expected
