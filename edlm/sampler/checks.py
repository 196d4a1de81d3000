"""What the sampler refuses, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edlm.diffusion.reveal import ORDERS
from edlm.energies.base import TokenwiseEnergy

if TYPE_CHECKING:
    from edlm.sampler.sampler import EnergySampler


def check_options(sampler: EnergySampler) -> None:
    """Raise ValueError for the first option that breaks its rule."""
    s, energy = sampler, sampler.energy
    rules = [
        (s.num_steps >= 1, f"num_steps must be >= 1, got {s.num_steps}"),
        (s.num_candidates is None or s.num_candidates >= 1, f"num_candidates must be >= 1, got {s.num_candidates}"),
        (s.scope in ("step", "sequence"), f"scope must be 'step' or 'sequence', got {s.scope!r}"),
        (s.group_size is None or s.group_size >= 1, f"group_size must be >= 1, got {s.group_size}"),
        (
            s.group_size is None or s.scope == "step",
            f"group_size needs scope='step': a sequence is judged as a whole; got group_size={s.group_size}",
        ),
        (s.order in ORDERS, f"order must be one of {list(ORDERS)}, got {s.order!r}"),
        (s.weight_temperature > 0, f"weight_temperature must be > 0, got {s.weight_temperature}"),
        (
            s.on_impossible in ("raise", "redraw", "keep"),
            f"on_impossible must be 'raise', 'redraw' or 'keep', got {s.on_impossible!r}",
        ),
    ]
    if s.num_candidates is None:
        rules += [
            (
                energy is None or isinstance(energy, TokenwiseEnergy) and energy.is_normalized,
                "num_candidates=None (exact decisions) needs an energy that is normalised token by token; "
                f"got {type(energy).__name__}: give it a number of candidates",
            ),
            (s.scope == "step", "num_candidates=None (exact decisions) needs scope='step', got 'sequence'"),
            (
                s.weight_temperature == 1,
                f"exact decisions have no weights: weight_temperature must be 1, got {s.weight_temperature}",
            ),
        ]
    if energy is not None and energy.needs_complete and s.scope == "step":
        rules.append(
            (
                energy.prefix_suffices and s.order == "left_to_right",
                f"{type(energy).__name__} needs complete sequences: use scope='sequence'"
                + (", or order='left_to_right'" if energy.prefix_suffices else "")
                + f"; got scope='step', order={s.order!r}",
            )
        )
    for holds, message in rules:
        if not holds:
            raise ValueError(message)
    if energy is not None:
        energy.check_denoiser(s.denoiser)


def check_tokens(sampler: EnergySampler, x_t: Tensor) -> Tensor:
    """Raise ValueError unless ``x_t[batch, length]`` can be filled; returns what is masked."""
    vocab_size, mask_token_id = sampler.denoiser.vocab_size, sampler.denoiser.mask_token_id
    if x_t.ndim != 2 or x_t.dtype != torch.int64:
        raise ValueError(f"tokens must be int64 [batch, length], got {x_t.dtype} {list(x_t.shape)}")
    outside = ((x_t < 0) | (x_t >= vocab_size)) & (x_t != mask_token_id)
    if outside.any():
        raise ValueError(f"tokens must lie in 0..{vocab_size - 1} or be the mask, got {x_t[outside][0].item()}")
    masked = x_t == mask_token_id
    energy = sampler.energy
    if energy is not None and energy.needs_complete and sampler.scope == "step":
        if (masked[:, :-1] & ~masked[:, 1:]).any():
            raise ValueError(
                f"{type(energy).__name__} at scope='step' sees a clean prefix only: what is masked must be the end "
                "of each row; for text after a gap use scope='sequence'"
            )
    return masked


def check_target(sampler: EnergySampler, x_0: Tensor, given: Tensor | None) -> Tensor:
    """Raise ValueError unless ``x_0`` can be scored; returns what is to be predicted, bool ``[batch, length]``."""
    if given is None:
        given = torch.zeros(x_0.shape, dtype=torch.bool, device=x_0.device)
    if given.shape != x_0.shape or given.dtype != torch.bool:
        raise ValueError(f"given must be bool {list(x_0.shape)}, got {given.dtype} {list(given.shape)}")
    if (x_0 == sampler.denoiser.mask_token_id).any():
        raise ValueError("x_0 must hold no mask token: its likelihood is asked for")
    check_tokens(sampler, x_0.masked_fill(~given, sampler.denoiser.mask_token_id))
    check_tokens(sampler, x_0)
    return ~given
