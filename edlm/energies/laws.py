"""Laws of the tokens at some slots, each on its own: a table of all tokens, or one that is longer to write down."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from edlm.energies.proposal import Proposal, draw_categorical
from edlm.numerics import check_mass

Likeliest = tuple[Tensor, Tensor] | None
"""Tokens and their probabilities, both ``[num_slots, n]``."""


class Law(ABC):
    """The law of the token at each of some slots."""

    @abstractmethod
    def log_probs(self) -> Tensor:
        """Of all tokens, nats, ``[num_slots, vocab_size]``."""

    @abstractmethod
    def log_prob(self, tokens: Tensor, log_p: Tensor | None = None) -> Tensor:
        """Of ``tokens[num_slots]``, nats, the same shape; ``log_p`` is what the denoiser says of them, if known."""

    @abstractmethod
    def draw(self, uniforms: Tensor, num_likeliest: int = 0) -> tuple[Tensor, Likeliest]:
        """A token of each slot, by uniforms ``[num_slots, 2]`` in float64; and the likeliest ones, if asked for."""

    def through(self, proposal: Proposal) -> Law:
        """This law tempered and cut."""
        return self if proposal.is_default else TableLaw(proposal(self.log_probs()))


class TableLaw(Law):
    """A law by its log-weights.

    Args:
        logits: ``-inf`` where a token is impossible, not normalised; ``[num_slots, vocab_size]``.
        check: `log_probs` refuses slots without mass, NaN and +inf, as `draw` does. Training does not: its loss says
            at which step it stopped being finite.
    """

    def __init__(self, logits: Tensor, *, check: bool = True):
        self.logits = logits
        self.check = check

    def log_probs(self) -> Tensor:
        if self.check:
            check_mass(self.logits.amax(-1))
        return self.logits.log_softmax(-1)

    def log_prob(self, tokens: Tensor, log_p: Tensor | None = None) -> Tensor:
        return self.log_probs().gather(1, tokens[:, None])[:, 0]

    def draw(self, uniforms: Tensor, num_likeliest: int = 0) -> tuple[Tensor, Likeliest]:
        return draw_categorical(self.logits, uniforms[:, :1])[:, 0], likeliest_of(self.logits, num_likeliest)


def likeliest_of(log_q: Tensor, number: int) -> Likeliest:
    """The likeliest tokens of logits ``[num_slots, vocab_size]`` with their probabilities; None for none."""
    if not number:
        return None
    log_probs, tokens = log_q.log_softmax(-1).topk(min(number, log_q.shape[-1]))
    return tokens, log_probs.exp()
