"""The perplexity that the paper reports of energy models: for comparison with the paper only, since it is no bound."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowGenerators
from edlm.energies.base import Energy
from edlm.energies.decision import Step
from edlm.energies.proposal import draw_categorical, make_decision
from edlm.evaluation.estimates.estimate import Estimate, Likelihood, TextUnits
from edlm.evaluation.likelihood.continuous import ContinuousTime, MaskedDraw
from edlm.evaluation.likelihood.partition import PartitionEstimate, estimate_partition
from edlm.numerics import precise
from edlm.sampler.inputs import check_data

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


_LIKELIHOODS = ("with_lower", "with_upper", "marginal")


@dataclass(frozen=True)
class PublishedPerplexity:
    """Result of the published formula; never to be read without its warning.

    Attributes:
        with_lower: With the lower estimate of ``log Z``: the published number, the lower of the two.
        with_upper: With the upper, leave-one-out estimate; the same where the energy is normalised.
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

    def by_document(self, documents: Tensor | None) -> PublishedPerplexity:
        """The same values, their errors clustered by the document of each row."""
        likelihoods = {name: getattr(self, name).by_document(documents) for name in _LIKELIHOODS}
        return replace(self, **likelihoods)

    def as_record(self, units: TextUnits) -> dict[str, Any]:
        """For JSON, the warning first; likelihoods in all units."""
        parts = {name: units.record_of(getattr(self, name)) for name in _LIKELIHOODS}
        of_z = {name: getattr(self, name) for name in ("spread", "ess", "num_candidates", "untrusted")}
        return {"warning": self.warning, **parts, **of_z}


@torch.no_grad()
def published_perplexity(
    denoiser: Denoiser,
    energy: Energy,
    x_0: Tensor,
    *,
    given: Tensor | None = None,
    normalized: bool | None = None,
    num_candidates: int = 16,
    **options: Any,
) -> PublishedPerplexity:
    """EDLM's continuous-time formula with the joint in it; NOT a bound of ``-log p``.

    ``integral of -alpha'(t) / (1 - alpha(t)) * E_{x_t} [ -log p_theta(x_0 | x_t) + E(x_0, x_t, t) + log Z(x_t) ] dt``

    Args:
        denoiser: Gives the marginals ``p_theta``.
        energy: Judges whole sequences: all masked positions at once.
        x_0: Tokens without masks, shape ``[n, length]``.
        given: True where a token is given and not predicted, shape ``[n, length]``.
        normalized: Whether ``Z = 1``, so that nothing is estimated; None for the energy's own ``is_normalized``.
        num_candidates: Draws behind each ``log Z``, >= 2.
        options: Fields of `ContinuousTime`: the estimator of the integral.

    Returns:
        The formula with both estimates of ``log Z`` and with marginals, and a warning.

    Raises:
        ValueError: as `continuous_nelbo`; the denoiser writes in blocks; ``num_candidates`` is below 2; or the energy
            is of another denoiser.

    References:
        Xu et al. 2025, arXiv:2410.21357, Sec. 4.3 and Theorem 1; why it is no bound: section 4 of the method page.
    """
    time = ContinuousTime(**options)
    energy.check_denoiser(denoiser)
    if denoiser.block_size is not None:
        size = denoiser.block_size
        raise ValueError(f"published_perplexity needs a denoiser of whole sequences, got blocks of {size}")
    target, _ = check_data(denoiser, x_0, given)
    normalized = energy.is_normalized if normalized is None else normalized
    if not normalized and num_candidates < 2:
        raise ValueError(f"num_candidates must be >= 2 to estimate log Z, got {num_candidates}")
    loss = partial(_joint_loss, denoiser.eval(), energy.eval(), 0 if normalized else num_candidates)
    (lower, upper, marginal), estimates = time.integrate(x_0, target, loss)
    ends = []
    for nats, end in ((lower, "lower"), (upper, "upper")):
        log_z = "log Z = 0" if normalized else f"{end} log Z from {num_candidates} draws"
        estimator = f"published joint formula, {log_z}, {time.described}"
        ends.append(Likelihood.of(nats, target.sum(1), estimator=estimator, direction="estimate"))
    estimator = f"continuous-time NELBO, {time.described}"
    base = Likelihood.of(marginal, target.sum(1), estimator=estimator, direction="upper bound of -log p")
    if not estimates:
        return PublishedPerplexity(*ends, base, WARNING, 0.0, math.nan, 0, 0.0)
    spread, ess, trusted = (
        torch.cat([getattr(log_z, name).double() for log_z in estimates])
        for name in ("spread", "ess", "is_trustworthy")
    )
    untrusted = 1 - trusted.mean().item()
    warning = WARNING + (UNTRUSTED.format(untrusted) if untrusted else "")
    spread, ess = spread.nanmean().item(), ess.mean().item()
    return PublishedPerplexity(*ends, base, warning, spread, ess, num_candidates, untrusted)


def _joint_loss(
    denoiser: Denoiser,
    energy: Energy,
    num_candidates: int,
    x_0: Tensor,
    draw: MaskedDraw,
    generators: RowGenerators,
) -> tuple[Tensor, PartitionEstimate | None]:
    """``-log p(x_0 | x_t)`` with lower and upper ``log Z``, and with marginals, ``[3, rows]``; and that ``log Z``.

    ``num_candidates`` draws are behind each ``log Z``, which is on the CPU; 0 where ``Z = 1``.
    """
    slots, x_t = Slots.where(draw.masked), x_0.masked_fill(draw.masked, denoiser.mask_token_id)
    encoding = denoiser.encode(x_t, draw.t, keep_hidden=energy.reads_hidden)
    log_probs = denoiser.slot_log_probs(encoding, slots)
    tokens = slots.gather(x_0)[:, None]
    if num_candidates:
        uniforms = generators.uniform(slots.counts.cpu(), num_candidates)
        tokens = torch.cat([tokens, draw_categorical(log_probs, uniforms)], 1)
    decision = make_decision(Step(denoiser, x_t, draw.t, encoding, slots), slots, x_t, log_probs, tokens)
    energies = precise(energy(decision))
    marginal = -decision.log_p[:, 0]
    joint = marginal + energies[:, 0]
    if not num_candidates:
        return torch.stack([joint, joint, marginal]), None
    log_z = estimate_partition(-energies[:, 1:])
    on_cpu = replace(log_z, **{name: value.cpu() for name, value in vars(log_z).items() if isinstance(value, Tensor)})
    return torch.stack([joint + log_z.lower, joint + log_z.upper, marginal]), on_cpu
