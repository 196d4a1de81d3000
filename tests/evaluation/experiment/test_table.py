"""The grid of samplers: gains are over the base of the same steps and order, on the same rows, seeds and passes."""

import csv
import itertools
import math
from dataclasses import asdict, replace

import pytest
import torch

from edlm.config import SamplerConfig
from edlm.denoisers import FunctionDenoiser
from edlm.energies import CallableEnergy
from edlm.evaluation.estimates.units import TextUnits
from edlm.evaluation.experiment.grid import measure_bounds
from edlm.evaluation.experiment.measurement import Setting
from edlm.evaluation.experiment.table import as_csv, as_markdown, as_table
from edlm.evaluation.likelihood.bounds import estimate_bound, paired_gain
from edlm.sampler.bounds import likelihood_bounds
from tests.enumerable import SEQUENCES, random_denoiser

ROWS = SEQUENCES[[0, 5, 26, 13, 7, 2, 21]]
ENERGY = CallableEnergy(lambda candidates, x, log_p: (candidates * torch.tensor([0.9, -0.7, 0.4])).sum(-1))
OTHER = CallableEnergy(lambda candidates, x, log_p: 0.8 * log_p - (candidates[..., 0] == 2).double())
GRID = [(order, steps) for order in ("random", "left_to_right") for steps in (1, 2)]
MORE = {"num_candidates": 5, "group_size": 1}


def base(order, steps) -> Setting:
    return Setting("base", None, SamplerConfig(num_steps=steps, order=order))


def ours(order, steps, sampled_steps=None, name="ours", energy=ENERGY) -> Setting:
    return Setting(name, energy, SamplerConfig(num_steps=steps, order=order, **MORE), sampled_steps)


def settings() -> list[Setting]:
    """All bases first, so that the last one seen is the right one only by chance."""
    return [base(*cell) for cell in GRID] + [ours(*cell) for cell in GRID]


def measured(settings, denoiser=None, **how) -> dict[Setting, tuple]:
    found = {}
    for setting, measurement, bound in measure_bounds(denoiser or random_denoiser(), settings, ROWS, **how):
        assert setting not in found
        found[setting] = measurement, bound
    return found


ARRANGED = {
    "bases first": settings(),
    "bases last": settings()[::-1],
    "other settings between": [settings()[i] for i in (4, 1, 6, 3, 7, 0, 5, 2)],
}


