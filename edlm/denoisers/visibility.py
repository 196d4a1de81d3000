"""Which positions attention reads: both sides, blocks from left to right, and never padding."""

import torch
from torch import Tensor


def no_later_block(queries: Tensor, keys: Tensor, block_size: int) -> Tensor:
    """Whether the block of each key is that of the query or an earlier one, bool ``[..., queries, keys]``.

    Args:
        queries: Positions, shape ``[..., queries]``.
        keys: Positions, shape ``[..., keys]``.
        block_size: Tokens of a block; 1: a causal model.
    """
    return queries[..., :, None] // block_size >= keys[..., None, :] // block_size


def visible_positions(
    length: int, block_size: int | None, attention_mask: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which positions (columns) each position (row) reads, bool ``[batch or 1, 1, length, length]``; None: all.

    It reads itself, blocks up to its own (``block_size`` 1: a causal model; None: no blocks), and no padding, where
    ``attention_mask[batch, length]`` is False.
    """
    visible = None
    if block_size is not None:
        places = torch.arange(length, device=device)
        visible = no_later_block(places, places, block_size)[None, None]
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
