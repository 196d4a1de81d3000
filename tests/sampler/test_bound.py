"""The reported bound against the exact likelihood of the very sampler: method.md, section 5, items 6 and 9."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
from edlm.corpus.languages import HiddenMarkov, MarkovChain
from edlm.diffusion.schedule import get_schedule
from edlm.energies import OracleEnergy
from edlm.evaluation import likelihood_bound
from tests.chance import assert_law, assert_mean
from tests.sampler.brute_force import MASK, SEQUENCES, BruteForce, Options, World, entropy
from tests.sampler.test_law import OPTIONS, PROMPT, WORLD, sampler

X_0 = torch.tensor(SEQUENCES)
DETERMINISTIC = ("left_to_right", "dilated", "confidence", "entropy_bounded(0.8)", "confidence_threshold(0.5)")
STEP = [[0.5, 0.3, 0.2], [0.1, 0.05, 0.85], [0.7, 0.25, 0.05]]
CHAIN = MarkovChain(STEP, [0.2, 0.5, 0.3])
HIDDEN = HiddenMarkov([[0.1, 0.9], [0.65, 0.35]], [[0.6, 0.3, 0.1], [0.1, 0.15, 0.75]], [0.7, 0.3])
ALL_ORDERS = ("ancestral", "random", *DETERMINISTIC)


def draws(sampler, seeds, x_0=X_0, given=None):
    """Bounds of each sequence, ``[seeds, 27]``."""
    rows = x_0.repeat(seeds, 1)
    given = given if given is None else given.expand(rows.shape)
    return sampler.likelihood_bound(rows, given=given, seeds=range(len(rows))).view(seeds, len(x_0))


def oracle_denoiser(language):
    return FunctionDenoiser(lambda x_t, t: language.log_marginals(x_t), language.mask_token_id, language.vocab_size)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_item_6_mean_over_seeds_is_the_enumerated_bound_not_below_exact(options, bulk_streams):
    brute = BruteForce(WORLD, options)
    bound = torch.tensor([brute.bound(x) for x in SEQUENCES], dtype=torch.float64)
    estimates = draws(sampler(options), 2000)
    assert estimates.dtype == torch.float64
    assert_mean(estimates, bound)
    excess = bound + brute.law().log()
    assert (excess > -1e-9).all()
    tight = options.order in DETERMINISTIC and options.num_candidates in (1, None)
    assert (excess.abs() < 1e-9).all() if tight else excess.max() > 1e-2


MANY = [
    Options(num_steps=1, num_candidates=2, scope="sequence", order="left_to_right"),
    Options(num_steps=2, num_candidates=3, scope="sequence", order="random"),
    Options(num_steps=2, num_candidates=3, scope="sequence", order="dilated", weight_temperature=0.5),
    Options(num_steps=3, num_candidates=2, scope="sequence", order="confidence", window=(0.5, 1.0)),
    Options(num_steps=2, num_candidates=4, order="dilated"),
    Options(num_steps=1, num_candidates=3, order="random", group_size=2),
]


@pytest.mark.parametrize("options", MANY, ids=str)
@pytest.mark.parametrize("inner_draws", [1, 2, 5])
def test_estimate_inside_of_the_logarithm_has_the_law_as_its_mean(options, inner_draws, bulk_streams):
    """However draws are shared by its terms; so minus its log is a bound, by Jensen."""
    rows = X_0.repeat(4000, 1)
    estimates = sampler(options).likelihood_bound(rows, seeds=range(len(rows)), inner_draws=inner_draws)
    assert_mean((-estimates).exp().view(4000, 27), BruteForce(WORLD, options).law())


@pytest.mark.parametrize("options", MANY[::2], ids=str)
def test_more_draws_make_the_bound_tighter_and_never_too_low(options, bulk_streams):
    rows, exact = X_0.repeat(1000, 1), -BruteForce(WORLD, options).law().log()
    means = []
    for inner_draws in (1, 4, 32):
        estimates = (
            sampler(options).likelihood_bound(rows, seeds=range(len(rows)), inner_draws=inner_draws).view(1000, 27)
        )
        means.append(estimates.mean(1).mean().item())  # of all sequences alike
        assert means[-1] > exact.mean() - 0.01
    assert means[0] > means[1] > means[2]
    if options.order in DETERMINISTIC:  # no order is latent: only candidates are
        assert means[2] - exact.mean() < 0.2 * (means[0] - exact.mean())


@pytest.mark.parametrize("inner_draws", [1, 3])
def test_draws_of_a_row_are_its_own(inner_draws):
    s = sampler(MANY[1])
    together = s.likelihood_bound(X_0, seeds=range(27), inner_draws=inner_draws)
    alone = [s.likelihood_bound(X_0[i : i + 1], seeds=[i], inner_draws=inner_draws) for i in range(0, 27, 5)]
    torch.testing.assert_close(together[::5], torch.cat(alone), rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", DETERMINISTIC)
@pytest.mark.parametrize("k", [1, None])
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_item_6_tight_where_nothing_is_latent(order, k, num_steps):
    if order == "dilated" and num_steps == 4:
        num_steps = 3
    options = Options(num_steps=num_steps, num_candidates=k, order=order)
    exact = -BruteForce(WORLD, options).law().log()
    torch.testing.assert_close(draws(sampler(options), 3), exact.expand(3, 27), rtol=0, atol=1e-6)  # t is a float32


@pytest.mark.parametrize("options", OPTIONS[1::5], ids=str)
def test_bound_of_what_is_not_given(options, bulk_streams):
    given = torch.tensor(PROMPT) != MASK
    brute = BruteForce(WORLD, options, start=PROMPT)
    of_prompt = [x for x in SEQUENCES if x[1] == PROMPT[1]]
    bound = torch.tensor([brute.bound(x) for x in of_prompt], dtype=torch.float64)
    assert_mean(draws(sampler(options), 2000, torch.tensor(of_prompt), given), bound)


@pytest.mark.parametrize("options", OPTIONS[1:22:3], ids=str)
def test_a_constant_energy_gains_nothing(options):
    constant = CallableEnergy(lambda candidates, x, log_p: torch.full_like(log_p, -3.5))
    base = draws(sampler(options, num_candidates=1), 4)
    torch.testing.assert_close(draws(sampler(options, constant), 4), base, rtol=0, atol=1e-9)


@pytest.mark.parametrize("language", [CHAIN, HIDDEN], ids=["markov", "hidden"])
@pytest.mark.parametrize("order", ALL_ORDERS)
def test_exact_decisions_with_the_oracle_have_the_true_likelihood(language, order):
    truth = language.log_prob(X_0)
    for num_steps in (1, 2, 3):
        for denoiser in (oracle_denoiser(language), WORLD.denoiser()):
            oracle = EnergySampler(
                denoiser, OracleEnergy(language), num_steps=num_steps, num_candidates=None, order=order
            )
            torch.testing.assert_close(draws(oracle, 3), -truth.expand(3, 27), rtol=0, atol=1e-9)
            given = torch.tensor([True, False, False])
            predicted = truth - language.log_prob(torch.where(given, X_0, MASK))
            torch.testing.assert_close(draws(oracle, 2, given=given), -predicted.expand(2, 27), rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", ["random", *DETERMINISTIC[:3]])
def test_item_6_exact_posterior_gives_the_entropy_at_one_token_a_step(order):
    law = CHAIN.log_prob(X_0).exp()
    one = EnergySampler(oracle_denoiser(CHAIN), num_steps=3, order=order)
    bounds = draws(one, 7)
    torch.testing.assert_close(bounds, -law.log().expand(7, 27), rtol=0, atol=1e-9)  # the chain rule, in any order
    assert (bounds @ law).tolist() == pytest.approx([CHAIN.entropy_nats(3)] * 7, rel=1e-9)
    assert entropy(law) == pytest.approx(CHAIN.entropy_nats(3), rel=1e-9)


@pytest.mark.parametrize("order", ALL_ORDERS)
@pytest.mark.parametrize("k", [1, 3])
def test_item_6_and_never_less_at_fewer_steps(order, k, bulk_streams):
    law = CHAIN.log_prob(X_0).exp()
    for num_steps in (1, 2, 3):
        options = Options(num_steps=num_steps, order=order, num_candidates=k)
        few = EnergySampler(oracle_denoiser(CHAIN), OracleEnergy(CHAIN), **options.sampler_options())
        mean = draws(few, 1000) @ law
        assert mean.mean() > CHAIN.entropy_nats(3) - 6.5 * mean.std() / 1000**0.5 - 1e-9
        if num_steps == 1 and k == 1:
            assert mean.min() > CHAIN.entropy_nats(3) + 0.1  # for every draw: nothing is random here


def test_item_6_never_less_for_any_single_order():
    """The same order for all 27, that is, the same seed."""
    law = CHAIN.log_prob(X_0).exp()
    few = EnergySampler(oracle_denoiser(CHAIN), num_steps=2, order="random")
    means = torch.stack([few.likelihood_bound(X_0, seeds=[seed] * 27) @ law for seed in range(60)])
    # Given the middle the ends are independent: revealing it alone costs nothing, the ends first do.
    middle, *ends = means.round(decimals=9).unique().tolist()
    assert middle == pytest.approx(CHAIN.entropy_nats(3), abs=1e-8)
    assert len(ends) == 2 and min(ends) > middle + 0.1  # one is missed with chance 3 (2/3)^60 = 8e-11


def continuous_nelbo(world, schedule) -> torch.Tensor:
    """``integral -alpha'/(1 - alpha) E_{x_t} sum_masked -log p(x_0^i | x_t) dt``, by Gauss-Legendre, exact here."""
    t, weight = (torch.tensor(x) / 2 for x in np.polynomial.legendre.leggauss(60))
    t = t + 0.5
    alpha, total = schedule.alpha(t), torch.zeros(27, dtype=torch.float64)
    for masked in range(1, 8):
        where = [p for p in range(3) if masked >> p & 1]
        m = len(where)
        measure = (weight * schedule.nelbo_weight(t) * (1 - alpha) ** m * alpha ** (3 - m)).sum()
        x_t = X_0.clone()
        x_t[:, where] = MASK
        log_p = world.denoiser().log_probs(x_t, torch.full((27,), 0.5))
        total -= measure * log_p.gather(2, X_0[..., None])[:, where, 0].sum(1)
    return total


