"""Bounds of log Z (Theorem 1 of arXiv:2410.21357): by hand, in closed form, enumerated; where they fail; by step."""

import math

import pytest
import torch

from edlm.energies import CallableEnergy
from edlm.evaluation import PartitionEstimate, estimate_partition, log_partition_bounds, step_spreads
from edlm.sampler import EnergySampler
from tests.chance import SIGMAS
from tests.enumerable import SEQUENCES, random_denoiser

INF = math.inf


def by_hand(v: list[float]) -> tuple[float, float]:
    """Both formulas as they are written in method.md."""

    def log_mean_exp(values):
        return (
            math.log(sum(math.exp(value) for value in values) / len(values)) if any(v > -INF for v in values) else -INF
        )

    n, total = len(v), log_mean_exp(v)
    without = [log_mean_exp(v[:i] + v[i + 1 :]) for i in range(n)]
    return total, (2 * n - 1) * total - 2 * (n - 1) * sum(without) / n


@pytest.mark.parametrize("n", [2, 3, 7])
def test_both_bounds_are_the_formulas_of_theorem_1(n):
    v = 2 * torch.randn(5, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    lower, upper = log_partition_bounds(v)
    expected = torch.tensor([by_hand(row) for row in v.tolist()], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([lower, upper], 1), expected)
    assert (upper > lower).all() and lower.dtype == upper.dtype == torch.float64


def test_impossible_draws_count_as_zero_weight():
    v = torch.tensor([[0.0, -INF, 1.0, -1.0], [-INF, 2.0, -INF, 2.5]], dtype=torch.float64)
    lower, upper = log_partition_bounds(v)
    expected = torch.tensor([by_hand(row) for row in v.tolist()], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([lower, upper], 1), expected)
    estimate = estimate_partition(torch.tensor([[0.0, -INF, -INF], [-INF, -INF, -INF]]))
    assert estimate.lower.tolist() == [pytest.approx(-math.log(3)), -INF]
    assert estimate.upper.tolist() == [INF, INF]  # one draw, or none: no upper bound is known
    assert estimate.ess.tolist() == [1.0, 0.0]
    assert not estimate.is_trustworthy.any()


def test_large_shifts_and_dominant_draws_lose_no_digits():
    v = torch.tensor([[0.3, -1.2, 0.8, 0.1], [-800.0, 0.0, -0.4, -900.0]], dtype=torch.float64)
    for shift in (-1e4, 1e4):
        for shifted, plain in zip(log_partition_bounds(v + shift), log_partition_bounds(v), strict=True):
            torch.testing.assert_close(shifted, plain + shift, rtol=0, atol=1e-8)
    # Without the second draw of this row nothing but exp(-700) is left: 1 - 1 would give log 0.
    _, upper = log_partition_bounds(torch.tensor([[-700.0, 0.0, -701.0]]))
    assert upper.item() == pytest.approx(by_hand([-700.0, 0.0, -701.0])[1])
    lower, upper = log_partition_bounds(torch.full((1, 1000), 123.456, dtype=torch.float64))
    torch.testing.assert_close(lower, upper, rtol=0, atol=1e-9)
    torch.testing.assert_close(lower, torch.tensor([123.456], dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "v", [torch.zeros(3), torch.zeros(3, 1), torch.tensor([[0.0, math.nan]]), torch.tensor([[0.0, INF]])]
)
def test_draws_of_another_shape_or_not_finite_are_refused(v):
    with pytest.raises(ValueError, match="neg_energies"):
        log_partition_bounds(v)


def trusted(spread, ess, n) -> bool:
    return PartitionEstimate(None, None, torch.tensor(spread), torch.tensor(ess), n).is_trustworthy.item()


def gaussian_means(spread: float, n: int, rows: int = 20000):
    """Means of both bounds less ``log Z = spread^2 / 2``, and their standard errors."""
    g = torch.Generator().manual_seed(n)
    bounds = log_partition_bounds(spread * torch.randn(rows, n, generator=g, dtype=torch.float64))
    return [(b.mean().item() - spread**2 / 2, b.std().item() / rows**0.5) for b in bounds]


@pytest.mark.parametrize(("spread", "n"), [(0.5, 4), (1.0, 4), (1.0, 32), (1.5, 16), (2.0, 64)])
def test_the_bounds_bracket_gaussian_energies_where_they_can_be_trusted(spread, n):
    """Closed form: E[exp v] = exp(spread^2 / 2). Each side is clear by more than six standard errors."""
    (lower, lower_error), (upper, upper_error) = gaussian_means(spread, n)
    assert lower < -SIGMAS * lower_error / 2 and upper > -SIGMAS * upper_error / 2
    assert upper - lower > 0 and abs(upper) < 0.2
    assert trusted(spread, 3.0, n)


def test_the_documented_failure_at_spread_3():
    """method.md section 4: with 32 draws the "upper bound" is still below log Z, 4.33 against 4.50."""
    (lower, _), (upper, error) = gaussian_means(3.0, 32)
    assert upper + 4.5 == pytest.approx(4.33, abs=SIGMAS * error + 0.01)
    assert upper < -SIGMAS * error and lower < -1
    v = 3 * torch.randn(2000, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert estimate_partition(v).is_trustworthy.double().mean() < 0.02
    (_, _), (upper, error) = gaussian_means(3.0, 4, rows=5000)
    assert upper < -0.4


def test_the_bounds_bracket_the_enumerated_partition_function():
    """Brute force: Z = sum over all 27 sequences of p_theta exp(-E), for asymmetric energies of spread about 1."""
    log_probs = random_denoiser().log_probs(torch.full((1, 3), 3))[0].double()
    log_p = log_probs[torch.arange(3), SEQUENCES].sum(1)
    energies = torch.randn(27, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    log_z = torch.logsumexp(log_p - energies, 0).item()
    drawn = torch.multinomial(log_p.exp().expand(20000, -1), 16, replacement=True)
    lower, upper = log_partition_bounds(-energies[drawn])
    for bound, sign in ((lower, -1), (upper, 1)):
        error = bound.std().item() / len(bound) ** 0.5
        away = sign * (bound.mean().item() - log_z)
        assert -4 * error < away < 0.1
    assert lower.mean() < log_z - 6 * lower.std() / len(lower) ** 0.5


def test_trust_needs_draws_a_small_spread_and_several_draws_that_count():
    assert trusted(1.0, 15.0, 32) and not trusted(3.0, 15.0, 32) and trusted(3.0, 15.0, 8104)
    assert not trusted(1.0, 1.1, 32) and not trusted(0.1, 2.9, 3) and not trusted(math.nan, 5.0, 32)
    assert trusted(1.0, 2.0, 32) and not trusted(1.0, 1.99, 32) and trusted(0.1, 2.9, 4)
    flat = estimate_partition(torch.zeros(1, 8))
    assert flat.is_trustworthy.item() and flat.spread.item() == 0 and flat.ess.item() == 8
    v = torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)
    estimate = estimate_partition(v)
    assert estimate.spread.item() == pytest.approx(v.std().item()) and estimate.num_draws == 4
    weights = v.exp()
    assert estimate.ess.item() == pytest.approx((weights.sum() ** 2 / (weights**2).sum()).item())


# --- by step

SCORES = 0.8 * torch.randn(64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
ENERGY = CallableEnergy(lambda candidates, x, log_p: SCORES[(candidates * torch.tensor([16, 4, 1])).sum(-1)])


def sample(energy=ENERGY, n=200, **options):
    options = {"num_steps": 2, "num_candidates": 8, "order": "random", **options}
    return EnergySampler(random_denoiser(), energy, **options).sample(n, 3, seeds=range(n))


def test_a_step_has_the_means_of_its_decisions():
    output = sample()
    steps = step_spreads(output)
    assert [(step.step, step.t, step.num_candidates, step.num_decisions) for step in steps] == [
        (0, 1.0, 8, 200),
        (1, 0.5, 8, 200),
    ]
    for step, info in zip(steps, output.steps, strict=True):
        log_z = estimate_partition(-info.energies)
        assert step.spread.value == pytest.approx(info.energies.std(1).mean().item())
        assert step.ess.value == pytest.approx(info.ess.mean().item())
        assert step.ess.stderr == pytest.approx(info.ess.std().item() / 200**0.5)
        assert step.log_z_lower.value == pytest.approx(log_z.lower.mean().item())
        assert step.log_z_upper.value == pytest.approx(log_z.upper.mean().item())
        assert step.trustworthy == pytest.approx(log_z.is_trustworthy.double().mean().item())
        assert step.impossible == 0
    assert 1 < steps[0].ess.value < 8 and steps[0].spread.value > 0.3


def test_groups_that_a_row_lacks_and_redraws_add_no_decisions():
    """Ancestral steps reveal 0 to 3 tokens: that many decisions in groups of one, however often one is redrawn."""

    def energy(candidates, x, log_p):
        zero = ((candidates == 0) & (x[:, None] == 3)).any(-1)
        return torch.where(zero, math.inf, 1.0 + candidates.double().sum(-1))

    for judge, options in ((ENERGY, {}), (CallableEnergy(energy), {"num_candidates": 2, "on_impossible": "redraw"})):
        output = sample(judge, order="ancestral", group_size=1, **options)
        assert (sum(info.redraws.sum() for info in output.steps) > 10) == bool(options)
        for step in step_spreads(output):
            info = output.steps[step.step]
            judged = (info.energies != 0).any(-1)  # no energy is 0
            assert step.num_decisions == info.num_revealed.sum().item() == judged.sum().item() < 600
            assert step.ess.value == pytest.approx(info.ess[judged].mean().item())


def test_effective_candidates_are_those_of_the_weights_that_choose():
    output = sample(weight_temperature=3.0)
    for step, info in zip(step_spreads(output), output.steps, strict=True):
        weights = (-info.energies / 3).softmax(1)
        assert step.ess.value == pytest.approx((1 / weights.square().sum(1)).mean().item())
        assert step.ess.value > 1.1 * estimate_partition(-info.energies).ess.mean().item()


def test_steps_outside_the_window_and_samplers_without_weights_have_none():
    assert [step.step for step in step_spreads(sample(window=(0.5, 1.0)))] == [0]
    assert step_spreads(sample(num_candidates=1)) == step_spreads(sample(None, num_candidates=1)) == []


def test_impossible_candidates_are_counted():
    hard = CallableEnergy(lambda candidates, x, log_p: torch.where((candidates == 0).any(-1), math.inf, 0.0 * log_p))
    output = sample(hard, num_steps=1, num_candidates=2, on_impossible="redraw")
    (step,) = step_spreads(output)
    assert output.steps[0].redraws.sum() > 0 and step.num_decisions == 200
    share = output.steps[0].energies.isinf().double().mean().item()
    assert step.impossible == pytest.approx(share) and 0 < share < 0.5
    assert step.spread.value == 0 and step.trustworthy == 0  # two draws are too few for log Z
