"""The likeliest tokens of each slot, and all others as one state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots
from edlm.energies.decision import Step
from edlm.energies.laws import Likeliest
from edlm.energies.proposal import Proposal, draw_by_classes
from edlm.memory import parts_of_table
from edlm.numerics import check_mass

_CLASS_SIZE = 16  # tokens of a residue class of the vocabulary


@dataclass(frozen=True)
class Shortlist:
    """States ``0..m-1`` of a slot are its m likeliest tokens; state m is any other token.

    Attributes:
        tokens: The likeliest ones, likeliest first, ``[num_slots, m]``.
        log_mass: Log-probabilities of the states, nats, ``[num_slots, m + 1]``.
    """

    tokens: Tensor
    log_mass: Tensor

    @property
    def size(self) -> int:
        """Number m of listed tokens."""
        return self.tokens.shape[1]

    def part(self, index: slice) -> Shortlist:
        """That of some of the slots."""
        return Shortlist(self.tokens[index], self.log_mass[index])

    def states_of(self, tokens: Tensor) -> Tensor:
        """States of ``tokens[num_slots, k]``, the same shape."""
        found = self.tokens[:, :, None] == tokens[:, None]
        return torch.where(found.any(1), found.int().argmax(1), self.size)

    def tokens_of(self, states: Tensor, others: Tensor) -> Tensor:
        """Tokens of states, where "any other" is ``others``; all ``[num_slots]``."""
        listed = self.tokens.gather(1, states[:, None].clamp(max=self.size - 1))[:, 0]
        return torch.where(states < self.size, listed, others)

    def likeliest(self, weights: Tensor, number: int) -> Likeliest:
        """At most ``number`` listed tokens and their probabilities, of weights ``[num_slots, m + 1]`` of the states."""
        if not number:
            return None
        shares, states = (weights / weights.sum(1, keepdim=True))[:, : self.size].topk(min(number, self.size))
        return self.tokens.gather(1, states), shares


def shortlist_and_draws(
    step: Step, slots: Slots, proposal: Proposal, num_likeliest: int, uniforms: Tensor
) -> tuple[Shortlist, Tensor]:
    """The states of slots, and a draw of each from its tokens that are not listed (any, if all are).

    Args:
        step: The step.
        slots: Some of its slots.
        proposal: How the marginals are tempered and cut.
        num_likeliest: Number of listed tokens, at most the whole vocabulary.
        uniforms: In [0, 1), float64, ``[num_slots, 1]``.

    Returns:
        The shortlist and tokens ``[num_slots]``.

    Raises:
        ValueError: a slot has no mass, or holds NaN or +inf.
    """

    def read(logits: Tensor, part: Tensor) -> tuple[Tensor, ...]:
        tokens, log_mass, weights, _ = _split(logits, num_likeliest)
        return tokens, log_mass, draw_by_classes(weights, uniforms[part], _CLASS_SIZE)[:, 0]

    return _by_parts(step, slots, proposal, read)


def shortlist_and_shares(
    step: Step, slots: Slots, proposal: Proposal, num_likeliest: int, tokens: Tensor
) -> tuple[Shortlist, Tensor]:
    """The states of slots as in `shortlist_and_draws`, and ``log p(token | its state)`` of tokens, nats.

    The latter is 0 for listed tokens; ``tokens`` and it are ``[num_slots, k]``.
    """

    def read(logits: Tensor, part: Tensor) -> tuple[Tensor, ...]:
        wanted = logits.gather(1, tokens[part])
        listed, log_mass, _, log_sum = _split(logits, num_likeliest)
        return listed, log_mass, torch.where(wanted.isneginf(), wanted, wanted - log_sum)

    shortlist, shares = _by_parts(step, slots, proposal, read)
    return shortlist, torch.where(shortlist.states_of(tokens) == shortlist.size, shares, 0.0)


def _by_parts(
    step: Step, slots: Slots, proposal: Proposal, read: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
) -> tuple[Shortlist, Tensor]:
    """What is read from logits of slots with these numbers, which may be overwritten; no whole table is kept."""
    found = []
    for part in parts_of_table(len(slots), step.denoiser.vocab_size, slots.rows.device):
        logits = step.denoiser.possible(step.denoiser.slot_logits(step.encoding, slots.part(part)))
        found.append(read(logits if proposal.is_default else proposal(logits.log_softmax(-1)), part))
    tokens, log_mass, values = map(torch.cat, zip(*found, strict=True))
    return Shortlist(tokens, log_mass), values


def _split(logits: Tensor, num_likeliest: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The listed tokens and all others of each slot, from log-weights ``[n, vocab_size]``, which are overwritten.

    Returns:
        Listed tokens ``[n, m]``; log-probabilities of the states ``[n, m + 1]``; weights of the tokens that are not
        listed, over the largest of them, ``[n, vocab_size]``; and the log of the sum of their weights, ``[n, 1]``.
    """
    size = min(num_likeliest, logits.shape[1])
    values, tokens = top_tokens(logits, min(size + 1, logits.shape[1]))
    check_mass(values[:, 0])
    largest = values[:, size:].nan_to_num(neginf=0.0) if values.shape[1] > size else values[:, :1]
    weights = logits.sub_(largest).exp_().scatter_(1, tokens[:, :size], 0.0)
    log_sum = weights.sum(1, keepdim=True).log() + largest
    log_mass = torch.cat([values[:, :size], log_sum], 1).log_softmax(1)
    return tokens[:, :size], log_mass, weights, log_sum


def top_tokens(logits: Tensor, number: int, ranked: bool = True) -> tuple[Tensor, Tensor]:
    """The largest of logits ``[n, vocab_size]`` and their tokens, both ``[n, number]``; if ranked, largest first.

    They lie in the residue classes of the largest maxima, which are found in the same way: most of a large vocabulary
    is read once, and not sorted.
    """
    vocab_size = logits.shape[1]
    classes = vocab_size // _CLASS_SIZE
    if classes < 2 * number:
        return logits.topk(number, sorted=ranked)
    tail = classes * _CLASS_SIZE
    table = logits[:, :tail].unflatten(1, (_CLASS_SIZE, classes))
    _, best = top_tokens(table.amax(1), number, ranked=False)
    members = table.gather(2, best[:, None].expand(-1, _CLASS_SIZE, -1)).flatten(1)
    values, at = torch.cat([members, logits[:, tail:]], 1).topk(number, sorted=ranked)
    in_class = best.gather(1, at % number) + at // number * classes
    return values, torch.where(at < members.shape[1], in_class, at - members.shape[1] + tail)
