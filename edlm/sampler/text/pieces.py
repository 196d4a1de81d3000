"""Rows cut into pieces whose likelihood is bounded at once, several draws of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from edlm.denoisers.base import Denoiser
from edlm.diffusion.streams import seed_of
from edlm.sampler.text.blocks import View
from edlm.sampler.text.prompts import Row


@dataclass(frozen=True)
class Piece:
    """One draw of one window of a row.

    Attributes:
        row: Number of the row.
        window: Number of the window in the row, from 0.
        x_0: Its tokens, masked where later windows write, int64, ``[width]``.
        target: Those that are predicted, bool, ``[width]``.
        seed: Of the draw.
    """

    row: int
    window: int
    x_0: Tensor
    target: Tensor
    seed: int


def pieces_of(
    number: int, row: Row, views: Sequence[View], seed: int, num_draws: int, mask_token_id: int
) -> Iterator[Piece]:
    """Pieces of row ``number``, whose gaps hold their tokens: ``num_draws`` of each view, left to right."""
    for window, view in enumerate(views):
        last = int(view.index[view.target][-1])
        later = row.is_gap()[view.index] & (view.index > last)
        x_0 = row.tokens[view.index].masked_fill(later, mask_token_id)
        for draw in range(num_draws):
            of_draw = seed_of(seed, window, draw) if window or draw else seed
            yield Piece(number, window, x_0, view.target, of_draw)


def pad_pieces(pieces: Sequence[Piece], denoiser: Denoiser, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """``x_0``, ``target`` and ``attention_mask`` of pieces, padded on the right, each ``[batch, width]``."""
    pad = int(denoiser.mask_token_id == 0)  # any token but the mask
    x_0 = pad_sequence([piece.x_0 for piece in pieces], True, pad)
    target = pad_sequence([piece.target for piece in pieces], True, False)
    real = pad_sequence([torch.ones_like(piece.target) for piece in pieces], True, False)
    return x_0.to(device), target.to(device), real.to(device)