@pytest.mark.parametrize("settings_", ARRANGED.values(), ids=ARRANGED)
def test_each_gain_is_over_the_base_of_the_same_steps_and_order_wherever_it_stands(settings_):
    found = measured(settings_, seed=9, batch_size=3, units=TextUnits(2.0, 1.5))
    bounds = {s: estimate_bound(s.sampler.build(random_denoiser(), s.energy), ROWS, seed=9) for s in settings()}
    gains = {cell: paired_gain(bounds[base(*cell)], bounds[ours(*cell)]) for cell in GRID}
    assert len({round(gain.value, 6) for gain in gains.values()}) == 4
    assert set(found) == set(bounds)
    for setting, bound in bounds.items():
        m, rows = found[setting]
        torch.testing.assert_close(rows.nats_per_row, bound.nats_per_row, rtol=0, atol=1e-10)
        assert (rows.tokens_per_row == 3).all() and m.bound_direction == rows.direction == bound.direction
        assert m.bound_nats_per_token == pytest.approx(bound.nats_per_token.value)
        assert m.bound_stderr == pytest.approx(bound.nats_per_token.stderr) and m.n == 7
        nats, stderr = bound.nats_per_token[:2]
        assert m.perplexity == pytest.approx(math.exp(nats))
        assert m.perplexity_stderr == pytest.approx(math.exp(nats) * stderr)
        assert m.bits_per_char == pytest.approx(nats / 2 / math.log(2))
        assert m.bits_per_char_stderr == pytest.approx(stderr / 2 / math.log(2))
        assert m.perplexity_per_word == pytest.approx(math.exp(1.5 * nats))
        assert m.perplexity_per_word_stderr == pytest.approx(math.exp(1.5 * nats) * 1.5 * stderr)
        gain = gains[setting.sampler.order, setting.sampler.num_steps]
        expected = (None, None) if setting.energy is None else (gain.value, gain.stderr)
        assert (m.gain_nats_per_token, m.gain_stderr) == pytest.approx(expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_denoiser_of_another_proposal_is_no_base_and_has_a_gain_of_its_own(reverse):
    """No energy, but colder, or of fewer tokens: what is held against it would seem better or worse than it is."""
    hows = {"cold": {"temperature": 0.5}, "nucleus": {"top_p": 0.7}, "few": {"top_k": 2}}
    others = [Setting(name, None, SamplerConfig(num_steps=2, order="random", **how)) for name, how in hows.items()]
    assert not any(setting.is_base for setting in others) and base("random", 2).is_base
    everything = [base("random", 2), ours("random", 2), *others]
    found = measured(everything[::-1] if reverse else everything, seed=9)
    rows = {setting.name: bound.nats_per_row for setting, (_, bound) in found.items()}
    for setting, (m, _) in found.items():
        if setting.name == "base":
            assert m.gain_nats_per_token is None and m.gain_stderr is None
        else:
            differences = (rows["base"] - rows[setting.name]) / 3
            assert m.gain_nats_per_token == pytest.approx(differences.mean().item(), nan_ok=True)
    assert abs((rows["base"] - rows["cold"]).mean().item()) > 0.01


def test_a_bound_less_a_gain_from_some_steps_is_exact_no_more():
    found = measured([base("left_to_right", 2), ours("left_to_right", 2, 1)])
    (whole, _), (some, bound) = found.values()
    assert whole.bound_direction == "exact"  # a fixed order, nothing decides
    assert some.bound_direction == bound.direction == "upper bound of -log p"


def test_settings_of_one_order_share_their_passes():
    calls = []
    function = random_denoiser().f
    denoiser = FunctionDenoiser(lambda x_t, t: calls.append(len(x_t)) or function(x_t, t), 3, 3)
    many = [*settings(), *(ours(*cell, name="other", energy=OTHER) for cell in GRID)]
    measured(many, denoiser, batch_size=5)
    assert len(calls) == 8  # in two orders, two batches and at two times, t = 1 and t = 1/2
    calls.clear()
    measured([*many, ours("random", 2, 1, name="some"), ours("random", 2, 1, "rest", OTHER)], denoiser, batch_size=7)
    assert len(calls) == 6  # one batch; one pass more for each of these, which their base shares


def test_a_method_without_its_base_has_no_gain():
    for others in ([], [base("random", 2)], [base("left_to_right", 1)], [ours("random", 1, name="another")]):
        m, _ = measured([*others, ours("random", 1)])[ours("random", 1)]
        assert m.gain_nats_per_token is None and m.gain_stderr is None
        assert m.bound_nats_per_token > 0


def test_every_measurement_is_there_as_soon_as_it_is_made_and_describes_its_sampler():
    calls = []
    function = random_denoiser().f
    denoiser = FunctionDenoiser(lambda x_t, t: calls.append(len(x_t)) or function(x_t, t), 3, 3)
    order = [base("random", 1), base("random", 2), ours("random", 1)]
    later, some = base("left_to_right", 1), ours("random", 2, 1, "some")
    coming = measure_bounds(denoiser, iter([order[0], later, some, *order[1:]]), ROWS)
    assert [next(coming)[0] for _ in order] == order and len(calls) == 2
    assert next(coming)[0] == some and len(calls) == 3
    assert next(coming)[0] == later and len(calls) == 4
    assert next(coming, None) is None
    exact = Setting("none", None, SamplerConfig(num_steps=1, order="random", num_candidates=None, scope="step"), None)
    sequence = replace(ours("random", 1), name="whole", sampler=SamplerConfig(1, 4, "sequence", order="random"))
    keys = ("name", "order", "num_steps", "num_candidates", "group_size", "scope", "sampled_steps", "bits_per_char")
    found = measured([*order, exact, sequence, ours("random", 2, 1, "some")])
    assert [tuple(asdict(m)[key] for key in keys) for m, _ in found.values()] == [
        ("base", "random", 1, 1, None, "step", None, None),
        ("base", "random", 2, 1, None, "step", None, None),
        ("ours", "random", 1, 5, 1, "step", None, None),
        ("none", "random", 1, 1, None, "step", None, None),
        ("whole", "random", 1, 4, None, "sequence", None, None),
        ("some", "random", 2, 5, 1, "step", 1, None),
    ]
    assert all(m.seconds_per_sequence is m.num_samples is m.energy_passes is None for m, _ in found.values())
    assert len({m.key for m, _ in found.values()}) == 6
    assert all(m.key == setting.key for setting, (m, _) in found.items())


# Gains from some of the steps


def sampled_bound(setting: Setting, sampled_steps: int, seed: int) -> torch.Tensor:
    """The base's full bound minus the gain on the steps of each row that its seed draws, nats of the row."""
    denoiser = random_denoiser()
    samplers = [s.sampler.build(denoiser, s.energy) for s in (_base_of(setting), setting)]
    seeds = range(seed, seed + len(ROWS))
    (full,) = likelihood_bounds(samplers[:1], ROWS, seeds)
    some = likelihood_bounds(samplers, ROWS, seeds, sampled_steps=sampled_steps)
    return full - (some[0] - some[1])


def _base_of(setting: Setting) -> Setting:
    return base(setting.sampler.order, setting.sampler.num_steps)


@pytest.mark.parametrize("last", [False, True], ids=["bases first", "bases last"])
@pytest.mark.parametrize("batch_size", [3, 100])
def test_a_gain_from_some_steps_is_taken_off_the_bases_full_bound_row_by_row(last, batch_size):
    cells = [(order, steps) for order in ("random", "left_to_right") for steps in (2, 3)]
    some = [
        ours(*cell, sampled, f"of {sampled}", energy) for cell in cells for sampled, energy in ((1, ENERGY), (2, OTHER))
    ]
    everything = [base(*cell) for cell in cells] + some + [ours(*cell) for cell in cells]
    found = measured(everything[::-1] if last else everything, seed=4, batch_size=batch_size)
    assert len(found) == len(everything)
    full = measured([s for s in everything if s.sampled_steps is None], seed=4)
    for setting, (m, bound) in full.items():  # all steps of these, whoever is beside them
        torch.testing.assert_close(found[setting][1].nats_per_row, bound.nats_per_row, rtol=0, atol=1e-10)
        assert found[setting][0].gain_nats_per_token == pytest.approx(m.gain_nats_per_token)
    for setting in some:
        m, bound = found[setting]
        expected = sampled_bound(setting, setting.sampled_steps, seed=4)
        torch.testing.assert_close(bound.nats_per_row, expected, rtol=0, atol=1e-10)
        gain = (found[_base_of(setting)][1].nats_per_row - expected) / 3
        assert m.gain_nats_per_token == pytest.approx(gain.mean().item())
        assert m.gain_stderr == pytest.approx(gain.std().item() / 7**0.5)
        assert m.bound_nats_per_token == pytest.approx(expected.mean().item() / 3)
        assert m.sampled_steps == setting.sampled_steps and m.n == 7
    values = [bound.nats_per_row for _, bound in found.values()]
    twos = [s for s in some if s.sampler.num_steps == s.sampled_steps == 2]  # all steps of two are two
    for setting in twos:
        alone = measured([_base_of(setting), replace(setting, sampled_steps=None)], seed=4)
        torch.testing.assert_close(
            alone[replace(setting, sampled_steps=None)][1].nats_per_row, found[setting][1].nats_per_row
        )
    assert len(twos) == 2 and min((a - b).abs().max() for a, b in itertools.combinations(values, 2)) > 1e-3


@pytest.mark.parametrize("sampled_steps", [None, 1])
def test_draws_inside_of_the_logarithm_are_a_settings_own(sampled_steps):
    one = replace(ours("random", 2, sampled_steps), sampler=SamplerConfig(2, 3, "sequence", order="random"))
    many = replace(one, name="many", inner_draws=6)
    found = measured([base("random", 2), one, many], seed=4)
    denoiser = random_denoiser()
    pair = [base("random", 2).sampler.build(denoiser, None), one.sampler.build(denoiser, ENERGY)]
    for setting, inner_draws in ((one, 1), (many, 6)):
        before, after = likelihood_bounds(
            pair, ROWS, range(4, 11), sampled_steps=sampled_steps, inner_draws=[1, inner_draws]
        )
        m, bound = found[setting]
        full = found[base("random", 2)][1].nats_per_row
        torch.testing.assert_close(bound.nats_per_row, full - before + after, rtol=0, atol=1e-10)
        assert m.inner_draws == inner_draws
    assert (found[one][1].nats_per_row - found[many][1].nats_per_row).abs().max() > 1e-3


def test_more_sampled_steps_than_there_are_are_all_of_them():
    many, all_steps = ours("left_to_right", 2, 7), ours("left_to_right", 2, name="all")
    found = measured([base("left_to_right", 2), many, all_steps])
    torch.testing.assert_close(found[many][1].nats_per_row, found[all_steps][1].nats_per_row)


@pytest.mark.parametrize("others", [[], [base("random", 1)], [base("left_to_right", 2)], [ours("random", 2, name="a")]])
def test_a_gain_from_some_steps_needs_its_base(others):
    with pytest.raises(
        ValueError, match="sampled_steps needs the base's bound, and there is none for ours, random, 2 steps"
    ):
        measured([*others, ours("random", 2, 1)])


def test_the_terminal_shows_all_rows():
    whole = replace(ours("random", 2, name="whole"), sampler=SamplerConfig(2, 3, order="random"))
    found = [m for m, _ in measured([base("random", 2), ours("random", 2), whole]).values()]
    found[1] = replace(found[1], seconds_per_sequence=0.12345)
    table = as_table(found)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert table.row_count == 3 and cells["sampler"] == ["base", "ours", "whole"] and cells["passes"] == ["2"] * 3
    assert cells["k"] == ["1", "5", "3"] and cells["groups"] == ["step", "1", "step"]
    assert cells["gain"][0] == "" and cells["gain"][1].startswith(f"{found[1].gain_nats_per_token:.3f} ±")
    assert cells["nats/token"][1].startswith(f"{found[1].bound_nats_per_token:.3f} ±")
    assert cells["s/sequence"] == ["", "0.123", ""]
    assert cells["perplexity"] == [f"{math.exp(m.bound_nats_per_token):.1f}" for m in found]
    exact = as_table([replace(found[1], num_candidates=None, group_size=size) for size in (None, 4)])
    assert [[*column.cells] for column in exact.columns][3:5] == [["exact", "exact"], ["1", "4"]]


def test_the_markdown_has_a_line_a_setting_and_a_dash_for_what_was_not_measured():
    found = [m for m, _ in measured([base("random", 2), ours("random", 2)]).values()]
    found[1] = replace(
        found[1], seconds_per_sequence=0.12345, energy_passes=10.0, judge_nats_per_token=2.5, judge_stderr=0.1
    )
    found[1] = replace(found[1], entropy_nats=1.25, entropy_stderr=0.2, distinct_2=0.75)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in as_markdown(found).splitlines()]
    assert len(lines) == 4 and {len(line) for line in lines} == {12} and set(lines[1]) == {"---"}
    first, second = (dict(zip(lines[0], line, strict=True)) for line in lines[2:])
    assert first["method"] == "base" and first["gain"] == first["judge"] == first["s/sequence"] == "–"
    assert second["s/sequence"] == "0.1235" and second["judge"] == "2.500 ± 0.100" and second["energy passes"] == "10"
    assert second["bound"] == f"{found[1].bound_nats_per_token:.3f} ± {found[1].bound_stderr:.3f}"
    assert (second["k"], second["groups"]) == ("5", "1")
    assert second["gain"] == f"{found[1].gain_nats_per_token:.4f} ± {found[1].gain_stderr:.4f}"
    assert (second["entropy"], second["distinct-2"]) == ("1.250 ± 0.200", "0.750")


def test_csv_has_every_number_and_nothing_where_it_is_not_finite():
    (m, _), _ = measured([base("random", 2), ours("random", 2)]).values()
    m = replace(m, bound_nats_per_token=math.inf, bound_stderr=math.nan, examples=("a, b",), seconds_of_batches=(1.0,))
    (row,) = csv.DictReader(as_csv([m]).splitlines())
    expected = {name: value for name, value in asdict(m).items() if name not in ("examples", "seconds_of_batches")}
    assert row.pop("window") == "[0.0, 1.0]" and expected.pop("window") == (0.0, 1.0)
    assert row.pop("bound_nats_per_token") == row.pop("bound_stderr") == ""
    for name in ("bound_nats_per_token", "bound_stderr"):
        del expected[name]
    assert row == {name: "" if value is None else str(value) for name, value in expected.items()}
