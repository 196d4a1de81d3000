"""Steps at which an energy was measured not to gain are the base's: law, bound, texts; and how one sees and says so."""

import warnings
from dataclasses import replace

import pytest
import torch

from edlm import EnergySampler, load_denoiser, load_energy
from edlm.energies.card import TrainedFor
from edlm.energies.gains import ALWAYS, NEVER, SettingGain, gaining_window
from edlm.sampler.bounds import likelihood_bounds
from tests.chance import assert_law
from tests.energies.heads import MASK, disturbed_head, modernbert
from tests.sampler.brute_force import SEQUENCES, BruteForce, Options, TableHead, World, count

WORLD = World()
ORDERS = ["random", "ancestral", "dilated", "left_to_right", "confidence"]


def records(window, num_steps=2, orders=ORDERS, length=8, block_length=None):
    return tuple(SettingGain(o, num_steps, block_length, length, 99, 0.0, 0.0, window, 0.0, 0.0) for o in orders)


class Measured(TableHead):
    """The head of the world with a record."""

    def __init__(self, window):
        super().__init__(WORLD)
        self.window = window

    def gaining_window(self, *setting):
        return gaining_window(records(self.window), *setting)


def quiet(*parts, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return EnergySampler(*parts, **options)


@pytest.fixture(scope="module")
def denoiser():
    return modernbert().double()


@pytest.fixture
def head(denoiser):
    """A `ResidualHead` that gains nowhere in 4 passes, and in 2 only at the second."""
    head = disturbed_head(denoiser).double()
    gains = records(NEVER, 4) + records((0.0, 0.75), 2)
    head.trained_for = TrainedFor(tuple(ORDERS), (2, 4), (None,), gains=gains)
    return head


@pytest.mark.parametrize("order", ORDERS)
def test_law_of_a_sampler_that_leaves_it_out_is_the_base_s(order, bulk_streams):
    sampler = quiet(WORLD.denoiser(), Measured(NEVER), num_steps=2, order=order)
    law = BruteForce(WORLD, Options(num_candidates=None, order=order), base=True).law()
    assert_law(count(sampler.sample(40_000, 3, seeds=range(40_000)).tokens), law)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("window", [(0.75, 1.0), (0.0, 0.75), ALWAYS])
def test_law_of_one_that_uses_some_steps_is_enumerated(order, window, bulk_streams):
    brute = BruteForce(WORLD, Options(num_candidates=None, order=order, window=window))
    sampler = EnergySampler(WORLD.denoiser(), Measured(window), num_steps=2, order=order)
    assert_law(count(sampler.sample(40_000, 3, seeds=range(40_000)).tokens), brute.law())
    if sampler.bound_is_exact:
        nats = sampler.likelihood_bound(torch.tensor(SEQUENCES), seeds=[0] * 27)
        assert nats.tolist() == pytest.approx([brute.bound(x_0) for x_0 in SEQUENCES], abs=1e-6)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("options", [{}, {"block_length": 4}, {"group_size": 2}, {"temperature": 0.6, "top_k": 2}])
def test_without_its_energy_a_sampler_is_the_base_to_the_last_bit(order, options, denoiser, head, monkeypatch):
    options = {"num_steps": 4, "order": order, **options}
    base, without = EnergySampler(denoiser, **options), quiet(denoiser, head, **options)
    x_0 = torch.randint(MASK, (6, 8), generator=torch.Generator().manual_seed(0))
    given = torch.arange(8).expand(6, 8) % 3 == 1
    kept, encode = [], denoiser.encode
    monkeypatch.setattr(
        denoiser, "encode", lambda *a, keep_hidden=False, **o: kept.append(keep_hidden) or encode(*a, **o)
    )
    for call in (
        lambda s: s.likelihood_bound(x_0, seeds=range(6)),
        lambda s: s.likelihood_bound(x_0, given=given, seeds=range(6)),
    ):
        assert torch.equal(call(base), call(without))
    whole, other = base.sample(6, 8, seeds=range(6)), without.sample(6, 8, seeds=range(6))
    assert torch.equal(whole.tokens, other.tokens) and not any(kept)
    for a, b in zip(whole.steps, other.steps, strict=True):
        assert not b.energies.any() and not b.judged.any() and a.denoiser_calls == b.denoiser_calls
    pair = likelihood_bounds([base, without], x_0, range(6))
    assert torch.equal(*pair)


def test_the_setting_decides_anew_where_options_change(denoiser, head):
    sampler = quiet(denoiser, head, num_steps=4, order="random")
    assert not sampler.energy_is_used and sampler.energy_window == NEVER and sampler.energy is head
    fewer = replace(sampler, num_steps=2)
    assert fewer.energy_is_used and fewer.energy_window == (0.0, 0.75)
    assert [bool(step.judged.any()) for step in fewer.sample(2, 8, seeds=[0, 1]).steps] == [False, True]
    always = replace(sampler, window=(0, 1))
    assert [bool(step.judged.any()) for step in always.sample(2, 8, seeds=[0, 1]).steps] == [True] * 4
    assert replace(fewer, block_length=4).energy_window == NEVER  # two tokens a pass, as in 4 passes of a row


@pytest.mark.parametrize(
    "options", [{"num_candidates": 4}, {"num_candidates": 4, "group_size": 2}, {"order": "entropy_bounded(0.5)"}]
)
def test_candidates_and_orders_that_were_not_measured_use_it(options, denoiser, head):
    sampler = quiet(denoiser, head, **{"num_steps": 4, "order": "random", **options})
    assert sampler.energy_is_used and sampler.energy_window == ALWAYS
    assert sampler.sample(2, 8, seeds=[0, 1]).steps[0].judged.any()


def test_sums_use_their_terms(denoiser, head):
    other = disturbed_head(denoiser, scale=0.2).double()
    assert quiet(denoiser, 0.5 * head + 0.5 * other, num_steps=4, order="random").energy_window == ALWAYS


def test_a_sampler_says_once_that_it_leaves_its_energy_out_and_shows_it(denoiser, head):
    with pytest.warns(
        UserWarning, match="ResidualHead does not gain in 4 passes of order random: left out; window="
    ) as said:
        sampler = EnergySampler(denoiser, head, num_steps=4, order="random")
        EnergySampler(denoiser, head, num_steps=4, order="random")
    assert len(said) == 1
    assert "window=(0.0, 0.0)" in repr(sampler) and sampler.options["window"] == NEVER and sampler.window == "auto"
    assert "window" not in repr(replace(sampler, window=(0, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EnergySampler(denoiser, head, num_steps=2, order="random")
        EnergySampler(denoiser, head, num_steps=4, order="random", window=(0, 1))


def test_texts_and_choices_are_the_base_s():
    denoiser, head = load_denoiser("tinystories"), load_energy("tinystories/head")
    head.trained_for = replace(head.trained_for, gains=records(NEVER, 4, ["bisecting"], length=128))
    base, without = EnergySampler(denoiser, num_steps=4), quiet(denoiser, head, num_steps=4)
    used = replace(without, window=(0, 1))
    gap, options = "Once upon a time there was a <mask> who liked to play.", ["little girl", "dog", "big red ball"]
    calls = {
        "infill": lambda s: s.infill(gap, span_length=6, seed=1).tokens[0].tolist(),
        "generate": lambda s: s.generate("Once upon", 12, seed=1).tokens[0].tolist(),
        "choose": lambda s: s.choose(gap, options).nats[0].tolist(),
    }
    for call in calls.values():
        assert call(base) == call(without)
    assert all(call(base) != call(used) for call in (calls["generate"], calls["choose"]))
