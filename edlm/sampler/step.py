"""The start of a step: one denoiser pass, the reveal set, and what each sampler will decide on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser, Encoding
from edlm.diffusion.reveal import RevealPlan
from edlm.diffusion.slots import Slots
from edlm.energies.base import Step
from edlm.numerics import widest_float

if TYPE_CHECKING:
    from edlm.sampler.sampler import EnergySampler

_TIE = 2.0**-10  # nats


class Passes:
    """Denoiser passes on a batch; one serves all calls in a row that start from the same tokens.

    Args:
        denoiser: What is run.
        keep_hidden: Whether to keep its states in all passes; None keeps them where they are asked for.
        attention_mask: Of the batch: False at padding, bool, shape ``[batch, length]``; None without padding.
    """

    def __init__(self, denoiser: Denoiser, keep_hidden: bool | None = None, attention_mask: Tensor | None = None):
        self.denoiser = denoiser
        self.keep_hidden = keep_hidden
        self.attention_mask = attention_mask
        self._last: tuple[tuple[Tensor, ...], Encoding] | None = None

    def encode(self, x_t: Tensor, t: Tensor, rows: Tensor, reads_hidden: bool) -> Encoding:
        """The pass on some rows of ``x_t[batch, length]`` at times ``t[batch]``; an energy may read its states."""
        keep_hidden = reads_hidden if self.keep_hidden is None else self.keep_hidden
        asked = (x_t, t, rows, torch.tensor(keep_hidden))
        if self._last is None or not all(map(torch.equal, asked, self._last[0])):
            self._last = None  # so that two are never kept
            self._last = (
                asked,
                self.denoiser.encode(x_t, t, self.attention_mask, rows=rows, keep_hidden=keep_hidden),
            )
        return self._last[1]


def begin_step(
    samplers: Sequence[EnergySampler], plan: RevealPlan, at: Tensor, x_t: Tensor, passes: Passes
) -> tuple[Slots, list[tuple[Step, Tensor]]]:
    """Run the denoiser once for samplers that differ in their energies and decisions only.

    Only rows that are due are run. What is not revealed is filled only where an energy judges whole sequences.

    Args:
        samplers: Of one denoiser and number of steps.
        plan: Reveal orders of the rows.
        at: Index of each row's step, shape ``[batch]``.
        x_t: Tokens, shape ``[batch, length]``.
        passes: Of the denoiser on this batch; shared with other steps.

    Returns:
        The reveal set; and for each sampler the step, and the rows in whose tokens its energy has a say.
    """
    denoiser = samplers[0].denoiser
    masked = plan.still_masked(x_t, denoiser.mask_token_id)
    t = time_of(at, samplers[0].num_steps)
    due = plan.num_due(at, masked) > 0
    uses = [
        torch.zeros_like(due)
        if sampler.energy is None
        else due & sampler.window.covers(at, t, masked, passes.attention_mask)
        for sampler in samplers
    ]
    fills = [_positions_to_fill(s, of_rows, masked, due) for s, of_rows in zip(samplers, uses, strict=True)]
    rows = torch.stack([due, *(fill.any(1) for fill in fills if fill is not None)]).any(0).nonzero()[:, 0]
    t = t.float()
    reads_hidden = any(s.energy.reads_hidden for s, of_rows in zip(samplers, uses, strict=True) if of_rows.any())
    encoding = passes.encode(x_t, t, rows, reads_hidden) if len(rows) else None
    confidence = _confidence(denoiser, encoding, masked & due[:, None]) if plan.by_confidence else None
    revealed = plan.slots(at, masked, confidence)
    steps = []
    for fill, of_rows in zip(fills, uses, strict=True):
        slots = revealed
        if fill is not None:
            fill[revealed.rows, revealed.positions] = False
            slots = revealed.followed_by(Slots.where(fill))
        steps.append((Step(denoiser, x_t, t, encoding, slots, passes.attention_mask), of_rows))
    return revealed, steps


def _positions_to_fill(sampler: EnergySampler, uses: Tensor, masked: Tensor, due: Tensor) -> Tensor | None:
    """What candidates fill, bool ``[batch, length]``; None for the reveal set alone."""
    if sampler.scope == "step" or not uses.any():
        return None
    return masked.clone() if sampler.energy.needs_every_row else masked & due[:, None]


def time_of(at: Tensor, num_steps: int) -> Tensor:
    """Time ``1 - i/T`` at which step ``i`` starts, as precise as the device can, shape ``[batch]``."""
    return (num_steps - at).to(widest_float(at.device)) / num_steps


def _confidence(denoiser: Denoiser, encoding: Encoding | None, wanted: Tensor) -> Tensor:
    """The largest log-probability at the wanted positions, ``-inf`` elsewhere, ``[batch, length]``.

    In steps of a thousandth of a nat: rounding depends on the batch, and must not break ties. A network without
    absolute positions is equally sure everywhere of a sequence of which nothing is known.
    """
    everywhere = Slots.where(wanted)
    confidence = torch.full(wanted.shape, -torch.inf, device=wanted.device)
    if not len(everywhere):
        return confidence
    largest = denoiser.slot_log_probs(encoding, everywhere).amax(-1)
    return everywhere.write(confidence.to(largest), (largest / _TIE).round() * _TIE)
