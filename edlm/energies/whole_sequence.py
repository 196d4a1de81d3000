"""Energies that judge a complete candidate at once: which rows are judged, and how many in a pass."""

from abc import abstractmethod

import torch
from torch import Tensor

from edlm.energies.base import Decision
from edlm.energies.pretrained import PretrainedEnergy
from edlm.memory import tokens_at_once
from edlm.rules import check_least


class WholeSequenceEnergy(PretrainedEnergy):
    """``E(x_0, x_t, t)`` of complete sequences, nats; 0 in rows in which nothing is to be decided.

    Args:
        max_tokens_per_pass: Bounds the tokens of a pass, except in training, see `tokens_at_once`; changes memory and
            speed only.

    Raises:
        ValueError: ``max_tokens_per_pass`` is below 1.

    Note:
        One full pass of a network for each candidate. Sequence scope only.
    """

    reads = "sequence"

    def __init__(self, max_tokens_per_pass: int | None = None):
        super().__init__()
        check_least(1, max_tokens_per_pass=max_tokens_per_pass)
        self.max_tokens_per_pass = max_tokens_per_pass

    def forward(self, decision: Decision) -> Tensor:
        """Energies ``[batch, k]``; 0 in rows without slots.

        Raises:
            ValueError: a candidate holds a mask at a real position.
        """
        step, k = decision.step, decision.num_candidates
        energy = torch.zeros_like(decision.log_proposal)
        active = decision.slots.counts.nonzero()[:, 0]
        if not len(active):
            return energy
        x_0 = decision.candidates[active].flatten(0, 1)
        rows = active.repeat_interleave(k)
        real = step.attention_mask.bool()[rows] if step.attention_mask is not None else None
        masked = x_0 == step.denoiser.mask_token_id
        if (masked if real is None else masked & real).any():
            raise ValueError(f"{type(self).__name__} needs complete candidates, got masks: use scope='sequence'")
        x_t = step.x_t[rows]
        was_masked = x_t == step.denoiser.mask_token_id
        size = tokens_at_once(x_0.device, self.max_tokens_per_pass) // x_0.shape[1]
        size = len(x_0) if self.training else max(1, size)
        values = torch.cat(
            [
                self.judge(x_0[part], x_t[part], was_masked[part], step.t[rows[part]], _rows_of(real, part))
                for part in torch.arange(len(x_0), device=x_0.device).split(size)
            ]
        )
        return energy.index_put((active,), values.view(-1, k).to(energy))

    @abstractmethod
    def judge(self, x_0: Tensor, x_t: Tensor, was_masked: Tensor, t: Tensor, real: Tensor | None) -> Tensor:
        """Energies ``[n]`` of sequences.

        Args:
            x_0: Complete, shape ``[n, length]``.
            x_t: What they were drawn for, shape ``[n, length]``.
            was_masked: Where ``x_t`` is masked, shape ``[n, length]``.
            t: Shape ``[n]``.
            real: Which positions are no padding, shape ``[n, length]``; None: all.
        """


def mean_over(states: Tensor, real: Tensor | None) -> Tensor:
    """Mean of states ``[n, length, width]`` over the real positions, ``[n, width]``."""
    if real is None:
        return states.mean(1)
    return (states * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)


def _rows_of(table: Tensor | None, rows: Tensor) -> Tensor | None:
    return table[rows] if table is not None else None
