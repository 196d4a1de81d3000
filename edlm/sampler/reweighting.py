"""Importance weights, in log space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edlm.numerics import precise
from edlm.sampler.proposal import draw_categorical


def log_weights(energy: Tensor, weight_temperature: float = 1.0) -> Tensor:
    """Unnormalised log weights ``-energy / weight_temperature``, nats: low energy, high weight.

    Args:
        energy: Nats, any shape; ``+inf`` = impossible.
        weight_temperature: > 0; below 1 sharpens.

    Returns:
        float64, the shape of ``energy``.

    Raises:
        ValueError: an energy is NaN or ``-inf``.

    References:
        Xu et al. 2025, arXiv:2410.21357, Eq. 7 and Alg. 1.
    """
    bad = torch.isnan(energy) | torch.isneginf(energy)
    if bad.any():
        raise ValueError(f"an energy must be finite or +inf, got {energy[bad][0].item()}")
    return -precise(energy) / weight_temperature


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Effective sample size of self-normalised importance weights, between 1 and k.

    ``ess = (sum_j w_j)^2 / sum_j w_j^2``

    Args:
        log_weights: Unnormalised log weights, nats, shape ``[batch, k]``; ``-inf`` allowed.

    Returns:
        Shape ``[batch]``, float64.

    Raises:
        ValueError: a row is entirely ``-inf``, or any entry is NaN.

    References:
        Kong 1992; Xu et al. 2025, arXiv:2410.21357, Alg. 1.

    Example:
        >>> effective_sample_size(torch.zeros(1, 4)).item()
        4.0
    """
    largest = log_weights.amax(-1)
    if not torch.isfinite(largest).all():
        raise ValueError("every row of log_weights needs a finite entry and no NaN")
    weights = precise(log_weights - largest[..., None]).exp()
    return weights.sum(-1) ** 2 / (weights**2).sum(-1)


def choose(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one candidate a row with probability ``w_j / sum w``.

    Args:
        log_weights: Unnormalised, nats, shape ``[batch, k]``; each row has a finite entry.
        uniforms: In [0, 1), float64, shape ``[batch]``.

    Returns:
        Indices in ``0..k-1``, shape ``[batch]``.
    """
    return draw_categorical(log_weights, uniforms[:, None])[:, 0]


def log_share_of_first(log_weights: Tensor) -> Tensor:
    """``log k + log softmax_j(log_weights)[0]``, nats: the gain term of the bound (*), at most ``log k``.

    Args:
        log_weights: Unnormalised, ``[batch, k]``, the data in slot 0.

    Returns:
        Shape ``[batch]``; ``-inf`` where the data is impossible.
    """
    first = log_weights[:, 0]
    share = first - torch.where(torch.isneginf(first), 0.0, log_weights.logsumexp(-1))
    return share + math.log(log_weights.shape[1])
