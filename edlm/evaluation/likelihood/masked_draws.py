"""Noisy versions of data that integrate over time: what continuous-time formulas are estimated from.

``integral of -alpha'(t) / (1 - alpha(t)) * E_{x_t ~ q(. | x_0, t)} [ loss(x_t) ] dt`` is the mean, over draws, of
``sum_j weight_j loss(x_t^j)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edlm.diffusion.schedule import Schedule
from edlm.diffusion.streams import RowStreams

Estimator = Literal["times", "counts", "enumerated"]
LONGEST_ENUMERATED = 12


@dataclass(frozen=True)
class MaskedDraw:
    """One noisy version of each row.

    Attributes:
        masked: What of ``x_0`` is masked, bool ``[batch, length]``; maybe nothing.
        t: Time, float32, ``[batch]``.
        weight: Of this draw in the integral, float64, ``[batch]``; finite, 0 where nothing is masked.
    """

    masked: Tensor
    t: Tensor
    weight: Tensor


def masked_draws(
    target: Tensor,
    seeds: Sequence[int],
    *,
    estimator: Estimator,
    num_draws: int,
    schedule: Schedule,
    smallest: float,
) -> Iterator[MaskedDraw]:
    """Draws that together estimate the integral; a row's depend on its own seed alone.

    - ``times``, the published estimator: ``num_draws`` evenly spread times with one random shift, each token masked
      alone. Times below ``smallest`` are left out, where the weight has no finite variance: the result is too high by
      at most the share ``smallest`` of itself (and too low by no more than ``smallest`` times the largest mean loss).
    - ``counts``: the number of masked tokens is evenly spread, which ones are masked is drawn, then the time given
      both. The same integral without a cut-off, and of lower variance.
    - ``enumerated``: every way to mask, with its exact weight; no draws. A denoiser that is conditioned on time is
      asked at the time at which this share of tokens is masked: exact for one that is not.

    Args:
        target: What may be masked, bool ``[batch, length]``, at least one in each row.
        seeds: One a row.
        estimator: One of these.
        num_draws: A row, >= 1; not for ``enumerated``.
        schedule: Of the noise.
        smallest: Least time of ``times``.

    Raises:
        ValueError: an option breaks its rule.

    References:
        Sahoo et al. 2024, arXiv:2406.07524 (times); Nie et al. 2025, arXiv:2502.09992, Eq. 6 (counts).
    """
    counts = target.sum(1)
    _check(counts, estimator, num_draws, smallest)
    if estimator == "enumerated":
        yield from _enumerated(target, counts, schedule)
        return
    streams = RowStreams(seeds)
    uniforms = torch.ones(*target.shape, num_draws, dtype=torch.float64)
    uniforms[target.cpu()] = streams.order().uniform(counts.cpu(), num_draws)
    shift = streams.steps().uniform(torch.ones_like(counts).cpu())[:, 0]
    for j in range(num_draws):
        spread = (j + shift) / num_draws
        draw = uniforms[..., j]
        if estimator == "times":
            t = smallest + (1 - smallest) * spread
            masked = draw < (1 - schedule.alpha(t))[:, None]
            weight = schedule.nelbo_weight(t)
        else:
            number = 1 + (counts.cpu() * spread).long().minimum(counts.cpu() - 1)
            last = draw.sort(1).values.gather(1, number[:, None] - 1)
            masked = draw <= last
            # Masked one by one at uniform shares of the noise, the m-th of n tokens at the m-th smallest of them.
            t, weight = time_at(schedule, last[:, 0]), counts.cpu() / number
        weight = torch.where(masked.any(1), weight.double() / num_draws, 0.0)
        device = target.device
        yield MaskedDraw(masked.to(device), t.float().to(device), weight.to(device))


def time_at(schedule: Schedule, masked: Tensor) -> Tensor:
    """Time ``t`` at which ``1 - alpha(t)`` is ``masked``, float64, by bisection."""
    low, high = torch.zeros_like(masked, dtype=torch.float64), torch.ones_like(masked, dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        early = 1 - schedule.alpha(middle) < masked
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    return (low + high) / 2


def describe(estimator: Estimator, num_draws: int, smallest: float) -> str:
    """The estimator in words, for a result."""
    return {
        "times": f"{num_draws} evenly spread times a row in [{smallest:g}, 1)",
        "counts": f"{num_draws} evenly spread numbers of masked tokens a row",
        "enumerated": "all ways to mask a row",
    }[estimator]


def _enumerated(target: Tensor, counts: Tensor, schedule: Schedule) -> Iterator[MaskedDraw]:
    """All non-empty subsets; ``m`` of ``n`` masked has weight ``integral of t^(m - 1) (1 - t)^(n - m) dt``."""
    nth = target.long().cumsum(1) - 1
    for subset in range(1, 2 ** int(counts.max())):
        masked = target & ((subset >> nth.clamp(min=0)) & 1).bool()
        m = subset.bit_count()
        whole = masked.sum(1) == m  # rows that have so many targets
        n = counts.tolist()
        weight = torch.tensor([1 / (m * math.comb(c, m)) if m <= c else 0.0 for c in n], dtype=torch.float64)
        t = time_at(schedule, (m / counts.double()).clamp(max=1))
        yield MaskedDraw(masked & whole[:, None], t.float(), weight.to(target.device) * whole)


def _check(counts: Tensor, estimator: str, num_draws: int, smallest: float) -> None:
    if estimator not in ("times", "counts", "enumerated"):
        raise ValueError(f"estimator must be 'times', 'counts' or 'enumerated', got {estimator!r}")
    if num_draws < 1:
        raise ValueError(f"num_draws must be >= 1, got {num_draws}")
    if not 0 < smallest < 1:
        raise ValueError(f"smallest must lie in (0, 1), got {smallest}")
    if (counts < 1).any():
        raise ValueError(f"each row must have a token to predict, got none in row {int((counts < 1).nonzero()[0])}")
    if estimator == "enumerated" and counts.max() > LONGEST_ENUMERATED:
        raise ValueError(
            f"'enumerated' masks every subset of at most {LONGEST_ENUMERATED} tokens, got {int(counts.max())}"
        )
