"""What evaluation passes around: a number with its error; a likelihood, with its direction and in other units.

Rows of one document are not independent. Where ``documents`` are given, errors are clustered by them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A number with its error.

    Attributes:
        value: In the unit of its metric.
        stderr: Standard error; NaN from a single value, None where the number is counted.
        n: Independent values behind it (documents, where rows share some); None where the number is counted.
        low: Lower end of an interval; None without one.
        high: Upper end.
    """

    value: float
    stderr: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None

    def scaled(self, factor: float) -> Estimate:
        """The same number in another unit, ``factor > 0`` of which make one of this unit."""
        return Estimate(*(x if x is None or i == 2 else x * factor for i, x in enumerate(self)))

    def exp(self) -> Estimate:
        """``exp`` of the value, its error by the delta method."""
        value = math.exp(self.value) if self.value < 700 else math.inf
        return Estimate(value, value * self.stderr, self.n)


def document_values(values: Tensor, documents: Tensor | None) -> Tensor:
    """A value for each document, whose mean is that of the rows, and whose scatter gives the clustered error.

    ``y_c = mean + C / n * sum over rows i of document c of (x_i - mean)``

    The standard error of the mean of the ``y_c``, which are independent, is the cluster-robust one of the rows; with
    one row a document they are the rows. It is linear in ``x``: differences of series may be taken before or after.

    Args:
        values: Series ``x`` over the same rows, shape ``[..., n]``; of one that is not finite in a row, the row's
            document gets that value.
        documents: Index of each row's document, any integers, shape ``[n]``; None: each row is one.

    Returns:
        ``y``, float64, shape ``[..., C]``.

    Raises:
        ValueError: there is not one document for each row.

    References:
        Liang and Zeger 1986, Longitudinal data analysis using generalized linear models.

    Example:
        >>> import torch
        >>> document_values(torch.tensor([1.0, 3.0, 8.0]), torch.tensor([0, 0, 5]))
        tensor([1.3333, 6.6667], dtype=torch.float64)
    """
    values = values.double()
    if documents is None:
        return values
    n, finite = values.shape[-1], values.where(values.isfinite(), 0.0)
    mean = finite.mean(-1, keepdim=True)
    sums = _sums_by(finite - mean, documents)
    infinite = _sums_by(values.where(~values.isfinite(), 0.0), documents)
    return mean + sums * sums.shape[-1] / n + infinite


def _sums_by(values: Tensor, documents: Tensor) -> Tensor:
    """Sums over the rows of each document, ``[..., C]``."""
    if documents.shape != values.shape[-1:]:
        raise ValueError(f"documents must be one for each row, got {[*documents.shape]} for {[*values.shape]}")
    names, index = documents.to(values.device).unique(return_inverse=True)
    return values.new_zeros(*values.shape[:-1], len(names)).index_add_(-1, index, values)


def mean_of(values: Tensor, documents: Tensor | None = None) -> Estimate:
    """Mean of ``values[n]`` with its standard error, clustered by ``documents[n]`` where they are given.

    Example:
        >>> import torch
        >>> mean_of(torch.tensor([1.0, 3.0]))[:3]
        (2.0, 1.0, 2)
    """
    values = document_values(values, documents)
    n = len(values)
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(n) if n > 1 else math.nan, n)


def ratio_of(numerators: Tensor, denominators: Tensor, documents: Tensor | None = None) -> Estimate:
    """Ratio of the sums of paired values, with its standard error over pairs, or over the documents' sums of them.

    ratio = sum_i a_i / sum_i b_i
    stderr^2 = n / (n - 1) sum_i (a_i - ratio b_i)^2 / (sum_i b_i)^2

    Args:
        numerators: ``a``, shape ``[n]``.
        denominators: ``b >= 0``, shape ``[n]``.
        documents: Index of each pair's document, shape ``[n]``; None: each pair is one.

    Returns:
        In the unit of ``a`` per unit of ``b``; with all ``b`` equal to 1, `mean_of` the numerators.

    Raises:
        ValueError: the shapes differ, or the denominators do not have a positive sum.

    Note:
        The delta method: its standard error holds for many pairs, and the ratio is biased by O(1/n).

    References:
        Cochran 1977, Sampling Techniques, 3rd ed., chapter 6.

    Example:
        >>> import torch
        >>> ratio_of(torch.tensor([2.0, 6.0]), torch.tensor([1.0, 1.0]))[:3]
        (4.0, 2.0, 2)
    """
    if numerators.shape != denominators.shape:
        raise ValueError(
            f"numerators and denominators must be pairs, got shapes {[*numerators.shape]} and {[*denominators.shape]}"
        )
    a, b = numerators.double(), denominators.double()
    if documents is not None:
        a, b = _sums_by(a, documents), _sums_by(b, documents)
    n = len(a)
    total = b.sum().item()
    if not total > 0:
        raise ValueError(f"the denominators of a ratio must have a positive sum, got {total:g} over {n} of them")
    ratio = a.sum().item() / total
    spread = (a - ratio * b).square().sum().item()
    return Estimate(ratio, math.sqrt(spread * n / (n - 1)) / total if n > 1 else math.nan, n)


