"""The perplexity that the paper reports of energy models: for comparison with the paper, since it is no bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edlm.denoisers.base import Denoiser
from edlm.diffusion.schedule import Schedule, get_schedule
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowStreams
from edlm.energies.base import Energy, Step
from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.estimates.units import Likelihood
from edlm.evaluation.likelihood.masked_draws import Estimator, MaskedDraw, describe, masked_draws
from edlm.evaluation.likelihood.nelbo import predicted
from edlm.evaluation.likelihood.partition import PartitionEstimate, estimate_partition
from edlm.numerics import precise
from edlm.sampler.proposal import draw_categorical, make_decision

WARNING = (
    "The published formula is not a bound for a joint model: it weighs the joint log p(x_0|x_t) as if it were a sum of "
    "marginals, and can be far below the true -log p (two bits that are equal in 9 of 10 cases have 1.469 bits, it "
    "gives 1.204; two that are always equal have 1, it gives 0.5). Compare it with published numbers only; the bound "
    "of the sampler that was run is likelihood_bound."
)
UNTRUSTED = (
    " The partition function was estimated from too few draws for such a spread of energies in {:.0%} of the noisy "
    "rows: there even the upper estimate of log Z may be too low, which makes this number look better than it is."
)


@dataclass(frozen=True)
class PublishedPerplexity:
    """What the published formula gives; never to be read without its warning.

    Attributes:
        with_lower: With the lower estimate of ``log Z``: what is published, the lower of the two.
        with_upper: With the upper, leave-one-out one; the same where the energy is normalised.
        marginal: The same formula on the same noisy rows with the denoiser's marginals: the base's bound.
        warning: Why it is no bound, and how far ``log Z`` can be trusted.
        spread: Standard deviation of the energies of a noisy row's draws, nats, mean over them; 0 if normalised.
        ess: Effective sample size of these draws, mean; NaN if normalised.
        num_candidates: Draws behind each ``log Z``; 0 if normalised.
        untrusted: Share of noisy rows where the bounds of ``log Z`` may not be trusted.
    """

    with_lower: Likelihood
    with_upper: Likelihood
    marginal: Likelihood
    warning: str
    spread: float
    ess: float
    num_candidates: int
    untrusted: float

    def perplexity(self, log_z: Literal["lower", "upper"]) -> Estimate:
        """Per token, with its error, at one of the two estimates of ``log Z``."""
        if log_z not in ("lower", "upper"):
            raise ValueError(f"log_z must be 'lower' or 'upper', got {log_z!r}")
        return (self.with_lower if log_z == "lower" else self.with_upper).perplexity

    def as_record(self) -> dict[str, Any]:
        """For JSON, the warning first."""
        parts = {name: getattr(self, name).as_record() for name in ("with_lower", "with_upper", "marginal")}
        rest = {name: getattr(self, name) for name in ("spread", "ess", "num_candidates", "untrusted")}
        return {"warning": self.warning, **parts, **rest}


@torch.no_grad()
def published_perplexity(
    denoiser: Denoiser,
    energy: Energy,
    x_0: Tensor,
    *,
    given: Tensor | None = None,
    normalized: bool | None = None,
    num_candidates: int = 16,
    estimator: Estimator = "times",
    num_draws: int = 8,
    schedule: str | Schedule = "log_linear",
    smallest: float = 1e-3,
    seed: int = 0,
    batch_size: int = 32,
    progress: str | None = None,
) -> PublishedPerplexity:
    """EDLM's continuous-time formula with the joint in it; NOT a bound of ``-log p``.

    ``integral of -alpha'(t) / (1 - alpha(t)) * E_{x_t} [ -log p_theta(x_0 | x_t) + E(x_0, x_t, t) + log Z(x_t) ] dt``

    Args:
        denoiser: Gives the marginals ``p_theta``.
        energy: Judges whole sequences: all masked positions at once.
        x_0: Tokens without masks, shape ``[n, length]``.
        given: True where a token is given and not predicted, shape ``[n, length]``.
        normalized: Whether ``Z = 1``, so that nothing is estimated; None for what the energy says of itself.
        num_candidates: Draws behind each ``log Z``, >= 2.
        estimator: Of the integral, see `continuous_nelbo`.
        num_draws: Noisy versions of each row.
        schedule: Of the noise.
        smallest: Least time of ``times``.
        seed: Row ``i`` has the seed ``seed + i``.
        batch_size: Rows at a time.
        progress: Title of a progress bar; none without.

    Returns:
        Both ends of ``log Z``, the same with marginals, and a warning.

    Raises:
        ValueError: as `continuous_nelbo`; ``num_candidates`` is below 2; or the energy is of another denoiser.

    References:
        Xu et al. 2025, arXiv:2410.21357, Sec. 4.3 and Theorem 1; why it is no bound: section 4 of the method page.
    """
    energy.check_denoiser(denoiser)
    target = predicted(denoiser, x_0, given)
    if normalized is None:
        normalized = energy.is_normalized
    if not normalized and num_candidates < 2:
        raise ValueError(f"num_candidates must be >= 2 to estimate log Z, got {num_candidates}")
    of_z = 0 if normalized else num_candidates
    how = {"num_draws": num_draws, "schedule": get_schedule(schedule), "smallest": smallest}
    models, totals, estimates = (denoiser.eval(), energy.eval()), [], []
    for start in tqdm(range(0, len(x_0), batch_size), desc=progress, disable=None if progress else True, leave=False):
        rows, seeds = x_0[start : start + batch_size], range(seed + start, seed + min(start + batch_size, len(x_0)))
        total = torch.zeros(3, len(rows), dtype=torch.float64)
        draws = masked_draws(target[start : start + batch_size], seeds, estimator=estimator, **how)
        for j, draw in enumerate(draws):
            some = draw.masked.any(1).nonzero()[:, 0]
            if len(some):
                part = MaskedDraw(draw.masked[some], draw.t[some], draw.weight[some])
                nats, estimate = _joint_nats(*models, rows[some], part, of_z, [seeds[i] for i in some.tolist()], j)
                total[:, some.cpu()] += (part.weight * nats).cpu()
                estimates += [estimate] if estimate else []
        totals.append(total)
    return _result(torch.cat(totals, 1), target.sum(1), estimates, of_z, describe(estimator, num_draws, smallest))


def _joint_nats(
    denoiser: Denoiser, energy: Energy, x_0: Tensor, draw: MaskedDraw, of_z: int, seeds: list[int], j: int
) -> tuple[Tensor, PartitionEstimate | None]:
    """``-log p(x_0 | x_t)`` with lower and upper ``log Z``, and with marginals, nats, ``[3, batch]``."""
    slots, x_t = Slots.where(draw.masked), x_0.masked_fill(draw.masked, denoiser.mask_token_id)
    encoding = denoiser.encode(x_t, draw.t, keep_hidden=energy.reads_hidden)
    log_probs = denoiser.slot_log_probs(encoding, slots)
    tokens = slots.gather(x_0)[:, None]
    if of_z:
        uniforms = RowStreams(seeds).values(j).uniform(slots.counts.cpu(), of_z)
        tokens = torch.cat([tokens, draw_categorical(log_probs, uniforms)], 1)
    decision = make_decision(Step(denoiser, x_t, draw.t, encoding, slots), slots, x_t, log_probs, tokens)
    energies = precise(energy(decision))
    marginal = -decision.log_p[:, 0]
    estimate = estimate_partition(-energies[:, 1:]) if of_z else None
    ends = (estimate.lower, estimate.upper) if estimate else (0.0, 0.0)
    return torch.stack([*(marginal + energies[:, 0] + log_z for log_z in ends), marginal]), estimate


def _result(
    totals: Tensor, tokens: Tensor, estimates: list[PartitionEstimate], of_z: int, described: str
) -> PublishedPerplexity:
    lower, upper, marginal = totals
    known = ["log Z = 0"] * 2 if not of_z else [f"{end} log Z from {of_z} draws" for end in ("lower", "upper")]
    said = [f"published joint formula, {end}, {described}" for end in known]
    ends = [
        Likelihood.of(nats, tokens, estimator=name, direction="estimate")
        for nats, name in zip((lower, upper), said, strict=True)
    ]
    said = f"continuous-time NELBO, {described}"
    base = Likelihood.of(marginal, tokens, estimator=said, direction="upper bound of -log p")
    if not estimates:
        return PublishedPerplexity(*ends, base, WARNING, 0.0, math.nan, 0, 0.0)
    spread, ess, trusted = (
        torch.cat([getattr(e, name).cpu().double() for e in estimates]) for name in ("spread", "ess", "is_trustworthy")
    )
    untrusted = 1 - trusted.mean().item()
    warning = WARNING + (UNTRUSTED.format(untrusted) if untrusted else "")
    return PublishedPerplexity(*ends, base, warning, spread.nanmean().item(), ess.mean().item(), of_z, untrusted)
