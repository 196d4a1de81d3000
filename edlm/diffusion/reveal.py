"""Reveal orders: which masked positions each step decides, and in which sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from edlm.diffusion.schedule import Schedule
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowGenerators

Order = Literal["ancestral", "random", "dilated", "bisecting", "left_to_right", "confidence"]
ORDERS: tuple[str, ...] = get_args(Order)


@dataclass(frozen=True)
class RevealPlan:
    """When each initially masked position of each row is revealed.

    Attributes:
        ranking: Positions in the order of revelation, initially masked ones first; ``[batch, length]``.
        bounds: ``bounds[b, i]`` positions of row ``b`` are revealed before step ``i``;
            ``[batch, num_steps + 1]``.
        target: The positions that are revealed, bool, ``[batch, length]``; what else is masked stays so.
        by_confidence: The ranking of a step is made from its marginals instead.
    """

    ranking: Tensor
    bounds: Tensor
    target: Tensor
    by_confidence: bool = False

    @property
    def num_steps(self) -> int:
        return self.bounds.shape[1] - 1

    def still_masked(self, x_t: Tensor, mask_token_id: int) -> Tensor:
        """Which target positions of ``x_t[batch, length]`` are masked, bool."""
        return (x_t == mask_token_id) & self.target

    def num_due(self, step: int | Tensor, masked: Tensor) -> Tensor:
        """How many positions step ``step`` decides, given what is still masked.

        Positions that earlier steps left masked are due again.

        Args:
            step: Step index, one for all rows or one a row, shape ``[batch]``.
            masked: What of the target is masked when the step begins, bool, shape ``[batch, length]``.

        Returns:
            Shape ``[batch]``.
        """
        rows = torch.arange(len(self.bounds), device=self.bounds.device)
        revealed = self.bounds[:, -1] - masked.sum(1)
        return self.bounds[rows, step + 1] - revealed

    def slots(self, step: int | Tensor, masked: Tensor, confidence: Tensor | None = None) -> Slots:
        """The reveal set of a step, in the order in which its tokens are decided.

        Args:
            step: Step index, one for all rows or one a row, shape ``[batch]``.
            masked: What is masked when the step begins, bool, shape ``[batch, length]``.
            confidence: The largest log-probability of each position, shape ``[batch, length]``;
                needed by (and only by) the confidence order. Ties go to the lowest position.
        """
        if self.by_confidence != (confidence is not None):
            raise ValueError("confidence is needed by the confidence order, and by no other")
        ranking = self.ranking
        if confidence is not None:
            ranking = confidence.masked_fill(~masked, -torch.inf).argsort(dim=1, descending=True, stable=True)
        candidates = masked.gather(1, ranking)
        due = candidates & (candidates.cumsum(1) <= self.num_due(step, masked)[:, None])
        return Slots.from_ranked(ranking, due)

    def planned(self, rows: Tensor, step: Tensor) -> Slots:
        """The reveal sets that the plan has for ``step[n]`` of its rows ``rows[n]``, as a batch of ``n`` rows."""
        self._check_fixed()
        places = torch.arange(self.ranking.shape[1], device=rows.device)
        first, last = self.bounds[rows, step, None], self.bounds[rows, step + 1, None]
        return Slots.from_ranked(self.ranking[rows], (first <= places) & (places < last))

    def masked_at(self, step: Tensor) -> Tensor:
        """What is still masked when step ``step[b]`` of each row begins, bool ``[batch, length]``."""
        self._check_fixed()
        places = torch.arange(self.ranking.shape[1], device=step.device)
        rows = torch.arange(len(step), device=step.device)
        still = (self.bounds[rows, step, None] <= places) & (places < self.bounds[:, -1:])
        return torch.zeros_like(still).scatter(1, self.ranking, still)

    def _check_fixed(self) -> None:
        if self.by_confidence:
            raise ValueError("the confidence order depends on the marginals: its steps must be run one by one")


def plan_reveal(
    masked: Tensor, order: str, num_steps: int, schedule: Schedule, generators: RowGenerators
) -> RevealPlan:
    """Draw or lay down the reveal order of each row.

    ``ancestral`` reveals each masked position alone with the posterior's probability, as the
    reverse process does; the other orders give step ``i`` the positions
    ``floor(n i / T) .. floor(n (i + 1) / T) - 1`` of a ranking of the row's ``n`` masked positions:
    ``random``; ``left_to_right``; ``confidence`` (highest marginal maximum first, to a thousandth
    of a nat, ranked anew at each step);
    ``dilated`` (step ``i`` takes one residue class modulo ``T`` of
    the masked positions, classes in bit-reversed sequence, so that tokens of a step are far apart; left to right
    inside a step, also where ``T`` does not divide ``n`` and a step spans two classes).

    ``bisecting`` equals ``dilated`` where ``T`` is a power of two that divides ``n``. It takes residue classes modulo
    the least power of two ``P >= T``, in bit-reversed sequence: a class at each of the first ``2 T - P`` steps and two
    at each later one, since tokens whose near neighbours are known depend less on each other.

    Args:
        masked: Initially masked positions that are to be revealed, bool, shape ``[batch, length]``.
        order: One of ``ORDERS``.
        num_steps: Number of denoising steps ``T``.
        schedule: Used by the ancestral order.
        generators: Order streams of the rows.

    Raises:
        ValueError: ``order`` is unknown.

    References:
        Dilated order: DUS, arXiv:2506.19037.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be one of {list(ORDERS)}, got {order!r}")
    counts = masked.sum(1)
    nth = masked.cumsum(1) - 1  # index of a masked position among the masked ones of its row
    key = nth.double()
    equal = counts[:, None] * torch.arange(num_steps + 1, device=masked.device) // num_steps
    if order == "dilated":
        place = torch.tensor(_bit_reversed_places(num_steps), device=masked.device)
        by_class = (place[nth % num_steps] * masked.shape[1] + key).masked_fill(~masked, torch.inf)
        step = torch.searchsorted(equal, by_class.argsort(dim=1).argsort(dim=1), right=True)
        key = step * masked.shape[1] + key  # left to right inside a step
    elif order in ("ancestral", "random"):
        key = torch.zeros_like(key)
        key[masked] = generators.uniform(counts.cpu())[:, 0].to(key)
    elif order == "bisecting":
        step = torch.tensor(_steps_of_classes(num_steps), device=masked.device)
        step = step[nth % len(step)]
        key = step * masked.shape[1] + key
    ranking = key.masked_fill(~masked, torch.inf).argsort(dim=1, stable=True)

    if order == "ancestral":
        # Posterior q(x_s | x_t, x_0): one uniform a position decides at which step it turns clean.
        s = 1 - torch.arange(num_steps + 1, device=masked.device, dtype=key.dtype) / num_steps
        clean = schedule.reveal_probability(torch.ones_like(s), s)
        bounds = ((key[:, None, :] < clean[None, :, None]) & masked[:, None, :]).sum(2)
        bounds[:, -1] = counts  # whatever rounding does to alpha(0)
    elif order == "bisecting":
        before = step[:, None] < torch.arange(num_steps + 1, device=masked.device)[:, None]
        bounds = (before & masked[:, None]).sum(2)
    else:
        bounds = equal
    return RevealPlan(ranking, bounds, masked, by_confidence=order == "confidence")


def _bit_reversed_places(num_classes: int) -> list[float]:
    """Place of each residue class in the bit-reversed (van der Corput) sequence 0, 1/2, 1/4, 3/4, ..."""
    bits = max(1, (num_classes - 1).bit_length())
    reversed_bits = [int(f"{c:0{bits}b}"[::-1], 2) for c in range(num_classes)]
    places = [0.0] * num_classes
    for place, c in enumerate(sorted(range(num_classes), key=reversed_bits.__getitem__)):
        places[c] = float(place)
    return places


def _steps_of_classes(num_steps: int) -> list[int]:
    """Step of each residue class modulo the least power of two that is no less than ``num_steps``.

    Example:
        >>> _steps_of_classes(4), _steps_of_classes(3)  # classes in the sequence 0, 2, 1, 3
        ([0, 2, 1, 3], [0, 2, 1, 2])
    """
    bits = (num_steps - 1).bit_length()
    single = 2 * num_steps - 2**bits  # steps of one class
    places = [int(f"0{c:0{bits}b}"[:0:-1], 2) if bits else 0 for c in range(2**bits)]  # bit-reversed
    return [place if place < single else single + (place - single) // 2 for place in places]
