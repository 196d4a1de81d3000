"""Particles across steps against the sum over all that N particles can draw, in float64."""

import itertools
import math
from collections import defaultdict
from functools import cache

import numpy as np
import pytest
import torch

import edlm.sampler.particles
from edlm import CallableEnergy, EnergySampler
from edlm.energies import OracleEnergy
from edlm.sampler.bounds import bounds_of_rows
from edlm.sampler.particles import Particles
from tests.chance import assert_law, assert_mean
from tests.sampler.brute_force import MASK, NOTHING, SEQUENCES, BruteForce, Options, World, count, write
from tests.sampler.test_bound import CHAIN, oracle_denoiser
from tests.sampler.test_law import PROMPT

WORLD = World(strength=2.5)
X_0 = torch.tensor(SEQUENCES)
CASES = [  # particles, share below which they are resampled, options, given tokens
    (2, 0.95, Options(num_steps=2, order="left_to_right")),
    (3, 0.5, Options(num_steps=3, order="left_to_right")),
    (3, 0.9, Options(num_steps=3, order="dilated")),
    (3, 0.9, Options(num_steps=2, order="confidence", weight_temperature=0.5), PROMPT),
    (3, 0.5, Options(num_steps=3, order="entropy_bounded(0.7)")),
    (2, 0.95, Options(num_steps=2, order="dilated", num_candidates=2), PROMPT),
    (2, 0.95, Options(num_steps=1, order="left_to_right", num_candidates=2, group_size=1), PROMPT),
    (3, 0.9, Options(num_steps=3, order="left_to_right", window=(0.5, 1.0), temperature=0.7, correct_proposal=True)),
]


@pytest.fixture
def threshold(monkeypatch):
    return lambda below: monkeypatch.setattr(edlm.sampler.particles, "RESAMPLE_BELOW", below)


class BruteParticles:
    """Law, evidence and target of N particles, by the sum over all their moves and resamplings; one for each order."""

    def __init__(self, number, below, options, start=NOTHING):
        self.number, self.below, self.options, self.start = number, below, options, start
        self.brute = BruteForce(WORLD, options, start=start)

    def __str__(self):
        return f"{self.number}-{self.below}-{self.options}"

    @cache  # noqa: B019 (lives as long as the test)
    def moves(self, x_t, i):
        """Of one particle: ``{(x_s, mean weight): probability}``."""
        ((_, revealed),) = self.brute._reveal_sets(x_t, i)
        going, k = {(x_t, 1.0): 1.0}, self.options.num_candidates
        for group in self.brute._groups(x_t, i, revealed):
            following = defaultdict(float)
            for (x, weight), p in going.items():
                tokens, q, w = self.brute._candidates(x_t, i, x, group)
                for js in itertools.product(range(len(tokens)), repeat=k):
                    total = sum(w[j] for j in js)
                    for j in js:
                        share = w[j] / total if total > 0 else 1 / k
                        key = (write(x, group, tokens[j]), weight * total / k)
                        following[key] += p * math.prod(q[n] for n in js) * share
            going = following
        return going

    def ancestors(self, weights):
        """Of systematic resampling: ``{ancestors: probability}``."""
        ends, n = np.cumsum(weights) / np.sum(weights), len(weights)
        breaks = sorted({0.0, 1.0, *((end - j / n) % 1 for end in ends for j in range(n))})
        law = defaultdict(float)
        for low, high in itertools.pairwise(breaks):
            points = [((low + high) / 2 + j / n) % 1 for j in range(n)]
            law[tuple(int((ends <= point).sum()) for point in points)] += high - low
        return law

    def runs(self):
        """``{(particles, weights, evidence): probability}`` when all steps are done."""
        states = {((self.start,) * self.number, (1.0,) * self.number, 1.0): 1.0}
        for i in range(self.options.num_steps):
            following = defaultdict(float)
            for (xs, ws, evidence), p in states.items():
                for choice in itertools.product(*(self.moves(x, i).items() for x in xs)):
                    q = p * math.prod(chance for _, chance in choice)
                    new = tuple(x for (x, _), _ in choice)
                    w = np.array([a * b for a, ((_, b), _) in zip(ws, choice, strict=True)])
                    if w.all() and w.sum() ** 2 / (w**2).sum() >= self.below * self.number:
                        following[new, tuple(w), evidence] += q
                        continue
                    for index, chance in self.ancestors(w).items():
                        key = (tuple(new[a] for a in index), (1.0,) * self.number, evidence * w.mean())
                        following[key] += q * chance
            states = following
        return states

    @cache  # noqa: B019
    def results(self):
        """The law of the samples, and the mean of the estimate of Z."""
        law, mean = defaultdict(float), 0.0
        for (xs, ws, evidence), p in self.runs().items():
            mean += p * evidence * np.mean(ws)
            for x, w in zip(xs, ws, strict=True):
                law[x] += p * w / sum(ws)
        return torch.tensor([law[x] for x in SEQUENCES], dtype=torch.float64), mean

    def gamma(self):
        """``prod q' exp(-E)`` along the way to each sequence."""
        values = []
        for x_0 in SEQUENCES:
            x_t, value = self.start, float(all(a in (b, MASK) for a, b in zip(self.start, x_0, strict=True)))
            for i in range(self.options.num_steps):
                ((_, revealed),) = self.brute._reveal_sets(x_t, i)
                x = x_t
                for group in self.brute._groups(x_t, i, revealed):
                    data = tuple(x_0[p] for p in group)
                    tokens, q, w = self.brute._candidates(x_t, i, x, group)
                    value *= q[tokens.index(data)] * w[tokens.index(data)]
                    x = write(x, group, data)
                x_t = x
            values.append(value)
        return torch.tensor(values, dtype=torch.float64)


