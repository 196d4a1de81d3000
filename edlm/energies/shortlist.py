"""The likeliest tokens of each slot, and all others as one state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.energies.laws import Likeliest
from edlm.energies.proposal import inverse_cdf
from edlm.numerics import check_mass, precise

_CLASS_SIZE = 16  # tokens of a residue class of the vocabulary


@dataclass(frozen=True)
class Shortlist:
    """States ``0..m-1`` of a slot are its m likeliest tokens; state m is any other token.

    Attributes:
        tokens: The likeliest ones, likeliest first, ``[num_slots, m]``.
        log_mass: Log-probabilities of the states, nats, ``[num_slots, m + 1]``.
        logits: Log-weights of all tokens, ``[num_slots, vocab_size]``.
        log_rest: Log of the summed weights of the tokens that are not listed, ``[num_slots, 1]``.
        rest: Weights of the tokens that are not listed, ``[num_slots, vocab_size]``, over the largest of them.
    """

    tokens: Tensor
    log_mass: Tensor
    logits: Tensor
    log_rest: Tensor
    rest: Tensor

    @classmethod
    def of(cls, logits: Tensor, num_likeliest: int) -> Shortlist:
        """Of log-weights ``[num_slots, vocab_size]``, normalised or not.

        Raises:
            ValueError: a slot has no mass, or holds NaN or +inf.
        """
        size = min(num_likeliest, logits.shape[1])
        values, tokens = top_tokens(logits, min(size + 1, logits.shape[1]))
        check_mass(values[:, 0])
        largest = values[:, size:].nan_to_num(neginf=0.0) if values.shape[1] > size else values[:, :1]
        rest = (logits - largest).exp_().scatter_(1, tokens[:, :size], 0.0)
        log_rest = rest.sum(1, keepdim=True).log() + largest
        log_mass = torch.cat([values[:, :size], log_rest], 1).log_softmax(1)
        return cls(tokens[:, :size], log_mass, logits, log_rest, rest)

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
        weights = self.logits.gather(1, tokens)
        share = torch.where(weights.isneginf(), weights, weights - self.log_rest)
        return torch.where(states == self.size, share, 0.0)

    def draw_rest(self, uniforms: Tensor) -> Tensor:
        """A token of each slot that is not listed (any, if all are), ``[num_slots]``; uniforms ``[num_slots, 1]``.

        By inverse CDF in two levels, residue classes and the tokens of one, each summed in float64.
        """
        vocab_size = self.rest.shape[1]
        classes = -(-vocab_size // _CLASS_SIZE)
        whole = vocab_size // classes * classes
        sums = self.rest[:, :whole].unflatten(1, (-1, classes)).sum(1)
        sums[:, : vocab_size - whole] += self.rest[:, whole:]
        at, left = inverse_cdf(precise(sums), precise(uniforms).to(sums.device))
        columns = at + classes * torch.arange(-(-vocab_size // classes), device=at.device)
        inside = self.rest.gather(1, columns.clamp(max=vocab_size - 1)) * (columns < vocab_size)
        at, _ = inverse_cdf(precise(inside), left)
        return columns.gather(1, at).clamp(max=vocab_size - 1)[:, 0]

    def likeliest(self, weights: Tensor, number: int) -> Likeliest:
        """At most ``number`` listed tokens and their probabilities, of weights ``[num_slots, m + 1]`` of the states."""
        if not number:
            return None
        shares, states = (weights / weights.sum(1, keepdim=True))[:, : self.size].topk(min(number, self.size))
        return self.tokens.gather(1, states), shares


def top_tokens(logits: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The largest of logits ``[n, vocab_size]`` and their tokens, both ``[n, number]``, largest first.

    They lie in the residue classes of the largest maxima: most of a large vocabulary is read once, and not sorted.
    """
    vocab_size = logits.shape[1]
    classes = vocab_size // _CLASS_SIZE
    if classes < 2 * number:
        return logits.topk(number)
    whole = classes * _CLASS_SIZE
    best = logits[:, :whole].unflatten(1, (_CLASS_SIZE, classes)).amax(1).topk(number).indices
    members = (best[:, None] + classes * torch.arange(_CLASS_SIZE, device=best.device)[:, None]).flatten(1)
    tail = torch.arange(whole, vocab_size, device=best.device).expand(len(best), -1)
    members = torch.cat([members, tail], 1)
    values, index = logits.gather(1, members).topk(number)
    return values, members.gather(1, index)
