"""Bounds of log Z (Theorem 1 of arXiv:2410.21357): by hand, in closed form, enumerated; and where they fail."""

import math

import pytest
import torch

from edlm.evaluation import estimate_partition, log_partition_bounds
from edlm.evaluation.likelihood.partition import is_trustworthy
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


def test_rows_and_the_sequence_of_draws_do_not_matter():
    v = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    for whole, alone in zip(log_partition_bounds(v), log_partition_bounds(v[2:3]), strict=True):
        assert whole[2] == alone[0]
    for one, other in zip(log_partition_bounds(v), log_partition_bounds(v.flip(1)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("v", "said"),
    [
        (torch.zeros(3), r"\[batch, n\] with n >= 2 draws a row, got \[3\]"),
        (torch.zeros(3, 1), r"got \[3, 1\]"),
        (torch.tensor([[0.0, math.nan]]), "finite or -inf, got nan"),
        (torch.tensor([[0.0, INF]]), "finite or -inf, got inf"),
    ],
)
def test_what_is_no_draw_is_refused(v, said):
    with pytest.raises(ValueError, match=said):
        log_partition_bounds(v)


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
    assert is_trustworthy(torch.tensor(spread), torch.tensor(3.0), n)


def test_the_documented_failure_at_spread_3():
    """method.md section 4: with 32 draws the "upper bound" is still below log Z, 4.33 against 4.50."""
    (lower, _), (upper, error) = gaussian_means(3.0, 32)
    assert upper + 4.5 == pytest.approx(4.33, abs=SIGMAS * error + 0.01)
    assert upper < -SIGMAS * error and lower < -1
    v = 3 * torch.randn(2000, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert estimate_partition(v).is_trustworthy.double().mean() < 0.02
    (_, _), (upper, error) = gaussian_means(3.0, 4, rows=5000)
    assert upper < -0.4


def test_a_flipped_sign_is_seen():
    """Energies of a skewed law: log mean exp of -E and of E differ."""
    energies = torch.tensor([[0.0, 0.0, 0.0, -3.0]])
    lower, _ = log_partition_bounds(-energies)
    assert lower.item() == pytest.approx(math.log((3 + math.exp(3)) / 4))


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


def test_trust_needs_draws_a_small_spread_and_more_than_one_draw_that_counts():
    def trusted(spread, ess, n):
        return is_trustworthy(torch.tensor(spread), torch.tensor(ess), n).item()

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
