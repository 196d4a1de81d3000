"""The continuous-time bound of a masked diffusion model: the number that the literature reports of the base."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edlm.denoisers.base import Denoiser
from edlm.diffusion.schedule import Schedule, get_schedule
from edlm.diffusion.slots import Slots
from edlm.evaluation.estimates.units import Likelihood
from edlm.evaluation.likelihood.masked_draws import Estimator, describe, masked_draws
from edlm.numerics import precise


@torch.no_grad()
def continuous_nelbo(
    denoiser: Denoiser,
    x_0: Tensor,
    *,
    given: Tensor | None = None,
    estimator: Estimator = "times",
    num_draws: int = 8,
    schedule: str | Schedule = "log_linear",
    smallest: float = 1e-3,
    seed: int = 0,
    batch_size: int = 32,
    progress: str | None = None,
) -> Likelihood:
    """Upper bound of ``-log p(x_0)`` of the denoiser with infinitely many steps, nats per token, low = good.

    ``integral of -alpha'(t) / (1 - alpha(t)) * E_{x_t} [ -sum over masked i of log p_theta(x_0^i | x_t) ] dt``

    It equals the bound of the base sampler with one token a step in random order (k = 1), whatever the schedule,
    unless the denoiser is conditioned on time.

    Args:
        denoiser: Gives the marginals; no energy has a part in it.
        x_0: Tokens without masks, shape ``[n, length]``.
        given: True where a token is given and not predicted, shape ``[n, length]``.
        estimator: ``times`` (published: random times, weights ``1 / t``), ``counts`` (no cut-off, less noise) or
            ``enumerated`` (exact, for at most 12 tokens a row); see `masked_draws`.
        num_draws: Noisy versions of each row, one denoiser pass each; not for ``enumerated``.
        schedule: Of the noise; ``alpha(t) = 1 - t`` by default.
        smallest: Least time of ``times``: the cut-off of the published code, which lifts the result by at most this
            share of itself.
        seed: Row ``i`` has the seed ``seed + i``: the same for any batch size, and paired between denoisers.
        batch_size: Rows at a time.
        progress: Title of a progress bar; none without.

    Returns:
        With its standard error over rows, and the nats of each row.

    Raises:
        ValueError: ``x_0`` holds a mask, ``given`` is no bool table of its shape, or an option breaks its rule.

    References:
        Sahoo et al. 2024, arXiv:2406.07524, Eq. 10; Shi et al. 2024, arXiv:2406.04329.
    """
    target = predicted(denoiser, x_0, given)
    how = {"num_draws": num_draws, "schedule": get_schedule(schedule), "smallest": smallest}
    denoiser = denoiser.eval()
    parts = []
    for start in tqdm(range(0, len(x_0), batch_size), desc=progress, disable=None if progress else True, leave=False):
        rows, chosen = x_0[start : start + batch_size], target[start : start + batch_size]
        total = torch.zeros(len(rows), dtype=torch.float64)
        for draw in masked_draws(chosen, range(seed + start, seed + start + len(rows)), estimator=estimator, **how):
            total += (draw.weight * masked_nats(denoiser, rows, draw.masked, draw.t)).cpu()
        parts.append(total)
    said = f"continuous-time NELBO, {describe(estimator, num_draws, smallest)}"
    return Likelihood.of(torch.cat(parts), target.sum(1), estimator=said, direction="upper bound of -log p")


def masked_nats(denoiser: Denoiser, x_0: Tensor, masked: Tensor, t: Tensor) -> Tensor:
    """``-sum over masked i of log p_theta(x_0^i | x_t)``, nats, float64, ``[batch]``; one denoiser pass."""
    slots, rows = Slots.where(masked), masked.any(1).nonzero()[:, 0]
    if not len(rows):
        return precise(torch.zeros_like(t))
    x_t = x_0.masked_fill(masked, denoiser.mask_token_id)
    log_probs = denoiser.slot_log_probs(denoiser.encode(x_t, t, rows=rows), slots)
    return -slots.sum_rows(precise(log_probs.gather(1, slots.gather(x_0)[:, None])[:, 0]))


def predicted(denoiser: Denoiser, x_0: Tensor, given: Tensor | None) -> Tensor:
    """What is predicted of data ``[n, length]``, bool, of the same shape.

    Raises:
        ValueError: data of another kind, or with a mask in it; or ``given`` is no bool table of its shape.
    """
    if x_0.ndim != 2 or x_0.dtype != torch.int64 or not len(x_0):
        raise ValueError(f"x_0 must be int64 [n, length] with n >= 1, got {x_0.dtype} {[*x_0.shape]}")
    outside = (x_0 < 0) | (x_0 >= denoiser.vocab_size) | (x_0 == denoiser.mask_token_id)
    if outside.any():
        rule = f"x_0 must hold tokens in 0..{denoiser.vocab_size - 1} other than the mask {denoiser.mask_token_id}"
        raise ValueError(f"{rule}, got {x_0[outside][0].item()}")
    if given is None:
        return torch.ones_like(x_0, dtype=torch.bool)
    if given.shape != x_0.shape or given.dtype != torch.bool:
        raise ValueError(f"given must be bool {[*x_0.shape]}, got {given.dtype} {[*given.shape]}")
    return ~given
