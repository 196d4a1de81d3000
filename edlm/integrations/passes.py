"""A pass of a denoiser on the canvas of a loop, whose rows may be padded on either side."""

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import Slots


@torch.no_grad()
def run_pass(
    denoiser: Denoiser, canvas: Tensor, wanted: Tensor, attention_mask: Tensor | None = None, keep_hidden: bool = False
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """What `rerank_step` needs of a pass: logits at the positions that are wanted, and states.

    Args:
        denoiser: The network that is run.
        canvas: Tokens, shape ``[batch, length]``.
        wanted: Positions of the end of the canvas whose logits are needed, bool, ``[batch, width]``.
        attention_mask: False at padding, on either side, shape ``[batch, length]``; the network sees it on the right.
        keep_hidden: Keep the states that enter the blocks, and the input of the output layer.

    Returns:
        Logits ``[batch, width, vocab_size]``, 0 where not wanted; and states, each ``[batch, length, hidden_size]``.

    Raises:
        ValueError: the denoiser writes in blocks, and padding on the left moves them.
    """
    real = torch.ones_like(canvas, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if denoiser.block_size is not None and (real[:, 1:] & ~real[:, :-1]).any():
        raise ValueError(
            f"padding must be on the right for blocks of {denoiser.block_size} tokens, got some on the left"
        )
    index = (~real).long().argsort(dim=1, stable=True)
    place = index.argsort(dim=1)  # of each position of the canvas in what the network sees
    padding = None if bool(real.all()) else real.gather(1, index)
    encoding = denoiser.encode(canvas.gather(1, index), None, padding, keep_hidden=keep_hidden)
    slots, start = Slots.where(wanted), canvas.shape[1] - wanted.shape[1]
    seen = Slots(slots.rows, place[slots.rows, slots.positions + start], slots.ranks, slots.batch_size)
    at_slots = denoiser.decode(encoding.at(seen))
    logits = at_slots.new_zeros(*wanted.shape, at_slots.shape[-1])
    logits = logits.index_put((slots.rows, slots.positions), at_slots)
    if not keep_hidden or encoding.hidden is None:
        return logits, None
    rows = encoding.place[:, None]
    return logits, tuple(states[rows, place] for states in (*encoding.hidden, encoding.features))
