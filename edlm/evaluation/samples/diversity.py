"""How varied samples are: a low loss under a judge is cheap for text that repeats itself."""

from __future__ import annotations

import torch
from torch import Tensor

from edlm.numerics import precise


def unigram_entropy(tokens: Tensor) -> Tensor:
    """Entropy of the tokens within each row, nats, low = repetitive.

    H = -sum_v p_v log p_v, where p_v is the share of the row's tokens that are v

    Args:
        tokens: Ids, integer, shape ``[n, length]``; all of them count, padding too.

    Returns:
        Between 0 (one token repeated) and ``log(length)`` (all different), shape ``[n]``, float64.

    Raises:
        ValueError: ``tokens`` does not have two dimensions, or its rows are empty.

    Note:
        Grows with the length: compare rows of one length only. Blind to order.

    References:
        "Sample entropy" of Zheng et al. 2024, arXiv:2409.02908.

    Example:
        >>> unigram_entropy(torch.tensor([[7, 7, 2, 2]])).exp().round(decimals=6)
        tensor([2.], dtype=torch.float64)
    """
    _check_rows(tokens, shortest=1)
    ordered = tokens.sort(1).values
    starts_run = torch.ones_like(ordered)
    starts_run[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    run = starts_run.long().cumsum(1) - 1
    counts = torch.zeros_like(run).scatter_add_(1, run, torch.ones_like(run))
    return torch.special.entr(precise(counts) / tokens.shape[1]).sum(1)


def distinct_n(tokens: Tensor, n: int) -> float:
    """Distinct n-grams of all rows over all their n-grams, in (0, 1], low = repetitive.

    Args:
        tokens: Ids, integer, shape ``[rows, length]``; all of them count, padding too.
        n: Tokens of an n-gram; none crosses from one row to the next.

    Raises:
        ValueError: ``n`` is below 1, ``tokens`` does not have two dimensions and a row, or its rows
            are shorter than ``n``.

    Note:
        Falls with the number of rows: compare sets of one size only. The paper divides by the number
        of tokens instead, which differs for ``n > 1`` by the factor ``(length - n + 1) / length``.

    References:
        Li et al. 2016, arXiv:1510.03055.

    Example:
        >>> distinct_n(torch.tensor([[1, 2, 1, 2, 1]]), 2)
        0.5
    """
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    _check_rows(tokens, shortest=n)
    if not len(tokens):
        raise ValueError("distinct_n needs at least one row, got none")
    ngrams = tokens.unfold(1, n, 1).flatten(0, 1)
    return len(ngrams.unique(dim=0)) / len(ngrams)


def _check_rows(tokens: Tensor, shortest: int) -> None:
    if tokens.ndim != 2 or tokens.shape[1] < shortest:
        raise ValueError(f"tokens must be rows of at least {shortest}, [n, length], got shape {[*tokens.shape]}")
