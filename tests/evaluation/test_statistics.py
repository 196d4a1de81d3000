"""Intervals: closed forms, coverage, pairing."""

import math

import pytest
import torch

from edlm.evaluation.statistics import bootstrap_difference, bootstrap_ratio, ratio_of, share_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(n: int = 400):
    """Pairs with a common part: differences are far less noisy than their parts."""
    g = generator(3)
    common = 10 * torch.rand(n, generator=g, dtype=torch.float64)
    a = 2 + common + 0.1 * torch.randn(n, generator=g, dtype=torch.float64)
    return a, common, torch.randint(1, 5, (n,), generator=g)


def test_a_difference_is_paired_and_has_the_error_of_its_differences():
    a, b, _ = draws()
    found = bootstrap_difference(a, b, generator=generator())
    assert found.value == pytest.approx((a - b).mean().item()) and found.n == 400
    assert found.stderr == pytest.approx((a - b).std().item() / 20, rel=0.1)
    assert found.low == pytest.approx(found.value - 1.96 * found.stderr, abs=0.3 * found.stderr)
    assert found.high == pytest.approx(found.value + 1.96 * found.stderr, abs=0.3 * found.stderr)
    turned = bootstrap_difference(b, a, generator=generator())
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_weights_and_ratios_have_the_error_of_the_delta_method():
    a, b, tokens = draws()
    found = bootstrap_difference(a, b, tokens, generator=generator())
    expected = ratio_of(a - b, tokens)
    assert found.value == pytest.approx(expected.value) and found.stderr == pytest.approx(expected.stderr, rel=0.1)
    found, expected = bootstrap_ratio(a, b, generator=generator()), ratio_of(a, b)
    assert found.value == pytest.approx(expected.value) and found.stderr == pytest.approx(expected.stderr, rel=0.1)
    assert found.low < found.value < found.high


def test_a_wider_level_is_wider_and_many_rows_are_drawn_in_parts(monkeypatch):
    a, b, _ = draws(50)
    narrow = bootstrap_difference(a, b, level=0.5, generator=generator())
    wide = bootstrap_difference(a, b, level=0.99, generator=generator())
    assert wide.low < narrow.low < narrow.high < wide.high
    monkeypatch.setattr("edlm.evaluation.statistics.RESAMPLES_AT_ONCE", 1000)
    parts = bootstrap_difference(a, b, generator=generator())
    whole = bootstrap_difference(a, b, generator=generator())
    assert parts == whole
    assert parts.stderr == pytest.approx((a - b).std().item() / 50**0.5, rel=0.1)


def test_intervals_of_shares_cover_and_are_not_empty_at_the_ends():
    found = share_of(torch.tensor([True, True, False, False, False]))
    z = 1.959964
    middle, half = (0.4 + z * z / 10) / (1 + z * z / 5), z * math.sqrt(0.24 / 5 + z * z / 100) / (1 + z * z / 5)
    assert (found.value, found.low, found.high) == pytest.approx((0.4, middle - half, middle + half))
    assert found.stderr == pytest.approx(math.sqrt(0.24 / 5))
    none, every = share_of(torch.zeros(30, dtype=torch.bool)), share_of(torch.ones(30, dtype=torch.bool))
    assert (none.low, every.high) == (0, 1) and none.high == pytest.approx(1 - every.low) and 0.05 < none.high < 0.2


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: bootstrap_difference(torch.ones(3), torch.ones(2), generator=generator()), r"\[n\] with n >= 1 each"),
        (lambda: bootstrap_ratio(torch.ones(0), torch.ones(0), generator=generator()), r"\[n\] with n >= 1 each"),
        (lambda: bootstrap_ratio(torch.ones(2), torch.ones(2), level=1.0, generator=generator()), "level must lie"),
        (lambda: bootstrap_ratio(torch.ones(2), torch.ones(2), resamples=0, generator=generator()), "resamples must"),
        (lambda: share_of(torch.ones(3)), "flags must be bool"),
    ],
)
def test_mistakes_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
