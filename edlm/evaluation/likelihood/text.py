"""Likelihood bounds of texts of any lengths, given what precedes them; and how often samplers write the true text."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.likelihood.bounds import Batches
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.text.blocks import View, views_of
from edlm.sampler.text.pieces import Piece, pad_pieces, pieces_of
from edlm.sampler.text.prompts import Row

_Result = TypeVar("_Result")


def row_to_score(denoiser: Denoiser, context: Sequence[int], continuation: Sequence[int]) -> Row:
    """The row of a continuation after its context, as the sampler would write it: its gap is the continuation.

    Args:
        denoiser: Its prefix goes before the context, unless that begins with it; framed ones get their suffix too.
        context: Token ids, may be empty.
        continuation: Token ids, may be empty.
    """
    prefix, context = list(denoiser.prefix_ids), list(context)
    if prefix and context[: len(prefix)] == prefix:
        context = context[len(prefix) :]
    suffix = list(denoiser.suffix_ids) if denoiser.is_framed else []
    start = len(prefix) + len(context)
    tokens = torch.tensor([*prefix, *context, *continuation, *suffix], dtype=torch.long)
    gaps = ((start, start + len(continuation)),) if len(continuation) else ()
    return Row(tokens, gaps, len(prefix), len(suffix))


def windows_of(row: Row, denoiser: Denoiser, context: int | None = None) -> list[View]:
    """Windows in which the one gap of a row is predicted, left to right, each at once given the tokens on its left.

    A row that fits the denoiser's ``max_length`` is one window. Where the gap fits, but not all that precedes it, the
    window keeps the nearest preceding tokens. A longer gap is cut: the first window has up to ``context`` observed
    tokens, each later one exactly as many, the others are predicted, and the last window is as wide as the others.
    Every window keeps the frame.

    Args:
        row: With one gap or none.
        denoiser: Its ``max_length`` and frame.
        context: Observed tokens of a window; by default half of it.

    Raises:
        ValueError: ``context`` leaves no room.
    """
    length, limit = len(row.tokens), denoiser.max_length
    if not row.gaps:
        return []
    if limit is None or length <= limit:
        return [View(torch.arange(length), row.is_gap())]
    prefix, suffix = (row.num_prefix, row.num_suffix) if denoiser.is_framed else (0, 0)
    room = limit - prefix - suffix
    context = room // 2 if context is None else context
    if not 0 <= context < room:
        raise ValueError(f"context must lie in 0..{room - 1}, to leave room in max_length = {limit}, got {context}")
    [(start, end)] = row.gaps
    observed = min(start - prefix, 1)  # at least one token, if any: shifted outputs need one on their left
    observed = observed if end - start + observed <= room else min(start - prefix, context)
    views, done = [], start
    while done < end:
        stop = min(end, done + room - observed)
        index = torch.cat(
            (torch.arange(prefix), torch.arange(max(prefix, stop - room), stop), torch.arange(length - suffix, length))
        )
        views.append(View(index, (done <= index) & (index < stop)))
        done, observed = stop, context
    return views


class TextBounds:
    """Upper bounds of ``-log P`` of rows under a sampler, nats; a row's value does not depend on the other rows.

    Every window (or block) is one run of the sampler, of ``num_steps`` passes or as many as it has tokens, and its
    length is known: this is the law of what `EnergySampler.generate` writes in a given number of tokens.

    Args:
        sampler: The sampler.
        batch_size: Windows at a time; changes memory and speed only.
        num_draws: Draws of the bound that are averaged; 1 where the bound is exact.
        inner_draws: Draws of candidates inside each, see `EnergySampler.likelihood_bound`.
        context: See `windows_of`.

    Raises:
        ValueError: an option breaks its rule.
    """

    def __init__(
        self,
        sampler: EnergySampler,
        *,
        batch_size: int = 16,
        num_draws: int = 1,
        inner_draws: int = 1,
        context: int | None = None,
    ):
        for name, value in (("batch_size", batch_size), ("num_draws", num_draws), ("inner_draws", inner_draws)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_draws = 1 if sampler.bound_is_exact else num_draws
        self.inner_draws = inner_draws
        self.context = context

    def bounds(self, rows: Sequence[Row], seeds: Sequence[int], *, progress: str | None = None) -> Tensor:
        """The bound of each row's gap, given the other tokens of the row.

        Args:
            rows: See `row_to_score`.
            seeds: One a row; equal seeds give rows of one shape the same order and draws.
            progress: Title of a progress bar; none without.

        Returns:
            Nats, low = good, shape ``[n]``, float64, on the CPU; 0 without a gap, ``inf`` for impossible text.
        """

        def nats_of(pieces: list[Piece], x_0: Tensor, target: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
            options = {"seeds": [piece.seed for piece in pieces], "inner_draws": self.inner_draws}
            nats = self.sampler.likelihood_bound(x_0, given=~target, attention_mask=real, **options)
            return torch.tensor([piece.row for piece in pieces]), nats.cpu()

        totals = torch.zeros(len(rows), dtype=torch.float64)
        for numbers, nats in self._map(nats_of, rows, seeds, self.num_draws, progress):
            totals.index_add_(0, numbers, nats / self.num_draws)
        return totals

    def would_write(self, rows: Sequence[Row], seeds: Sequence[int], *, progress: str | None = None) -> list[bool]:
        """Whether the sampler, with these seeds, writes exactly the tokens of each row's gap."""

        def written(pieces: list[Piece], x_0: Tensor, target: Tensor, real: Tensor) -> list[tuple[int, bool]]:
            x_t = x_0.masked_fill(target, self.sampler.denoiser.mask_token_id)
            seeds = [piece.seed for piece in pieces]
            tokens = self.sampler.fill(x_t, target=target, attention_mask=real, seeds=seeds).tokens
            same = ((tokens == x_0) | ~target).all(1).tolist()
            return [(piece.row, is_same) for piece, is_same in zip(pieces, same, strict=True)]

        equal = [True] * len(rows)
        for batch in self._map(written, rows, seeds, 1, progress):
            for row, is_same in batch:
                equal[row] &= is_same
        return equal

    def _map(
        self,
        compute: Callable[[list[Piece], Tensor, Tensor, Tensor], _Result],
        rows: Sequence[Row],
        seeds: Sequence[int],
        num_draws: int,
        progress: str | None,
    ) -> Iterator[_Result]:
        """Computed of pieces with their ``x_0``, ``target`` and ``attention_mask``, each ``[batch, width]``."""
        pieces = [
            piece
            for i, (row, seed) in enumerate(zip(rows, seeds, strict=True))
            for piece in self._pieces(i, row, seed, num_draws)
        ]
        # Equal lengths together, the longest first: a batch that does not fit in memory fails at once.
        pieces.sort(key=lambda piece: len(piece.x_0), reverse=True)
        denoiser = self.sampler.denoiser

        def padded(places: slice, _: range) -> _Result:
            batch = pieces[places]
            return compute(batch, *pad_pieces(batch, denoiser, self.sampler.device))

        return Batches(batch_size=self.batch_size, progress=progress).map(len(pieces), padded)

    def _pieces(self, i: int, row: Row, seed: int, num_draws: int) -> Iterator[Piece]:
        denoiser = self.sampler.denoiser
        length = self.sampler.block_length
        views = windows_of(row, denoiser, self.context) if length is None else views_of(row, denoiser, length)
        yield from pieces_of(i, row, views, seed, num_draws, denoiser.mask_token_id)


