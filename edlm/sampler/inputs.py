"""Checks of tokens, targets, padding and data before anything is sampled or scored; tables are ``[batch, length]``."""

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.sampler.kernel import Kernel


def check_tokens(
    kernel: Kernel, x_t: Tensor, target: Tensor | None, attention_mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Positions to fill, bool, and real positions, None if all are; arguments are those of `EnergySampler.fill`.

    Raises:
        ValueError: ``x_t`` cannot be filled by this kernel.
    """
    real = _real_positions(kernel.denoiser, x_t, attention_mask)
    masked = x_t == kernel.denoiser.mask_token_id
    if target is not None:
        _check_bool("target", target, x_t)
        masked = masked & target.to(masked.device)
    masked = masked if real is None else masked & real
    check_completeness(kernel, x_t, masked, real)
    return masked, real


def check_data(
    denoiser: Denoiser, x_0: Tensor, given: Tensor | None = None, attention_mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Positions to predict, bool, and real positions, None if all are; see `EnergySampler.likelihood_bound`.

    Raises:
        ValueError: ``x_0`` cannot be scored, by any kernel of this denoiser.
    """
    real = _real_positions(denoiser, x_0, attention_mask)
    given = torch.zeros_like(x_0, dtype=torch.bool) if given is None else given
    _check_bool("given", given, x_0)
    target = ~given if real is None else ~given & real
    if (x_0[target] == denoiser.mask_token_id).any():
        raise ValueError(f"x_0 must hold no mask token where it is predicted, got {denoiser.mask_token_id}")
    return target, real


def check_completeness(kernel: Kernel, x_t: Tensor, masked: Tensor, real: Tensor | None) -> None:
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


def _real_positions(denoiser: Denoiser, tokens: Tensor, attention_mask: Tensor | None) -> Tensor | None:
    if tokens.ndim != 2 or tokens.dtype != torch.int64:
        raise ValueError(f"tokens must be int64 [batch, length], got {tokens.dtype} {list(tokens.shape)}")
    outside = ((tokens < 0) | (tokens >= denoiser.vocab_size)) & (tokens != denoiser.mask_token_id)
    if outside.any():
        rule = f"tokens must lie in 0..{denoiser.vocab_size - 1} or be the mask"
        raise ValueError(f"{rule}, got {tokens[outside][0].item()}")
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


def _check_bool(name: str, table: Tensor, x: Tensor) -> None:
    if table.shape != x.shape or table.dtype != torch.bool:
        raise ValueError(f"{name} must be bool {list(x.shape)}, got {table.dtype} {list(table.shape)}")
