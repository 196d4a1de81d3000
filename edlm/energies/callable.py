"""An energy from any Python function: reward model, classifier, constraint, verifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edlm.energies.base import Decision, Energy


class CallableEnergy(Energy):
    """An energy from a function of token candidates.

    Args:
        f: ``f(candidates[batch, k, length], x_partial[batch, length], log_proposal[batch, k])
            -> energy[batch, k]``, nats, low = plausible, ``+inf`` = impossible. A candidate is ``x_partial``
            with the scope (or group) filled in, other masks kept; ``x_partial`` is ``x_t`` with the step's
            earlier groups written; ``log_proposal`` sums the proposal over the filled positions.
            It always gets all rows of the batch, in order, and exactly k candidates.
        complete: The function needs sequences without masks, so only sequence scope will do.

    Example:
        >>> prefer_sevens = CallableEnergy(lambda candidates, x, log_p: -1.0 * (candidates == 7).sum(-1))
        >>> prefer_sevens.needs_complete
        False
    """

    needs_every_row = True

    def __init__(self, f: Callable[[Tensor, Tensor, Tensor], Tensor], complete: bool = False):
        super().__init__()
        self.f = f
        self.needs_complete = complete

    def forward(self, decision: Decision) -> Tensor:
        """Energies ``[batch, k]``.

        Raises:
            ValueError: the function returned another shape. (NaN and ``-inf`` raise where energies become weights.)
        """
        energy = self.f(decision.candidates, decision.x_partial, decision.log_proposal)
        energy = torch.as_tensor(energy, device=decision.candidates.device)
        if energy.shape != decision.log_proposal.shape:
            expected = tuple(decision.log_proposal.shape)
            raise ValueError(f"f must return energies of shape {expected}, got {tuple(energy.shape)}")
        return energy.to(decision.log_proposal.dtype)
