"""Forward process: which tokens of ``x_0`` are masked at time ``t``."""

import torch
from torch import Tensor

from edlm.diffusion.schedule import Schedule


def antithetic_times(num_times: int, generator: torch.Generator, *, smallest: float = 1e-3) -> Tensor:
    """Evenly spread times with one common random shift: each uniform, together of low variance.

    Args:
        num_times: How many.
        generator: Source of the shift.
        smallest: Times lie in ``[smallest, 1)``: the weight of the loss is infinite at 0.

    Returns:
        Shape ``[num_times]``, float32, on the generator's device.

    References:
        Kingma et al. 2021 (VDM), arXiv:2107.00630, App. I.1; Sahoo et al. 2024, arXiv:2406.07524.
    """
    shift = torch.rand(1, generator=generator, device=generator.device)
    grid = torch.arange(num_times, device=generator.device) / num_times
    return smallest + (1 - smallest) * ((grid + shift) % 1)


def mask_tokens(x_0: Tensor, t: Tensor, schedule: Schedule, mask_token_id: int, generator: torch.Generator) -> Tensor:
    """Draw ``x_t ~ q(x_t | x_0)``: each token is masked, alone, with probability ``1 - alpha(t)``.

    Args:
        x_0: Clean tokens, shape ``[batch, length]``.
        t: Times in [0, 1], shape ``[batch]``.
        schedule: Gives ``alpha``.
        mask_token_id: Token that represents "unknown".
        generator: Source of randomness, on any device.

    Returns:
        ``x_t``, shape ``[batch, length]``.
    """
    uniforms = torch.rand(x_0.shape, generator=generator, device=generator.device).to(x_0.device)
    clean = uniforms < schedule.alpha(t.to(x_0.device))[:, None]
    return torch.where(clean, x_0, mask_token_id)
