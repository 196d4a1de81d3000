"""Likelihood bounds of texts of any lengths, given what stands before them: windows, batches, draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from edlm.denoisers.base import Denoiser
from edlm.diffusion.streams import seed_of
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.text.blocks import View, check_block_length, views_of
from edlm.sampler.text.prompts import Row


def row_to_score(denoiser: Denoiser, context: Sequence[int], continuation: Sequence[int]) -> Row:
    """The row of a continuation after its context, as the sampler would write it: its gap is the continuation.

    Args:
        denoiser: Its prefix goes before the context, unless that begins with it; framed ones get their suffix too.
        context: Token ids, may be none.
        continuation: Token ids, may be none.
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
    """Windows in which the one gap of a row is predicted, left to right, each at once given what is left of it.

    A row that fits the denoiser's ``max_length`` is one window. Where the gap fits, but not all that stands before it,
    the window keeps the end of that. A longer gap is cut: the first window has up to ``context`` known tokens, each
    later one exactly as many, all others are predicted, and the last window is as wide as the others. The frame is
    always there.

    Args:
        row: With a gap or none.
        denoiser: Its ``max_length`` and frame.
        context: Known tokens of a window; by default half of it.

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
    known = min(start - prefix, 1)  # at least one token, if there is any: what shifts its outputs needs one
    known = known if end - start + known <= room else min(start - prefix, context)
    views, done = [], start
    while done < end:
        stop = min(end, done + room - known)
        index = torch.cat(
            (torch.arange(prefix), torch.arange(max(prefix, stop - room), stop), torch.arange(length - suffix, length))
        )
        views.append(View(index, (done <= index) & (index < stop)))
        done, known = stop, context
    return views


@dataclass(frozen=True)
class _Piece:
    """One window of a row: its tokens, masked where later windows write, which of them count, and its seed."""

    row: int
    x_0: Tensor
    target: Tensor
    seed: int


class TextBounds:
    """Minus log-likelihood bounds of rows under a sampler, nats; a row's value does not depend on the other rows.

    Every window (or block) is one run of the sampler, of ``num_steps`` passes or as many as it has tokens, and its
    length is known: this is the law of what `EnergySampler.generate` writes in so many tokens.

    Args:
        sampler: Whose bound.
        batch_size: Windows at a time; changes memory and speed only.
        num_draws: Draws of the bound that are averaged; one will do where it is exact.
        inner_draws: Draws of candidates inside of each, see `EnergySampler.likelihood_bound`.
        block_length: Predict in blocks, as ``generate`` writes them with this ``block_length``; the denoiser's own by
            default, else in windows.
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
        block_length: int | None = None,
        context: int | None = None,
    ):
        for name, value in (("batch_size", batch_size), ("num_draws", num_draws), ("inner_draws", inner_draws)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_draws = 1 if sampler.bound_is_exact else num_draws
        self.inner_draws = inner_draws
        self.block_length = check_block_length(sampler.denoiser, block_length)
        self.context = context

    def bounds(self, rows: Sequence[Row], seeds: Sequence[int], *, progress: str | None = None) -> Tensor:
        """The bound of each row's gap, given the rest of the row.

        Args:
            rows: See `row_to_score`.
            seeds: One a row; equal seeds pair rows of one shape: the same order, the same draws.
            progress: Title of a progress bar; none without.

        Returns:
            Nats, low = good, shape ``[n]``, float64, on the CPU; 0 without a gap, ``inf`` for what is never written.
        """
        totals = torch.zeros(len(rows), dtype=torch.float64)
        for pieces, x_0, target, real in self._batches(rows, seeds, self.num_draws, progress):
            seeds = [piece.seed for piece in pieces]
            how = {"given": ~target, "attention_mask": real, "inner_draws": self.inner_draws}
            nats = self.sampler.likelihood_bound(x_0, seeds=seeds, **how)
            totals.index_add_(0, torch.tensor([piece.row for piece in pieces]), nats.cpu() / self.num_draws)
        return totals

    def would_write(self, rows: Sequence[Row], seeds: Sequence[int], *, progress: str | None = None) -> list[bool]:
        """Whether the sampler, with these seeds, writes the very tokens of each row's gap."""
        equal = [True] * len(rows)
        mask = self.sampler.denoiser.mask_token_id
        for pieces, x_0, target, real in self._batches(rows, seeds, 1, progress):
            x_t = x_0.masked_fill(target, mask)
            written = self.sampler.fill(
                x_t, target=target, attention_mask=real, seeds=[piece.seed for piece in pieces]
            ).tokens
            same = ((written == x_0) | ~target).all(1).tolist()
            for piece, is_same in zip(pieces, same, strict=True):
                equal[piece.row] &= is_same
        return equal

    def _batches(
        self, rows: Sequence[Row], seeds: Sequence[int], num_draws: int, progress: str | None
    ) -> Iterator[tuple[list[_Piece], Tensor, Tensor, Tensor]]:
        """Pieces with their ``x_0``, ``target`` and ``attention_mask``, each ``[batch, width]``."""
        pieces = [
            piece
            for i, (row, seed) in enumerate(zip(rows, seeds, strict=True))
            for piece in self._pieces(i, row, seed, num_draws)
        ]
        # Like lengths together, the longest first: a batch that does not fit in memory fails at once.
        pieces.sort(key=lambda piece: len(piece.x_0), reverse=True)
        denoiser = self.sampler.denoiser
        device = next(iter([*denoiser.parameters(), *denoiser.buffers()])).device
        pad = int(denoiser.mask_token_id == 0)  # any token but the mask
        starts = range(0, len(pieces), self.batch_size)
        for start in tqdm(starts, desc=progress, disable=None if progress else True, leave=False):
            some = pieces[start : start + self.batch_size]
            x_0 = pad_sequence([piece.x_0 for piece in some], True, pad)
            target = pad_sequence([piece.target for piece in some], True, False)
            real = pad_sequence([torch.ones_like(piece.target) for piece in some], True, False)
            yield some, x_0.to(device), target.to(device), real.to(device)

    def _pieces(self, i: int, row: Row, seed: int, num_draws: int) -> Iterator[_Piece]:
        denoiser = self.sampler.denoiser
        by_blocks = self.block_length is not None
        views = views_of(row, denoiser, self.block_length) if by_blocks else windows_of(row, denoiser, self.context)
        for number, view in enumerate(views):
            last = int(view.index[view.target][-1])
            later = row.is_gap()[view.index] & (view.index > last)
            x_0 = row.tokens[view.index].masked_fill(later, denoiser.mask_token_id)
            for draw in range(num_draws):
                own = seed_of(seed, number, draw) if number or draw else seed
                yield _Piece(i, x_0, view.target, own)
