"""The continuous-time bound: enumerated, against the two-bit example, and without bias at small times."""

import itertools
import math

import pytest
import torch

from edlm.corpus.languages import MarkovChain
from edlm.denoisers.function import FunctionDenoiser
from edlm.diffusion.schedule import get_schedule
from edlm.evaluation import continuous_nelbo
from edlm.evaluation.languages.exact import exact_denoiser
from edlm.evaluation.likelihood.continuous import ContinuousTime
from edlm.sampler import EnergySampler
from tests.chance import SIGMAS
from tests.enumerable import SEQUENCES, random_denoiser

ROWS = SEQUENCES[[5, 7, 19]]
DENOISER = random_denoiser()


def by_orders(denoiser, x_0) -> float:
    """One token a step in random order: the mean over all orders of the exact -log p."""
    total = 0.0
    for order in itertools.permutations(range(3)):
        x_t = torch.full((1, 3), 3)
        for position in order:
            total -= denoiser.log_probs(x_t)[0, position, x_0[position]].item() / 6
            x_t[0, position] = x_0[position]
    return total


def test_enumeration_is_one_token_a_step_in_random_order():
    """method.md section 5, point 9."""
    bound = continuous_nelbo(DENOISER, ROWS, estimator="enumerated")
    expected = torch.tensor([by_orders(DENOISER, row) for row in ROWS], dtype=torch.float64)
    torch.testing.assert_close(bound.nats_per_row, expected, atol=1e-5, rtol=1e-5)
    assert bound.value == pytest.approx(expected.mean().item() / 3, abs=1e-5)
    assert bound.direction == "upper bound of -log p" and bound.estimator.endswith("all ways to mask a row")


@pytest.mark.parametrize("estimator", ["times", "counts"])
@pytest.mark.parametrize("schedule", ["log_linear", "cosine", "polynomial"])
def test_estimates_tend_to_the_enumerated_value_for_any_schedule(estimator, schedule):
    """4,000 seeds: within 6.5 standard errors, which are a hundredth of the value; the cut-off is 1/1000 of it."""
    x_0 = ROWS[:1].expand(4000, -1)
    exact = by_orders(DENOISER, ROWS[0])
    bound = continuous_nelbo(DENOISER, x_0, estimator=estimator, schedule=schedule, num_draws=4, batch_size=4000)
    mean, error = bound.nats_per_row.mean().item(), bound.nats_per_row.std().item() / 4000**0.5
    assert error < 0.015 * exact
    assert abs(mean - exact) < SIGMAS * error + 0.003 * exact


def test_counts_are_exact_where_every_token_is_as_hard():
    """A flat denoiser has no noise in this estimator, which has no cut-off: log 3 a token, on the nose."""
    flat = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 3), 3, 3)
    bound = continuous_nelbo(flat, ROWS, estimator="counts", num_draws=3)
    torch.testing.assert_close(bound.nats_per_row, torch.full((3,), 3 * math.log(3), dtype=torch.float64))
    assert bound.stderr == pytest.approx(0, abs=1e-9)


def test_the_cut_off_of_times_is_the_documented_bias():
    """A loss of c for the last token alone: the integrand is 3 c (1 - t)^2, and times give its mean over [cut, 1]."""
    c, cut = 2.0, 0.2

    def f(x_t, t):
        last = (x_t == 3).sum(1) == 1  # all but one are known: -log p = c, else 0
        low = torch.tensor([math.exp(-c), (1 - math.exp(-c)) / 2, (1 - math.exp(-c)) / 2]).log()
        return torch.where(last[:, None, None], low, torch.tensor([0.0, -50.0, -50.0])).expand(-1, 3, -1)

    denoiser, x_0 = FunctionDenoiser(f, 3, 3), torch.zeros(6000, 3, dtype=torch.long)
    exact = continuous_nelbo(denoiser, x_0[:1], estimator="enumerated").nats_per_row[0].item()
    assert exact == pytest.approx(c)
    bound = continuous_nelbo(denoiser, x_0, num_draws=4, smallest=cut, batch_size=6000).nats_per_row
    expected = c * (1 - cut) ** 3 / (1 - cut)  # integral of 3 c (1 - t)^2 over [cut, 1], over its length
    assert abs(bound.mean().item() - expected) < SIGMAS * bound.std().item() / 6000**0.5
    assert expected > exact - cut * 3 * c  # no lower than the documented bound


def test_two_bits():
    """method.md section 4: rho = 0.9 has 1.469 bits, and so has the bound with exact marginals."""
    for rho, bits in ((0.9, 1.469), (1.0, 1.0)):
        language = MarkovChain([[rho, 1 - rho], [1 - rho, rho]], [0.5, 0.5])
        x_0 = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        p = language.log_prob(x_0).exp()
        bound = continuous_nelbo(exact_denoiser(language), x_0[p > 0], estimator="enumerated").nats_per_row
        assert (bound * p[p > 0]).sum().item() / math.log(2) == pytest.approx(bits, abs=5e-4)


def test_it_is_the_finite_step_bound_at_one_token_a_step():
    x_0 = ROWS[1:2].expand(3000, -1)
    sampler = EnergySampler(DENOISER, num_steps=3, order="random")
    bound = sampler.likelihood_bound(x_0, seeds=range(3000))
    exact = continuous_nelbo(DENOISER, ROWS[1:2], estimator="enumerated").nats_per_row[0]
    assert abs(bound.mean() - exact) < SIGMAS * bound.std() / 3000**0.5


