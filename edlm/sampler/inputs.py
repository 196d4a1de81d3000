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
        rules += _rules_of_exact_decisions(s)
    if energy is not None and energy.reads != "slots" and s.scope == "step":
        rules.append(
            (
                energy.reads == "prefix" and s.order == "left_to_right",
                f"{type(energy).__name__} needs complete sequences: use scope='sequence'"
                + (", or order='left_to_right'" if energy.reads == "prefix" else "")
                + f"; got scope='step', order={s.order!r}",
            )
        )
    for holds, message in rules:
        if not holds:
            raise ValueError(message)
    if energy is not None:
        energy.check_denoiser(s.denoiser)


def _rules_of_exact_decisions(s: EnergySampler) -> list[tuple[bool, str]]:
    energy = s.energy
    return [
        (
            energy is None or isinstance(energy, TokenwiseEnergy),
            "num_candidates=None (exact decisions) needs an energy that is normalised token by token; "
            f"got {type(energy).__name__}: give it a number of candidates",
        ),
        (s.scope == "step", "num_candidates=None (exact decisions) needs scope='step', got 'sequence'"),
        (
            s.weight_temperature == 1,
            f"exact decisions have no weights: weight_temperature must be 1, got {s.weight_temperature}",
        ),
        (
            energy is None or not s.correct_proposal or s.proposal.is_default,
            "exact decisions have no weights to correct the proposal by: correct_proposal needs candidates, or "
            f"temperature=1, top_p=1, top_k=None; got {s.proposal}",
        ),
    ]


def check_padding(tokens: Tensor, attention_mask: Tensor | None) -> Tensor | None:
    """Raise ValueError unless ``tokens[batch, length]`` are padded on the right; which are real, None if all are."""
    if tokens.ndim != 2 or tokens.dtype != torch.int64:
        raise ValueError(f"tokens must be int64 [batch, length], got {tokens.dtype} {list(tokens.shape)}")
    if attention_mask is None:
        return None
    if attention_mask.shape != tokens.shape:
        raise ValueError(f"attention_mask must have shape {list(tokens.shape)}, got {list(attention_mask.shape)}")
    real = attention_mask.to(tokens.device).bool()
    if (real[:, 1:] & ~real[:, :-1]).any():
        row = (real[:, 1:] & ~real[:, :-1]).any(1).nonzero()[0].item()
        raise ValueError(f"padding must be on the right of each row, got some on the left in row {row}")
    return None if bool(real.all()) else real


def check_tokens(sampler: EnergySampler, x_t: Tensor, target: Tensor | None, real: Tensor | None) -> Tensor:
    """Raise ValueError unless ``x_t[batch, length]`` can be filled; returns what is to be filled, a bool table.

    Args:
        sampler: Its denoiser and energy.
        x_t: Tokens, already looked at by `check_padding`.
        target: Masked positions that are to be filled, bool ``[batch, length]``; all if None.
        real: False at padding; None without.
    """
    vocab_size, mask_token_id = sampler.denoiser.vocab_size, sampler.denoiser.mask_token_id
    outside = ((x_t < 0) | (x_t >= vocab_size)) & (x_t != mask_token_id)
    if outside.any():
        raise ValueError(f"tokens must lie in 0..{vocab_size - 1} or be the mask, got {x_t[outside][0].item()}")
    masked = x_t == mask_token_id
    if target is not None:
        if target.shape != x_t.shape or target.dtype != torch.bool:
            raise ValueError(f"target must be bool {list(x_t.shape)}, got {target.dtype} {list(target.shape)}")
        masked = masked & target.to(masked.device)
    masked = masked if real is None else masked & real
    _check_completeness(sampler, x_t, masked, real)
    return masked


def _check_completeness(sampler: EnergySampler, x_t: Tensor, masked: Tensor, real: Tensor | None) -> None:
    """Raise ValueError where the energy needs what is not there: complete sequences, or a clean prefix."""
    energy = sampler.energy
    if energy is None or energy.reads == "slots":
        return
    unknown = (x_t == sampler.denoiser.mask_token_id) & masked.any(1, keepdim=True)
    unknown = unknown if real is None else unknown & real
    left = unknown & ~masked  # masks that nobody fills
    name = type(energy).__name__
    if sampler.scope == "step":
        known = ~unknown if real is None else ~unknown & real
        if (unknown.cumsum(1).bool() & known & masked.any(1, keepdim=True)).any():
            raise ValueError(
                f"{name} at scope='step' sees a clean prefix only: what is masked must be the end "
                "of each row; for text after a gap use scope='sequence'"
            )
    if (left.cumsum(1).bool() & masked).any():
        raise ValueError(f"{name} needs a clean prefix: no mask on the left of the target may stay masked")
    if left.any() and energy.reads == "sequence":
        raise ValueError(
            f"{name} needs complete sequences, and a prefix does not suffice: nothing on the right of the target may "
            "stay masked (such as the blocks to come, where text is written block by block)"
        )


def check_data(sampler: EnergySampler, x_0: Tensor, given: Tensor | None, real: Tensor | None) -> Tensor:
    """Raise ValueError unless ``x_0`` can be scored; returns what is to be predicted, bool ``[batch, length]``."""
    if given is None:
        given = torch.zeros(x_0.shape, dtype=torch.bool, device=x_0.device)
    if given.shape != x_0.shape or given.dtype != torch.bool:
        raise ValueError(f"given must be bool {list(x_0.shape)}, got {given.dtype} {list(given.shape)}")
    target = ~given if real is None else ~given & real
    if (x_0[target] == sampler.denoiser.mask_token_id).any():
        raise ValueError("x_0 must hold no mask token: its likelihood is asked for")
    check_tokens(sampler, x_0, target, real)
    return check_tokens(sampler, x_0.masked_fill(target, sampler.denoiser.mask_token_id), target, real)
