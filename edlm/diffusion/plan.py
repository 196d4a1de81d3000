"""The plan of a batch: which positions of each row are revealed at each step, block by block or all together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edlm.diffusion.adaptive import MarginalRule
from edlm.diffusion.orders import ORDERS, MaskedRows, RankedOrder
from edlm.diffusion.rules import RULES
from edlm.diffusion.schedule import Schedule
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import BatchOrder, RowGenerators


@dataclass(frozen=True)
class RevealPlan:
    """When each initially masked position of each row is revealed.

    Steps are counted through all blocks: ``num_steps`` of the first block, then those of the second, and so on.

    Attributes:
        ranking: Positions in the order of revelation, initially masked ones first; ``[batch, length]``.
        steps: The step that reveals each position, rising along ``ranking``; ``total_steps`` of positions that none
            does; ``[batch, length]``.
        target: Positions that are revealed, bool, ``[batch, length]``; other masks stay.
        num_steps: Steps of a block.
        num_blocks: Number of blocks.
        blocks: Block of each target position, from 0, ``[batch, length]``; None where there is one.
        rule: Ranks the positions of a step by its marginals instead, and may say how many it reveals.
    """

    ranking: Tensor
    steps: Tensor
    target: Tensor
    num_steps: int
    num_blocks: int = 1
    blocks: Tensor | None = None
    rule: MarginalRule | None = None

    @property
    def total_steps(self) -> int:
        """Steps of all blocks."""
        return self.num_blocks * self.num_steps

    def block(self, step: Tensor) -> Tensor:
        """Target positions of the block that ``step[batch]`` is one of, bool, ``[batch, length]``."""
        return self.target if self.blocks is None else self.target & (self.blocks == step[:, None] // self.num_steps)

    def num_due(self, step: Tensor, masked: Tensor) -> Tensor:
        """How many positions ``step[batch]`` decides, ``[batch]``; what earlier steps left masked is due again.

        ``masked`` is that of `slots`. 1 where the marginals decide how many.
        """
        if self.is_adaptive:
            return masked.any(1).long()
        return (self.steps <= step[:, None]).sum(1) - self._revealed(step, masked)

    def next_due(self, step: int, x_is_masked: Tensor) -> int:
        """The first step from ``step`` on that decides something in a row; ``total_steps`` if there is none.

        ``x_is_masked[batch, length]`` says which tokens are masked when ``step`` begins.
        """
        if step >= self.total_steps or not x_is_masked.numel():
            return self.total_steps
        if self.is_adaptive:
            blocks = torch.zeros_like(self.ranking) if self.blocks is None else self.blocks
            left = blocks[x_is_masked & self.target & (blocks >= step // self.num_steps)]
            return max(step, int(left.min()) * self.num_steps) if len(left) else self.total_steps
        at = torch.full_like(self.ranking[:, 0], step)
        masked = x_is_masked & self.block(at)
        planned = torch.nn.functional.pad(self.steps.gather(1, self.ranking), (0, 1), value=self.total_steps)
        following = planned.gather(1, self._revealed(at, masked)[:, None])
        return max(step, int(following.min()))  # what is behind its plan is due at once

    def _revealed(self, step: Tensor, masked: Tensor) -> Tensor:
        """How many positions are revealed in all blocks up to that of ``step[batch]``, ``[batch]``."""
        end = (step // self.num_steps + 1) * self.num_steps
        return (self.steps < end[:, None]).sum(1) - masked.sum(1)

    @property
    def is_adaptive(self) -> bool:
        """Whether the marginals decide how many positions a step reveals; the last step reveals what is left."""
        return self.rule is not None and type(self.rule).number is not MarginalRule.number

    def slots(self, step: Tensor, masked: Tensor, scores: Tensor | None = None) -> Slots:
        """The reveal set of a step, in the order in which its tokens are decided.

        Args:
            step: Step index of each row, shape ``[batch]``.
            masked: Masked target positions of its `block` when the step begins, bool, shape ``[batch, length]``.
            scores: Of the `rule`, shape ``[batch, length]``; needed with one, and only then. Ties go to the lowest
                position.
        """
        if (self.rule is None) != (scores is None):
            raise ValueError("scores are needed by an order that looks at the marginals, and by no other")
        ranking, number = self.ranking, self.num_due(step, masked)
        if self.rule is not None:
            scores, ranking = scores.masked_fill(~masked, torch.inf).sort(dim=1, stable=True)
            if self.is_adaptive:
                is_last = (step + 1) % self.num_steps == 0
                number = torch.where(is_last.to(masked.device), masked.sum(1), self.rule.number(scores))
        candidates = masked.gather(1, ranking)
        return Slots.from_ranked(ranking, candidates & (candidates.cumsum(1) <= number[:, None]))

    def planned(self, rows: Tensor, step: Tensor) -> Slots:
        """The reveal sets that the plan has for ``step[n]`` of its rows ``rows[n]``, as a batch of ``n`` rows."""
        return self._ranked(rows, self.steps[rows] == step[:, None])

    def teacher_forced(self, x_0: Tensor, step: Tensor, mask_token_id: int) -> Tensor:
        """Tokens ``[batch, length]`` when step ``step[b]`` of each row begins, if the data was revealed so far."""
        rows = torch.arange(len(step), device=step.device)
        masked = self._ranked(rows, (step[:, None] <= self.steps) & (self.steps < self.total_steps))
        return masked.write(x_0, torch.full_like(masked.positions, mask_token_id))

    def _ranked(self, rows: Tensor, chosen: Tensor) -> Slots:
        """The positions ``chosen[n, length]`` of rows ``rows[n]``, in their order."""
        if self.rule is not None:
            raise ValueError("an order that looks at the marginals must be run step by step")
        ranking = self.ranking[rows]
        return Slots.from_ranked(ranking, chosen.gather(1, ranking))

    def repeated(self, number: int) -> RevealPlan:
        """The plan of ``number`` rows for each of its rows, one after the other."""
        tables = {name: getattr(self, name) for name in ("ranking", "steps", "target", "blocks")}
        many = {name: table if table is None else table.repeat_interleave(number, 0) for name, table in tables.items()}
        return self if number == 1 else replace(self, **many)

    @classmethod
    def of_rows(cls, plans: Sequence[RevealPlan | None], length: int, device: torch.device) -> RevealPlan:
        """Plans of single rows and one block each as that of a batch of this length; None for a row without targets."""
        first = next(plan for plan in plans if plan is not None)
        ranking = torch.arange(length).repeat(len(plans), 1)
        target = torch.zeros(len(plans), length, dtype=torch.bool)
        steps = torch.full_like(ranking, first.total_steps)
        for r, plan in enumerate(plans):
            if plan is not None:
                width = plan.target.shape[1]
                ranking[r, :width], target[r, :width] = plan.ranking[0], plan.target[0]
                steps[r, :width] = plan.steps[0]
        tables = (table.to(device) for table in (ranking, steps, target))
        return cls(*tables, first.num_steps, rule=first.rule)


def plan_reveal(
    masked: Tensor,
    order: str | RankedOrder | MarginalRule,
    num_steps: int,
    schedule: Schedule,
    generators: RowGenerators | BatchOrder,
) -> RevealPlan:
    """Draw or lay down the reveal order of each row: one of ``ORDERS``, a function like them, or a `MarginalRule`.

    Raises:
        ValueError: ``order`` is unknown, or its steps do not rise with its key, or lie outside of ``0 .. T - 1``.
    """
    order = named_order(order) if isinstance(order, str) else order
    rule = order if isinstance(order, MarginalRule) else None
    rows = MaskedRows(masked, num_steps, schedule, generators)
    ranked = ORDERS["left_to_right"] if rule is not None else order
    key, steps = ranked(rows)
    ranking = rows.ranking(key)
    if ranked not in ORDERS.values():
        _check_steps(steps, ranking, rows)
    return RevealPlan(ranking, steps.masked_fill(~masked, num_steps), masked, num_steps, rule=rule)


def named_order(name: str) -> RankedOrder | MarginalRule:
    """One of ``ORDERS``; or a `MarginalRule`, whose threshold may follow its name: ``entropy_bounded(0.2)``.

    That of ``dependency_bounded(0.5, FOLDER)`` is followed by the folder of its predictor.

    Raises:
        ValueError: there is none of this name, or its threshold breaks its rule.
    """
    if name in ORDERS:
        return ORDERS[name]
    kind, _, threshold = name.partition("(")
    if kind not in RULES or (threshold and not threshold.endswith(")")):
        known = [*ORDERS, *RULES]
        raise ValueError(f"order must be one of {known}, some also with (threshold), got {name!r}")
    try:
        return RULES[kind].of(threshold[:-1] if threshold else None)
    except ValueError as error:
        raise ValueError(f"{error} in order {name!r}") from error


def name_of_order(order: str | RankedOrder | MarginalRule) -> str:
    """The name of an order that may be a function or a rule."""
    return order if isinstance(order, str) else getattr(order, "__name__", type(order).__name__)


def plan_in_blocks(
    masked: Tensor, block_length: int | None, plan: Callable[[Tensor, int], RevealPlan], *, aligned: bool
) -> RevealPlan:
    """The plan of blocks, one after the other; `blocks_of` says which they are.

    Args:
        masked: Positions that are to be revealed, bool, shape ``[batch, length]``.
        block_length: Tokens of a block; None for one block.
        plan: ``plan(masked, num_blocks)``: that of blocks, ``[batch * num_blocks, width]``, those of a row together.
        aligned: As for `blocks_of`.
    """
    if block_length is None or not masked.numel():
        return plan(masked, 1)
    batch, length = masked.shape
    block_length = min(block_length, length)
    blocks = blocks_of(masked, block_length, aligned)
    number = int(blocks.max()) + 1
    places = torch.arange(length, device=masked.device).expand_as(masked)
    first = places.new_full((batch, number), length).scatter_reduce(1, blocks, places.where(masked, length), "amin")
    window = first[..., None] + torch.arange(block_length, device=masked.device)  # each block, from its first mask on
    inside = (window < length).flatten(1)
    window = window.clamp(max=length - 1).flatten(1)
    of_window = torch.arange(number, device=masked.device).repeat_interleave(block_length)
    chosen = masked.gather(1, window) & (blocks.gather(1, window) == of_window) & inside
    parts = plan(chosen.view(batch * number, block_length), number)
    rank = parts.ranking.argsort(1).view(batch, -1) + of_window * block_length
    steps = parts.steps.view(batch, -1) + of_window * parts.num_steps
    rows, columns = chosen.nonzero(as_tuple=True)
    at = (rows, window[rows, columns])
    key = places.new_full((batch, length), rank.numel()).index_put(at, rank[rows, columns])
    steps = places.new_full((batch, length), number * parts.num_steps).index_put(at, steps[rows, columns])
    ranking = key.argsort(dim=1, stable=True)
    return replace(parts, ranking=ranking, steps=steps, target=masked, num_blocks=number, blocks=blocks)


def blocks_of(masked: Tensor, block_length: int, aligned: bool) -> Tensor:
    """Number of the block of each position, from 0, ``[batch, length]``; blocks without masks are not counted.

    Args:
        masked: Positions that are to be revealed, bool, shape ``[batch, length]``.
        block_length: Tokens of a block.
        aligned: Blocks begin at multiples of their length; else the first one at the first masked position of a row.

    Example:
        >>> masked = torch.tensor([[0, 1, 1, 1, 0, 0, 0, 1]]).bool()
        >>> blocks_of(masked, 2, aligned=True).tolist()
        [[0, 0, 1, 1, 1, 1, 2, 2]]
    """
    places = torch.arange(masked.shape[1], device=masked.device).expand_as(masked)
    first = torch.zeros_like(places[:, :1]) if aligned else masked.int().argmax(1, keepdim=True)
    index = (places - first).clamp(min=0) // block_length
    counted = torch.zeros(len(masked), int(index.max()) + 1 if index.numel() else 0, device=masked.device)
    counted = counted.scatter_reduce(1, index, masked.float(), "amax")
    return (counted.cumsum(1).long() - 1).clamp(min=0).gather(1, index)


def _check_steps(steps: Tensor, ranking: Tensor, rows: MaskedRows) -> None:
    if steps.shape != ranking.shape or steps.is_floating_point():
        got = f"{steps.dtype} {list(steps.shape)}"
        raise ValueError(f"an order's steps must be integers {list(ranking.shape)}, one for each position, got {got}")
    last = rows.num_steps - 1
    along = steps.masked_fill(~rows.masked, last).gather(1, ranking)
    if (along.diff(dim=1) < 0).any() or ((along < 0) | (along > last)).any():
        raise ValueError(f"an order's steps must lie in 0..{last} and rise with its key, got {steps.tolist()}")
