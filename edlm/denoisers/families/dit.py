"""The diffusion transformer of the MDLM code base, without flash attention, under its published parameter names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FREQUENCY_SIZE, MAX_PERIOD, ROTARY_BASE, MLP_RATIO = 256, 10_000, 10_000, 4


@dataclass(frozen=True)
class DiTShape:
    """Sizes of a network.

    Attributes:
        vocab_size: Rows of the embedding and width of the logits, the mask included.
        hidden_size: Of the states.
        num_blocks: How many blocks.
        num_heads: Of each block; must divide ``hidden_size`` into heads of even size.
        cond_dim: Size of the condition that modulates all norms; None for an unconditioned network.
    """

    vocab_size: int
    hidden_size: int
    num_blocks: int
    num_heads: int
    cond_dim: int | None = None

    def __post_init__(self):
        for name in ("vocab_size", "hidden_size", "num_blocks", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size must be a multiple of twice num_heads ({self.num_heads}), got {self.hidden_size}"
            )


class DiT(nn.Module):
    """Token states, conditioned on the noise level ``sigma`` by adaptive layer norms; no dropout.

    Modules are defined in the published order, which is the order of averaged weights in Lightning checkpoints.

    References:
        Peebles & Xie 2023, arXiv:2212.09748; Lou et al. 2024, arXiv:2310.16834; Sahoo et al. 2024, arXiv:2406.07524.

    Example:
        >>> network = DiT(DiTShape(vocab_size=5, hidden_size=8, num_blocks=2, num_heads=2, cond_dim=6))
        >>> network(torch.tensor([[0, 4, 2]]), torch.zeros(1)).shape
        torch.Size([1, 3, 5])
    """

    def __init__(self, shape: DiTShape):
        super().__init__()
        self.shape = shape
        self.vocab_embed = nn.ParameterDict({"embedding": torch.empty(shape.vocab_size, shape.hidden_size)})
        nn.init.normal_(self.vocab_embed["embedding"], std=0.02)
        if shape.cond_dim is not None:
            self.sigma_map = _SigmaMap(shape.cond_dim)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.num_blocks))
        self.output_layer = _OutputLayer(shape)

    def embed(self, tokens: Tensor) -> Tensor:
        """States ``[..., hidden_size]`` that enter the first block."""
        return self.vocab_embed["embedding"][tokens]

    def run(
        self,
        tokens: Tensor,
        sigma: Tensor | None = None,
        visible: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        past: Any = None,
    ) -> tuple[Callable[[], Tensor], tuple[Tensor, ...]]:
        """Run all blocks but the last.

        Args:
            tokens: Shape ``[n, length]``.
            sigma: Noise levels, shape ``[n]``; not read without a condition.
            visible: Whether a position (row) reads a key (column), shape ``[n or 1, 1, length, keys]``.
            positions: Of the tokens, shape ``[n or 1, length]``; from 0 on by default.
            past: ``update(keys, values, layer)`` joins them with what it holds, as transformers' ``Cache``.

        Returns:
            What runs the last block and the last norm and gives the features ``[n, length, hidden_size]``; and
            the states that enter the blocks.
        """
        states, entering = self.embed(tokens), []
        condition = F.silu(self.sigma_map(sigma)) if self.shape.cond_dim is not None else None
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None] if positions is None else positions
        angles = _rotary_angles(positions, self.shape.hidden_size // self.shape.num_heads)
        of_layers = [_Attention(angles, visible, i, past) for i in range(len(self.blocks))]
        for block, attention in zip(self.blocks[:-1], of_layers, strict=False):
            entering.append(states)
            states = block(states, condition, attention)
        entering.append(states)

        def finish() -> Tensor:
            output = self.blocks[-1](states, condition, of_layers[-1])
            return self.output_layer.features(output, condition)

        return finish, tuple(entering)

    def forward(self, tokens: Tensor, sigma: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """Logits ``[n, length, vocab_size]``; arguments as for `run`."""
        return self.output_layer.linear(self.run(tokens, sigma, visible)[0]())


@dataclass(frozen=True)
class _Attention:
    """How the heads of a layer read.

    Attributes:
        angles: Cosines and sines of the positions, each ``[n or 1, 1, length, head_size / 2]``.
        visible, past: As for `DiT.run`.
        layer: Index of the layer.
    """

    angles: tuple[Tensor, Tensor]
    visible: Tensor | None
    layer: int
    past: Any

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.past is not None:
            key, value = self.past.update(key, value, self.layer)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.visible)


class _SigmaMap(nn.Module):
    """Sines and cosines of the noise level, through two layers."""

    def __init__(self, cond_dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCY_SIZE, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, sigma: Tensor) -> Tensor:
        half = FREQUENCY_SIZE // 2
        exponents = torch.arange(half, dtype=torch.float32, device=sigma.device) / half
        angles = sigma.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponents)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], -1).to(self.mlp[0].weight.dtype))


class _Block(nn.Module):
    def __init__(self, shape: DiTShape):
        super().__init__()
        size = shape.hidden_size
        self.num_heads = shape.num_heads
        self.norm1 = nn.LayerNorm(size, bias=False)
        self.attn_qkv = nn.Linear(size, 3 * size, bias=False)
        self.attn_out = nn.Linear(size, size, bias=False)
        self.norm2 = nn.LayerNorm(size, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(size, MLP_RATIO * size), nn.GELU(approximate="tanh"), nn.Linear(MLP_RATIO * size, size)
        )
        if shape.cond_dim is not None:
            self.adaLN_modulation = nn.Linear(shape.cond_dim, 6 * size)

    def forward(self, states: Tensor, condition: Tensor | None, attention: _Attention) -> Tensor:
        if condition is None:
            states = states + self._attend(self.norm1(states), attention)
            return states + self.mlp(self.norm2(states))
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.adaLN_modulation(condition)[:, None].chunk(6, -1)
        attended = self._attend(_modulate(self.norm1(states), shift_1, scale_1), attention)
        states = states + gate_1 * attended
        return states + gate_2 * self.mlp(_modulate(self.norm2(states), shift_2, scale_2))

    def _attend(self, states: Tensor, attention: _Attention) -> Tensor:
        packed = self.attn_qkv(states).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = _rotate(packed[:2], attention.angles)
        read = attention(query, key, packed[2])
        return self.attn_out(read.transpose(1, 2).flatten(2))


class _OutputLayer(nn.Module):
    def __init__(self, shape: DiTShape):
        super().__init__()
        self.norm_final = nn.LayerNorm(shape.hidden_size, bias=False)
        self.linear = nn.Linear(shape.hidden_size, shape.vocab_size)
        if shape.cond_dim is not None:
            self.adaLN_modulation = nn.Linear(shape.cond_dim, 2 * shape.hidden_size)

    def features(self, states: Tensor, condition: Tensor | None) -> Tensor:
        """What the linear layer reads."""
        if condition is None:
            return self.norm_final(states)
        return _modulate(self.norm_final(states), *self.adaLN_modulation(condition)[:, None].chunk(2, -1))


def _modulate(states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return states * (1 + scale) + shift


def _rotary_angles(positions: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of ``positions[n, length]``, ``[n, 1, length, head_size / 2]``, float32."""
    angles = positions[:, None, :, None].float() * rotary_frequencies(head_size).to(positions.device)
    return angles.cos(), angles.sin()


def rotary_frequencies(head_size: int) -> Tensor:
    """Radians a position, shape ``[head_size / 2]``; published checkpoints hold them as ``rotary_emb.inv_freq``."""
    return 1.0 / ROTARY_BASE ** (torch.arange(0, head_size, 2).float() / head_size)


def _rotate(heads: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn component i of a head with component i + head_size / 2; ``[..., length, head_size]``."""
    first, second = heads.float().chunk(2, -1)
    cos, sin = angles
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(heads.dtype)
