"""Rows that are being written, each at its own block and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from edlm.diffusion.plan import RevealPlan
from edlm.diffusion.streams import RowStreams
from edlm.sampler.inputs import check_tokens
from edlm.sampler.kernel import Kernel
from edlm.sampler.output import StepInfo, Steps, merge_steps
from edlm.sampler.particles import Particles
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
        tokens: Those of each of its particles so far, ``[N, length]``.
        particles: Their weights.
        block: The block that is written.
        step: The next step of this block.
        plan: Of this block.
    """

    row: int
    seed: int
    views: Sequence[View]
    tokens: Tensor
    particles: Particles
    block: int = -1
    step: int = 0
    plan: RevealPlan | None = None

    @classmethod
    def begin(cls, kernel: Kernel, row: int, seed: int, views: Sequence[View], tokens: Tensor) -> Lane:
        """At its first block; ``tokens[length]`` are those of the row."""
        particles = Particles.of(kernel, 1, tokens.device)
        lane = cls(row, seed, views, tokens.expand(kernel.num_particles, -1), particles)
        lane.next_block(kernel)
        return lane

    @property
    def view(self) -> View:
        return self.views[self.block]

    @property
    def num_done(self) -> int:
        """Steps that were taken or left out."""
        return self.block * self.plan.num_steps + self.step

    def next_block(self, kernel: Kernel) -> bool:
        """Go on to the next block, if there is one.

        Raises:
            ValueError: the row cannot be filled by this kernel.
        """
        if self.block + 1 == len(self.views):
            return False
        self.block, self.step = self.block + 1, 0
        x_t, target = self.tokens[:1, self.view.index], self.view.target[None]
        masked, _ = check_tokens(kernel.denoiser, x_t, target)
        self.plan = kernel.plan(masked, RowStreams([self.seed], [self.block]))
        check_first_step(kernel, self.plan, x_t, None)
        self._skip(kernel)
        return True

    def advance(self, kernel: Kernel) -> bool:
        """Go on to the next step of the block that decides something; whether there is one."""
        self.step += 1
        self._skip(kernel)
        if self.step < self.plan.num_steps:
            return True
        streams = RowStreams([self.seed], [self.block])
        self.particles, index = self.particles.settle(partial(streams.resampling, kernel.num_steps))
        self.tokens = self.tokens[index]
        return False

    def abandon(self, pad: int) -> None:
        """Write ``pad`` in all later blocks, which are not written otherwise."""
        later = [view.index[view.target] for view in self.views[self.block + 1 :]]
        self.block = len(self.views) - 1
        self.tokens = self.tokens.index_fill(1, torch.cat(later), pad) if later else self.tokens

    def _skip(self, kernel: Kernel) -> None:
        """Leave out steps in which nothing is decided."""
        plan = self.plan.repeated(kernel.num_particles)
        self.step = plan.next_due(self.step, self.tokens[:, self.view.index] == kernel.denoiser.mask_token_id)


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
    def take(self, lanes: Sequence[Lane | None], num_likeliest: int) -> TakenStep:
        """The next step of each lane, whose tokens are then those after it.

        Raises:
            ImpossibleCandidates: as `EnergySampler.fill`; it names the lanes by their places.
        """
        device, kernel, number = self.kernel.device, self.kernel, self.kernel.num_particles
        rows = [tokens for lane in lanes for tokens in ([None] * number if lane is None else lane.tokens)]
        views = [None if lane is None else lane.view for lane in lanes for _ in range(number)]
        x_t, _, real = (table.to(device) for table in gather_views(rows, views, self.pad))
        plans = [None if lane is None else lane.plan for lane in lanes]
        plan = RevealPlan.of_rows(plans, x_t.shape[1], device).repeated(number)
        at = torch.tensor([0 if lane is None else lane.step for lane in lanes], device=device)
        many = at.repeat_interleave(number)
        (step,) = begin_steps([kernel], plan, many, x_t, self.passes, None if bool(real.all()) else real)
        seeds, blocks = zip(*((0, 0) if lane is None else (lane.seed, lane.block) for lane in lanes), strict=True)
        streams = RowStreams(seeds, blocks)
        x_s, info = take_step(kernel, step, streams.particles(number).values(many), 0, num_likeliest)
        nothing = Particles.of(kernel, 1, torch.device("cpu"))
        particles = Particles.stacked([nothing if lane is None else lane.particles for lane in lanes]).to(device)
        particles, index, info = particles.survive(kernel, step, info, partial(streams.resampling, at))
        x_s, particles = x_s[index].cpu().unflatten(0, (len(lanes), number)), particles.to("cpu")
        taken = []
        for place, lane in enumerate(lanes):
            if lane is not None:
                lane.tokens = scatter_view(lane.tokens, lane.view, x_s[place])
                lane.particles = particles.row(place)
                taken.append((place, lane.row, lane.block, lane.step))
        return TakenStep(info, taken)


def in_order(taken: Sequence[TakenStep], idle: StepInfo, num_steps: int) -> Steps:
    """The steps of all rows, block by block, as those of one batch, of which ``idle`` is one that decides nothing.

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
    merged = {}
    for (block, number), infos in sorted(parts.items()):
        like = replace(infos[0][0], step=number, t=1 - number / num_steps)
        merged[block * num_steps + number] = merge_steps(infos, len(idle.judged), like)
    return Steps(merged, idle, num_steps, 1 + max((block for block, _ in parts), default=-1))
