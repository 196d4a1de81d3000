"""How a family's own code calls its module: with which attention mask."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edlm.denoisers.families.family import unwrap_logits
from edlm.denoisers.logits import unpadded
from edlm.denoisers.visibility import added_to_scores, visible_positions

Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # as `LogitsDenoiser` takes it
Caller = Callable[[nn.Module, int | None], Call]  # of a module and its block size


def without_mask(module: nn.Module, block_size: int | None, **options: Any) -> Call:
    """Rows in groups of equal length, without a mask; ``options`` go to the module."""
    return unpadded(lambda x_t, t: unwrap_logits(module(x_t, **options)))


def with_block_size(module: nn.Module, block_size: int | None) -> Call:
    """Rows in groups of equal length; the module makes its block mask itself."""
    return unpadded(lambda x_t, t: unwrap_logits(module(x_t, block_size=block_size)))


def with_additive_mask(module: nn.Module, block_size: int | None) -> Call:
    """A mask ``[n, 1, length, length]`` that is added to attention scores, and positions."""
    return partial(_masked, module, block_size, False)


def with_boolean_mask(module: nn.Module, block_size: int | None) -> Call:
    """A mask ``[n, 1, length, length]`` that is True at what is read, and positions."""
    return partial(_masked, module, block_size, True)


def _masked(
    module: nn.Module, block_size: int | None, boolean: bool, x_t: Tensor, t: Tensor, attention_mask: Tensor | None
) -> Tensor:
    n, length = x_t.shape
    visible = visible_positions(length, block_size, attention_mask, x_t.device)
    mask = added_to_scores(visible, length, like=next(module.parameters()))
    mask = (mask == 0 if boolean else mask).expand(n, 1, length, length)
    positions = torch.arange(length, device=x_t.device).expand_as(x_t)
    return unwrap_logits(module(x_t, attention_mask=mask, position_ids=positions, use_cache=False))


def without_mask_unless_blocks(module: nn.Module, block_size: int | None) -> Call:
    """`without_mask` where all sides are seen; a mask of blocks is added to scores."""
    return (without_mask if block_size is None else with_additive_mask)(module, block_size)


def as_dream(module: nn.Module, block_size: int | None) -> Call:
    """``attention_mask="full"``, or, with padding, which keys are real, bool ``[n, 1, length, length]``; positions."""

    def call(x_t: Tensor, t: Tensor, attention_mask: Tensor | None) -> Tensor:
        n, length = x_t.shape
        positions = torch.arange(length, device=x_t.device).expand_as(x_t)
        if attention_mask is None or attention_mask.all():
            return unwrap_logits(module(x_t, attention_mask="full", position_ids=positions))
        real = attention_mask.bool()[:, None, None].expand(n, 1, length, length)
        return unwrap_logits(module(x_t, attention_mask=real, position_ids=positions))

    return call
