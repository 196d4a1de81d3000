"""Gaps in held-out text: how likely the truth is to the sampler, and how often it writes just that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.likelihood.bounds import BoundEstimate, estimate_bounds, paired_gain
from edlm.sampler.sampler import EnergySampler


@dataclass(frozen=True)
class Infilling:
    """What a sampler does with gaps.

    Attributes:
        name: Of the sampler.
        bound: Upper bound of ``-log P`` of the true span given the rest, nats per token of the span, low = good.
        gain: How much lower it is than the first sampler's, paired by row, nats per token; None for the first.
        spans: Share of spans that are recovered token by token.
        tokens: Share of the spans' tokens that are recovered, by row.
    """

    name: str
    bound: Estimate
    gain: Estimate | None
    spans: Estimate
    tokens: Estimate

    def as_record(self) -> dict[str, Any]:
        """Values and standard errors, as JSON values."""
        gain = self.gain or Estimate(None, None, 0)
        return {
            "name": self.name,
            "n": self.bound.n,
            "bound_nats_per_token": self.bound.value,
            "bound_stderr": self.bound.stderr,
            "gain_nats_per_token": gain.value,
            "gain_stderr": gain.stderr,
            "spans_recovered": self.spans.value,
            "spans_recovered_stderr": self.spans.stderr,
            "tokens_recovered": self.tokens.value,
            "tokens_recovered_stderr": self.tokens.stderr,
        }


def middle_third(x_0: Tensor) -> Tensor:
    """The gap: the middle third of each row, bool ``[n, length]``.

    Example:
        >>> middle_third(torch.zeros(1, 7)).int()
        tensor([[0, 0, 1, 1, 0, 0, 0]], dtype=torch.int32)
    """
    length = x_0.shape[1]
    index = torch.arange(length, device=x_0.device)
    return ((index >= length // 3) & (index < 2 * length // 3)).expand(x_0.shape)


def measure_infilling(
    samplers: Mapping[str, EnergySampler],
    x_0: Tensor,
    *,
    seed: int = 0,
    batch_size: int = 32,
) -> list[Infilling]:
    """Bounds of the true middle thirds, and draws of them, of samplers of one denoiser, order and number of steps.

    Args:
        samplers: By name; gains are over the first.
        x_0: Held-out rows, shape ``[n, length]``.
        seed: Row ``i`` has the seed ``seed + i``, for all samplers.
        batch_size: Rows at a time.
    """
    gap = middle_third(x_0)
    how = {"seed": seed, "batch_size": batch_size, "progress": "bounds"}
    bounds = estimate_bounds(list(samplers.values()), x_0, given=~gap, **how)
    return [
        _measured(name, bound, bounds[0], _filled(sampler, x_0, gap, seed, batch_size) == x_0, gap)
        for (name, sampler), bound in zip(samplers.items(), bounds, strict=True)
    ]


def _measured(name: str, bound: BoundEstimate, first: BoundEstimate, same: Tensor, gap: Tensor) -> Infilling:
    spans = (same | ~gap).all(1).double()
    tokens = (same & gap).sum(1) / gap.sum(1)
    gain = None if bound is first else paired_gain(first, bound).nats_per_token
    return Infilling(name, bound.nats_per_token, gain, mean_of(spans), mean_of(tokens))


def _filled(sampler: EnergySampler, x_0: Tensor, gap: Tensor, seed: int, batch_size: int) -> Tensor:
    parts = []
    for start in tqdm(range(0, len(x_0), batch_size), desc="draws", disable=None, leave=False):
        rows = slice(start, start + batch_size)
        x_t = x_0[rows].masked_fill(gap[rows], sampler.denoiser.mask_token_id)
        parts.append(sampler.fill(x_t, seeds=range(seed + start, seed + start + len(x_t))).tokens)
    return torch.cat(parts)
