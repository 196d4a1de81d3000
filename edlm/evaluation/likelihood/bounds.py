"""Likelihood bounds of samplers on held-out rows, and gains of one over another, paired row by row."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.evaluation.estimates.estimate import Estimate, Likelihood, mean_of
from edlm.memory import in_batches
from edlm.processes import Share, alone
from edlm.sampler.bounds import bounds_of_rows
from edlm.sampler.sampler import EnergySampler

T = TypeVar("T")

ESTIMATOR = "bound (*) of the sampler, a draw for each row"


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How rows are batched and seeded.

    Attributes:
        seed: Row ``i`` has the seed ``seed + i``, whatever the batch size: equal seeds pair rows of two runs.
        batch_size: Rows at a time; changes memory and speed only.
        progress: Title of a progress bar; none without.
        share: Who makes the values of batches: this process, or several (`edlm.processes.together`).
    """

    seed: int = 0
    batch_size: int = 32
    progress: str | None = None
    share: Share = alone

    def map(self, num_rows: int, make: Callable[[slice, range], T], start: int = 0) -> Iterator[T]:
        """What ``make`` gives of rows and seeds of each batch of ``num_rows`` rows, in order, from row ``start`` on.

        Where memory does not suffice for a batch, batches are halved, see `in_batches`.

        Example:
            >>> list(Batches(seed=7, batch_size=2).map(3, lambda rows, seeds: (rows.start, [*seeds])))
            [(0, [7, 8]), (2, [9])]
        """
        batches = [range(i, min(i + self.batch_size, num_rows)) for i in range(start, num_rows, self.batch_size)]
        size = self.batch_size

        def seeded(rows: slice) -> T:
            return make(rows, range(self.seed + rows.start, self.seed + rows.stop))

        def made(batch: range) -> list[T]:
            nonlocal size
            parts = [*in_batches(seeded, batch, size)]
            size = max(rows.stop - rows.start for rows, _ in parts)
            return [value for _, value in parts]

        values = self.share(batches, made)
        hidden = None if self.progress else True
        yield from chain.from_iterable(tqdm(values, self.progress, total=len(batches), disable=hidden, leave=False))


@dataclass(frozen=True, kw_only=True)
class BoundOptions(Batches):
    """How bounds of a data set are estimated.

    Attributes:
        sampled_steps: Steps of each row from which the sum over steps is estimated; all if None.
        inner_draws: Draws of candidates for each sampler, see `EnergySampler.likelihood_bound`; 1 by default.
    """

    sampled_steps: int | None = None
    inner_draws: Sequence[int] | None = None


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
    """`EnergySampler.likelihood_bound` of the sampler with these ``options`` (``num_steps`` and so on)."""
    sampler = EnergySampler(denoiser, energy, **options)
    return sampler.likelihood_bound(x_0, given=given, generator=generator, seeds=seeds)


def estimate_bound(sampler: EnergySampler, x_0: Tensor, **options: Any) -> Likelihood:
    """The bound of one sampler, see `estimate_bounds`."""
    return estimate_bounds([sampler], x_0, **options)[0]


def estimate_bounds(
    samplers: Sequence[EnergySampler],
    x_0: Tensor,
    *,
    given: Tensor | None = None,
    done: Tensor | None = None,
    keep: Callable[[Tensor], None] | None = None,
    **options: Any,
) -> list[Likelihood]:
    """Bounds of ``-log P(x_0)`` of samplers of one order, in batches, on shared denoiser passes; low = good.

    Args:
        samplers: One denoiser, order and schedule.
        x_0: Held-out tokens, shape ``[n, length]``.
        given: True where a token is given and not predicted, equally many in each row, shape ``[n, length]``.
        done: Nats and then passes of the first rows from an interrupted call, ``[2, samplers, rows]``.
        keep: Called after each batch with those of all rows so far, in the form of ``done``.
        options: Fields of `BoundOptions`.

    Returns:
        One for each sampler. The direction is "exact" where ``-log P`` itself is summed
        (`EnergySampler.bound_is_exact`, without ``sampled_steps``), else "upper bound of -log p".

    Raises:
        ValueError: rows have different numbers of given tokens, or as `bounds_of_rows`.
    """
    options = BoundOptions(**options)
    predicted = torch.ones_like(x_0, dtype=torch.bool) if given is None else ~given
    counts = predicted.sum(1)
    if (counts != counts[0]).any():
        raise ValueError(f"given must leave equally many tokens to predict in each row, got {counts.unique().tolist()}")

    def of_rows(rows: slice, seeds: range) -> Tensor:
        bounds = bounds_of_rows(
            samplers,
            x_0[rows],
            seeds,
            given=None if given is None else given[rows],
            sampled_steps=options.sampled_steps,
            inner_draws=options.inner_draws,
        )
        tables = [torch.stack(tables) for tables in zip(*bounds, strict=True)]
        return torch.stack([table.double() for table in tables]).cpu()

    parts = [] if done is None else [done]
    for part in options.map(len(x_0), of_rows, 0 if done is None else done.shape[2]):
        parts.append(part)
        if keep is not None:
            keep(torch.cat(parts, 2))
    directions = [
        "exact" if sampler.bound_is_exact and options.sampled_steps is None else "upper bound of -log p"
        for sampler in samplers
    ]
    return [
        replace(Likelihood.of(nats, counts, estimator=ESTIMATOR, direction=direction), passes_per_row=passes)
        for nats, passes, direction in zip(*torch.cat(parts, 2), directions, strict=True)
    ]


def paired_gain(base: Likelihood, other: Likelihood) -> Estimate:
    """How much lower ``other`` is than ``base`` on the same rows and seeds, nats per token, high = good.

    Its standard error is that of the paired differences, clustered by the documents of ``base``.

    Raises:
        ValueError: they are of different rows.

    Note:
        A gain in a bound neither bounds nor equals the gain in likelihood, unless both are exact.
    """
    counts = [likelihood.tokens_per_row for likelihood in (base, other)]
    if not torch.equal(*counts):
        received = " and ".join(f"{len(c)} rows of {c.unique().tolist()}" for c in counts)
        raise ValueError(f"a paired gain needs the same rows, got {received} tokens")
    return mean_of((base.nats_per_row - other.nats_per_row) / base.tokens_per_row, base.documents)
