"""What is minimised: each objective turns tokens and a generator into a scalar loss in nats per token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edlm.diffusion.noising import antithetic_times, mask_tokens
from edlm.diffusion.schedule import Schedule
from edlm.diffusion.slots import Slots


class DenoiserObjective:
    """Continuous-time bound of the masked diffusion model (NELBO), nats per token, low = good.

    ``E_t [ -alpha'(t) / (1 - alpha(t)) * sum over masked i of -log p_theta(x_0^i | x_t) ] / length``

    Args:
        schedule: Gives ``alpha``; the bound's value does not depend on it, its variance does.
        mask_token_id: The mask token.

    References:
        Sahoo et al. 2024, arXiv:2406.07524, Eq. 10; antithetic times.
    """

    def __init__(self, schedule: Schedule, mask_token_id: int):
        self.schedule = schedule
        self.mask_token_id = mask_token_id

    def __call__(
        self, model: nn.Module, batch: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of tokens ``batch[batch, length]``; the model is called as ``model(x_t, slots, t)``."""
        t = antithetic_times(len(batch), generator).to(batch.device)
        x_t = mask_tokens(batch, t, self.schedule, self.mask_token_id, generator)
        slots = Slots.where(x_t == self.mask_token_id)
        nll = -model(x_t, slots, t).gather(1, slots.gather(batch)[:, None])[:, 0]
        loss = (self.schedule.nelbo_weight(t)[slots.rows] * nll).sum() / batch.numel()
        return loss, {"masked_nll_nats": nll.detach().mean()}
