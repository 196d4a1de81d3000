"""Checks of tokens, targets, padding and data before anything is sampled or scored."""

import torch
from torch import Tensor

from edlm.sampler.kernel import Kernel


def _check_bool(name: str, table: Tensor, x: Tensor) -> None:
    if table.shape != x.shape or table.dtype != torch.bool:
        raise ValueError(f"{name} must be bool {list(x.shape)}, got {table.dtype} {list(table.shape)}")


def check_padding(tokens: Tensor, attention_mask: Tensor | None) -> Tensor | None:
    """Raise ValueError unless ``tokens[batch, length]`` are padded on the right; real ones, None if all are."""
    if tokens.ndim != 2 or tokens.dtype != torch.int64:
        raise ValueError(f"tokens must be int64 [batch, length], got {tokens.dtype} {list(tokens.shape)}")
    if attention_mask is None:
        return None
    if attention_mask.shape != tokens.shape:
        raise ValueError(f"attention_mask must have shape {list(tokens.shape)}, got {list(attention_mask.shape)}")
    real = attention_mask.to(tokens.device).bool()
    after_padding = (real[:, 1:] & ~real[:, :-1]).any(1)
    if after_padding.any():
        row = after_padding.nonzero()[0].item()
        raise ValueError(f"padding must be on the right of each row, got some on the left in row {row}")
    return None if bool(real.all()) else real


def check_tokens(kernel: Kernel, x_t: Tensor, target: Tensor | None, real: Tensor | None) -> Tensor:
    """Raise ValueError unless ``x_t[batch, length]`` can be filled; returns the positions to fill, a bool table.

    ``x_t`` and ``real`` are those of `check_padding`; ``target`` is that of `EnergySampler.fill`.
    """
    vocab_size, mask_token_id = kernel.denoiser.vocab_size, kernel.denoiser.mask_token_id
    outside = ((x_t < 0) | (x_t >= vocab_size)) & (x_t != mask_token_id)
    if outside.any():
        raise ValueError(f"tokens must lie in 0..{vocab_size - 1} or be the mask, got {x_t[outside][0].item()}")
    masked = x_t == mask_token_id
    if target is not None:
        _check_bool("target", target, x_t)
        masked = masked & target.to(masked.device)
    masked = masked if real is None else masked & real
    _check_completeness(kernel, x_t, masked, real)
    return masked


def _check_completeness(kernel: Kernel, x_t: Tensor, masked: Tensor, real: Tensor | None) -> None:
    """Raise ValueError where the energy needs complete sequences, or a prefix without masks, and masks stay."""
    energy = kernel.energy
    if energy is None or energy.reads == "slots":
        return
    unknown = (x_t == kernel.denoiser.mask_token_id) & masked.any(1, keepdim=True)
    unknown = unknown if real is None else unknown & real
    left = unknown & ~masked  # masks that stay
    name = type(energy).__name__
    if kernel.scope == "step":
        clean = ~unknown if real is None else ~unknown & real
        if (unknown.cumsum(1).bool() & clean & masked.any(1, keepdim=True)).any():
            raise ValueError(
                f"{name} at scope='step' sees a clean prefix only: masked positions must be the end "
                "of each row; for text after a gap use scope='sequence'"
            )
    if (left.cumsum(1).bool() & masked).any():
        raise ValueError(f"{name} needs a clean prefix: no mask on the left of the target may stay masked")
    if left.any() and energy.reads == "sequence":
        raise ValueError(
            f"{name} needs complete sequences, and a prefix does not suffice: nothing on the right of the target may "
            "stay masked (such as the blocks to come, where text is written block by block)"
        )


def check_data(kernel: Kernel, x_0: Tensor, given: Tensor | None, real: Tensor | None) -> Tensor:
    """Raise ValueError unless ``x_0`` can be scored; returns the positions to predict, bool ``[batch, length]``."""
    if given is None:
        given = torch.zeros_like(x_0, dtype=torch.bool)
    _check_bool("given", given, x_0)
    target = ~given if real is None else ~given & real
    if (x_0[target] == kernel.denoiser.mask_token_id).any():
        raise ValueError("x_0 must hold no mask token: its likelihood is computed, got one")
    check_tokens(kernel, x_0, target, real)
    return check_tokens(kernel, x_0.masked_fill(target, kernel.denoiser.mask_token_id), target, real)
