"""A likelihood with its error, its estimator and its direction; and the units that papers use."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from edlm.evaluation.estimates.estimate import Estimate, ratio_of

Direction = Literal["upper bound of -log p", "exact", "estimate"]


@dataclass(frozen=True)
class Likelihood:
    """``-log p`` of data, nats per token, low = good.

    Attributes:
        value: Estimate over all tokens.
        stderr: Its standard error over rows; NaN for a single row.
        n: Rows.
        estimator: How it was estimated, in words.
        direction: "upper bound of -log p" (in expectation), "exact", or "estimate" (neither).
        nats_per_row: ``[n]``, float64; None where unknown.
        tokens_per_row: ``[n]``; None where unknown.

    Raises:
        ValueError: another direction.
    """

    value: float
    stderr: float
    n: int
    estimator: str
    direction: Direction
    nats_per_row: Tensor | None = field(default=None, repr=False, compare=False)
    tokens_per_row: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            raise ValueError(f"direction must be one of {list(get_args(Direction))}, got {self.direction!r}")

    @classmethod
    def of(
        cls, nats_per_row: Tensor, tokens_per_row: int | Tensor, *, estimator: str, direction: Direction
    ) -> Likelihood:
        """From the ``-log p`` of each row.

        Args:
            nats_per_row: Shape ``[n]``.
            tokens_per_row: Tokens that each row predicts, one number or shape ``[n]``.
            estimator: The attribute.
            direction: The attribute.

        Example:
            >>> nats = torch.tensor([6.0, 2.0])
            >>> Likelihood.of(nats, 2, estimator="by hand", direction="exact")
            Likelihood(value=2.0, stderr=1.0, n=2, estimator='by hand', direction='exact')
        """
        nats = nats_per_row.double().cpu()
        tokens = torch.as_tensor(tokens_per_row).cpu().expand(len(nats))
        mean = ratio_of(nats, tokens)
        return cls(mean.value, mean.stderr, mean.n, estimator, direction, nats, tokens)

    @property
    def nats_per_token(self) -> Estimate:
        """The value with its error."""
        return Estimate(self.value, self.stderr, self.n)

    @property
    def perplexity(self) -> Estimate:
        """Per token: ``exp(nats)``, its error by the delta method."""
        return _exp(self.nats_per_token)

    def bits_per_character(self, characters: float) -> Estimate:
        """``nats / (characters ln 2)``, for so many characters per token.

        Example:
            >>> nats = torch.tensor([2.0, 6.0], dtype=torch.float64) * math.log(2)
            >>> Likelihood.of(nats, 2, estimator="by hand", direction="exact").bits_per_character(2.0).value
            1.0
        """
        return self.nats_per_token.scaled(1 / characters / math.log(2))

    def perplexity_per_word(self, tokens: float) -> Estimate:
        """``exp(nats * tokens)``, for so many tokens per word, which no tokenizer changes; error as `perplexity`."""
        return _exp(self.nats_per_token.scaled(tokens))

    def as_record(self) -> dict[str, Any]:
        """For JSON: value, error, n, estimator, direction, and the perplexity per token."""
        return {
            "nats_per_token": self.value,
            "stderr": self.stderr,
            "n": self.n,
            "estimator": self.estimator,
            "direction": self.direction,
            "perplexity": self.perplexity.value,
            "perplexity_stderr": self.perplexity.stderr,
        }


@dataclass(frozen=True)
class TextUnits:
    """How long a text is in units other than tokens; None where that is not known.

    Attributes:
        characters_per_token: Characters (code points).
        tokens_per_word: Words are separated by blanks.

    Raises:
        ValueError: a number is not positive.
    """

    characters_per_token: float | None = None
    tokens_per_word: float | None = None

    def __post_init__(self) -> None:
        if not all(units is None or units > 0 for units in (self.characters_per_token, self.tokens_per_word)):
            raise ValueError(f"units of a text must be positive, got {self}")

    def of(self, likelihood: Likelihood) -> dict[str, Estimate]:
        """A likelihood in all units that are known, by metric."""
        units = {"perplexity": likelihood.perplexity}
        if self.characters_per_token is not None:
            units["bits_per_char"] = likelihood.bits_per_character(self.characters_per_token)
        if self.tokens_per_word is not None:
            units["perplexity_per_word"] = likelihood.perplexity_per_word(self.tokens_per_word)
        return units

    def as_record(self, likelihood: Likelihood) -> dict[str, float]:
        """The same for JSON, with the standard errors."""
        units = self.of(likelihood)
        errors = {f"{name}_stderr": estimate.stderr for name, estimate in units.items()}
        return {name: estimate.value for name, estimate in units.items()} | errors


def _exp(mean: Estimate) -> Estimate:
    value = math.exp(mean.value) if mean.value < 700 else math.inf
    return Estimate(value, value * mean.stderr, mean.n)
