"""Probe on real text whether output i predicts token i or a neighbour of it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import Slots

OFFSETS = (-1, 0, 1)
CLEAR = 3.0  # standard errors


class MeanLoss(NamedTuple):
    """Mean over ``n`` masked tokens, and its standard error, nats."""

    value: float
    stderr: float
    n: int


@dataclass(frozen=True)
class ShiftProbe:
    """How well the outputs next to masked tokens predict them.

    Attributes:
        nats: Offset from the position that the denoiser reads -> mean of ``-log p`` of masked tokens, nats.
        verdict: In words.
    """

    nats: dict[int, MeanLoss]
    verdict: str


@torch.no_grad()
def probe_shift(denoiser: Denoiser, tokens: Tensor, *, mask_every: int = 6) -> ShiftProbe:
    """Mask every ``mask_every``-th token in turn and predict it from its own output and from both neighbours.

    A model that predicts the next token (``shift``) but is loaded as one that does not, or the reverse,
    predicts best from a neighbour.

    Args:
        denoiser: The denoiser.
        tokens: Text of its language, framed as it is used, shape ``[length]``.
        mask_every: Distance of the masked tokens in a row, and number of rows.

    Raises:
        ValueError: the text is too short to mask anything but its ends.
    """
    length = len(tokens)
    index = torch.arange(length, device=tokens.device)
    inner = (index >= len(denoiser.prefix_ids) + 2) & (index < length - 2)
    if not inner.any():
        raise ValueError(f"the text must be longer to probe the shift, got {length} tokens")
    chosen = torch.stack([inner & (index % mask_every == first) for first in range(mask_every)])
    encoding = denoiser.encode(tokens.masked_fill(chosen, denoiser.mask_token_id))
    slots = Slots.where(chosen)
    losses = {}
    for offset in OFFSETS:
        neighbours = Slots(slots.rows, slots.positions + offset, slots.ranks, slots.batch_size)
        log_p = denoiser.slot_log_probs(encoding, neighbours).gather(1, tokens[slots.positions, None])[:, 0]
        losses[offset] = -log_p.double().cpu()
    return ShiftProbe({offset: _mean(nats) for offset, nats in losses.items()}, _verdict(losses))


def _mean(losses: Tensor) -> MeanLoss:
    n = len(losses)
    return MeanLoss(losses.mean().item(), losses.std().item() / math.sqrt(n) if n > 1 else math.nan, n)


def _verdict(losses: dict[int, Tensor]) -> str:
    """From paired differences to the position that the denoiser reads."""
    others = {offset: _mean(nats - losses[0]) for offset, nats in losses.items() if offset}
    for offset, excess in others.items():
        if excess.value < -CLEAR * excess.stderr:
            return f"WRONG: outputs at {offset:+d} predict better"
    if all(excess.value > CLEAR * excess.stderr for excess in others.values()):
        return "confirmed"
    return "not clear: an untrained model, or text of another language"
