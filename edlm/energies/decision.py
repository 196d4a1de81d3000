"""What an energy judges: a step, and the candidates of a decision in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from edlm.denoisers.base import Denoiser, Encoding
from edlm.diffusion.slots import Slots
from edlm.numerics import precise

_KEPT_ENTRIES = 2**22  # 16 MiB in float32


@dataclass(frozen=True)
class Step:
    """One denoising step, before any of its tokens is decided.

    Attributes:
        denoiser: Gives the marginals; an energy may read its states and use its output layer.
        x_t: Tokens that the denoiser saw, shape ``[batch, length]``.
        t: Time of ``x_t``, shape ``[batch]``.
        encoding: The denoiser pass on ``x_t``; rows that decide nothing have none.
        slots: Positions that the step decides, in decision order (at sequence scope: fills).
        attention_mask: False at padding, shape ``[batch, length]``; None without padding.
        revealed: Positions that are written: the first slots of each row. Set in steps of a sampler.
        uses: Rows on which the energy is used, bool, shape ``[batch]``. Set in steps of a sampler.
        memory: What energies keep from step to step of a run, by keys of their own; None in a step alone.
        keeps_marginals: A small table of the marginals at its slots is made once, and kept.
    """

    denoiser: Denoiser
    x_t: Tensor
    t: Tensor
    encoding: Encoding
    slots: Slots
    attention_mask: Tensor | None = None
    revealed: Slots | None = None
    uses: Tensor | None = None
    memory: dict[Any, Any] | None = None
    keeps_marginals: bool = False
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def logits(self, slots: Slots) -> Tensor:
        """Marginals at some of the slots as they are drawn from: ``log p_theta`` but for a constant of each, nats.

        Shape ``[num_slots, vocab_size]``; not to be written to, since it may be the table that is kept.
        """

        def make() -> Tensor:
            return self.denoiser.possible(self.denoiser.slot_logits(self.encoding, slots))

        is_kept = self.keeps_marginals and len(slots) * self.denoiser.vocab_size <= _KEPT_ENTRIES
        return self.once("logits", make) if is_kept and slots.equals(self.slots) else make()

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make()`` gives, made once for all decisions of the step."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True)
class Targets:
    """Laws that a normalised energy learns at some slots of a decision, in place of the candidate's tokens.

    Attributes:
        index: Numbers of these slots, shape ``[num_targets]``.
        probs: Laws of their tokens, shape ``[num_targets, vocab_size]``.
    """

    index: Tensor
    probs: Tensor

    def mean(self, log_probs: Tensor) -> Tensor:
        """Means of ``log_probs[num_targets, vocab_size]`` under the laws, shape ``[num_targets]``; ``0 * -inf = 0``."""
        return (self.probs * log_probs.masked_fill(self.probs == 0, 0.0)).sum(1)


@dataclass(frozen=True)
class Decision:
    """``k`` ways to fill the same positions of each row; one of them will be chosen.

    Attributes:
        step: The step that the decision is part of.
        slots: Positions that are filled: those of one group of the step, or all of them.
        x_partial: ``x_t`` with the step's earlier groups written, shape ``[batch, length]``.
        candidates: ``x_partial`` with the slots filled, masks elsewhere kept; ``[batch, k, length]``.
        slot_log_proposal: The proposal's log-probability of each drawn token, nats; ``[num_slots, k]``.
        slot_log_p: The denoiser's own, which the proposal may temper or truncate; ``[num_slots, k]``.
        round_size: For a `TokenwiseEnergy`: tokens in a round of ``q``, which do not see each other.
        targets: In training a `ResidualHead` with one candidate: the energy is then the mean under these laws of
            ``log p_theta - log q``, and other slots count 0.
    """

    step: Step
    slots: Slots
    x_partial: Tensor
    candidates: Tensor
    slot_log_proposal: Tensor
    slot_log_p: Tensor
    round_size: int = 1
    targets: Targets | None = None

    @property
    def num_candidates(self) -> int:
        return self.candidates.shape[1]

    @cached_property
    def log_proposal(self) -> Tensor:
        """``log q'``: sum over the slots of the proposal's log-probabilities, nats; float64, ``[batch, k]``."""
        return self.slots.sum_rows(precise(self.slot_log_proposal))

    @cached_property
    def log_p(self) -> Tensor:
        """``log p_theta``: the same of the denoiser's own log-probabilities."""
        return self.slots.sum_rows(precise(self.slot_log_p))