Direction = Literal["upper bound of -log p", "exact", "estimate"]


@dataclass(frozen=True)
class Likelihood:
    """``-log p`` of data, nats per token, low = good.

    Attributes:
        value: Estimate over all tokens.
        stderr: Its standard error over documents; NaN for a single one.
        n: Documents; each row is one where they are not known.
        estimator: How it was estimated, in words.
        direction: "upper bound of -log p" (in expectation), "exact", or "estimate" (neither).
        nats_per_row: ``[n]``, float64; None where unknown.
        tokens_per_row: ``[n]``; None where unknown.
        documents: Index of each row's document, ``[n]``; None: each row is one.
        passes_per_row: Denoiser passes that write a row, ``[n]``; None where unknown.
    """

    value: float
    stderr: float
    n: int
    estimator: str
    direction: Direction
    nats_per_row: Tensor | None = field(default=None, repr=False, compare=False)
    tokens_per_row: Tensor | None = field(default=None, repr=False, compare=False)
    documents: Tensor | None = field(default=None, repr=False, compare=False)
    passes_per_row: Tensor | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls, nats_per_row: Tensor, tokens_per_row: int | Tensor, *, estimator: str, direction: Direction
    ) -> Likelihood:
        """From the ``-log p`` of each row, ``[n]``, and the tokens that it predicts, one number or ``[n]``.

        Example:
            >>> import torch
            >>> nats = torch.tensor([6.0, 2.0])
            >>> Likelihood.of(nats, 2, estimator="by hand", direction="exact")
            Likelihood(value=2.0, stderr=1.0, n=2, estimator='by hand', direction='exact')
        """
        nats = nats_per_row.double().cpu()
        tokens = torch.as_tensor(tokens_per_row).cpu().expand(len(nats))
        mean = ratio_of(nats, tokens)
        return cls(mean.value, mean.stderr, mean.n, estimator, direction, nats, tokens)

    def by_document(self, documents: Tensor | None) -> Likelihood:
        """The same value, its error clustered by the document of each row, ``[n]``; None: each row is one."""
        mean = ratio_of(self.nats_per_row, self.tokens_per_row, documents)
        return replace(self, stderr=mean.stderr, n=mean.n, documents=documents)

    @property
    def nats_per_token(self) -> Estimate:
        """The value with its error."""
        return Estimate(self.value, self.stderr, self.n)

    @property
    def perplexity(self) -> Estimate:
        """Per token: ``exp(nats)``, its error by the delta method."""
        return self.nats_per_token.exp()


@dataclass(frozen=True)
class TextUnits:
    """How long a text is in units other than tokens, as papers use them; None where that is not known.

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
        """A likelihood in all units that are known, by metric; one per word does not depend on the tokenizer.

        ``bits_per_char = nats / (characters_per_token ln 2)``
        ``perplexity_per_word = exp(nats * tokens_per_word)``

        Example:
            >>> likelihood = Likelihood(4 * math.log(2), 0.0, 1, estimator="by hand", direction="exact")
            >>> {name: round(estimate.value, 6) for name, estimate in TextUnits(4.0).of(likelihood).items()}
            {'perplexity': 16.0, 'bits_per_char': 1.0}
        """
        nats, units = likelihood.nats_per_token, {"perplexity": likelihood.perplexity}
        if self.characters_per_token is not None:
            units["bits_per_char"] = nats.scaled(1 / self.characters_per_token / math.log(2))
        if self.tokens_per_word is not None:
            units["perplexity_per_word"] = nats.scaled(self.tokens_per_word).exp()
        return units

    def record_of(self, likelihood: Likelihood) -> dict[str, Any]:
        """A likelihood for JSON: value, error, n, estimator, direction, and the other units with their errors."""
        record = {key: getattr(likelihood, key) for key in ("stderr", "n", "estimator", "direction")}
        for name, estimate in self.of(likelihood).items():
            record |= {name: estimate.value, f"{name}_stderr": estimate.stderr}
        return {"nats_per_token": likelihood.value, **record}
