"""Which positions attention reads: both sides, blocks from left to right, and never padding."""

import torch
from torch import Tensor


def visible_positions(
    length: int, block_size: int | None, attention_mask: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which positions (columns) each position (row) reads, bool ``[batch or 1, 1, length, length]``; None: all.

    It reads itself, blocks up to its own (``block_size`` 1: a causal model; None: no blocks), and no padding, where
    ``attention_mask[batch, length]`` is False.
    """
    visible = None
    if block_size is not None:
        block = torch.arange(length, device=device) // block_size
        visible = (block[:, None] >= block)[None, None]
    if attention_mask is not None:
        itself = torch.eye(length, dtype=torch.bool, device=device)  # so that rows of padding have something to read
        real = attention_mask.to(device).bool()[:, None, None, :] | itself
        visible = real if visible is None else visible & real
    return visible


def added_to_scores(visible: Tensor | None, length: int, like: Tensor) -> Tensor:
    """What is added to attention scores: 0, and the lowest number of the type where nothing is read.

    ``visible`` is that of `visible_positions`. Always of four dimensions, which every implementation of attention in
    transformers takes as it is: the shape of ``visible``, or ``[1, 1, length, length]``; type and device of ``like``.
    """
    if visible is None:
        return like.new_zeros(1, 1, 1, length).expand(1, 1, length, length)
    lowest = torch.finfo(like.dtype).min
    return like.new_zeros(visible.shape).masked_fill(~visible, lowest)
