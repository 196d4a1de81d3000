"""The end of a residual head: laws of tokens, from the features that leave its blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from edlm.denoisers.columns import decoder_of
from edlm.diffusion.slots import Slots
from edlm.energies.decision import Step
from edlm.energies.laws import Law, TableLaw
from edlm.energies.listed import Listed, ListedLaw


class Output(ABC):
    """Makes laws of the tokens at slots of a step.

    Attributes:
        width: Columns of a law.
    """

    width: int

    @abstractmethod
    def law(self, features: Tensor, rest: Tensor | None, valid: Tensor | None, slots: Slots) -> Law:
        """The law at each of some slots.

        Args:
            features: Input of the denoiser's output layer, ``[rows, n, width]``.
            rest: Corrections of the log-odds of the tokens that are not listed, ``[rows, n]``; None where all are.
            valid: Which entries are slots, bool, ``[rows, n]``; None: all.
            slots: These, entry by entry.
        """


class AllTokens(Output):
    """The denoiser's whole output layer. Args: the step; and ``check`` of `TableLaw`."""

    def __init__(self, step: Step, *, check: bool):
        self.denoiser = step.denoiser
        self.check = check
        self.width = step.denoiser.vocab_size

    def law(self, features: Tensor, rest: Tensor | None, valid: Tensor | None, slots: Slots) -> Law:
        logits = self.denoiser.decode(_at(features, valid))
        return TableLaw(self.denoiser.possible(logits), check=self.check)


class ListedTokens(Output):
    """The columns of the listed tokens, see `Listed`.

    Args:
        step: The step.
        active: Rows that the features are of, ``[rows]``.
        number: Tokens of a list.
        check: As for `TableLaw`.
        uniforms: Of tokens that will be drawn, ``[num_slots, 2]``.
    """

    def __init__(self, step: Step, active: Tensor, number: int, *, check: bool, uniforms: Tensor | None = None):
        self.step = step
        self.check = check
        if uniforms is None:
            self.listed = step.once(("listed", number), lambda: Listed.of(step, number))
        else:
            self.listed = Listed.of(step, number, uniforms[:, 1:])
        self.active = active
        self.width = self.listed.size

    @cached_property
    def decode(self) -> Callable[[Tensor], Tensor]:
        return decoder_of(self.step.denoiser, self.listed.tokens[self.active])

    def law(self, features: Tensor, rest: Tensor | None, valid: Tensor | None, slots: Slots) -> Law:
        log_odds = self.listed.log_odds[slots.rows, slots.positions]
        among_listed = _at(self.decode(features), valid).to(log_odds).log_softmax(1)
        logits = torch.cat([among_listed, (log_odds + _at(rest, valid).to(log_odds))[:, None]], 1)
        return ListedLaw(self.step, self.listed, slots, logits, check=self.check)


def _at(table: Tensor, valid: Tensor | None) -> Tensor:
    return table.flatten(0, 1) if valid is None else table[valid]
