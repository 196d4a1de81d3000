"""How far the energies of a sampler's candidates lie apart, step by step, and how many of them count."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.likelihood.partition import PartitionEstimate, estimate_partition
from edlm.sampler.output import SampleOutput, StepInfo


@dataclass(frozen=True)
class StepSpread:
    """What the energies of a step's candidates say; all means are over the decisions that the energy judged.

    Attributes:
        step: Index, from 0.
        t: Time at which the step starts.
        num_candidates: ``k``.
        num_decisions: Decisions that the energy judged, all rows together.
        spread: Standard deviation of the energies of a decision's possible candidates, nats.
        ess: Effective sample size of the weights, 1..k.
        impossible: Share of candidates of infinite energy.
        log_z_lower: Lower estimate of the decision's ``log Z``, nats.
        log_z_upper: Upper estimate, leave-one-out.
        trustworthy: Share of decisions whose ``log Z`` the two may be taken to bracket.
    """

    step: int
    t: float
    num_candidates: int
    num_decisions: int
    spread: Estimate
    ess: Estimate
    impossible: float
    log_z_lower: Estimate
    log_z_upper: Estimate
    trustworthy: float


def step_spreads(output: SampleOutput) -> list[StepSpread]:
    """Spread of energies and effective sample size of each step in which an energy judged several candidates.

    Args:
        output: Samples of any sampler.

    Returns:
        Steps without such decisions (no energy, one candidate, exact decisions, outside of the window) are left out.

    Note:
        Errors are over decisions as if they were independent; those of one sequence need not be. Where candidates
        were drawn anew, only the last draws are seen. ``ess`` is of weights at the sampler's temperature, the rest of
        the energies themselves.

    Example:
        >>> from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
        >>> uniform = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), mask_token_id=4, vocab_size=4)
        >>> flat = CallableEnergy(lambda candidates, x_partial, log_proposal: 0 * log_proposal)
        >>> sampler = EnergySampler(uniform, flat, num_steps=2, num_candidates=8)
        >>> [(step.step, step.ess.value, step.spread.value) for step in step_spreads(sampler.sample(5, length=6))]
        [(0, 8.0, 0.0), (1, 8.0, 0.0)]
    """
    return [spread for info in output.steps if (spread := _spread_of(info)) is not None]


def _spread_of(info: StepInfo) -> StepSpread | None:
    energies, ess = _judged(info)
    if energies.shape[-1] < 2 or not len(energies):
        return None
    found = estimate_partition(-energies)
    finite = ~found.lower.isneginf()
    return StepSpread(
        step=info.step,
        t=info.t,
        num_candidates=energies.shape[-1],
        num_decisions=len(energies),
        spread=_finite_mean(found.spread),
        ess=mean_of(ess),
        impossible=energies.isinf().double().mean().item(),
        log_z_lower=_finite_mean(found.lower),
        log_z_upper=_finite_mean(found.upper.where(finite, torch.nan)),
        trustworthy=_trusted_share(found),
    )


def _judged(info: StepInfo) -> tuple[Tensor, Tensor]:
    """Energies ``[n, k]`` and effective sample sizes ``[n]`` of the decisions that were judged."""
    energies = info.energies if info.energies.ndim == 3 else info.energies[:, None]
    ess = info.ess if info.ess.ndim == 2 else info.ess[:, None]
    k = energies.shape[-1]
    # A row's first groups are the ones that have tokens; each draws k candidates, and k more for each redraw.
    counts = info.judged // k - info.redraws if k > 1 else torch.zeros_like(info.judged)
    judged = torch.arange(energies.shape[1], device=energies.device) < counts[:, None]
    return energies[judged].double().cpu(), ess[judged].double().cpu()


def _finite_mean(values: Tensor) -> Estimate:
    finite = values[values.isfinite()]
    return mean_of(finite) if len(finite) else Estimate(math.nan, math.nan, 0)


def _trusted_share(found: PartitionEstimate) -> float:
    return found.is_trustworthy.double().mean().item()
