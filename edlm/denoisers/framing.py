"""Blocks of text as rows that a denoiser reads: framed where its sequences always are, with what is given in them."""

import torch
from torch import Tensor

from edlm.corpus.blocks import TokenBlocks
from edlm.denoisers.base import Denoiser


def rows_of_blocks(denoiser: Denoiser, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with the denoiser's prefix and suffix around each block, and the positions that are given in them.

    Args:
        denoiser: Its prefix and suffix surround every sequence, or none.
        blocks: Tokens, shape ``[n, length]``.

    Returns:
        Rows ``[n, frame + length]``; and the given positions, bool, of the same shape: the frame, and the first token
        where outputs are shifted, since nothing predicts it.
    """
    frame = denoiser.vocabulary.frame_ids
    prefix, suffix = (blocks.new_tensor(ids).expand(len(blocks), -1) for ids in frame)
    rows = torch.cat([prefix, blocks, suffix], 1)
    given = torch.ones_like(rows, dtype=torch.bool)
    given[:, max(len(frame.prefix), int(denoiser.shift)) : rows.shape[1] - len(frame.suffix)] = False
    return rows, given


def blocks_of_rows(denoiser: Denoiser, rows: Tensor) -> Tensor:
    """The blocks ``[n, length]`` in rows ``[n, frame + length]``."""
    frame = denoiser.vocabulary.frame_ids
    return rows[:, len(frame.prefix) : rows.shape[1] - len(frame.suffix)]


def empty_rows(denoiser: Denoiser, number: int, length: int) -> Tensor:
    """Rows of masks, ``[number, length]``, in the denoiser's frame; its prefix, too, where outputs are shifted.

    Raises:
        ValueError: ``length`` leaves no room for a token; or see `check_begins`.
    """
    check_begins(denoiser)
    row = torch.full((length,), denoiser.mask_token_id, device=denoiser.device)
    prefix, suffix = denoiser.vocabulary.frame_ids
    prefix = denoiser.prefix_ids if denoiser.shift else prefix
    if length <= (fixed := len(prefix) + len(suffix)) and fixed:
        raise ValueError(f"length must be above the {fixed} tokens that frame each sequence, got {length}")
    row[: len(prefix)] = row.new_tensor(prefix)
    row[length - len(suffix) :] = row.new_tensor(suffix)
    return row.repeat(number, 1)


def check_begins(denoiser: Denoiser) -> None:
    """Refuse to begin rows from nothing, by a ValueError, where nothing predicts a first token and none is known."""
    if denoiser.shift and not denoiser.prefix_ids:
        raise ValueError(
            f"rows from nothing need prefix_ids of a denoiser with shifted outputs, since nothing predicts their first "
            f"token, got a {type(denoiser).__name__} without: give a prompt, or set denoiser.prefix_ids"
        )


def check_blocks(denoiser: Denoiser, *several: TokenBlocks) -> None:
    """Refuse blocks that are no text of this denoiser, before anything is computed from them.

    Raises:
        ValueError: with its frame they are longer than `Denoiser.max_length`; or see `Vocabulary.check_blocks`.
    """
    for blocks in several:
        length, most = blocks.tokens.shape[1], denoiser.longest_text
        if most is not None and length > most:
            frame = denoiser.vocabulary.frame_length
            room = f"max_length = {denoiser.max_length}" + (f" less a frame of {frame}" if frame else "")
            raise ValueError(f"blocks must hold at most {most} tokens ({room}), got {length}: prepare the corpus anew")
    denoiser.vocabulary.check_blocks(*several)
