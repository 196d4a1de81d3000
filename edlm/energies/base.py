"""The interface of energies, and sums of energies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from edlm.denoisers.base import Denoiser, DenoiserIdentity
from edlm.energies.contract import Trial, check_energy
from edlm.energies.decision import Decision
from edlm.energies.gains import ALWAYS, Window
from edlm.modules import ShortRepr
from edlm.rules import check, check_least
from edlm.verdicts import CheckReport

Reads = Literal["slots", "prefix", "sequence"]


class Energy(ShortRepr, nn.Module, ABC):
    """A sequence-level energy: nats, low = plausible; candidates get weight ``exp(-energy)``.

    Attributes:
        reads: The part of a candidate that must hold no mask. ``"slots"``: only the slots, so that any scope and order
            will do; ``"prefix"``: also all positions on the left of a slot (sequence scope, or left-to-right order);
            ``"sequence"``: all positions (sequence scope).
        needs_every_row: At sequence scope, rows that decide nothing in a step are filled and judged too.
        reads_hidden: The denoiser's states must be kept in ``Step.encoding``.
        reads_marginals: Small tables of a step's marginals are kept for it, see `Step.logits`.
        proposal_share: The weight of ``Decision.log_proposal`` in the energy: 1 for ``log q' - log p_AR``, 0 if it
            contains ``log_p`` or neither.
        is_normalized: ``Z = 1`` by construction if all masked positions are judged at once.
        is_control: It is blind to the step's other tokens, so that it can only correct marginals.
        denoiser_identity: The denoiser that it was trained against, or None if any will do.

    References:
        Xu et al. 2025, arXiv:2410.21357, Eq. 7.
    """

    reads: Reads = "slots"
    needs_every_row: bool = False
    reads_hidden: bool = False
    reads_marginals: bool = False
    proposal_share: float = 0.0
    is_normalized: bool = False
    is_control: bool = False
    denoiser_identity: DenoiserIdentity | None = None

    @property
    def recommended(self) -> dict[str, Any]:
        """Options, by name, that the sampler uses where none are given; ``{}``: they must be given."""
        return {} if self.reads == "slots" else {"num_candidates": 8, "scope": "sequence"}

    @property
    def trained_orders(self) -> tuple[str, ...] | None:
        """Reveal orders that it was trained on; None if it was not trained, or they are unknown."""
        return None

    def gaining_window(self, order: str, num_steps: int, block_length: int | None) -> Window:
        """The times at which its exact decisions were measured to gain, in an order of ``num_steps`` passes of a block.

        All times where that is not known.
        """
        return ALWAYS

    @abstractmethod
    def forward(self, decision: Decision) -> Tensor:
        """Energies of the candidates, nats, shape ``[batch, k]``; ``+inf`` = impossible."""

    def check_denoiser(self, denoiser: Denoiser) -> None:
        """Refuse a denoiser other than the one this energy was trained against.

        Raises:
            ValueError: names the parts of the identity that differ.
        """
        if self.denoiser_identity is None:
            return
        self.denoiser_identity.check(denoiser.identity, "this energy")

    def check(
        self, denoiser: Denoiser, data: Tensor | None = None, *, num_candidates: int = 5, seed: int = 0
    ) -> CheckReport:
        """Try the energy on small batches: does it do what the sampler relies on? A line for each check of `contract`.

        Args:
            denoiser: A denoiser that it suits; a tiny one, to sum over all fillings where the energy claims ``Z = 1``.
            data: Rows of real tokens, int64, ``[n, length]``, tens of them: they must have less energy than shuffled.
            num_candidates: Of the decisions, >= 2.
            seed: Of tokens, positions and candidates.

        Example:
            >>> from edlm import CallableEnergy, FunctionDenoiser
            >>> uniform = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), mask_token_id=4, vocab_size=4)
            >>> by_rank = CallableEnergy(lambda candidates, x, log_p: log_p.argsort(1).double())
            >>> [verdict.name for verdict in by_rank.check(uniform).failed]
            ['candidates']
        """
        check_least(2, num_candidates=check("num_candidates", num_candidates, int))
        return check_energy(Trial(self, denoiser, data, num_candidates, seed))

    def __add__(self, other: Energy) -> Energy:
        return _combined((1.0, self), (1.0, other)) if isinstance(other, Energy) else NotImplemented

    def __radd__(self, other: int) -> Energy:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # what `sum` begins with

    def __sub__(self, other: Energy) -> Energy:
        return self + -1.0 * other if isinstance(other, Energy) else NotImplemented

    def __neg__(self) -> Energy:
        return -1.0 * self

    def __mul__(self, weight: float) -> Energy:
        return NotImplemented if isinstance(weight, Energy) else _combined((check("weight", weight, float), self))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> WeightedSum:
        divisor = check("divisor", divisor, float)
        if divisor == 0:
            raise ValueError(f"divisor must not be 0, got {divisor}")
        return self * (1 / divisor)


class WeightedSum(Energy):
    """``sum_i weight_i * energy_i``; written ``0.5 * a + 0.5 * b``, ``a / 2 - b``, ``sum([a, b])``.

    Weights of one energy add up; a weight of 0 leaves its term out. What is one energy of weight 1 after all is that
    energy: ``1.0 * h`` and ``0.5 * h + 0.5 * h`` are ``h``, normalised if it is. No sum is normalised.

    Note:
        Each residual energy (of an LM, a head) contains ``log p_theta`` once, so the weights of these should add to 1:
        ``0.5 + 0.5`` targets ``sqrt(p_1 p_2)``, but ``1 + 1`` targets ``p_1 p_2 / p_theta``. A function (a reward, a
        constraint) contains none: its weight is free. This is not checked.

    Raises:
        ValueError: no term, or a weight that is not finite.
    """

    def __init__(self, terms: Sequence[tuple[float, Energy]]):
        super().__init__()
        flat = []
        for weight, energy in terms:
            inner = zip(energy.weights, energy.energies, strict=True) if isinstance(energy, WeightedSum) else None
            flat += [(weight, energy)] if inner is None else [(weight * w, e) for w, e in inner]
        if not flat or not all(torch.isfinite(torch.tensor(weight)) for weight, _ in flat):
            raise ValueError(f"a sum needs at least one term and finite weights, got {[w for w, _ in flat]}")
        total: dict[Energy, float] = {}
        for weight, energy in flat:
            total[energy] = total.get(energy, 0.0) + weight
        total = {energy: weight for energy, weight in total.items() if weight != 0}
        self.weights = list(total.values())
        self.energies = nn.ModuleList(total)
        self.reads = max((energy.reads for energy in self.energies), key=get_args(Reads).index, default="slots")
        self.needs_every_row = any(energy.needs_every_row for energy in self.energies)
        self.reads_hidden = any(energy.reads_hidden for energy in self.energies)
        self.reads_marginals = any(energy.reads_marginals for energy in self.energies)
        self.proposal_share = sum(w * e.proposal_share for w, e in zip(self.weights, self.energies, strict=True))

    def __repr__(self) -> str:
        return " + ".join(
            f"{weight:g} * {energy!r}" for weight, energy in zip(self.weights, self.energies, strict=True)
        )

    @property
    def recommended(self) -> dict[str, Any]:
        """Those of sequence scope if a term needs it, else of the term that recommends the most candidates.

        Exact terms, whose sum is not, have 8 candidates; and the order is one that all trained terms were trained on.
        """
        terms = [energy.recommended for energy in self.energies]
        orders = [options["order"] for options in terms if options.get("order") in (self.trained_orders or ())]
        order = {"order": orders[0]} if orders else {}
        if self.reads != "slots":
            return {**super().recommended, **order}
        with_candidates = [options for options in terms if options.get("num_candidates") is not None]
        exact = {"num_candidates": 8} if any("num_candidates" in options for options in terms) else {}
        return {**max(with_candidates, key=lambda options: options["num_candidates"], default=exact), **order}

    @property
    def trained_orders(self) -> tuple[str, ...] | None:
        """Orders that all its trained terms were trained on; None if no term was trained, or there are none."""
        orders = [energy.trained_orders for energy in self.energies if energy.trained_orders is not None]
        return tuple(order for order in orders[0] if all(order in each for each in orders)) or None if orders else None

    def check_denoiser(self, denoiser: Denoiser) -> None:
        for energy in self.energies:
            energy.check_denoiser(denoiser)

    def forward(self, decision: Decision) -> Tensor:
        terms = zip(self.weights, self.energies, strict=True)
        return sum((w * e(decision) for w, e in terms), torch.zeros_like(decision.log_proposal))


def _combined(*terms: tuple[float, Energy]) -> Energy:
    """The sum of energies; one of weight 1 stays as it is."""
    total = WeightedSum(terms)
    is_one = len(total.weights) == 1 and math.isclose(total.weights[0], 1.0)
    return total.energies[0] if is_one else total
