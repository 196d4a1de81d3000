"""The steps of a sampler: one denoiser pass, the reveal set, and its decisions."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser, Encoding
from edlm.diffusion.orders import RevealPlan
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowStreams
from edlm.energies.base import Step
from edlm.numerics import widest_float
from edlm.sampler import inputs
from edlm.sampler.decisions import decide
from edlm.sampler.kernel import Kernel
from edlm.sampler.output import DecisionInfo, StepInfo, merge_decisions

_TIE = 2.0**-10  # nats


class Passes:
    """Denoiser passes on a batch; one serves all consecutive calls that start from the same tokens.

    Args:
        denoiser: The network that is run.
        keep_hidden: Whether to keep its states in all passes; None keeps them where an energy reads them.
        attention_mask: Of the batch: False at padding, bool, shape ``[batch, length]``; None without padding.
    """

    def __init__(self, denoiser: Denoiser, keep_hidden: bool | None = None, attention_mask: Tensor | None = None):
        self.denoiser = denoiser
        self.keep_hidden = keep_hidden
        self.attention_mask = attention_mask
        self._last: tuple[tuple[Tensor, ...], Encoding] | None = None

    def encode(self, x_t: Tensor, t: Tensor, rows: Tensor, reads_hidden: bool) -> Encoding:
        """The pass on ``rows`` of ``x_t[batch, length]`` at times ``t[batch]``; an energy may read its states."""
        keep_hidden = reads_hidden if self.keep_hidden is None else self.keep_hidden
        inputs = (x_t, t, rows, torch.tensor(keep_hidden))
        if self._last is None or not all(map(torch.equal, inputs, self._last[0])):
            self._last = None  # so that two are never kept
            encoding = self.denoiser.encode(x_t, t, self.attention_mask, rows=rows, keep_hidden=keep_hidden)
            self._last = (inputs, encoding)
        return self._last[1]


@torch.no_grad()
def denoise(
    kernel: Kernel,
    x_t: Tensor,
    streams: RowStreams,
    *,
    target: Tensor | None = None,
    attention_mask: Tensor | None = None,
    num_likeliest: int = 0,
) -> Iterator[tuple[Tensor, StepInfo]]:
    """Run all steps, one by one; arguments and errors are those of `EnergySampler.fill`, which runs it to its end.

    ``num_likeliest`` is that of `TextOptions`.

    Yields:
        After each step its ``x_s[batch, length]`` and its diagnostics.
    """
    masked, real = inputs.check_tokens(kernel, x_t, target, attention_mask)
    plan = kernel.plan(masked, streams.order())
    passes = Passes(kernel.denoiser, attention_mask=real)
    grouped = kernel.group_size is not None and not kernel.tokenwise
    for i in range(kernel.num_steps):
        (step,) = begin_steps([kernel], plan, x_t.new_full((len(x_t),), i), x_t, passes)
        x_t, choices = decide(kernel, step, streams.values(i), num_likeliest)
        decisions = choices or [DecisionInfo.without_energy(step.uses, kernel.candidates_weighed)]
        info = StepInfo(
            step=i,
            t=1 - i / kernel.num_steps,
            num_revealed=(x_t != step.x_t).sum(1),
            denoiser_calls=int(len(step.slots) > 0),
            choices=tuple(choices),
            **merge_decisions(decisions, grouped),
        )
        yield x_t, info


def begin_steps(kernels: Sequence[Kernel], plan: RevealPlan, at: Tensor, x_t: Tensor, passes: Passes) -> list[Step]:
    """The steps ``at[batch]`` of kernels that differ in energies and decisions only, from one pass on ``x_t``.

    Only rows that are due are run. Positions that are not revealed are filled only where an energy judges whole
    sequences.
    """
    denoiser = kernels[0].denoiser
    masked = (x_t == denoiser.mask_token_id) & plan.target
    t = time_of(at, kernels[0].num_steps)
    due = plan.num_due(at, masked) > 0
    real = passes.attention_mask
    uses = [due & kernel.uses_energy(t) for kernel in kernels]
    fills = [_positions_to_fill(k, of_rows, masked, due) for k, of_rows in zip(kernels, uses, strict=True)]
    rows = torch.stack([due, *(fill.any(1) for fill in fills if fill is not None)]).any(0).nonzero()[:, 0]
    t = t.float()
    reads_hidden = any(k.energy.reads_hidden for k, of_rows in zip(kernels, uses, strict=True) if of_rows.any())
    encoding = passes.encode(x_t, t, rows, reads_hidden) if len(rows) else None
    confidence = _confidence(denoiser, encoding, masked & due[:, None]) if plan.by_confidence else None
    revealed = plan.slots(at, masked, confidence)
    steps = []
    for fill, of_rows in zip(fills, uses, strict=True):
        slots = revealed
        if fill is not None:
            fill[revealed.rows, revealed.positions] = False
            slots = revealed.followed_by(Slots.where(fill))
        steps.append(Step(denoiser, x_t, t, encoding, slots, real, revealed, of_rows))
    return steps


def begin_step(kernel: Kernel, i: int, x_t: Tensor) -> Step:
    """Step ``i``, in an order that is not random, of rows ``x_t[batch, length]`` that began fully masked."""
    plan = kernel.plan(torch.ones_like(x_t, dtype=torch.bool), RowStreams([0] * len(x_t)).order())
    return begin_steps([kernel], plan, x_t.new_full((len(x_t),), i), x_t, Passes(kernel.denoiser))[0]


def _positions_to_fill(kernel: Kernel, uses: Tensor, masked: Tensor, due: Tensor) -> Tensor | None:
    """Positions that candidates fill, bool ``[batch, length]``; None for the reveal set alone."""
    if kernel.scope == "step" or not uses.any():
        return None
    return masked.clone() if kernel.energy.needs_every_row else masked & due[:, None]


def time_of(at: Tensor, num_steps: int) -> Tensor:
    """Time ``1 - i/T`` at which step ``i`` starts, as precise as the device can, shape ``[batch]``."""
    return (num_steps - at).to(widest_float(at.device)) / num_steps


def _confidence(denoiser: Denoiser, encoding: Encoding | None, wanted: Tensor) -> Tensor:
    """The largest log-probability at the wanted positions, ``-inf`` elsewhere, ``[batch, length]``.

    In steps of a thousandth of a nat: rounding depends on the batch, and must not break ties. A network without
    absolute positions is equally sure at all positions of a fully masked sequence.
    """
    everywhere = Slots.where(wanted)
    confidence = torch.full(wanted.shape, -torch.inf, device=wanted.device)
    if not len(everywhere):
        return confidence
    largest = denoiser.slot_log_probs(encoding, everywhere).amax(-1)
    return everywhere.write(confidence.to(largest), (largest / _TIE).round() * _TIE)
