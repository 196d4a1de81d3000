"""Timed samples: what is drawn, from which seeds, what the clock said, and what was counted."""

import pytest
import torch

from edlm.denoisers import FunctionDenoiser
from edlm.energies import CallableEnergy
from edlm.evaluation.samples.cost import TimedSamples, draw_timed
from edlm.sampler import EnergySampler
from tests.enumerable import LENGTH, MASK, random_denoiser
from tests.sampler.brute_force import World

SIZE = 4


@pytest.fixture
def clock(monkeypatch):
    """A clock that says at each reading what it is told, and fails when it is read once more."""

    def tell(*readings):
        ticks = iter(readings)
        monkeypatch.setattr("edlm.evaluation.samples.cost.time.perf_counter", lambda: next(ticks))

    return tell


class Counting:
    """A denoiser and an energy that count what they are asked, the warming up too."""

    def __init__(self, function=lambda candidates: (candidates == 1).sum(-1)):
        self.denoised, self.rows, self.judged = 0, 0, 0
        table, self.function = random_denoiser().f, function
        self.denoiser = FunctionDenoiser(lambda x_t, t: self._count(x_t) or table(x_t, t), MASK, 3)
        self.energy = CallableEnergy(self._judge)

    def _count(self, x_t):
        self.denoised += 1
        self.rows += len(x_t)

    def _judge(self, candidates, x_partial, log_proposal):
        self.judged += candidates.shape[:2].numel()
        return self.function(candidates)


def base(**options) -> EnergySampler:
    return EnergySampler(random_denoiser(), **{"num_steps": 2, "order": "random", **options})


def test_the_seconds_are_those_of_the_batches_after_one_that_warms_up(clock):
    """4, 2 and 12 seconds for four sequences; the first sample, which is not timed, would be told the wrong time."""
    clock(10.0, 14.0, 20.0, 22.0, 30.0, 42.0)
    drawn = draw_timed(base(), LENGTH, batch_size=4, num_batches=3, seed=10)
    assert drawn.seconds_of_batches == (1.0, 0.5, 3.0)
    assert drawn.seconds_per_sequence == 1.0
    clock(0.0, 4.0, 20.0, 22.0)
    assert draw_timed(base(), LENGTH, batch_size=4, num_batches=2, seed=10).seconds_per_sequence == 0.75


def test_the_median_is_of_any_order():
    for seconds, median in (((5.0, 1.0, 3.0), 3.0), ((9.0, 1.0, 2.0, 4.0), 3.0), ((7.0,), 7.0)):
        assert TimedSamples(torch.empty(0, 3), seconds, 1, 0.0).seconds_per_sequence == median


@pytest.mark.parametrize(("batch_size", "num_batches"), [(1, 6), (2, 3), (6, 1)])
def test_sample_i_has_the_seed_plus_i_whatever_the_batches(batch_size, num_batches):
    drawn = draw_timed(base(), LENGTH, batch_size=batch_size, num_batches=num_batches, seed=31)
    assert torch.equal(drawn.tokens, base().sample(6, LENGTH, seeds=range(31, 37)).tokens)
    assert len(drawn.seconds_of_batches) == num_batches and min(drawn.seconds_of_batches) > 0
    other = draw_timed(base(), LENGTH, batch_size=batch_size, num_batches=num_batches, seed=32)
    assert torch.equal(other.tokens[:-1], drawn.tokens[1:])


@pytest.mark.parametrize("num_batches", [0, -1])
def test_nothing_can_not_be_timed(num_batches):
    with pytest.raises(ValueError, match=f"num_batches must be >= 1, got {num_batches}"):
        draw_timed(base(), LENGTH, batch_size=2, num_batches=num_batches, seed=0)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("num_batches", [1, 3])
def test_passes_of_the_base_are_its_steps_and_none_of_an_energy(num_steps, num_batches):
    count = Counting()
    sampler = EnergySampler(count.denoiser, num_steps=num_steps, order="left_to_right")
    drawn = draw_timed(sampler, LENGTH, batch_size=SIZE, num_batches=num_batches, seed=0)
    assert drawn.denoiser_passes == min(num_steps, LENGTH)  # a step that reveals nothing has no pass
    assert drawn.energy_passes == 0.0
    assert count.denoised == drawn.denoiser_passes * (1 + num_batches)


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"num_candidates": 1}, 0),
        ({"num_candidates": 1, "on_impossible": "redraw"}, 2),
        ({"num_candidates": 5}, 10),  # two steps
        ({"num_candidates": 5, "num_steps": 1}, 5),
        ({"num_candidates": 5, "num_steps": 7}, 15),  # three steps that reveal something
        ({"num_candidates": 5, "group_size": 1}, 15),  # one token, then two
        ({"num_candidates": 5, "group_size": 2}, 10),
        ({"num_candidates": 5, "num_steps": 1, "group_size": 2}, 10),
        ({"num_candidates": 5, "scope": "sequence"}, 10),
        ({"num_candidates": 5, "window": (0.0, 0.5)}, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("num_batches", [1, 3])
def test_energy_passes_are_the_candidates_judged_for_a_sequence(options, passes, num_batches):
    count = Counting()
    sampler = EnergySampler(count.denoiser, count.energy, **{"num_steps": 2, "order": "dilated", **options})
    drawn = draw_timed(sampler, LENGTH, batch_size=SIZE, num_batches=num_batches, seed=3)
    assert drawn.energy_passes == passes
    assert count.judged == passes * (1 + SIZE * num_batches)  # one sequence to warm up
    assert drawn.denoiser_passes == min(options.get("num_steps", 2), LENGTH)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_passes_of_exact_decisions_are_tokens(num_steps):
    world = World()
    options = {"num_steps": num_steps, "num_candidates": None, "order": "random"}
    drawn = draw_timed(EnergySampler(world.denoiser(), world.head(), **options), 3, batch_size=4, num_batches=2, seed=0)
    assert (drawn.energy_passes, drawn.denoiser_passes) == (3.0, num_steps)
    half = EnergySampler(world.denoiser(), world.head(), window=(0.0, 0.5), **{**options, "num_steps": 2})
    assert draw_timed(half, 3, batch_size=4, num_batches=1, seed=0).energy_passes == 2.0


@pytest.mark.parametrize("num_batches", [1, 4])
def test_candidates_that_are_drawn_anew_are_passes_of_all_batches(num_batches):
    """Sequences that begin with a 0 are impossible: how often candidates are drawn anew is each sequence's own."""
    count = Counting(lambda candidates: torch.where(candidates[..., 0] == 0, torch.inf, 0.0))
    sampler = EnergySampler(count.denoiser, count.energy, num_steps=1, num_candidates=1, on_impossible="redraw")
    drawn = draw_timed(sampler, LENGTH, batch_size=SIZE, num_batches=num_batches, seed=0)
    n = SIZE * num_batches
    redraws = sampler.sample(n, LENGTH, seeds=range(n)).steps[0].redraws
    means = redraws.view(num_batches, SIZE).double().mean(1)
    assert num_batches == 1 or abs(means[-1] - means.mean()) > 0.01 < abs(means[0] - means.mean())
    assert drawn.energy_passes == pytest.approx(1 + redraws.double().mean().item())
    assert (drawn.tokens[:, 0] != 0).all() and drawn.denoiser_passes == 1
