"""The positions that engines of diffusion LMs write at a step: those of which the denoiser is surest."""

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import Slots
from edlm.sampler.given import GivenPass


def surest(logits: Tensor, masked: Tensor, denoiser: Denoiser | int, threshold: float, at_least: int = 1) -> Tensor:
    """Masked positions whose likeliest token has a probability above the threshold; or, if too few do, the surest.

    They do not depend on what is drawn, so that `rerank_step` may decide their tokens jointly.

    Args:
        logits: Shape ``[batch, length, vocab_size]``.
        masked: Positions to choose from, bool, shape ``[batch, length]``.
        denoiser: As for `rerank_step`.
        threshold: A probability; above 1 to take ``at_least`` positions always.
        at_least: Positions of a row that has so many, the leftmost of equal ones first.

    Returns:
        Bool, shape ``[batch, length]``.
    """
    slots = Slots.where(masked)
    largest = GivenPass(denoiser, logits).slot_log_probs(None, slots).amax(-1).exp()
    confidence = slots.write(largest.new_full(masked.shape, -1.0), largest)
    above = confidence > threshold
    rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    enough = above.sum(1, keepdim=True) >= at_least
    return torch.where(enough, above, (rank < at_least) & masked)
