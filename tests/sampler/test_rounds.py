"""Exact decisions in rounds: tokens of a round are independent given the rounds before, in bound and samples."""

import itertools
import math

import pytest
import torch

from edlm import EnergySampler
from tests.chance import assert_law
from tests.sampler.brute_force import NOTHING, SEQUENCES, World, count, write

WORLD = World(seed=4)
#  Rounds of the positions of one step, left to right: ceil(3 / size) rounds, each takes every so many-th.
ROUNDS = {1: [(0,), (1,), (2,)], 2: [(0, 2), (1,)], 3: [(0, 1, 2)], 7: [(0, 1, 2)]}


def sampler(size: int | None, **more) -> EnergySampler:
    options = {"num_steps": 1, "order": "left_to_right", "num_candidates": None, "group_size": size, **more}
    return EnergySampler(WORLD.denoiser(), WORLD.head(), **options)


def law(size: int) -> dict[tuple[int, ...], float]:
    """By hand: the head's law of each token given what the rounds before it wrote."""
    laws = {}
    for x in SEQUENCES:
        partial, p = NOTHING, 1.0
        for positions in ROUNDS[size]:
            for position in positions:
                p *= WORLD.conditional(NOTHING, 1.0, partial, position)[x[position]]
            partial = write(partial, positions, tuple(x[position] for position in positions))
        laws[x] = p
    return laws


@pytest.mark.parametrize("size", ROUNDS)
def test_the_bound_is_the_exact_law_of_the_rounds(size):
    expected = law(size)
    assert sum(expected.values()) == pytest.approx(1)
    nats = sampler(size).likelihood_bound(torch.tensor(SEQUENCES), seeds=range(27))
    assert nats.tolist() == pytest.approx([-math.log(expected[x]) for x in SEQUENCES])


@pytest.mark.parametrize("size", ROUNDS)
def test_the_samples_follow_it(size, bulk_streams):
    drawn = sampler(size).fill(torch.tensor([NOTHING]).repeat(60_000, 1), seeds=range(60_000))
    assert_law(count(drawn.tokens), torch.tensor([law(size)[x] for x in SEQUENCES]))


def test_sizes_differ_where_tokens_depend_on_each_other():
    laws = [torch.tensor(list(law(size).values())) for size in (1, 2, 3)]
    for one, other in itertools.combinations(laws, 2):
        assert (one - other).abs().sum() > 0.05


def test_no_size_means_one_by_one():
    x_0 = torch.tensor(SEQUENCES)
    how = {"num_steps": 2, "order": "random"}
    one, none = (sampler(size, **how).likelihood_bound(x_0, seeds=range(27)) for size in (1, None))
    assert torch.equal(one, none)
