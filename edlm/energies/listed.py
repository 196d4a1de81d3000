"""The tokens of a row that a head corrects; all others are one more state of each slot, and keep their shares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots
from edlm.energies.decision import Step
from edlm.energies.laws import Law, Likeliest, TableLaw
from edlm.energies.proposal import draw_by_weight
from edlm.memory import parts_of_table, rows_at_once

_SMALL = -60.0  # nats: below it sums in float32 miss too much


@dataclass(frozen=True)
class Listed:
    """The likeliest tokens of each row, by the sum of their marginals over the slots of a step: m, the same at each.

    Attributes:
        tokens: Shape ``[batch, m]``.
        log_p_rest: Log-probability of the tokens that are not listed, under the denoiser, nats; by position,
            ``[batch, length]``.
        log_odds: That minus the log-probability of the listed ones, the same shape.
        vocab_size: Tokens of the denoiser.
        others: One of them, drawn from the denoiser's marginal, the same shape; None where nothing is to be drawn.
    """

    tokens: Tensor
    log_p_rest: Tensor
    log_odds: Tensor
    vocab_size: int
    others: Tensor | None = None

    @classmethod
    def of(cls, step: Step, number: int, uniforms: Tensor | None = None) -> Listed:
        """Lists of ``number`` tokens, or of all possible ones if they are fewer.

        The denoiser's output layer runs once, in parts of whole rows. Uniforms ``[num_slots, 1]``, in float64, draw
        ``others``.
        """
        with torch.no_grad(), torch.autocast(step.x_t.device.type, enabled=False):  # exact beside `Decision.log_p`
            return cls._of(step, number, uniforms)

    @classmethod
    def _of(cls, step: Step, number: int, uniforms: Tensor | None) -> Listed:
        denoiser, slots, counts = step.denoiser, step.slots, step.slots.counts
        size = min(number, denoiser.vocab_size - len(denoiser.vocabulary.impossible))
        tokens = step.x_t.new_zeros(len(step.x_t), size)
        found: list[tuple[Tensor, ...]] = []
        at_once = max(1, rows_at_once(denoiser.vocab_size * int(counts.max()), step.x_t.device))
        for part in counts.nonzero()[:, 0].split(at_once):
            index = ((slots.rows >= part[0]) & (slots.rows <= part[-1])).nonzero()[:, 0]
            rows = slots.rows[index]
            logits = step.logits(slots.part(index))
            probs = logits.softmax(1)
            mass = probs.new_zeros(len(part), probs.shape[1]).index_add_(0, torch.searchsorted(part, rows), probs)
            mass[:, list(denoiser.vocabulary.impossible)] = -1.0
            tokens[part] = mass.topk(size).indices
            log_p_listed = logits.gather(1, tokens[rows]).logsumexp(1) - logits.logsumexp(1)
            probs.scatter_(1, tokens[rows], 0.0)
            log_p_rest = probs.sum(1).log()
            if (few := (log_p_rest < _SMALL).nonzero()[:, 0]).numel():  # or none: then it stays -inf
                rest = logits[few].log_softmax(1).scatter_(1, tokens[rows[few]], -torch.inf)
                log_p_rest[few] = rest.logsumexp(1)
                probs[few] = rest.softmax(1).nan_to_num_(1.0)
            drawn = () if uniforms is None else (draw_by_weight(probs, uniforms[index.to(uniforms.device)])[:, 0],)
            found.append((log_p_rest, log_p_rest - log_p_listed, *drawn))
        values = (torch.cat(each) for each in zip(*found, strict=True))
        by_position = [x.new_zeros(step.x_t.shape).index_put((slots.rows, slots.positions), x) for x in values]
        return cls(tokens, *by_position[:2], denoiser.vocab_size, *by_position[2:])

    @cached_property
    def places(self) -> Tensor:
        """Place of each token in its row's list, m where it is not listed, ``[batch, vocab_size]``."""
        numbers = torch.arange(self.size, device=self.tokens.device).expand_as(self.tokens)
        return self.tokens.new_full((len(self.tokens), self.vocab_size), self.size).scatter_(1, self.tokens, numbers)

    @property
    def size(self) -> int:
        """Number m of listed tokens."""
        return self.tokens.shape[1]


class ListedLaw(Law):
    """A law of listed tokens, and of the others as the denoiser has them.

    Args:
        step: Gives the marginals of tokens that are not listed, which are computed where they are asked for.
        listed: The lists.
        slots: The slots, any of the step's rows; they may repeat.
        logits: Log-weights of the listed tokens, and of all others together, ``[num_slots, m + 1]``.
        check: As for `TableLaw`.
    """

    def __init__(self, step: Step, listed: Listed, slots: Slots, logits: Tensor, *, check: bool = True):
        self.step = step
        self.listed = listed
        self.slots = slots
        self.states = TableLaw(logits, check=check)

    def log_probs(self) -> Tensor:
        rows, positions = self.slots.rows, self.slots.positions
        log_mass = self.states.log_probs()
        shift = log_mass[:, -1] - self.listed.log_p_rest[rows, positions]
        marginals = self.step.denoiser.slot_log_probs(self.step.encoding, self.slots).detach()
        others = marginals + torch.where(shift.isfinite(), shift, 0.0)[:, None]
        return others.scatter(1, self.listed.tokens[rows], log_mass[:, :-1])

    def log_prob(self, tokens: Tensor, log_p: Tensor | None = None) -> Tensor:
        rows, positions = self.slots.rows, self.slots.positions
        places = self.listed.places[rows, tokens]
        log_q, listed = self.states.log_prob(places), places < self.listed.size
        if log_p is None:
            log_p = self._log_p_of_others(tokens, listed)
        log_share = torch.where(log_p.isneginf(), log_p, log_p - self.listed.log_p_rest[rows, positions])
        return log_q + torch.where(listed, 0.0, log_share.to(log_q))

    def draw(self, uniforms: Tensor, num_likeliest: int = 0) -> tuple[Tensor, Likeliest]:
        rows, size = self.slots.rows, self.listed.size
        states, _ = self.states.draw(uniforms)
        listed = self.listed.tokens[rows, states.clamp(max=size - 1)]
        tokens = torch.where(states < size, listed, self.listed.others[rows, self.slots.positions])
        if not num_likeliest:
            return tokens, None
        probs, states = self.states.logits.softmax(-1)[:, :-1].topk(min(num_likeliest, size))
        return tokens, (self.listed.tokens[rows[:, None], states], probs)

    def _log_p_of_others(self, tokens: Tensor, listed: Tensor) -> Tensor:
        """``log p_theta`` of the tokens that are not listed, nats, 0 of others; ``[num_slots]``."""
        log_p, denoiser = self.listed.log_p_rest.new_zeros(len(tokens)), self.step.denoiser
        others = (~listed).nonzero()[:, 0]
        for part in parts_of_table(len(others), denoiser.vocab_size, tokens.device):
            index = others[part]
            marginals = denoiser.slot_log_probs(self.step.encoding, self.slots.part(index))
            log_p[index] = marginals.gather(1, tokens[index, None])[:, 0]
        return log_p.detach()
