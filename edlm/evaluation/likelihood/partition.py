"""The partition function from draws: bounds of ``log Z``, when to trust them, and the spread of energies by step."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.numerics import precise
from edlm.sampler.output import SampleOutput, StepInfo

FEWEST_DRAWS = 4  # of a row whose bounds may be trusted
LEAST_ESS = 2.0  # of the same: no single draw may carry the mean


@dataclass(frozen=True)
class PartitionEstimate:
    """Estimates of ``log Z = log E[exp v]``, ``v = -E``, from ``n`` draws a row; nats.

    Attributes:
        lower: ``log mean exp v``: at most ``log Z`` in expectation, ``[batch]``.
        upper: The leave-one-out combination: at least ``log Z`` in expectation, where it can be trusted, ``[batch]``.
        spread: Standard deviation of the finite ``v`` of a row; NaN for fewer than two, ``[batch]``.
        ess: Effective sample size of the weights ``exp v``, 1..n; 0 where all ``v`` are ``-inf``, ``[batch]``.
        num_draws: ``n``.
    """

    lower: Tensor
    upper: Tensor
    spread: Tensor
    ess: Tensor
    num_draws: int

    @property
    def is_trustworthy(self) -> Tensor:
        """Whether the bounds of these rows bracket ``log Z`` in the mean, as far as their draws show, bool ``[batch]``.

        One answer for all rows, which should be alike (of one step, or one time): ``n >= exp(mean spread^2)``,
        ``n >= 4`` and ``mean ess >= 2``. A rule on a row's own draws would select rows whose draws happen to lie close
        together, and their estimates are too low. False too in rows with fewer than two finite ``v``.

        For Gaussian energies the biases of the bounds are ``-/+ (exp(spread^2) - 1) / (2 n)`` to first order, which the
        rule keeps below 1/2. Weight that no draw has reached is not seen.
        """
        known = self.spread.isfinite()
        if not known.any():
            return known
        enough = math.log(self.num_draws) >= self.spread[known].square().mean()
        return known & enough & (self.ess.mean() >= LEAST_ESS) & (self.num_draws >= FEWEST_DRAWS)


def log_partition_bounds(neg_energies: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bound of ``log Z = log E[exp v]`` from draws ``v = -E`` of the proposal, nats.

    ``lower = T_n = log mean_i exp v_i``
    ``upper = (2n - 1) T_n - 2 (n - 1) mean_i T_{n-1}^{(-i)}``

    where ``T_{n-1}^{(-i)}`` leaves out draw ``i``. Both are bounds in expectation over draws, and the upper one for
    large ``n`` only; ``upper >= lower`` always.

    Args:
        neg_energies: ``v``, nats, high = plausible, shape ``[batch, n]``, ``n >= 2``; ``-inf`` = impossible.

    Returns:
        ``lower`` and ``upper``, float64, shape ``[batch]``. With one finite draw ``upper`` is ``inf``, with none
        ``lower`` is ``-inf`` too.

    Raises:
        ValueError: another shape, ``n < 2``, or an entry that is NaN or ``+inf``.

    Note:
        For Gaussian energies of standard deviation 3 nats ``upper`` is still below ``log Z`` at n = 32 (by 0.16 in the
        mean): see `PartitionEstimate.is_trustworthy`. A low ``log Z`` makes a likelihood look too good.

    References:
        Deng et al. 2020, arXiv:2004.11714, Sec. 4.2; Xu et al. 2025, arXiv:2410.21357, Theorem 1.

    Example:
        >>> lower, upper = log_partition_bounds(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
        >>> lower.round(decimals=4), upper.round(decimals=4)  # 3 * 2.4338 - 2 * (1 + 3) / 2 in the first row
        (tensor([2.4338, 2.0000], dtype=torch.float64), tensor([3.3013, 2.0000], dtype=torch.float64))
    """
    estimate = estimate_partition(neg_energies)
    return estimate.lower, estimate.upper


def estimate_partition(neg_energies: Tensor) -> PartitionEstimate:
    """`log_partition_bounds` with the spread of ``v`` and the effective sample size; same arguments and errors."""
    v = _checked(neg_energies)
    n = v.shape[1]
    largest = v.amax(1, keepdim=True)
    largest = torch.where(largest.isneginf(), 0.0, largest)
    v = v - largest  # so that the difference of two large sums stays exact
    total = v.logsumexp(1) - math.log(n)
    without = _leave_one_out(v) - math.log(n - 1)
    gap = 2 * (n - 1) * (total[:, None] - without).mean(1).clamp(min=0)  # >= 0 by Jensen, but for rounding
    unknown = total.isneginf()
    weights = v.exp()
    squares = weights.square().sum(1)
    ess = torch.where(unknown, 0.0, weights.sum(1).square() / squares.where(~unknown, 1.0))
    lower = total + largest[:, 0]
    upper = torch.where(unknown, torch.inf, lower + gap)
    return PartitionEstimate(lower, upper, _spread(v), ess, n)


