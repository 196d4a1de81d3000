"""Checks of tokens, targets, padding and data before anything is sampled or scored; tables are ``[batch, length]``."""

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.rules import shown
from edlm.sampler.kernel import Kernel

MAX_TOKENS = 2**24  # of a row: more is taken for a typing error, and is refused before anything is allocated


def check_length(length: int, max_length: int | None = None) -> None:
    """Refuse rows that are longer than ``max_length``, or than any text is."""
    limit = MAX_TOKENS if max_length is None else max_length
    if length > limit:
        known = "" if max_length is None else "max_length = "
        raise ValueError(f"a row must be at most {known}{limit} tokens long, got {length}")


def check_tokens(
    denoiser: Denoiser, x_t: Tensor, target: Tensor | None = None, attention_mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Positions to fill, bool, and real positions, None if all are; arguments are those of `EnergySampler.fill`.

    Raises:
        ValueError: ``x_t`` cannot be filled by this denoiser.
    """
    real = _real_positions(denoiser, x_t, attention_mask)
    masked = x_t == denoiser.mask_token_id
    if target is not None:
        _check_table("target", target, torch.bool, x_t)
        masked = masked & target.to(masked.device)
    return (masked if real is None else masked & real), real


def check_data(
    denoiser: Denoiser, x_0: Tensor, given: Tensor | None = None, attention_mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Positions to predict, bool, and real positions, None if all are; see `EnergySampler.likelihood_bound`.

    Raises:
        ValueError: ``x_0`` cannot be scored, by any kernel of this denoiser.
    """
    real = _real_positions(denoiser, x_0, attention_mask)
    given = torch.zeros_like(x_0, dtype=torch.bool) if given is None else given
    _check_table("given", given, torch.bool, x_0)
    target = ~given.to(x_0.device)
    target = target if real is None else target & real
    if (x_0[target] == denoiser.mask_token_id).any():
        raise ValueError(f"x_0 must hold no mask token where it is predicted, got {denoiser.mask_token_id}")
    return target, real


def check_completeness(kernel: Kernel, x_t: Tensor, masked: Tensor, real: Tensor | None) -> None:
    """Raise ValueError where the energy needs complete sequences, or a prefix without masks, and masks stay."""
    energy = kernel.energy
    if energy is None or not kernel.energy_matters or energy.reads == "slots":
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
    _check_table("tokens", tokens, torch.int64)
    outside = ((tokens < 0) | (tokens >= denoiser.vocab_size)) & (tokens != denoiser.mask_token_id)
    if outside.any():
        rule = f"tokens must lie in 0..{denoiser.vocab_size - 1} or be the mask"
        raise ValueError(f"{rule}, got {tokens[outside][0].item()}")
    if attention_mask is None:
        return None
    _check_table("attention_mask", attention_mask, None, tokens)
    real = attention_mask.to(tokens.device).bool()
    after_padding = (real[:, 1:] & ~real[:, :-1]).any(1)
    if after_padding.any():
        row = after_padding.nonzero()[0].item()
        raise ValueError(f"padding must be on the right of each row, got some on the left in row {row}")
    return None if bool(real.all()) else real


def _check_table(name: str, table: Tensor, dtype: torch.dtype | None, like: Tensor | None = None) -> None:
    """Refuse what is no tensor ``[batch, length]`` of this type, None for any, and of the shape of another one."""
    fits = isinstance(table, Tensor) and table.ndim == 2 and dtype in (None, table.dtype)
    if not fits or (like is not None and table.shape != like.shape):
        kind = "a tensor" if dtype is None else str(dtype).removeprefix("torch.")
        shape = "[batch, length]" if like is None else [*like.shape]
        got = f"{table.dtype} {list(table.shape)}" if isinstance(table, Tensor) else shown(table)
        raise ValueError(f"{name} must be {kind} {shape}, got {got}")