@pytest.mark.parametrize("estimator", ["times", "counts", "enumerated"])
def test_rows_have_their_own_seeds_whatever_the_batch_size(estimator):
    options = {"estimator": estimator, "num_draws": 2, "seed": 9}
    whole = continuous_nelbo(DENOISER, ROWS, **options).nats_per_row
    for size in (1, 2):
        torch.testing.assert_close(continuous_nelbo(DENOISER, ROWS, batch_size=size, **options).nats_per_row, whole)
    other = continuous_nelbo(DENOISER, ROWS, **{**options, "seed": 10}).nats_per_row
    assert torch.equal(other, whole) == (estimator == "enumerated")


@pytest.mark.parametrize("estimator", ["times", "counts", "enumerated"])
def test_given_tokens_are_neither_masked_nor_counted(estimator):
    given = torch.zeros(3, 3, dtype=torch.bool)
    given[:, 1] = True
    given[0, 0] = True  # rows may differ in number
    seen = []

    def f(x_t, t):
        seen.append(x_t)
        return torch.zeros(*x_t.shape, 3)

    bound = continuous_nelbo(
        FunctionDenoiser(f, 3, 3), ROWS, given=given, estimator=estimator, num_draws=8, smallest=0.01
    )
    assert (torch.cat(seen)[:, 1] != 3).all() and bound.tokens_per_row.tolist() == [1, 2, 2]
    if estimator != "times":
        torch.testing.assert_close(bound.nats_per_row, torch.tensor([1, 2, 2]).double() * math.log(3))


def test_times_given_the_number_of_masks_have_the_right_law():
    """``counts`` draws the time too: m of 3 masked has mean share of noise m / 4 (order statistics)."""
    target = torch.ones(4000, 3, dtype=torch.bool)
    draws = list(ContinuousTime(estimator="counts", num_draws=3, schedule="cosine").draws(target, range(4000)))
    for m in (1, 2, 3):
        shares = torch.cat([1 - get_schedule("cosine").alpha(d.t[d.masked.sum(1) == m].double()) for d in draws])
        assert len(shares) == 4000  # evenly spread numbers: each row has every number once
        assert abs(shares.mean() - m / 4) < SIGMAS * shares.std() / 4000**0.5 + 1e-6
    assert torch.stack([d.weight for d in draws]).sum(0).unique().numel() == 1  # 1 + 1/2 + 1/3


def test_enumeration_masks_every_set_once_at_its_share_of_time():
    """Rows of one, three and two tokens to predict in one batch."""
    target = torch.tensor([[0, 1, 0], [1, 1, 1], [1, 0, 1]]).bool()
    schedule = get_schedule("cosine")
    draws = list(ContinuousTime(estimator="enumerated", schedule=schedule).draws(target, range(3)))
    for row, n in enumerate(target.sum(1).tolist()):
        assert all((draw.weight[row] > 0) == draw.masked[row].any() for draw in draws)
        mine = [draw for draw in draws if draw.masked[row].any()]
        assert len({tuple(draw.masked[row].tolist()) for draw in mine}) == len(mine) == 2**n - 1
        for draw in mine:
            m = int(draw.masked[row].sum())
            assert not (draw.masked[row] & ~target[row]).any()
            assert draw.weight[row].item() == pytest.approx(1 / (m * math.comb(n, m)))
            assert 1 - schedule.alpha(draw.t[row].double()).item() == pytest.approx(m / n, abs=1e-6)


def test_the_denoiser_is_in_evaluation_mode():
    """Dropout would be noise in a number that has none."""
    denoiser = FunctionDenoiser(lambda x_t, t: torch.randn(*x_t.shape, 3) * denoiser.training, 3, 3)
    bound = continuous_nelbo(denoiser.train(), ROWS, estimator="enumerated").nats_per_row
    torch.testing.assert_close(bound, torch.full((3,), 3 * math.log(3), dtype=torch.float64))


@pytest.mark.parametrize(
    ("x_0", "options", "rule"),
    [
        (ROWS, {"estimator": "both"}, "estimator"),
        (ROWS, {"num_draws": 0}, "num_draws"),
        (ROWS, {"smallest": 0.0}, "smallest"),
        (ROWS, {"given": torch.ones(3, 3, dtype=torch.bool)}, "a token to predict"),
        (ROWS, {"given": torch.ones(3, 2, dtype=torch.bool)}, "given"),
        (torch.tensor([[0, 3, 1]]), {}, "no mask token where it is predicted, got 3"),
        (torch.tensor([[0, 4, 1]]), {}, "tokens must lie in 0..2"),
        (ROWS[:0], {}, "n >= 1"),
        (torch.zeros(1, 13, dtype=torch.long), {"estimator": "enumerated"}, "at most 12 tokens"),
    ],
)
def test_mistakes_are_named(x_0, options, rule):
    with pytest.raises(ValueError, match=rule):
        continuous_nelbo(DENOISER, x_0, **options)


def test_data_that_the_denoiser_rules_out_has_an_infinite_bound():
    never = FunctionDenoiser(lambda x_t, t: torch.tensor([0.0, 0.0, -math.inf]).expand(*x_t.shape, 3), 3, 3)
    bound = continuous_nelbo(never, torch.tensor([[0, 1, 2], [0, 1, 0]]), estimator="enumerated")
    assert bound.nats_per_row.tolist() == [math.inf, pytest.approx(3 * math.log(2))]
