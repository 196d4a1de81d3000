"""Do a denoiser's outputs stand where its family says? A look at real text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import Slots
from edlm.evaluation.estimates.estimate import Estimate, mean_of

OFFSETS = (-1, 0, 1)
CLEAR = 3.0  # standard errors


@dataclass(frozen=True)
class ShiftProbe:
    """How well masked tokens are predicted by the outputs beside them.

    Attributes:
        nats: ``-log p`` of masked tokens from the output at this offset from where the denoiser reads it, nats.
        verdict: In words.
    """

    nats: dict[int, Estimate]
    verdict: str


@torch.no_grad()
def probe_shift(denoiser: Denoiser, tokens: Tensor, *, mask_every: int = 6) -> ShiftProbe:
    """Mask every ``mask_every``-th token in turn and read its prediction one place left, in place, one place right.

    A model that predicts the next token (``shift``) but is loaded as one that does not, or the other way round,
    predicts best beside the place that is read.

    Args:
        denoiser: The denoiser.
        tokens: Text of its language, framed as it is used, shape ``[length]``.
        mask_every: Of the tokens that are masked in one row; there are as many rows.

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
        beside = Slots(slots.rows, slots.positions + offset, slots.ranks, slots.batch_size)
        log_p = denoiser.slot_log_probs(encoding, beside).gather(1, tokens[slots.positions, None])[:, 0]
        losses[offset] = -log_p.double().cpu()
    return ShiftProbe({offset: mean_of(nats) for offset, nats in losses.items()}, _verdict(losses))


def _verdict(losses: dict[int, Tensor]) -> str:
    """Paired differences against the place that is read."""
    others = {offset: mean_of(nats - losses[0]) for offset, nats in losses.items() if offset}
    for offset, excess in others.items():
        if excess.value < -CLEAR * excess.stderr:
            return f"WRONG: outputs at {offset:+d} predict better"
    if all(excess.value > CLEAR * excess.stderr for excess in others.values()):
        return "confirmed"
    return "not clear: an untrained model, or text of another language"
