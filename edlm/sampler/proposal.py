"""The proposal: candidates drawn from the product of the denoiser's marginals."""

from __future__ import annotations

import torch
from torch import Tensor

from edlm.denoisers.base import check_mass
from edlm.diffusion.slots import Slots
from edlm.energies.base import Decision, Step


def draw_categorical(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-CDF draws, summed in float64: the same uniform gives the same token whatever the batch.

    Args:
        log_probs: Nats, normalised or not, shape ``[n, vocab_size]``; ``-inf`` is never drawn.
        uniforms: In [0, 1), float64, shape ``[n, k]``.

    Returns:
        Tokens, shape ``[n, k]``, on the device of ``log_probs``.

    Raises:
        ValueError: a row has no mass, or holds NaN or +inf.

    Note:
        Uniforms and sums in float32 would cut the tail of the law (arXiv:2409.02908); weights in float32 only have
        a relative error of 1e-7 each. MPS has no float64: there the draws are made on the CPU.
    """
    device = log_probs.device
    work = torch.device("cpu") if device.type == "mps" else device
    largest = log_probs.amax(-1, keepdim=True)
    check_mass(largest)
    cdf = (log_probs - largest).exp().to(work).cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1:]
    target = torch.minimum(uniforms.to(work) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cdf, target, right=True).to(device)


def make_decision(step: Step, slots: Slots, x_partial: Tensor, log_probs: Tensor, tokens: Tensor) -> Decision:
    """Candidates from token draws.

    Args:
        step: The step.
        slots: Positions to fill.
        x_partial: ``[batch, length]``.
        log_probs: Marginals at the slots, nats, ``[num_slots, vocab_size]``.
        tokens: Draws at the slots, ``[num_slots, k]``.
    """
    candidates = x_partial[:, None].repeat(1, tokens.shape[1], 1)
    candidates[slots.rows, :, slots.positions] = tokens
    log_p = log_probs.gather(1, tokens)
    return Decision(step, slots, x_partial, candidates, log_p, log_p)