BRUTE = [BruteParticles(*case) for case in CASES]


def sampler(number, options, energy=None):
    energy = WORLD.energy() if energy is None else energy
    return EnergySampler(WORLD.denoiser(), energy, num_particles=number, **options.sampler_options())


def draw(sampler, rows, start=NOTHING):
    return sampler.fill(torch.tensor([start]).repeat(rows, 1), seeds=range(rows))


@pytest.mark.parametrize("brute", BRUTE, ids=str)
def test_law_is_that_of_the_enumerated_particles(brute, bulk_streams, threshold):
    threshold(brute.below)
    law, _ = brute.results()
    assert_law(count(draw(sampler(brute.number, brute.options), 100_000, brute.start).tokens), law)
    assert (law - brute.brute.law()).abs().sum() > 0.05  # not that of one particle


@pytest.mark.parametrize("brute", BRUTE, ids=str)
def test_exp_of_minus_the_bound_has_the_law_as_its_mean(brute, bulk_streams, threshold):
    """So the sampler, its conditional runs and the derivation agree; and by Jensen it is a bound."""
    threshold(brute.below)
    law, _ = brute.results()
    possible = law > 0
    rows, given = X_0[possible].repeat(2000, 1), torch.tensor(brute.start) != MASK
    one = sampler(brute.number, brute.options)
    nats = one.likelihood_bound(rows, given=given.expand(rows.shape), seeds=range(len(rows))).view(2000, -1)
    assert nats.dtype == torch.float64
    assert_mean((-nats).exp(), law[possible])
    assert (nats.mean(0) + law[possible].log() > -6.5 * nats.std(0) / 2000**0.5).all()


@pytest.mark.parametrize("brute", BRUTE, ids=str)
def test_evidence_has_the_enumerated_sum_as_its_mean(brute, bulk_streams, threshold, monkeypatch):
    threshold(brute.below)
    _, mean = brute.results()
    z, seen = brute.gamma().sum().item(), []
    assert mean == pytest.approx(z, rel=1e-10)
    settle = Particles.settle
    monkeypatch.setattr(Particles, "settle", lambda self, streams: seen.append(settle(self, streams)) or seen[-1])
    draw(sampler(brute.number, brute.options), 30_000, brute.start)
    assert_mean(seen[-1][0].log_evidence.exp(), torch.tensor(z))


