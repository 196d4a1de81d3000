"""Shape of a residual head, and its start from the denoiser's last blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from edlm.denoisers.base import Denoiser
from edlm.energies.two_stream import Block


@dataclass(frozen=True)
class HeadSettings:
    """Shape of a residual head.

    Attributes:
        form: ``"normalized"``: correction logits for one token after the other, ``Z = 1``.
            ``"unnormalized"``: one scalar for a group of tokens that see each other.
        num_blocks: Transformer blocks; block ``b`` of ``B`` reads the states that enter the denoiser's
            block ``b - B`` from its end.
        width: Size of a token's state.
        num_heads: Attention heads.
        intermediate_size: Of the feed-forward layers.
        hidden_size: Size of the denoiser's states.
        rope_theta: Base of the rotary position embedding.
        norm_eps: Of the layer norms.
        start: ``"warm"``: blocks are copies of the denoiser's last ones, and their output takes the place of
            its features. ``"cold"``: new blocks of any width, whose output is added to the features.
        blind: Control: tokens of a step do not see each other (normalized form).
    """

    form: Literal["normalized", "unnormalized"]
    num_blocks: int
    width: int
    num_heads: int
    intermediate_size: int
    hidden_size: int
    rope_theta: float
    norm_eps: float
    start: Literal["warm", "cold"]
    blind: bool = False


def fitting_settings(
    denoiser: Denoiser,
    *,
    form: str,
    num_blocks: int,
    start: str,
    blind: bool,
    width: int | None,
    num_heads: int | None,
    intermediate_size: int | None,
) -> HeadSettings:
    """Settings that fit a denoiser; for the arguments see `ResidualHead.from_denoiser`.

    Raises:
        ValueError: a warm start is not possible, or was given sizes of its own.
    """
    config = getattr(getattr(denoiser, "network", None), "config", None)
    if form not in ("normalized", "unnormalized"):
        raise ValueError(f"form must be 'normalized' or 'unnormalized', got {form!r}")
    if start == "warm":
        if (width, num_heads, intermediate_size) != (None, None, None):
            raise ValueError("a warm start takes the sizes of the denoiser's blocks: give none, or start='cold'")
        _check_warm(config, denoiser, num_blocks)
        width, num_heads = config.hidden_size, config.num_attention_heads
        intermediate_size = config.intermediate_size
    most = denoiser.num_blocks - (start == "warm")  # the first block differs from the others
    if not 1 <= num_blocks <= most:
        raise ValueError(f"num_blocks must lie in 1..{most}, got {num_blocks}")
    if blind and form != "normalized":
        raise ValueError(f"blind must be False for form {form!r}: a scalar that sees no tokens says nothing")
    width = width or denoiser.hidden_size
    num_heads = num_heads or max(1, width // 32)
    if width % (2 * num_heads):
        raise ValueError(f"width must be a multiple of 2 * num_heads = {2 * num_heads}, got {width}")
    return HeadSettings(
        form=form,
        num_blocks=num_blocks,
        width=width,
        num_heads=num_heads,
        intermediate_size=intermediate_size or 2 * width,
        hidden_size=denoiser.hidden_size,
        rope_theta=config.rope_parameters["full_attention"]["rope_theta"] if start == "warm" else 10000.0,
        norm_eps=getattr(config, "norm_eps", 1e-5),
        start=start,
        blind=blind,
    )


def copy_blocks(denoiser: Denoiser, blocks: Sequence[Block], final_norm: nn.LayerNorm) -> None:
    """Make blocks and norm copies of the denoiser's last ones: then ``q = p_theta``."""
    encoder = denoiser.network.base_model
    for block, layer in zip(blocks, encoder.layers[-len(blocks) :], strict=True):
        query, key, value = layer.attn.Wqkv.weight.detach().chunk(3)
        pairs = [
            (block.attention_norm, layer.attn_norm.weight),
            (block.query, query),
            (block.key_value, torch.cat([key, value])),
            (block.attention_out, layer.attn.Wo.weight),
            (block.feed_forward_norm, layer.mlp_norm.weight),
            (block.feed_forward_in, layer.mlp.Wi.weight),
            (block.feed_forward_out, layer.mlp.Wo.weight),
        ]
        for module, weight in pairs:
            module.weight.data.copy_(weight)
    final_norm.weight.data.copy_(encoder.final_norm.weight)


def _check_warm(config: Any, denoiser: Denoiser, num_blocks: int) -> None:
    model_type = getattr(config, "model_type", None) or type(denoiser).__name__
    kinds = list(getattr(config, "layer_types", None) or [])[-num_blocks:]
    plain = model_type == "modernbert" and not (config.attention_bias or config.mlp_bias or config.norm_bias)
    if not plain or config.hidden_activation != "gelu" or set(kinds) != {"full_attention"}:
        raise ValueError(
            "a warm start copies ModernBERT blocks with global attention, gelu and no biases "
            f"(global_attn_every_n_layers=1); got {model_type} with {kinds}: use start='cold'"
        )
