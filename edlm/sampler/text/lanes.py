"""Rows that are being written, each at its own block and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edlm.diffusion.plan import RevealPlan
from edlm.diffusion.streams import RowStreams
from edlm.sampler.inputs import check_tokens
from edlm.sampler.kernel import Kernel
from edlm.sampler.output import StepInfo, merge_steps
from edlm.sampler.passes import Passes
from edlm.sampler.step import begin_steps, check_first_step, take_step
from edlm.sampler.text.blocks import View, gather_views, scatter_view


@dataclass
class Lane:
    """A row that is being written.

    Attributes:
        row: Its number.
        seed: Its seed.
        views: What is seen of it at each of its blocks.
        block: The block that is written.
        step: The next step of this block.
        plan: Of this block.
    """

    row: int
    seed: int
    views: Sequence[View]
    block: int = -1
    step: int = 0
    plan: RevealPlan | None = None

    @classmethod
    def begin(cls, kernel: Kernel, row: int, seed: int, views: Sequence[View], tokens: Tensor) -> Lane:
        """At its first block; ``tokens[length]`` are those of the row."""
        lane = cls(row, seed, views)
        lane.next_block(kernel, tokens)
        return lane

    @property
    def view(self) -> View:
        return self.views[self.block]

    @property
    def num_done(self) -> int:
        """Steps that were taken or left out."""
        return self.block * self.plan.num_steps + self.step

    def next_block(self, kernel: Kernel, tokens: Tensor) -> bool:
        """Go on to the next block, if there is one.

        Raises:
            ValueError: the row cannot be filled by this kernel.
        """
        if self.block + 1 == len(self.views):
            return False
        self.block, self.step = self.block + 1, 0
        x_t, target = tokens[self.view.index][None], self.view.target[None]
        masked, _ = check_tokens(kernel.denoiser, x_t, target)
        self.plan = kernel.plan(masked, RowStreams([self.seed], [self.block]))
        check_first_step(kernel, self.plan, x_t, None)
        self._skip(kernel, tokens)
        return True

    def advance(self, kernel: Kernel, tokens: Tensor) -> bool:
        """Go on to the next step of the block that decides something; whether there is one."""
        self.step += 1
        self._skip(kernel, tokens)
        return self.step < self.plan.num_steps

    def abandon(self, tokens: Tensor, pad: int) -> Tensor:
        """The row with ``pad`` in all later blocks, which are not written."""
        later = [view.index[view.target] for view in self.views[self.block + 1 :]]
        self.block = len(self.views) - 1
        return tokens.index_fill(0, torch.cat(later), pad) if later else tokens

    def _skip(self, kernel: Kernel, tokens: Tensor) -> None:
        """Leave out steps in which nothing is decided, unless the energy judges these too."""
        if kernel.energy is not None and kernel.energy.needs_every_row:
            return
        masked = self.plan.target & (tokens[self.view.index] == kernel.denoiser.mask_token_id)
        while self.step < self.plan.num_steps and self.plan.num_due(torch.tensor([self.step]), masked) <= 0:
            self.step += 1


@dataclass(frozen=True)
class TakenStep:
    """A step of several rows, each at its own.

    Attributes:
        info: Of the rows as they lie in the batch.
        at: Place in the batch, number of the row, block and step of each row that took part.
    """

    info: StepInfo
    at: list[tuple[int, int, int, int]]


@dataclass(frozen=True)
class Desk:
    """Takes steps of rows in lanes.

    Attributes:
        kernel: The law of a step.
        passes: Its denoiser passes.
        pad: A token for positions that are never read.
    """

    kernel: Kernel
    passes: Passes
    pad: int

    @torch.no_grad()
    def take(self, lanes: Sequence[Lane | None], tokens: list[Tensor], num_likeliest: int) -> TakenStep:
        """The next step of each lane; ``tokens`` of the rows, each ``[length]``, are replaced by those after it."""
        device, kernel = self.kernel.device, self.kernel
        rows = [None if lane is None else tokens[lane.row] for lane in lanes]
        views = [None if lane is None else lane.view for lane in lanes]
        x_t, _, real = (table.to(device) for table in gather_views(rows, views, self.pad))
        plans = [None if lane is None else lane.plan for lane in lanes]
        plan = RevealPlan.of_rows(plans, x_t.shape[1], device)
        at = torch.tensor([0 if lane is None else lane.step for lane in lanes], device=device)
        (step,) = begin_steps([kernel], plan, at, x_t, self.passes, None if bool(real.all()) else real)
        seeds, blocks = zip(*((0, 0) if lane is None else (lane.seed, lane.block) for lane in lanes), strict=True)
        x_s, info = take_step(kernel, step, RowStreams(seeds, blocks).values(at), 0, num_likeliest)
        x_s = x_s.cpu()
        taken = []
        for place, lane in enumerate(lanes):
            if lane is not None:
                tokens[lane.row] = scatter_view(tokens[lane.row], lane.view, x_s[place])
                taken.append((place, lane.row, lane.block, lane.step))
        return TakenStep(info, taken)


def in_order(taken: Sequence[TakenStep], num_rows: int, num_steps: int) -> tuple[tuple[StepInfo, ...], list[int]]:
    """The steps of all rows, block by block, as those of one batch; and the block of each.

    A denoiser pass counts for the first of the steps that it served.
    """
    parts: dict[tuple[int, int], list[tuple[StepInfo, list[tuple[int, int]]]]] = {}
    for step in taken:
        by_step: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for place, row, block, number in step.at:
            by_step.setdefault((block, number), []).append((place, row))
        for first, (key, rows) in enumerate(sorted(by_step.items())):
            info = replace(step.info, denoiser_calls=0) if first else step.info
            parts.setdefault(key, []).append((info, rows))
    steps, blocks = [], []
    for block in range(1 + max((block for block, _ in parts), default=-1)):
        for number in range(num_steps):
            like = replace(taken[0].info, step=number, t=1 - number / num_steps)
            steps.append(merge_steps(parts.get((block, number), []), num_rows, like))
            blocks.append(block)
    return tuple(steps), blocks
