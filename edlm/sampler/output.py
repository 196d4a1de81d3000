"""Outputs of the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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


@dataclass(frozen=True)
class StepInfo(DecisionInfo):
    """Diagnostics of one step: those of its decisions, and how it went.

    For a sampler with groups energies are ``[batch, groups, k]`` and effective sample sizes ``[batch, groups]``.

    Attributes:
        step: Index, from 0.
        t: Time at which it starts.
        num_revealed: Tokens written, ``[batch]``.
        denoiser_calls: Denoiser passes: 0 where no row was due, else one a batch.
        choices: Its decisions, where the batch was not made of several.
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
class SampleOutput:
    """Sampled sequences and diagnostics of their steps.

    Attributes:
        tokens: Shape ``[batch, length]``; masks remain only under the policy "keep".
        steps: One entry a step.
        seeds: The seed of each row, with which it can be drawn again, alone or in any batch.
    """

    tokens: Tensor
    steps: tuple[StepInfo, ...]
    seeds: tuple[int, ...]


def concatenate(outputs: Sequence[SampleOutput]) -> SampleOutput:
    """Outputs of consecutive batches as one."""
    if len(outputs) == 1:
        return outputs[0]
    tokens = torch.cat([output.tokens for output in outputs])
    steps = join_steps([output.steps for output in outputs])
    return SampleOutput(tokens, steps, tuple(seed for output in outputs for seed in output.seeds))


def join_steps(batches: Sequence[Sequence[StepInfo]]) -> tuple[StepInfo, ...]:
    """Steps of consecutive batches as those of one; a batch that has fewer steps decides nothing in the others."""
    longest = max(batches, key=len)
    steps = []
    for i, first in enumerate(longest):
        infos = [steps[i] if i < len(steps) else _idle(first, len(steps[0].ess)) for steps in batches if steps]
        padding = {"num_revealed": 0, "energies": 0, "ess": first.energies.shape[-1]}
        padding |= dict.fromkeys(("redraws", "kept", "judged"), 0)
        rows = {name: _join([getattr(info, name) for info in infos], value) for name, value in padding.items()}
        calls = sum(info.denoiser_calls for info in infos)
        steps.append(StepInfo(step=first.step, t=first.t, denoiser_calls=calls, **rows))
    return tuple(steps)


def _idle(info: StepInfo, num_rows: int) -> StepInfo:
    """A step of so many rows in which nothing is decided."""
    uses = torch.zeros(num_rows, dtype=torch.bool, device=info.ess.device)
    nothing = DecisionInfo.without_energy(uses, info.energies.shape[-1])
    rows = {name: getattr(nothing, name) for name in ("redraws", "kept", "judged")}
    if info.energies.ndim == 3:
        rows |= {"energies": nothing.energies[:, None], "ess": nothing.ess[:, None]}
    else:
        rows |= {"energies": nothing.energies, "ess": nothing.ess}
    return StepInfo(step=info.step, t=info.t, num_revealed=rows["redraws"], denoiser_calls=0, **rows)


def _join(tables: Sequence[Tensor], value: float) -> Tensor:
    """Batches may differ in their number of groups: pad as rows are that decide nothing in a group."""
    if tables[0].ndim == 1:
        return torch.cat(tables)
    return pad_sequence([row for table in tables for row in table], batch_first=True, padding_value=value)
