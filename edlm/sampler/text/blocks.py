"""Blocks: which positions of a text are written together, and what the denoiser sees of the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from edlm.denoisers.base import Denoiser
from edlm.sampler.text.prompts import Row


@dataclass(frozen=True)
class View:
    """The part of a row that the denoiser sees while a block is written.

    Attributes:
        index: Positions of the row, ascending, ``[width]``.
        target: Which of them are written, bool, ``[width]``.
    """

    index: Tensor
    target: Tensor


def views_of(row: Row, denoiser: Denoiser, block_length: int | None) -> list[View]:
    """A view for each block of the row that holds something to write, left to right.

    The view is the whole row if it fits the denoiser; else so much of it that ends with the block, or, for the first
    blocks, begins with the row. The frame is always included. A denoiser that writes in blocks of its own, at multiples
    of their size, sees nothing on the right of the block.

    ``block_length`` is that of `Kernel`; None writes all at once.

    Raises:
        ValueError: the row is too long to be written at once, or a block is.
    """
    if not row.gaps:
        return []
    written = row.is_gap()
    edges = _edges(row, denoiser, block_length)
    views = []
    for start, stop in zip(edges, edges[1:], strict=False):
        index = _seen(row, denoiser, start, stop, block_length)
        target = written[index] & (start <= index) & (index < stop)
        if target.any():
            views.append(View(index, target))
    return views


def _edges(row: Row, denoiser: Denoiser, block_length: int | None) -> list[int]:
    first, last = row.gaps[0][0], row.gaps[-1][1]
    if block_length is None:
        return [first, last]
    origin = 0 if denoiser.block_size is not None else first
    second = first + block_length - (first - origin) % block_length
    return [first, *range(second, last, block_length), last]


def _seen(row: Row, denoiser: Denoiser, start: int, stop: int, block_length: int | None) -> Tensor:
    """Positions that the denoiser sees while ``start .. stop - 1`` is written."""
    length, limit, by_blocks = len(row.tokens), denoiser.max_length, denoiser.block_size is not None
    prefix, suffix = (row.num_prefix, row.num_suffix) if denoiser.is_framed else (0, 0)
    if by_blocks:
        length, suffix = stop, 0
    if limit is None or length <= limit:
        return torch.arange(length)
    if block_length is None:
        raise ValueError(
            f"a text must be at most max_length = {limit} tokens long to be written at once, got {length}; "
            "generate writes longer ones block by block, with block_length"
        )
    room = limit - prefix - suffix
    if stop - start > room:
        raise ValueError(f"block_length must be at most {room}, to fit max_length = {limit}, got {block_length}")
    begin = max(prefix, stop - room)
    if by_blocks:  # they stay at multiples of their size
        begin = prefix - (prefix - begin) // block_length * block_length
    end = min(length - suffix, begin + room)
    parts = (torch.arange(prefix), torch.arange(begin, end), torch.arange(length - suffix, length))
    return torch.cat(parts)


def gather_views(
    tokens: Sequence[Tensor | None], views: Sequence[View | None], pad_token_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The views of rows ``tokens[r][length]``, padded on the right; a row without a view is all padding.

    Returns:
        ``x_t``, ``target`` and ``attention_mask``, each ``[batch, width]``.
    """
    nothing = View(torch.arange(0), torch.zeros(0, dtype=torch.bool))
    seen = [(nothing.index if view is None else row, view or nothing) for row, view in zip(tokens, views, strict=True)]
    x_t = pad_sequence([row[view.index] for row, view in seen], True, pad_token_id)
    target = pad_sequence([view.target for _, view in seen], True, False)
    real = pad_sequence([torch.ones_like(view.target) for _, view in seen], True, False)
    return x_t, target, real


def scatter_view(tokens: Tensor, view: View, x_s: Tensor) -> Tensor:
    """Rows ``tokens[n, length]`` with their view, the first of ``x_s[n, width]``, written back, as a new tensor."""
    return tokens.index_copy(1, view.index, x_s[:, : len(view.index)])