def test_law_tends_to_the_product_of_potentials_normalised_once(bulk_streams):
    options, rows = Options(num_steps=3, order="left_to_right"), 20_000
    gamma = BruteParticles(2, 0.5, options).gamma()
    target = gamma / gamma.sum()

    def distance(sampler):
        return 0.5 * (count(draw(sampler, rows).tokens) / rows - target).abs().sum().item()

    distances = [distance(sampler(number, options)) for number in (1, 4, 64)]
    assert distances[0] > 2 * distances[1] > 4 * distances[2] and distances[2] < 0.05


@pytest.mark.parametrize("order", ["random", "ancestral", "confidence"])
def test_a_constant_energy_gives_the_base_law(order, bulk_streams):
    constant = CallableEnergy(lambda candidates, x, log_p: torch.full_like(log_p, 7.25))
    options = Options(num_steps=2, order=order)
    tokens = draw(sampler(4, options, constant), 50_000).tokens
    assert_law(count(tokens), BruteForce(WORLD, options, base=True).law())


@pytest.mark.parametrize("order", ["random", "ancestral"])
def test_bound_in_random_order_has_the_law_as_its_mean(order, bulk_streams):
    options = Options(num_steps=2, order=order)
    rows = X_0.repeat(1500, 1)
    nats = sampler(3, options).likelihood_bound(rows, seeds=range(len(rows))).view(1500, 27)
    law = count(draw(sampler(3, options), 400_000).tokens) / 400_000
    means, error = (-nats).exp().mean(0), (-nats).exp().std(0) / 1500**0.5
    noise = (law * (1 - law) / 400_000).sqrt()
    assert ((means - law).abs() < 6.5 * (error**2 + noise**2).sqrt()).all()


