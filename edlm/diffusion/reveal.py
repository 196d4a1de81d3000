"""The reveal plan of a batch: which masked positions each step decides, and in which sequence."""

from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.diffusion.orders import ORDERS, MaskedRows, RankedOrder
from edlm.diffusion.schedule import Schedule
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowGenerators


@dataclass(frozen=True)
class RevealPlan:
    """When each initially masked position of each row is revealed.

    Attributes:
        ranking: Positions in the order of revelation, initially masked ones first; ``[batch, length]``.
        bounds: ``bounds[b, i]`` positions of row ``b`` are revealed before step ``i``;
            ``[batch, num_steps + 1]``.
        target: Positions that are revealed, bool, ``[batch, length]``; other masks stay.
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
        """How many positions a step decides, ``[batch]``; what earlier steps left masked is due again. See `slots`."""
        rows = torch.arange(len(self.bounds), device=self.bounds.device)
        revealed = self.bounds[:, -1] - masked.sum(1)
        return self.bounds[rows, step + 1] - revealed

    def slots(self, step: int | Tensor, masked: Tensor, confidence: Tensor | None = None) -> Slots:
        """The reveal set of a step, in the order in which its tokens are decided.

        Args:
            step: Step index, one for all rows or one a row, shape ``[batch]``.
            masked: Masked target positions when the step begins, bool, shape ``[batch, length]``.
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
        return self._ranked(rows, self.bounds[rows, step], self.bounds[rows, step + 1])

    def teacher_forced(self, x_0: Tensor, step: Tensor, mask_token_id: int) -> Tensor:
        """Tokens ``[batch, length]`` when step ``step[b]`` of each row begins, if the data was revealed so far."""
        rows = torch.arange(len(step), device=step.device)
        masked = self._ranked(rows, self.bounds[rows, step], self.bounds[:, -1])
        return masked.write(x_0, torch.full_like(masked.positions, mask_token_id))

    def _ranked(self, rows: Tensor, first: Tensor, last: Tensor) -> Slots:
        """The positions of ranks ``first[n] .. last[n] - 1`` of rows ``rows[n]``."""
        if self.by_confidence:
            raise ValueError("the confidence order depends on the marginals: its steps must be run one by one")
        ranks = torch.arange(self.ranking.shape[1], device=rows.device)
        return Slots.from_ranked(self.ranking[rows], (first[:, None] <= ranks) & (ranks < last[:, None]))


def plan_reveal(
    masked: Tensor, order: str | RankedOrder, num_steps: int, schedule: Schedule, generators: RowGenerators
) -> RevealPlan:
    """Draw or lay down the reveal order of each row: one of ``ORDERS`` or a function like them, for `MaskedRows`.

    Raises:
        ValueError: ``order`` is unknown, or its bounds do not rise from 0 to all positions of each row.
    """
    if not callable(order) and order not in ORDERS:
        raise ValueError(f"order must be one of {list(ORDERS)}, got {order!r}")
    rows = MaskedRows(masked, num_steps, schedule, generators)
    key, bounds = order(rows) if callable(order) else ORDERS[order](rows)
    if callable(order):
        _check_bounds(bounds, rows)
    ranking = key.masked_fill(~masked, torch.inf).argsort(dim=1, stable=True)
    return RevealPlan(ranking, bounds, masked, by_confidence=order == "confidence")


def _check_bounds(bounds: Tensor, rows: MaskedRows) -> None:
    expected = (len(rows.masked), rows.num_steps + 1)
    if bounds.shape != expected:
        raise ValueError(f"an order's bounds must have shape {expected}, got {tuple(bounds.shape)}")
    ends = torch.stack([torch.zeros_like(rows.counts), rows.counts], 1)
    if (bounds.diff(dim=1) < 0).any() or not torch.equal(bounds[:, [0, -1]], ends.to(bounds)):
        raise ValueError(f"an order's bounds must rise from 0 to the number of positions, got {bounds.tolist()}")
