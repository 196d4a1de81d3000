"""Text of sampled tokens, as a judge and a reader see it; and small words of reports."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edlm.denoisers.base import Denoiser

EMPTY_LINE = "\n\n"


def texts_of(denoiser: Denoiser, tokens: Tensor, separator: str | None = EMPTY_LINE) -> list[str]:
    """Texts of rows ``tokens[n, length]``, stripped; ids where the denoiser has no tokenizer.

    Args:
        denoiser: Its tokenizer decodes.
        tokens: Without masks.
        separator: Takes the place of the tokenizer's document separator (its eos); None leaves that as it is, for a
            judge over the same tokens, and nothing is stripped.
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
    """Tokens per word (what blanks separate) of blocks ``tokens[n, length]`` that follow each other in a text.

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