@pytest.mark.parametrize("order", ["random", "confidence", "entropy_bounded(0.7)"])
def test_rows_depend_on_their_own_seed_alone(order):
    one = sampler(5, Options(num_steps=3, order=order))
    together = one.sample(6, 3, seeds=range(6))
    assert torch.equal(together.tokens, one.sample(6, 3, batch_size=2, seeds=range(6)).tokens)
    for row in range(6):
        assert torch.equal(one.sample(1, 3, seeds=[row]).tokens[0], together.tokens[row])
    nats = one.likelihood_bound(X_0, seeds=range(27))
    alone = torch.cat([one.likelihood_bound(X_0[i : i + 1], seeds=[i]) for i in range(0, 27, 9)])
    torch.testing.assert_close(nats[::9], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("block_length", [None, 2])
@pytest.mark.parametrize("order", ["random", "confidence_threshold(0.5)"])
def test_text_is_written_as_rows_are_filled(order, block_length):
    options = {"num_steps": 2, "num_particles": 4, "order": order, "block_length": block_length}
    one = EnergySampler(WORLD.denoiser(), WORLD.energy(), **options)
    texts = one.generate([[2]] * 5, 2, seed=3, eos_token_id=None, batch_size=2)
    filled = one.fill(torch.tensor([[2, MASK, MASK]] * 5), seeds=range(3, 8))
    assert torch.equal(torch.stack(texts.tokens), filled.tokens)
    assert {step.denoiser_calls for step in filled.steps} <= {0, 4}
    with pytest.raises(ValueError, match="a trace needs num_particles=1"):
        texts.trace()


def test_blocks_are_settled_one_by_one(bulk_streams):
    """In blocks of one token, in one step each, it is a choice among N candidates of each token."""
    options = {"num_steps": 1, "order": "left_to_right", "block_length": 1}
    few = EnergySampler(WORLD.denoiser(), WORLD.energy(), num_particles=3, **options)
    many = EnergySampler(WORLD.denoiser(), WORLD.energy(), num_candidates=3, **options)
    laws = [count(draw(one, 200_000).tokens) / 200_000 for one in (few, many)]
    assert (laws[0] - laws[1]).abs().max() < 6.5 * (2 * 0.25 / 200_000) ** 0.5
    rows = X_0.repeat(2000, 1)
    nats = few.likelihood_bound(rows, seeds=range(len(rows))).view(2000, 27)
    expected = many.likelihood_bound(rows, seeds=range(len(rows))).view(2000, 27).mean(0)
    assert (nats.mean(0) - expected).abs().max() < 6.5 * 2**0.5 * nats.std(0).max() / 2000**0.5


def test_impossible_particles_die_and_all_of_them_raise():
    hard = CallableEnergy(lambda candidates, x, log_p: torch.where((candidates == 2).any(-1), torch.inf, 0.0).double())
    options = Options(num_steps=3, order="left_to_right")
    output = sampler(64, options, hard).sample(50, 3, seeds=range(50))
    assert not (output.tokens == 2).any() and not (output.tokens == MASK).any()
    assert all((step.ess <= 64 + 1e-9).all() for step in output.steps)
    nats = sampler(4, options, hard).likelihood_bound(X_0, seeds=range(27))
    assert torch.equal(torch.isinf(nats), (X_0 == 2).any(1)) and not torch.isnan(nats).any()
    nothing = CallableEnergy(lambda candidates, x, log_p: torch.full_like(log_p, torch.inf))
    with pytest.raises(ValueError, match="all 4 particles have infinite energy at t = 1 in rows \\[0, 1\\]"):
        sampler(4, options, nothing).sample(2, 3, seeds=[0, 1])


def test_the_oracle_leaves_no_weight_to_chance():
    """Perfect marginals, one token a step: all weights are 1, and the bound is the truth."""
    one = EnergySampler(oracle_denoiser(CHAIN), OracleEnergy(CHAIN), num_steps=3, num_particles=3, order="random")
    assert one.num_candidates == 1 and one.scope == "step"
    nats = one.likelihood_bound(X_0, seeds=range(27))
    torch.testing.assert_close(nats, -CHAIN.log_prob(X_0), rtol=0, atol=1e-9)
    assert all((step.ess - 3).abs().max() < 1e-9 for step in one.sample(5, 3, seeds=range(5)).steps)


def test_bounds_of_several_samplers_beside_each_other():
    options = Options(num_steps=2, order="left_to_right")
    world = (WORLD.denoiser(), WORLD.energy())
    several = [EnergySampler(*world, num_particles=n, **options.sampler_options()) for n in (1, 3, 1, 2)]
    together = bounds_of_rows(several, X_0, range(27))
    for one, bounds in zip(several, together, strict=True):
        torch.testing.assert_close(bounds.nats, one.likelihood_bound(X_0, seeds=range(27)), rtol=0, atol=1e-12)
        assert (bounds.passes == 2 * one.num_particles).all()
        assert not one.num_particles > 1 or not one.bound_is_exact
    with pytest.raises(ValueError, match="num_particles > 1 needs all steps and inner_draws=1"):
        bounds_of_rows(several, X_0, range(27), inner_draws=[1, 2, 1, 1])


@pytest.mark.parametrize(
    ("energy", "options", "rule"),
    [
        (None, {}, "num_particles > 1 needs an energy; got 2"),
        (WORLD.head(), {"num_candidates": None}, "num_particles > 1 needs candidates: exact decisions"),
        (WORLD.energy(), {"scope": "sequence"}, "num_particles > 1 needs scope='step'"),
        (WORLD.energy(), {"on_impossible": "keep"}, "on_impossible must be 'raise' with num_particles > 1"),
        (WORLD.energy(), {"num_particles": 0}, "num_particles must be >= 1, got 0"),
    ],
)
def test_rules_of_particles(energy, options, rule):
    with pytest.raises(ValueError, match=rule):
        EnergySampler(WORLD.denoiser(), energy, **{"num_steps": 2, "num_particles": 2, **options})
