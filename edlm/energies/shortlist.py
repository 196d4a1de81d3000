"""The likeliest tokens of each slot, and all others as one state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.energies.exact import Likeliest
from edlm.energies.proposal import draw_categorical


@dataclass(frozen=True)
class Shortlist:
    """States ``0..m-1`` of a slot are its m likeliest tokens; state m is any other token.

    Attributes:
        tokens: The likeliest ones, likeliest first, ``[num_slots, m]``.
        log_mass: Log-probabilities of the states, nats, ``[num_slots, m + 1]``.
        rest: Log-probabilities of all tokens, ``-inf`` for those that are listed, ``[num_slots, vocab_size]``.
    """

    tokens: Tensor
    log_mass: Tensor
    rest: Tensor

    @classmethod
    def of(cls, log_probs: Tensor, num_likeliest: int) -> Shortlist:
        """Of log-probabilities ``[num_slots, vocab_size]``, which are overwritten."""
        listed, tokens = log_probs.topk(min(num_likeliest, log_probs.shape[1]))
        rest = log_probs.scatter_(1, tokens, -torch.inf)
        return cls(tokens, torch.cat([listed, rest.logsumexp(1, keepdim=True)], 1), rest)

    @property
    def size(self) -> int:
        """Number m of listed tokens."""
        return self.tokens.shape[1]

    def states_of(self, tokens: Tensor) -> Tensor:
        """States of ``tokens[num_slots, k]``, the same shape."""
        found = self.tokens[:, :, None] == tokens[:, None]
        return torch.where(found.any(1), found.int().argmax(1), self.size)

    def log_share(self, tokens: Tensor, states: Tensor) -> Tensor:
        """``log p(token | state)``: 0 for listed tokens; both ``[num_slots, k]``, nats, the same shape."""
        log_probs = self.rest.gather(1, tokens)
        share = torch.where(log_probs.isneginf(), log_probs, log_probs - self.log_mass[:, -1:])
        return torch.where(states == self.size, share, 0.0)

    def draw_rest(self, uniforms: Tensor, wanted: Tensor) -> Tensor:
        """Tokens that are not listed, ``[num_slots]``, where ``wanted[num_slots]``; uniforms ``[num_slots, 1]``."""
        index = wanted.nonzero()[:, 0]
        tokens = torch.zeros_like(self.tokens[:, 0])
        if len(index):
            tokens[index] = draw_categorical(self.rest[index], uniforms[index.cpu()])[:, 0]
        return tokens

    def likeliest(self, log_weights: Tensor, number: int) -> Likeliest:
        """At most ``number`` listed tokens and their probabilities, of log-weights of the states."""
        if not number:
            return None
        listed = log_weights.log_softmax(-1)[:, : self.size]
        log_probs, states = listed.topk(min(number, self.size))
        return self.tokens.gather(1, states), log_probs.exp()
