"""The likelihood bound of a sampler on data, and its gain over the base, paired row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.estimates.units import Direction, Likelihood
from edlm.sampler.bounds import likelihood_bounds
from edlm.sampler.sampler import EnergySampler


def likelihood_bound(
    denoiser: Denoiser,
    energy: Energy | None,
    x_0: Tensor,
    *,
    given: Tensor | None = None,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | None = None,
    **options: Any,
) -> Tensor:
    """One draw of the upper bound of ``-log P(x_0)``, nats of the row, low = good.

    Args:
        denoiser: Gives the marginals.
        energy: Judges candidates, or None.
        x_0: Tokens, shape ``[batch, length]``.
        given: True where a token is given.
        generator: Draws one seed a row.
        seeds: The rows' seeds.
        options: The sampler's (``num_steps`` and so on).

    Returns:
        Shape ``[batch]``, float64; see `EnergySampler.likelihood_bound`.
    """
    sampler = EnergySampler(denoiser, energy, **options)
    return sampler.likelihood_bound(x_0, given=given, generator=generator, seeds=seeds)


@dataclass(frozen=True)
class BoundEstimate:
    """A bound on held-out rows of equal length; low = good.

    Attributes:
        nats_per_row: One draw of the bound for each row, ``[n]``.
        length: Tokens of a row.
        direction: "exact" where it is ``-log p`` itself, see `EnergySampler.bound_is_exact`.
    """

    nats_per_row: Tensor
    length: int
    direction: Direction = "upper bound of -log p"

    @property
    def nats_per_token(self) -> Estimate:
        """With its standard error over rows."""
        return mean_of(self.nats_per_row / self.length)

    @property
    def likelihood(self) -> Likelihood:
        """For other units: perplexities, bits per character."""
        said = "bound (*) of the sampler, a draw for each row"
        return Likelihood.of(self.nats_per_row, self.length, estimator=said, direction=self.direction)


@dataclass(frozen=True)
class Gain:
    """How much lower one bound is than another, nats per token, high = good.

    Attributes:
        nats_per_token: Estimate difference, its standard error from the paired differences of rows.

    Note:
        A gain in a bound neither bounds nor equals the gain in likelihood, unless both are exact.
    """

    nats_per_token: Estimate


def paired_gain(base: BoundEstimate, other: BoundEstimate) -> Gain:
    """Gain of ``other`` over ``base`` on the same rows and seeds.

    Raises:
        ValueError: they are of different rows.
    """
    if base.nats_per_row.shape != other.nats_per_row.shape or base.length != other.length:
        raise ValueError(
            "a paired gain needs the same rows, got "
            f"{len(base.nats_per_row)} of {base.length} and {len(other.nats_per_row)} of {other.length} tokens"
        )
    return Gain(mean_of((base.nats_per_row - other.nats_per_row) / base.length))


def estimate_bound(sampler: EnergySampler, x_0: Tensor, **how: Any) -> BoundEstimate:
    """The sampler's bound on rows ``x_0[n, length]``; for the rest see `estimate_bounds`."""
    return estimate_bounds([sampler], x_0, **how)[0]


def estimate_bounds(
    samplers: Sequence[EnergySampler],
    x_0: Tensor,
    *,
    given: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 32,
    sampled_steps: int | None = None,
    inner_draws: Sequence[int] | None = None,
    known: Tensor | None = None,
    keep: Callable[[Tensor], None] | None = None,
    progress: str | None = None,
) -> list[BoundEstimate]:
    """Bounds of samplers of one order, in batches, on shared denoiser passes.

    Args:
        samplers: What is judged: these steps, this k, this order.
        x_0: Held-out tokens, shape ``[n, length]``.
        given: True where a token is given and not predicted, as many in each row, shape ``[n, length]``; the
            estimates' ``length`` is then the number of the others.
        seed: Row ``i`` has the seed ``seed + i``: equal seeds pair samplers, whatever the batch size.
        batch_size: Rows at a time.
        sampled_steps: Steps of each row that the sum is estimated from; all if None.
        inner_draws: Of each sampler, see `EnergySampler.likelihood_bound`; 1 by default.
        known: Nats of the first rows where an earlier call was interrupted, ``[samplers, done]``.
        keep: Called after each batch with the nats of all rows so far, as ``known`` has them.
        progress: Title of a progress bar; none without.

    Raises:
        ValueError: rows have different numbers of given tokens.
    """
    parts = [] if known is None else [known]
    starts = range(0 if known is None else known.shape[1], len(x_0), batch_size)
    predicted = x_0.shape[1]
    if given is not None:
        counts = (~given).sum(1).unique().tolist()
        if len(counts) != 1:
            raise ValueError(f"given must leave as many tokens to predict in each row, got {counts}")
        predicted = counts[0]
    for start in tqdm(starts, desc=progress, disable=None if progress else True, leave=False):
        rows = x_0[start : start + batch_size]
        seeds = range(seed + start, seed + start + len(rows))
        how = {"given": given[start : start + batch_size] if given is not None else None}
        how |= {"sampled_steps": sampled_steps, "inner_draws": inner_draws}
        parts.append(torch.stack(likelihood_bounds(samplers, rows, seeds, **how)).cpu())
        if keep is not None:
            keep(torch.cat(parts, 1))
    # Of some steps alone the sum is that of all in expectation only.
    exact = [sampler.bound_is_exact and sampled_steps is None for sampler in samplers]
    return [
        BoundEstimate(nats, predicted, "exact" if is_exact else "upper bound of -log p")
        for nats, is_exact in zip(torch.cat(parts, 1), exact, strict=True)
    ]
