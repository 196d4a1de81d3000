"""Outputs of the sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots
from edlm.numerics import precise


@dataclass(frozen=True)
class DecisionInfo:
    """Diagnostics of one decision (the whole step, or one of its groups).

    Attributes:
        energies: Energies of the candidates, nats, ``[batch, k]``; 0 where none was used, or token by token.
        ess: Effective sample size of the weights, 1..k, ``[batch]``; k where no energy was used.
        redraws: How often the candidates were drawn anew because all were impossible, ``[batch]``.
        kept: Rows that were left masked because all candidates were impossible, bool, ``[batch]``.
        judged: Candidates that the energy judged, redrawn ones too; where there are none, tokens; ``[batch]``.
    """

    energies: Tensor
    ess: Tensor
    redraws: Tensor
    kept: Tensor
    judged: Tensor

    @classmethod
    def without_energy(cls, uses: Tensor, num_candidates: int) -> DecisionInfo:
        """Diagnostics of a decision made without an energy: zero energies, full effective sample size."""
        zeros = torch.zeros_like(uses, dtype=torch.long)
        energies = precise(zeros[:, None].expand(-1, num_candidates))
        return cls(energies, energies[:, 0] + num_candidates, zeros, torch.zeros_like(uses), zeros)


@dataclass(frozen=True)
class Choice(DecisionInfo):
    """A decision with what was chosen from, for `GenerationOutput.trace`.

    Attributes:
        slots: Positions that the candidates fill, of which the step may write the first ones only.
        tokens: Of the candidates, or the written ones where there are no candidates, ``[num_slots, k]``.
        chosen: Index of the chosen candidate, ``[batch]``; None where there are no candidates.
        weights: Self-normalised weights of the candidates, ``[batch, k]``.
        likeliest: Without candidates the likeliest tokens and their probabilities, both ``[num_slots, n]``, if asked
            for; of a tempered or truncated law where tokens were drawn from such.
    """

    slots: Slots
    tokens: Tensor
    chosen: Tensor | None = None
    weights: Tensor | None = None
    likeliest: tuple[Tensor, Tensor] | None = None

    def placed(self, rows: Sequence[tuple[int, int]], num_rows: int) -> Choice:
        """The same in a batch of ``num_rows``, given pairs of a row and its number there; others are left out."""
        sources, places = (torch.tensor(numbers) for numbers in zip(*rows, strict=True))
        number = torch.full((self.slots.batch_size,), -1)
        number[sources] = places
        moved = number[self.slots.rows.cpu()]
        index = (moved >= 0).nonzero()[:, 0]
        index = index[moved[index].argsort(stable=True)].to(self.slots.rows.device)
        of_slots = self.slots.part(index)
        slots = Slots(moved.to(index.device)[index], of_slots.positions, of_slots.ranks, num_rows)

        def of_rows(table: Tensor | None) -> Tensor | None:
            if table is None:
                return None
            whole = table.new_zeros(num_rows, *table.shape[1:])
            whole[places.to(table.device)] = table[sources.to(table.device)]
            return whole

        likeliest = None if self.likeliest is None else tuple(table[index] for table in self.likeliest)
        tables = {name: of_rows(getattr(self, name)) for name in ("chosen", "weights", *_OF_ROWS)}
        return Choice(slots=slots, tokens=self.tokens[index], likeliest=likeliest, **tables)


_OF_ROWS = [field.name for field in fields(DecisionInfo)]


@dataclass(frozen=True)
class StepInfo(DecisionInfo):
    """Diagnostics of one step: those of its decisions, and how it went.

    For a sampler with groups energies are ``[batch, groups, k]`` and effective sample sizes ``[batch, groups]``.

    Attributes:
        step: Index, from 0.
        t: Time at which it starts.
        num_revealed: Tokens written, ``[batch]``.
        denoiser_calls: Denoiser passes, one a batch in which a row was due; one that served several steps counts once.
        choices: Its decisions, each with some rows of the batch.
    """

    step: int
    t: float
    num_revealed: Tensor
    denoiser_calls: int
    choices: tuple[Choice, ...] = field(default=(), repr=False)


def merge_decisions(decisions: Sequence[DecisionInfo], grouped: bool) -> dict[str, Tensor]:
    """The fields that a step has of its decisions, at least one."""
    energies = torch.stack([decision.energies for decision in decisions], 1)
    ess = torch.stack([decision.ess for decision in decisions], 1)
    return {
        "energies": energies if grouped else energies[:, 0],
        "ess": ess if grouped else ess[:, 0],
        "redraws": sum(decision.redraws for decision in decisions),
        "kept": torch.stack([decision.kept for decision in decisions]).any(0),
        "judged": sum(decision.judged for decision in decisions),
    }


@dataclass(frozen=True)
class Steps(Sequence[StepInfo]):
    """The steps of all blocks, block by block; only those in which a row decides something are held.

    Attributes:
        taken: These, by their number, ascending.
        idle: What all others are like.
        num_steps: Steps of a block.
        num_blocks: Number of blocks.
    """

    taken: Mapping[int, StepInfo] = field(repr=False)
    idle: StepInfo = field(repr=False)
    num_steps: int
    num_blocks: int

    def __len__(self) -> int:
        return self.num_blocks * self.num_steps

    def __getitem__(self, index: int | slice) -> StepInfo | tuple[StepInfo, ...]:
        number = range(len(self))[index]
        if isinstance(index, slice):
            return tuple(self[i] for i in number)
        at = number % self.num_steps
        return self.taken.get(number) or replace(self.idle, step=at, t=1 - at / self.num_steps)


@dataclass(frozen=True)
class SampleOutput:
    """Sampled sequences and diagnostics of their steps.

    Attributes:
        tokens: Shape ``[batch, length]``; masks remain only under the policy "keep".
        steps: One entry a step; ``steps.taken`` are those that decided something.
        seeds: The seed of each row, with which it can be drawn again, alone or in any batch.
    """

    tokens: Tensor
    steps: Steps
    seeds: tuple[int, ...]


def concatenate(outputs: Sequence[SampleOutput]) -> SampleOutput:
    """Outputs of consecutive batches as one."""
    if len(outputs) == 1:
        return outputs[0]
    tokens = torch.cat([output.tokens for output in outputs])
    seeds = tuple(seed for output in outputs for seed in output.seeds)
    first, parts = 0, {}
    for output in outputs:
        rows = [(row, first + row) for row in range(len(output.tokens))]
        for number, info in output.steps.taken.items():
            parts.setdefault(number, []).append((info, rows))
        first += len(output.tokens)
    longest = max((output.steps for output in outputs), key=len)
    taken = {number: merge_steps(parts[number], len(tokens), parts[number][0][0]) for number in sorted(parts)}
    idle = merge_steps([], len(tokens), longest.idle)
    return SampleOutput(tokens, replace(longest, taken=taken, idle=idle), seeds)


def merge_steps(parts: Sequence[tuple[StepInfo, Sequence[tuple[int, int]]]], num_rows: int, like: StepInfo) -> StepInfo:
    """One step of ``num_rows`` rows from steps of some of them; the other rows decide nothing in it.

    Args:
        parts: Steps, with pairs of a row of theirs and its number in the whole.
        num_rows: Rows of the whole.
        like: A step with the index, the time and, without parts, the shapes of the whole.
    """
    fills = {"num_revealed": 0, "energies": 0, "ess": like.energies.shape[-1]}
    fills |= dict.fromkeys(("redraws", "kept", "judged"), 0)
    tables, by_group = {}, ("energies", "ess") if like.energies.ndim == 3 else ()
    for name, fill in fills.items():
        alone = getattr(like, name)
        theirs = [getattr(info, name) for info, _ in parts] or [alone[:, :1] if name in by_group else alone]
        shape = [max(sizes) for sizes in zip(*(table.shape[1:] for table in theirs), strict=True)]
        whole = theirs[0].new_full((num_rows, *shape), fill)
        for table, (_, rows) in zip(theirs, parts, strict=False):
            sources, places = zip(*rows, strict=True)
            whole[(torch.tensor(places), *(slice(size) for size in table.shape[1:]))] = table[list(sources)]
        tables[name] = whole
    return StepInfo(
        step=like.step,
        t=like.t,
        denoiser_calls=sum(info.denoiser_calls for info, _ in parts),
        choices=tuple(choice.placed(rows, num_rows) for info, rows in parts for choice in info.choices),
        **tables,
    )
