"""Steps that reveal nothing cost nothing, and change nothing."""

import pytest
import torch

from edlm import EnergySampler
from edlm.diffusion.streams import RowStreams
from edlm.sampler.bounds import bounds_of_rows
from edlm.sampler.passes import Passes
from edlm.sampler.step import begin_steps, take_step
from tests.orders import NAMED
from tests.sampler.brute_force import MASK, World

WORLD = World()
MANY = 10**6
WAYS = {
    "base": (None, {}),
    "candidates": (WORLD.energy(), {"num_candidates": 3}),
    "sequences": (WORLD.energy(), {"num_candidates": 3, "scope": "sequence"}),
    "window": (WORLD.energy(), {"num_candidates": 2, "window": (0.2, 0.7)}),
    "exact": (WORLD.head(), {"num_candidates": None, "window": (0.0, 1.0)}),
    "particles": (WORLD.energy(), {"num_particles": 2}),
}


@pytest.fixture
def begun(monkeypatch):
    """The numbers of all steps that are begun; more than 60 are an error."""
    seen: list[list[int]] = []

    def spy(kernels, plan, at, *args):
        seen.append(at.tolist())
        assert len(seen) <= 60
        return begin_steps(kernels, plan, at, *args)

    for module in ("step", "bounds", "survival", "text.lanes"):
        monkeypatch.setattr(f"edlm.sampler.{module}.begin_steps", spy)
    return seen


@pytest.mark.parametrize("order", NAMED)
@pytest.mark.parametrize("way", WAYS)
def test_a_million_steps_of_a_few_tokens_are_a_few(way, order, begun):
    energy, options = WAYS[way]
    sampler = EnergySampler(WORLD.denoiser(), energy, num_steps=MANY, order=order, **options)
    output = sampler.sample(2, 3, seeds=[0, 1], batch_size=1)
    taken = output.steps.taken
    assert len(output.steps) == MANY and 1 <= len(begun) <= 6 and not (output.tokens == MASK).any()
    assert sum(info.num_revealed for info in taken.values()).tolist() == [3, 3]
    assert all(info.step == number and info.t == 1 - number / MANY for number, info in taken.items())
    idle = output.steps[next(number for number in (500_001, 500_002, 77) if number not in taken)]
    assert not idle.num_revealed.any() and not idle.judged.any() and idle.denoiser_calls == 0
    assert idle.energies.shape == next(iter(taken.values())).energies.shape
    assert output.steps[-1].step == MANY - 1 and [info.step for info in output.steps[7:9]] == [7, 8]
    begun.clear()
    (bounds,) = bounds_of_rows([sampler], output.tokens, [0, 1])
    assert 1 <= len(begun) <= 6 and bounds.nats.isfinite().all() and (bounds.passes <= 3 * sampler.num_particles).all()
    begun.clear()
    blocks = None if way == "sequences" else 2
    texts = sampler.generate([[0], [], [1]], 2, seed=0, eos_token_id=None, block_length=blocks, batch_size=2)
    assert 1 <= len(begun) <= 9 and len(texts.steps) == MANY and sum(map(len, texts.tokens)) == 8


@pytest.mark.parametrize("order", ["random", "ancestral", "bisecting", "dilated", "confidence", "entropy_bounded(0.7)"])
@pytest.mark.parametrize("way", list(WAYS)[:-1])
def test_tokens_are_those_of_all_steps_one_by_one(way, order):
    """Also of those that reveal nothing."""
    energy, options = WAYS[way]
    sampler = EnergySampler(WORLD.denoiser(), energy, num_steps=11, order=order, **options)
    x_t, streams = torch.tensor([[MASK, MASK, MASK], [0, MASK, 1], [MASK, 2, MASK]] * 5), RowStreams(range(15))
    output, x = sampler.fill(x_t, seeds=range(15)), x_t
    plan, passes = sampler.plan(x_t == MASK, streams), Passes.of(sampler)
    for i, theirs in enumerate(output.steps):
        (step,) = begin_steps([sampler], plan, torch.full((15,), i), x, passes)
        x, info = take_step(sampler, step, streams.values(i), i)
        for name in ("num_revealed", "energies", "ess", "judged"):
            assert torch.equal(getattr(info, name), getattr(theirs, name)), (i, name)
        assert (info.step, info.t, info.denoiser_calls) == (theirs.step, theirs.t, theirs.denoiser_calls)
    assert torch.equal(output.tokens, x)