def measure_recovery(
    sampler: EnergySampler, x_0: Tensor, *, given: Tensor, documents: Tensor | None = None, **options: Any
) -> tuple[Estimate, Estimate]:
    """Fill the gaps of held-out rows, and compare with the truth.

    Args:
        sampler: The sampler.
        x_0: Held-out rows, shape ``[n, length]``.
        given: False in the gaps, bool, same shape; at least one in each row.
        documents: Index of each row's document, by which errors are clustered, ``[n]``; None: each row is one.
        options: Fields of `Batches`.

    Returns:
        Share of gaps of which every token is true; share of the gaps' tokens that are true, mean over rows.
    """

    def filled(rows: slice, seeds: range) -> Tensor:
        x_t = x_0[rows].masked_fill(~given[rows], sampler.denoiser.mask_token_id)
        return sampler.fill(x_t, seeds=seeds).tokens.cpu()

    same = torch.cat([*Batches(**options).map(len(x_0), filled)]) == x_0.cpu()
    given = given.cpu()
    whole, tokens = (same | given).all(1), (same & ~given).sum(1) / (~given).sum(1)
    return mean_of(whole, documents), mean_of(tokens, documents)


def middle_third(x_0: Tensor) -> Tensor:
    """A gap in each row: its middle third, bool, the shape ``[n, length]`` of ``x_0``.

    Example:
        >>> middle_third(torch.zeros(1, 7)).int()
        tensor([[0, 0, 1, 1, 0, 0, 0]], dtype=torch.int32)
    """
    length = x_0.shape[1]
    index = torch.arange(length, device=x_0.device)
    return ((index >= length // 3) & (index < 2 * length // 3)).expand(x_0.shape)
