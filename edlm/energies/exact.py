"""Energies that are normalised: the tokens of a whole step can be drawn from them, and their probability is known."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots
from edlm.energies.base import Energy
from edlm.energies.decision import Step
from edlm.energies.laws import Law, Likeliest, TableLaw
from edlm.energies.proposal import PLAIN, Proposal
from edlm.memory import parts_of_table
from edlm.numerics import precise


class ExactEnergy(Energy):
    """A normalised energy: ``E = log p_theta(x_R | x_t) - log q(x_R | x_t)``, ``Z = 1``.

    ``q`` can be drawn from, so no candidates are needed.

    Attributes:
        draws_in_rounds: ``round_size`` has a meaning for it: tokens that are drawn at once, independently.
    """

    is_normalized: bool = True
    draws_in_rounds: bool = False

    @property
    def recommended(self) -> dict[str, Any]:
        return {"num_candidates": None}

    @abstractmethod
    def sample(
        self,
        step: Step,
        uniforms: Tensor,
        round_size: int = 1,
        proposal: Proposal = PLAIN,
        num_likeliest: int = 0,
    ) -> tuple[Tensor, Likeliest]:
        """Draw the tokens of a step.

        Args:
            step: The step.
            uniforms: In [0, 1), float64, two for each slot, of which an energy may need one only; ``[num_slots, 2]``.
            round_size: Tokens of a row that are drawn at once, if it `draws_in_rounds`.
            proposal: How the law is tempered and cut.
            num_likeliest: So many of the likeliest tokens of each draw are returned too.

        Returns:
            Tokens, ``[num_slots]``; and the likeliest ones with their probabilities, if asked for.
        """

    @abstractmethod
    def log_prob(self, step: Step, tokens: Tensor, round_size: int = 1, proposal: Proposal = PLAIN) -> Tensor:
        """``log q`` of tokens at all slots of the step, under the law that `sample` draws from, nats.

        Args:
            step: The step.
            tokens: At its slots, shape ``[num_slots]``.
            round_size: As for `sample`.
            proposal: As for `sample`.

        Returns:
            Sums over the slots of each row, shape ``[batch]``, float64.
        """


class TokenwiseEnergy(ExactEnergy):
    """An energy that is normalised token by token.

    ``q`` is a product of conditionals: tokens are decided one after the other in decision order, or in rounds of
    far-apart tokens that do not see each other. Each conditional is tempered and cut.
    """

    draws_in_rounds: bool = True

    @abstractmethod
    def start(self, step: Step, round_size: int = 1) -> Any:
        """State of a step in which nothing is decided yet.

        Args:
            step: The step; its slots will be decided in `Slots.rounds` of ``round_size``.
            round_size: Tokens of a row that are drawn at once: independently, given the rounds before.
        """

    @abstractmethod
    def next_logits(self, state: Any, x_partial: Tensor, slots: Slots) -> Tensor:
        """``log q(. | x_t, tokens of the rounds so far)``, nats, up to a constant of each slot.

        Args:
            state: From `start`; the calls of a step go through its slots round by round.
            x_partial: ``x_t`` with all earlier rounds written, shape ``[batch, length]``.
            slots: The next round.

        Returns:
            Logits as `Denoiser.decode` gives them (impossible columns included), shape ``[num_slots, vocab_size]``.
        """

    def begin(self, step: Step, round_size: int, uniforms: Tensor) -> Any:
        """`start` of a step whose tokens are drawn by ``uniforms[num_slots, 2]``."""
        return self.start(step, round_size)

    def next_law(self, step: Step, state: Any, x_partial: Tensor, slots: Slots) -> Law:
        """The law of these logits, or an equal one that costs less; arguments as for `next_logits`."""
        return TableLaw(step.denoiser.possible(self.next_logits(state, x_partial, slots)))

    def sample(
        self,
        step: Step,
        uniforms: Tensor,
        round_size: int = 1,
        proposal: Proposal = PLAIN,
        num_likeliest: int = 0,
    ) -> tuple[Tensor, Likeliest]:
        tokens, tops = torch.empty_like(step.slots.positions), []

        def draw(index: Tensor, law: Law) -> Tensor:
            tokens[index], likeliest = law.through(proposal).draw(uniforms[index.cpu()], num_likeliest)
            tops.append((index, likeliest))
            return tokens[index]

        self._round_by_round(step, self.begin(step, round_size, uniforms), round_size, draw)
        if not num_likeliest or not tops:
            return tokens, None
        back = torch.cat([index for index, _ in tops]).argsort()
        return tokens, tuple(torch.cat(parts)[back] for parts in zip(*(top for _, top in tops), strict=True))

    def log_prob(self, step: Step, tokens: Tensor, round_size: int = 1, proposal: Proposal = PLAIN) -> Tensor:
        log_q = precise(torch.zeros(len(tokens), device=tokens.device))

        def read(index: Tensor, law: Law) -> Tensor:
            log_q[index] = precise(law.through(proposal).log_prob(tokens[index]))
            return tokens[index]

        self._round_by_round(step, self.start(step, round_size), round_size, read)
        return step.slots.sum_rows(log_q)

    def _round_by_round(
        self, step: Step, state: Any, round_size: int, tokens_of: Callable[[Tensor, Law], Tensor]
    ) -> None:
        """Write ``tokens_of(index of its slots, their law)`` at each round."""
        x_partial = step.x_t
        for index in step.slots.rounds(round_size):
            slots = step.slots.part(index)
            x_partial = slots.write(x_partial, tokens_of(index, self.next_law(step, state, x_partial, slots)))


def draw_tokens(
    step: Step, slots: Slots, proposal: Proposal, uniforms: Tensor, num_likeliest: int = 0
) -> tuple[Tensor, Likeliest]:
    """A token of each slot from the proposal, by uniforms ``[num_slots, 1]``; and the likeliest ones, if asked for."""
    tokens, tops = [], []
    for part in parts_of_table(len(slots), step.denoiser.vocab_size, slots.rows.device):
        law = TableLaw(step.denoiser.possible(step.denoiser.slot_logits(step.encoding, slots.part(part))))
        drawn, likeliest = law.through(proposal).draw(uniforms[part.to(uniforms.device)], num_likeliest)
        tokens.append(drawn)
        tops.append(likeliest)
    likeliest = tuple(torch.cat(parts) for parts in zip(*tops, strict=True)) if num_likeliest else None
    return torch.cat(tokens), likeliest