@pytest.mark.parametrize("schedule", ["log_linear", "cosine", "polynomial"])
def test_item_9_one_random_token_a_step_is_the_continuous_time_nelbo(schedule):
    world = World()
    timeless = FunctionDenoiser(lambda x_t, t: world.denoiser().f(x_t, torch.full_like(t, 0.5)), MASK, 3)
    subset = torch.arange(0, 27, 5)
    bounds = draws(EnergySampler(timeless, num_steps=3, order="random"), 400, X_0[subset])
    mean = torch.zeros(27, dtype=torch.float64)
    for order in permutations(range(3)):  # each order's exact value, summed apart from the sampler
        x_t = torch.full((27, 3), MASK)
        for position in order:
            mean -= timeless.log_probs(x_t)[:, position].gather(1, X_0[:, position, None])[:, 0] / 6
            x_t[:, position] = X_0[:, position]
    torch.testing.assert_close(mean, continuous_nelbo(world, get_schedule(schedule)), rtol=1e-7, atol=0)
    for column, x in zip(
        bounds.T, subset, strict=True
    ):  # all six orders appear (else chance 6 (5/6)^400), equally often, and average to it
        values, times = column.round(decimals=9).unique(return_counts=True)
        assert len(values) == 6
        assert values.mean().item() == pytest.approx(mean[x].item(), rel=1e-6)
        assert_law(times, torch.full((6,), 1 / 6, dtype=torch.float64))


