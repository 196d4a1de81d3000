"""Orders that look at the marginals: which positions a step reveals is a function of what the denoiser says of them.

A function of ``x_t`` alone, so that nothing is latent: the base, and exact decisions, have exact likelihoods.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from edlm.diffusion.slots import Slots

_TIE = 2.0**-10  # nats


@dataclass(frozen=True)
class MarginalRule(ABC):
    """Ranks the masked positions of a step by a score of their marginals, and may say how many are revealed.

    Attributes:
        threshold: What it compares scores with; its own default if None.
        reads_hidden: Its scores need the denoiser's states, too; it then has the `identity` of this denoiser.
        network: What is trained of it; None if nothing is.

    Raises:
        ValueError: the threshold breaks the rule of the order.
    """

    threshold: float | None = None
    reads_hidden: ClassVar[bool] = False
    network: ClassVar[nn.Module | None] = None
    identity: ClassVar[dict[str, Any] | None] = None

    @classmethod
    def of(cls, argument: str | None) -> Self:
        """The rule that a name with ``(argument)`` means."""
        return cls(None if argument is None else float(argument))

    @abstractmethod
    def raw_scores(self, log_probs: Tensor) -> Tensor:
        """Scores of log-probabilities ``[n, vocab_size]``, nats, low = revealed first, shape ``[n]``."""

    def scores(self, raw: Tensor, slots: Slots, states: Tensor | None) -> Tensor:
        """Scores in steps of a thousandth of a nat: rounding depends on the batch, and must not break ties.

        A network without absolute positions says the same at all positions of a fully masked sequence.

        Args:
            raw: `raw_scores` at the slots, ``[n]``.
            slots: Masked positions, left to right.
            states: That enter the denoiser's last block at the slots, ``[n, hidden_size]``, if it `reads_hidden`.
        """
        return rounded(raw)

    def number(self, scores: Tensor) -> Tensor | None:
        """How many of the positions of each row are revealed, at least one, ``[batch]``.

        Args:
            scores: Ascending, ``inf`` after a row's last, shape ``[batch, length]``.

        Returns:
            None: as many as steps of equal size reveal.
        """
        return None


def rounded(scores: Tensor) -> Tensor:
    """In steps of 1 / 1024."""
    return (scores / _TIE).round() * _TIE


@dataclass(frozen=True)
class Confidence(MarginalRule):
    """Steps of equal size: the highest maximum of the marginal first."""

    def __post_init__(self) -> None:
        if self.threshold is not None:
            raise ValueError(f"confidence takes no threshold, got {self.threshold}")

    def raw_scores(self, log_probs: Tensor) -> Tensor:
        return -log_probs.amax(-1)


@dataclass(frozen=True)
class ConfidenceThreshold(MarginalRule):
    """All positions whose marginal has a maximum above ``threshold`` (0.9), else the highest one.

    References:
        Fast-dLLM, arXiv:2505.22618.
    """

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"the threshold must be a probability in (0, 1], got {self.threshold}")

    def raw_scores(self, log_probs: Tensor) -> Tensor:
        return -log_probs.amax(-1)

    def number(self, scores: Tensor) -> Tensor:
        least = torch.tensor(0.9 if self.threshold is None else self.threshold).log()
        return (scores < -least.to(scores)).sum(1).clamp(min=1)


@dataclass(frozen=True)
class EntropyBounded(MarginalRule):
    """By ascending entropy as many positions as have a summed entropy, less the largest, of at most ``threshold`` nats.

    The sum without the largest bounds what the independence of their draws costs. Default 0.1 nats.

    References:
        EB-Sampler, arXiv:2505.24857.
    """

    def __post_init__(self) -> None:
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"the threshold must be >= 0 nats, got {self.threshold}")

    def raw_scores(self, log_probs: Tensor) -> Tensor:
        return torch.special.entr(log_probs.exp()).sum(-1)

    def number(self, scores: Tensor) -> Tensor:
        most = 0.1 if self.threshold is None else self.threshold
        before = scores.cumsum(1) - scores  # of those ahead of each: its own, the largest so far, is left out
        return ((before <= most) & scores.isfinite()).sum(1).clamp(min=1)
