"""Particles across steps: ``N`` runs of a row, weighed by their energies and resampled (sequential Monte Carlo).

A row with ``N`` particles is ``N`` neighbouring rows of a batch: equal reveal orders, draws of their own. In a step a
particle decides among its ``k`` candidates as alone, and its weight is multiplied by the mean of theirs, ``mean_j
exp(-E_j)``, which has the mean ``Z(x_t)`` of that decision. Where the effective sample size of a row's weights falls
below half of ``N``, or a weight is 0, the row is resampled: particle ``j`` goes on from particle ``A_j``, and all
weights are equal again. At the end of a block one particle is drawn by its weight, and all go on from it.

*Law.* Along the trajectory of ``x_0`` let ``gamma(x_0) = prod_i q'(x_i | x_t) exp(-E_i)``, over the decisions ``i`` of
a block. For large ``N`` samples follow ``gamma / Z``, ``Z = sum gamma``: normalised once, where candidates normalise
each decision, ``prod_i q' exp(-E_i) / Z_i(x_t)``. Both are the same where ``Z_i`` depends on nothing, as that of a
normalised energy. ``Z^ = prod over resamplings of mean_j weight_j`` has the mean ``Z``, for any ``N``.

*Resampling.* The weights, normalised, are arcs of a circle of length 1; particle ``j`` goes on from the one whose arc
holds the point ``v + j / N``, with one uniform ``v`` (systematic resampling, begun anywhere): ``P(A_j = m)`` is the
weight of ``m``, for each ``j``, and numbering the particles from another one changes nothing.

*Bound.* The probability of all that is drawn, with ``x_0`` the result, in slots ``b_1, b_2, ..`` (one for each
resampling), holds the factor ``q'`` of its own tokens, the probability of its choice among the candidates, and those of
its arcs: ``w / sum_j w_j``. Their product is ``gamma(x_0) / (N^r Z^)``, times the probability of all the rest given
that ``x_0`` survives in these slots. There are ``N^r`` ways to place it, all alike by the symmetry of the circle; so

    P_N(x_0) = gamma(x_0) E[1 / Z^],     -log P_N(x_0) <= -log gamma(x_0) + E[log Z^]

over runs in which particle 0 is ``x_0`` in every slot (conditional sequential Monte Carlo): at a resampling ``A_0 = 0``
is given, so that ``v`` is uniform on the arc of particle 0. For ``N = 1`` it is (*) of the method page.

References:
    Andrieu, Doucet and Holenstein 2010 (particle Markov chain Monte Carlo); Chopin and Singh 2015, arXiv:1304.1887.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edlm.diffusion.streams import RowGenerators
from edlm.energies.decision import Step
from edlm.numerics import precise
from edlm.sampler.impossible import ImpossibleCandidates
from edlm.sampler.kernel import Kernel
from edlm.sampler.output import DecisionInfo, StepInfo
from edlm.sampler.reweighting import effective_sample_size, log_weights

RESAMPLE_BELOW = 0.5  # of the particles


Streams = Callable[[], RowGenerators]
"""Makes the streams of the rows, where they are needed."""


@dataclass(frozen=True)
class Particles:
    """The weights of the particles of each row; of one particle they stay as they are, and it is left alone.

    Attributes:
        log_weights: Since they were last equal, nats, ``[rows, N]``.
        log_evidence: ``log Z^`` up to then, ``[rows]``.
    """

    log_weights: Tensor
    log_evidence: Tensor

    @classmethod
    def of(cls, kernel: Kernel, num_rows: int, device: torch.device) -> Particles:
        """At the beginning of rows."""
        weights = precise(torch.zeros(num_rows, kernel.num_particles, device=device))
        return cls(weights, weights[:, 0])

    @classmethod
    def stacked(cls, rows: Sequence[Particles]) -> Particles:
        """Those of several rows."""
        return cls(torch.cat([p.log_weights for p in rows]), torch.cat([p.log_evidence for p in rows]))

    def to(self, device: str | torch.device) -> Particles:
        """On a device."""
        return Particles(self.log_weights.to(device), self.log_evidence.to(device))

    def row(self, r: int) -> Particles:
        """Those of one row."""
        return Particles(self.log_weights[r : r + 1], self.log_evidence[r : r + 1])

    def survive(
        self, kernel: Kernel, step: Step, info: StepInfo, streams: Streams
    ) -> tuple[Particles, Tensor, StepInfo]:
        """Weigh the particles by a step that they took, and resample the rows that need it.

        Args:
            kernel: The law of the step.
            step: Of the particles, a batch.
            info: How it went.
            streams: Of this step.

        Returns:
            After it; for each particle of the batch the one that it goes on from, ``[rows * N]``; the step of the rows.

        Raises:
            ImpossibleCandidates: all particles of a row are impossible.
        """
        rows, number = self.log_weights.shape
        if number == 1:
            return self, self._all(), info
        after = self.weighed(mean_weights(info, kernel.weight_temperature))
        dead = torch.isneginf(after.log_weights).all(1)
        if dead.any():
            advice = "; more particles or candidates, or a softer energy may help"
            raise ImpossibleCandidates.at_first(f"all {number} particles", dead, step.t[::number], advice)
        return *after.resampled(after.need_resampling(), streams), self._of_rows(info, kernel.weight_temperature)

    def settle(self, streams: Streams, holds_first: bool = False) -> tuple[Particles, Tensor]:
        """At the end of a block one particle of each row is drawn by its weight, and all go on from it.

        Arguments and results are those of `resampled`.
        """
        rows, number = self.log_weights.shape
        if number == 1:
            return self, self._all()
        after, index = self.resampled(torch.ones_like(self.log_evidence, dtype=torch.bool), streams, holds_first)
        return after, index.view(rows, number)[:, :1].expand(rows, number).flatten()

    def weighed(self, increments: Tensor) -> Particles:
        """With ``increments[rows * N]``, logs of the mean weights of candidates, added."""
        return replace(self, log_weights=self.log_weights + increments.view_as(self.log_weights))

    def need_resampling(self) -> Tensor:
        """Rows of which some particles, but not all, have no weight, or whose effective sample size is low, bool."""
        alive = ~torch.isneginf(self.log_weights)
        ess = effective_sample_size(self.log_weights.where(alive.any(1, keepdim=True), 0.0))
        return alive.any(1) & (~alive.all(1) | (ess < RESAMPLE_BELOW * self.log_weights.shape[1]))

    def resampled(self, due: Tensor, streams: Streams, holds_first: bool = False) -> tuple[Particles, Tensor]:
        """Resample the rows ``due[rows]``.

        Args:
            due: Rows, bool.
            streams: Of the rows.
            holds_first: Given that particle 0 survives in its place.

        Returns:
            After it; and for each particle of the batch the one that it goes on from, ``[rows * N]``.
        """
        index = self._all().view_as(self.log_weights)
        if not due.any():
            return self, index.flatten()
        weights, number = self.log_weights[due], self.log_weights.shape[1]
        shares = weights.softmax(1)
        start = streams().uniform(due.long().cpu()).to(shares)
        start = start * shares[:, :1] if holds_first else start
        points = start + torch.arange(number, device=due.device).to(shares) / number
        ancestors, evidence = index.clone(), self.log_evidence.clone()
        ancestors[due] = index[due].gather(1, place_on_circle(shares, points))
        evidence[due] += weights.logsumexp(1) - math.log(number)
        return Particles(self.log_weights.masked_fill(due[:, None], 0.0), evidence), ancestors.flatten()

    def _all(self) -> Tensor:
        return torch.arange(self.log_weights.numel(), device=self.log_weights.device)

    def _of_rows(self, info: StepInfo, weight_temperature: float) -> StepInfo:
        """The step of rows: energies of all candidates, their effective sample size, and what all particles cost.

        ``num_revealed`` is the most of a particle. Decisions (``choices``) are left out.
        """
        rows, number = self.log_weights.shape
        energies = info.energies.unflatten(0, (rows, number)).movedim(1, -2)
        before = self.log_weights if energies.ndim == 3 else self.log_weights[:, None]
        weights = (log_weights(energies, weight_temperature) + before[..., None]).flatten(-2)
        some = ~torch.isneginf(weights).all(-1)
        return replace(
            info,
            energies=energies.flatten(-2),
            ess=effective_sample_size(weights.where(some[..., None], 0.0)) * some,
            num_revealed=info.num_revealed.view(rows, number).amax(1),
            denoiser_calls=info.denoiser_calls * number,
            choices=(),
            kept=torch.zeros_like(info.kept[:rows]),
            redraws=info.redraws.view(rows, number).sum(1),
            judged=info.judged.view(rows, number).sum(1),
        )


def place_on_circle(shares: Tensor, points: Tensor) -> Tensor:
    """Index of the arc that contains each point: arcs of lengths ``shares[n, N]`` lie one after the other on a circle.

    Example:
        >>> place_on_circle(torch.tensor([[0.5, 0.0, 0.5]]).double(), torch.tensor([[0.1, 0.6, 1.2]]).double())
        tensor([[0, 2, 0]])
    """
    ends = shares.cumsum(1)
    total = ends[:, -1:]
    points = torch.minimum(points % 1 * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(ends, points.contiguous(), right=True)


def mean_weights(info: DecisionInfo, weight_temperature: float) -> Tensor:
    """Logs of the mean weight of the candidates, summed over the decisions of a step, nats, ``[batch]``."""
    weights = log_weights(info.energies, weight_temperature)
    means = weights.logsumexp(-1) - math.log(weights.shape[-1])
    return means.sum(1) if weights.ndim == 3 else means
