"""Text of samples, and how varied their tokens are: a low loss under a judge is cheap for repetitive text."""

from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.numerics import precise

EMPTY_LINE = "\n\n"


def texts_of(denoiser: Denoiser, tokens: Tensor, separator: str | None = EMPTY_LINE) -> list[str]:
    """Texts of rows ``tokens[n, length]``, stripped; ids where the denoiser has no tokenizer.

    Args:
        denoiser: Its tokenizer decodes.
        tokens: Without masks.
        separator: Replaces the tokenizer's document separator (its eos); None keeps that and strips
            nothing, for a judge over the same tokens.
    """
    tokenizer: Any = denoiser.tokenizer
    if tokenizer is None:
        return [" ".join(map(str, row)) for row in tokens.tolist()]
    texts = [tokenizer.decode(row) for row in tokens]
    if separator is None:
        return texts
    eos = tokenizer.eos_token
    return [(text.replace(eos, separator) if eos else text).strip() for text in texts]


def tokens_per_word(denoiser: Denoiser, tokens: Tensor) -> float | None:
    """Tokens per whitespace-separated word of consecutive blocks ``tokens[n, length]`` of a text.

    None without a tokenizer, or without words.
    """
    if denoiser.tokenizer is None:
        return None
    words = sum(len(text.split()) for text in texts_of(denoiser, tokens.reshape(1, -1)))
    return tokens.numel() / words if words else None


def counted(number: int, word: str) -> str:
    """A number with its word.

    Example:
        >>> counted(1, "row"), counted(2, "row")
        ('1 row', '2 rows')
    """
    return f"{number} {word}{'' if number == 1 else 's'}"


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
