"""Importance weights, in log space."""

import math

import torch
from torch import Tensor

from edlm.numerics import precise


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
        log_weights: Unnormalised log weights, nats, shape ``[batch, k]``; each row has a finite one, and no NaN.

    Returns:
        Shape ``[batch]``, float64.

    References:
        Kong 1992; Xu et al. 2025, arXiv:2410.21357, Alg. 1.

    Example:
        >>> effective_sample_size(torch.zeros(1, 4)).item()
        4.0
    """
    weights = precise(log_weights - log_weights.amax(-1, keepdim=True)).exp()
    return weights.sum(-1) ** 2 / (weights**2).sum(-1)


def log_share_of_data(log_weights: Tensor, num_candidates: int | None = None, num_data: int = 1) -> Tensor:
    """The gain term of the bound (*), nats, at most ``log k``; of several draws the log of their mean.

    ``log k + log softmax_j(log_weights)[0]`` of k candidates with the data in slot 0. Where there are more of either,
    ``log mean_{m, o} k w_m / (w_m + sum of w over k - 1 others from the o-th on)``, m over the data's fillings and o
    over all others, in a circle: each term has the mean of one draw, whichever terms share its candidates, so the bound
    stays one and is tighter.

    Args:
        log_weights: Unnormalised, the data's fillings first, then at least ``k - 1`` draws, shape ``[batch, n]``.
        num_candidates: k >= 2; all of them by default.
        num_data: Fillings of the data.

    Returns:
        Shape ``[batch]``; ``-inf`` where the data is impossible.

    References:
        Equation (*) of the method page; the mean inside of the log: Burda et al. 2016, arXiv:1509.00519.

    Example:
        >>> log_share_of_data(torch.tensor([[0.3, 0.1, 0.1, 0.4, 0.2]]).log(), num_candidates=3, num_data=2).exp()
        tensor([0.8839])
    """
    data, others = log_weights[:, :num_data, None], log_weights[:, num_data:]
    k = log_weights.shape[1] if num_candidates is None else num_candidates
    if others.shape[1] == k - 1:
        others_sum = others[:, None, :].logsumexp(-1)
    else:
        others_sum = torch.cat([others, others[:, : k - 2]], 1).unfold(1, k - 1, 1).logsumexp(-1)
    both = torch.logaddexp(data, others_sum[:, None])
    shares = (data - torch.where(torch.isneginf(data), 0.0, both)).flatten(1)
    return shares.logsumexp(-1) + math.log(k / shares.shape[1])
