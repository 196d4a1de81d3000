"""Shape of a residual head, and its start from the denoiser's last blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from edlm.denoisers.base import Denoiser
from edlm.energies.two_stream import Block


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Options of a new head for a denoiser.

    Args:
        num_blocks: Transformer blocks; block ``b`` of ``B`` reads the states that enter the denoiser's
            block ``b - B`` from its end.
        start: "warm" (copies of the denoiser's last blocks, ModernBERT with global attention; their output takes the
            place of its features), "cold" (new blocks of any size, for any denoiser that keeps hidden states; their
            output is added to its features), or "auto": warm where that is possible and no size is given, else cold.
        blind: Make the control: the step's tokens do not see each other.
        num_listed: Tokens of each row that a normalised head corrects, the likeliest by the sum of the step's
            marginals; the others keep their shares among themselves. All tokens if None: where the vocabulary is
            large, most of a head's time is the output layer's.
        width: Cold start only: size of a token's state (the denoiser's by default).
        num_heads: Cold start only: attention heads (one for each 32 of width by default).
        intermediate_size: Cold start only: of the feed-forward layers (twice the width by default).
    """

    num_blocks: int = 1
    start: Literal["auto", "warm", "cold"] = "auto"
    blind: bool = False
    num_listed: int | None = None
    width: int | None = None
    num_heads: int | None = None
    intermediate_size: int | None = None

    def __post_init__(self) -> None:
        if self.num_listed is not None and self.num_listed < 1:
            raise ValueError(f"num_listed must be >= 1, or None for all tokens, got {self.num_listed}")


@dataclass(frozen=True, kw_only=True)
class HeadSettings(HeadOptions):
    """`HeadOptions` with all sizes filled in; saved with a head.

    Attributes:
        hidden_size: Size of the denoiser's states.
        rope_theta: Base of the rotary position embedding.
        norm_eps: Of the layer norms.
    """

    hidden_size: int
    rope_theta: float
    norm_eps: float

    @classmethod
    def fitting(cls, denoiser: Denoiser, options: HeadOptions) -> HeadSettings:
        """Settings that fit a denoiser.

        Raises:
            ValueError: a warm start is not possible, or was given sizes of its own.
        """
        config = getattr(getattr(denoiser, "network", None), "config", None)
        width, num_heads, intermediate_size = options.width, options.num_heads, options.intermediate_size
        problem = _problem(config, denoiser, options)
        if options.start == "warm" and problem:
            raise ValueError(problem)
        warm = options.start != "cold" and not problem
        if warm:
            width, num_heads = config.hidden_size, config.num_attention_heads
            intermediate_size = config.intermediate_size
        most = denoiser.num_blocks - warm  # the first block differs from the others
        if not 1 <= options.num_blocks <= most:
            raise ValueError(f"num_blocks must lie in 1..{most}, got {options.num_blocks}")
        width = width or denoiser.hidden_size
        num_heads = num_heads or max(1, width // 32)
        if width % (2 * num_heads):
            raise ValueError(f"width must be a multiple of 2 * num_heads = {2 * num_heads}, got {width}")
        sizes = {"width": width, "num_heads": num_heads, "intermediate_size": intermediate_size or 2 * width}
        return cls(
            **{**vars(options), **sizes, "start": "warm" if warm else "cold"},
            hidden_size=denoiser.hidden_size,
            rope_theta=config.rope_parameters["full_attention"]["rope_theta"] if warm else 10000.0,
            norm_eps=getattr(config, "norm_eps", 1e-5),
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


def _problem(config: Any, denoiser: Denoiser, options: HeadOptions) -> str:
    """Why a warm start is not possible; "" where it is."""
    if (options.width, options.num_heads, options.intermediate_size) != (None, None, None):
        return "a warm start takes the sizes of the denoiser's blocks: give none, or start='cold'"
    model_type = getattr(config, "model_type", None) or type(denoiser).__name__
    kinds = list(getattr(config, "layer_types", None) or [])[-options.num_blocks :]
    plain = model_type == "modernbert" and not (config.attention_bias or config.mlp_bias or config.norm_bias)
    if plain and config.hidden_activation == "gelu" and set(kinds) == {"full_attention"}:
        return ""
    return (
        "a warm start copies ModernBERT blocks with global attention, gelu and no biases "
        f"(global_attn_every_n_layers=1); got {model_type} with {kinds}: use start='cold'"
    )