def _leave_one_out(v: Tensor) -> Tensor:
    """``log sum_{j != i} exp v_j`` without cancellation: the sum before ``i`` plus the sum after it, ``[batch, n]``."""
    nothing = torch.full_like(v[:, :1], -torch.inf)
    before = torch.cat([nothing, v.logcumsumexp(1)[:, :-1]], 1)
    after = torch.cat([v.flip(1).logcumsumexp(1).flip(1)[:, 1:], nothing], 1)
    return torch.logaddexp(before, after)


def _spread(v: Tensor) -> Tensor:
    finite = v.isfinite()
    counts = finite.sum(1)
    mean = v.where(finite, 0.0).sum(1) / counts
    squares = (v - mean[:, None]).where(finite, 0.0).square().sum(1)
    return (squares / (counts - 1).clamp(min=0)).sqrt()


def _checked(neg_energies: Tensor) -> Tensor:
    if neg_energies.ndim != 2 or neg_energies.shape[1] < 2:
        raise ValueError(f"neg_energies must be [batch, n] with n >= 2 draws a row, got {[*neg_energies.shape]}")
    v = precise(neg_energies)
    bad = v.isnan() | v.isposinf()
    if bad.any():
        raise ValueError(f"neg_energies must be finite or -inf, got {v[bad][0].item()}")
    return v


@dataclass(frozen=True)
class StepSpread:
    """Energies of the candidates of one step; all means are over the decisions that the energy judged.

    Attributes:
        step: Index, from 0.
        t: Time at which the step starts.
        num_candidates: ``k``.
        num_decisions: Decisions that the energy judged, in all rows.
        spread: Standard deviation of the energies of a decision's possible candidates, nats.
        ess: Effective sample size of the weights, 1..k.
        impossible: Share of candidates of infinite energy.
        log_z_lower: Lower estimate of the decision's ``log Z``, nats.
        log_z_upper: Upper estimate, leave-one-out.
        trustworthy: Share of decisions where `PartitionEstimate.is_trustworthy`.
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
        Steps without such decisions (no energy, one candidate, exact decisions, outside the window) are left out.

    Note:
        Errors are over decisions as if they were independent; those of one sequence need not be. Where candidates
        were drawn again, only the last draws count. ``ess`` is of weights at the sampler's temperature, the other
        fields of the energies themselves.

    Example:
        >>> from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
        >>> uniform = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), mask_token_id=4, vocab_size=4)
        >>> flat = CallableEnergy(lambda candidates, x_partial, log_proposal: 0 * log_proposal)
        >>> sampler = EnergySampler(uniform, flat, num_steps=2, num_candidates=8)
        >>> [(step.step, step.ess.value, step.spread.value) for step in step_spreads(sampler.sample(5, length=6))]
        [(0, 8.0, 0.0), (1, 8.0, 0.0)]
    """
    return [spread for info in output.steps.taken.values() if (spread := _spread_of_step(info)) is not None]


def _spread_of_step(info: StepInfo) -> StepSpread | None:
    energies, ess = _judged(info)
    if energies.shape[-1] < 2 or not len(energies):
        return None
    log_z = estimate_partition(-energies)
    return StepSpread(
        step=info.step,
        t=info.t,
        num_candidates=energies.shape[-1],
        num_decisions=len(energies),
        spread=_finite_mean(log_z.spread),
        ess=mean_of(ess),
        impossible=energies.isinf().double().mean().item(),
        log_z_lower=_finite_mean(log_z.lower),
        log_z_upper=_finite_mean(log_z.upper),
        trustworthy=log_z.is_trustworthy.double().mean().item(),
    )


def _judged(info: StepInfo) -> tuple[Tensor, Tensor]:
    """Energies ``[n, k]`` and effective sample sizes ``[n]`` of the decisions that were judged."""
    energies = info.energies if info.energies.ndim == 3 else info.energies[:, None]
    ess = info.ess if info.ess.ndim == 2 else info.ess[:, None]
    k = energies.shape[-1]
    # The groups of a row that have tokens come first; each draws k candidates, and k more for each redraw.
    counts = info.judged // k - info.redraws if k > 1 else torch.zeros_like(info.judged)
    judged = torch.arange(energies.shape[1], device=energies.device) < counts[:, None]
    return energies[judged].double().cpu(), ess[judged].double().cpu()


def _finite_mean(values: Tensor) -> Estimate:
    finite = values[values.isfinite()]
    return mean_of(finite) if len(finite) else Estimate(math.nan, math.nan, 0)
