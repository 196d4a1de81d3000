"""Continuous time: noisy versions of data that integrate over time, and the bound that the literature reports.

``integral of -alpha'(t) / (1 - alpha(t)) * E_{x_t ~ q(. | x_0, t)} [ loss(x_t) ] dt`` is the mean, over draws, of
``sum_j weight_j loss(x_t^j)``.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.schedule import Schedule, get_schedule
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowGenerators, RowStreams
from edlm.evaluation.estimates.estimate import Likelihood
from edlm.evaluation.likelihood.bounds import Batches
from edlm.numerics import precise
from edlm.sampler.inputs import check_data

LONGEST_ENUMERATED = 12


@dataclass(frozen=True)
class MaskedDraw:
    """One noisy version of each row.

    Attributes:
        masked: Masked positions of ``x_0``, bool ``[batch, length]``; may be none.
        t: Time, float32, ``[batch]``.
        weight: Weight of this draw in the integral, float64, ``[batch]``; finite, 0 where nothing is masked.
    """

    masked: Tensor
    t: Tensor
    weight: Tensor


@dataclass(frozen=True, kw_only=True)
class ContinuousTime(Batches):
    """How the integral over time is estimated; a row's draws depend on its own seed alone.

    Attributes:
        estimator: One of

            - ``times``, the published one: ``num_draws`` evenly spread times with one random shift, each token masked
              independently. Times below ``smallest`` are left out, where the weight has no finite variance: the result
              is too high by at most the share ``smallest`` of itself (and too low by no more than ``smallest`` times
              the largest mean loss).
            - ``counts``: the number of masked tokens is evenly spread, which ones are masked is drawn, then the time
              given both. The same integral without a cut-off, and of lower variance.
            - ``enumerated``: every way to mask, with its exact weight, for rows of at most 12 tokens. A denoiser that
              is conditioned on time gets the time at which this share of tokens is masked; the result is exact for one
              that is not.
        num_draws: Noisy versions of each row, one denoiser pass each; not for ``enumerated``.
        schedule: Of the noise.
        smallest: Least time of ``times``.

    Raises:
        ValueError: an option breaks its rule.

    References:
        Sahoo et al. 2024, arXiv:2406.07524 (times); Nie et al. 2025, arXiv:2502.09992, Eq. 6 (counts).
    """

    estimator: Literal["times", "counts", "enumerated"] = "times"
    num_draws: int = 8
    schedule: str | Schedule = "log_linear"
    smallest: float = 1e-3

    def __post_init__(self) -> None:
        if self.estimator not in ("times", "counts", "enumerated"):
            raise ValueError(f"estimator must be 'times', 'counts' or 'enumerated', got {self.estimator!r}")
        if self.num_draws < 1:
            raise ValueError(f"num_draws must be >= 1, got {self.num_draws}")
        if not 0 < self.smallest < 1:
            raise ValueError(f"smallest must lie in (0, 1), got {self.smallest}")

    @property
    def described(self) -> str:
        """The estimator in words, for a result."""
        return {
            "times": f"{self.num_draws} evenly spread times a row in [{self.smallest:g}, 1)",
            "counts": f"{self.num_draws} evenly spread numbers of masked tokens a row",
            "enumerated": "all ways to mask a row",
        }[self.estimator]

    def integrate(
        self, x_0: Tensor, target: Tensor, loss: Callable[..., tuple[Tensor, Any]]
    ) -> tuple[Tensor, list[Any]]:
        """Estimate of the integral for each row.

        Args:
            x_0: Tokens, ``[n, length]``.
            target: Positions that may be masked, bool, same shape.
            loss: ``loss(x_0, draw, generators)``: nats, ``[parts, rows]``, of rows that have a mask in this draw, and
                anything else that is known of them; ``generators`` draws from their own seeds.

        Returns:
            Nats, float64, on the CPU, ``[parts, n]``; and what else ``loss`` returned of each draw.
        """
        if not len(x_0):
            raise ValueError(f"x_0 must be [n, length] with n >= 1, got {list(x_0.shape)}")

        def integrated(rows: slice, seeds: range) -> tuple[Tensor, list[Any]]:
            total, known = torch.zeros(1, len(seeds), dtype=torch.float64), []
            for j, draw in enumerate(self.draws(target[rows], seeds)):
                kept = draw.masked.any(1).nonzero()[:, 0]
                if len(kept):
                    draw = MaskedDraw(draw.masked[kept], draw.t[kept], draw.weight[kept])
                    generators = RowStreams([seeds[i] for i in kept.tolist()]).values(j)
                    nats, about = loss(x_0[rows][kept], draw, generators)
                    nats = (draw.weight * nats).cpu()
                    total = total.expand(len(nats), -1).index_add(1, kept.cpu(), nats)
                    known += [] if about is None else [about]
            return total, known

        totals, known = zip(*self.map(len(x_0), integrated), strict=True)
        parts = max(map(len, totals))
        return torch.cat([total.expand(parts, -1) for total in totals], 1), [*chain(*known)]

    def draws(self, target: Tensor, seeds: Sequence[int]) -> Iterator[MaskedDraw]:
        """Draws that together estimate the integral.

        Args:
            target: Positions that may be masked, bool ``[batch, length]``, at least one in each row.
            seeds: One a row.

        Raises:
            ValueError: a row without a target, or with more than 12 where all ways to mask are enumerated.
        """
        counts, schedule = target.sum(1), get_schedule(self.schedule)
        if (counts < 1).any():
            row = int((counts < 1).nonzero()[0])
            raise ValueError(f"each row must have a token to predict, got none in row {row}")
        if self.estimator != "enumerated":
            yield from self._drawn(target, counts, seeds, schedule)
            return
        if counts.max() > LONGEST_ENUMERATED:
            rule = f"'enumerated' masks every subset of at most {LONGEST_ENUMERATED} tokens"
            raise ValueError(f"{rule}, got {int(counts.max())}")
        yield from _all_subsets(target, counts, schedule)

    def _drawn(self, target: Tensor, counts: Tensor, seeds: Sequence[int], schedule: Schedule) -> Iterator[MaskedDraw]:
        device, counts, streams = target.device, counts.cpu(), RowStreams(seeds)
        uniforms = torch.ones(*target.shape, self.num_draws, dtype=torch.float64)
        uniforms[target.cpu()] = streams.order().uniform(counts, self.num_draws)
        shift = streams.steps().uniform(torch.ones_like(counts))[:, 0]
        for j, draw in enumerate(uniforms.unbind(-1)):
            spread = (j + shift) / self.num_draws
            if self.estimator == "times":
                t = self.smallest + (1 - self.smallest) * spread
                masked = draw < (1 - schedule.alpha(t))[:, None]
                weight = schedule.nelbo_weight(t)
            else:
                number = 1 + (counts * spread).long().minimum(counts - 1)
                last = draw.sort(1).values.gather(1, number[:, None] - 1)
                masked = draw <= last
                # Tokens are masked one by one at uniform shares of the noise: the m-th at the m-th smallest of them.
                t, weight = time_at(schedule, last[:, 0]), counts / number
            weight = torch.where(masked.any(1), weight.double() / self.num_draws, 0.0)
            yield MaskedDraw(masked.to(device), t.float().to(device), weight.to(device))


def time_at(schedule: Schedule, masked: Tensor) -> Tensor:
    """Time ``t`` at which ``1 - alpha(t)`` is ``masked``, float64, by bisection."""
    low, high = torch.zeros_like(masked, dtype=torch.float64), torch.ones_like(masked, dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        early = 1 - schedule.alpha(middle) < masked
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    return (low + high) / 2


def _all_subsets(target: Tensor, counts: Tensor, schedule: Schedule) -> Iterator[MaskedDraw]:
    """All non-empty subsets; ``m`` of ``n`` masked has weight ``integral of t^(m - 1) (1 - t)^(n - m) dt``."""
    nth = target.long().cumsum(1) - 1
    for subset in range(1, 2 ** int(counts.max())):
        masked = target & ((subset >> nth.clamp(min=0)) & 1).bool()
        m = subset.bit_count()
        whole = masked.sum(1) == m  # rows that have so many targets
        weight = [1 / (m * math.comb(n, m)) if m <= n else 0.0 for n in counts.tolist()]
        weight = torch.tensor(weight, dtype=torch.float64).to(target.device)
        t = time_at(schedule, (m / counts.double()).clamp(max=1))
        yield MaskedDraw(masked & whole[:, None], t.float(), weight * whole)


@torch.no_grad()
def continuous_nelbo(denoiser: Denoiser, x_0: Tensor, *, given: Tensor | None = None, **options: Any) -> Likelihood:
    """Upper bound of ``-log p(x_0)`` of the denoiser with infinitely many steps, nats per token, low = good.

    ``integral of -alpha'(t) / (1 - alpha(t)) * E_{x_t} [ -sum over masked i of log p_theta(x_0^i | x_t) ] dt``

    It equals the bound of the base sampler with one token a step in random order (k = 1), whatever the schedule,
    unless the denoiser is conditioned on time.

    Of a denoiser that writes in blocks, it is the sum of those of its blocks, each given the data before it.

    Args:
        denoiser: Gives the marginals; no energy is used.
        x_0: Tokens without masks, shape ``[n, length]``.
        given: True where a token is given and not predicted, shape ``[n, length]``.
        options: Fields of `ContinuousTime`.

    Returns:
        With its standard error over rows, and the nats of each row.

    Raises:
        ValueError: ``x_0`` is empty or holds a mask where it is predicted, ``given`` is no bool table of its shape, or
            an option breaks its rule.

    References:
        Sahoo et al. 2024, arXiv:2406.07524, Eq. 10; Shi et al. 2024, arXiv:2406.04329.
    """
    time = ContinuousTime(**options)
    target, _ = check_data(denoiser, x_0, given)
    denoiser = denoiser.eval()

    def loss(x_0: Tensor, draw: MaskedDraw, generators: RowGenerators) -> tuple[Tensor, None]:
        return -_log_probs_of_data(denoiser, x_0, draw)[None], None

    [nats], _ = time.integrate(x_0, target, loss)
    estimator = f"continuous-time NELBO, {time.described}"
    return Likelihood.of(nats, target.sum(1), estimator=estimator, direction="upper bound of -log p")


def _log_probs_of_data(denoiser: Denoiser, x_0: Tensor, draw: MaskedDraw) -> Tensor:
    """``log p_theta`` of the masked tokens, summed over those of a row, nats, ``[batch]``, float64."""
    size, length = denoiser.block_size or x_0.shape[1], x_0.shape[1]
    cache = denoiser.prefill(x_0[:, : length // size * size]) if denoiser.can_prefill and size < length else None
    total = precise(torch.zeros(len(x_0), device=x_0.device))
    for begin in range(0, length, size):
        end = min(begin + size, length)
        block = draw.masked[:, :end] & (torch.arange(end, device=x_0.device) >= begin)
        slots = Slots.where(block)
        if not len(slots):
            continue
        x_t = x_0[:, :end].masked_fill(block, denoiser.mask_token_id)
        before = torch.arange(end, device=x_0.device) < begin
        held = None if cache is None or not begin else cache.resized(end).without(~before.expand_as(block))
        rows = block.any(1).nonzero()[:, 0]
        log_probs = denoiser.slot_log_probs(denoiser.encode(x_t, draw.t, rows=rows, cache=held), slots)
        total = total + slots.sum_rows(precise(log_probs.gather(1, slots.gather(x_0)[:, None])[:, 0]))
    return total