def test_impossible_data_has_an_infinite_bound():
    world = World()
    world.scores[16 * 1 + 4 * 2 + 0] = torch.inf  # the sequence 1, 2, 0
    options = Options(num_steps=1, num_candidates=3)
    bounds = EnergySampler(world.denoiser(), world.energy(), **options.sampler_options()).likelihood_bound(
        X_0, seeds=range(27)
    )
    assert torch.isinf(bounds).nonzero()[:, 0].tolist() == [SEQUENCES.index((1, 2, 0))] and bounds.max() == torch.inf
    never = FunctionDenoiser(lambda x_t, t: torch.tensor([0.0, 0.0, -torch.inf]).expand(*x_t.shape, 3), MASK, 3)
    bounds = EnergySampler(never, num_steps=2).likelihood_bound(X_0, seeds=range(27))
    assert torch.equal(torch.isinf(bounds), (X_0 == 2).any(1))
    assert bounds[0].item() == pytest.approx(3 * math.log(2))


def test_evaluation_gives_the_samplers_bound():
    options = {"num_steps": 2, "num_candidates": 3, "order": "random", "group_size": 2}
    given = X_0 == 1
    kwargs = {"given": given, "seeds": range(27)}
    expected = EnergySampler(WORLD.denoiser(), WORLD.energy(), **options).likelihood_bound(X_0, **kwargs)
    assert torch.equal(likelihood_bound(WORLD.denoiser(), WORLD.energy(), X_0, **kwargs, **options), expected)


def test_bound_leaves_no_graph_and_x_0_alone():
    x_0 = X_0.clone()
    assert not sampler(Options(num_candidates=2)).likelihood_bound(x_0).requires_grad
    assert torch.equal(x_0, X_0)


@pytest.mark.parametrize(("group_size", "masked"), [(None, [3, 0]), (1, [3, 0]), (1, [3, 1])])
def test_what_an_energy_says_of_rows_that_decide_nothing_is_ignored(group_size, masked):
    """A mean per filled token is 0 / 0 where none is filled."""

    def mean_log_p(candidates, x_partial, log_p):
        return -log_p / ((candidates != MASK) & (x_partial == MASK)[:, None]).sum(-1)

    options = {"num_steps": 1, "num_candidates": 3, "order": "random", "group_size": group_size}
    s = EnergySampler(WORLD.denoiser(), CallableEnergy(mean_log_p), **options)
    given = torch.arange(3) >= torch.tensor(masked)[:, None]
    s.fill(X_0[:2].masked_fill(~given, MASK), seeds=[0, 1])  # this is well
    alone = s.likelihood_bound(X_0[1:2], given=given[1:], seeds=[1])
    assert s.likelihood_bound(X_0[:2], given=given, seeds=[0, 1])[1] == alone
