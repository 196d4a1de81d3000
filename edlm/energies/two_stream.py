"""Transformer blocks of the residual head: tokens of a step attend to the denoiser's states and to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edlm.modules import apply_to_few


@dataclass
class Memory:
    """Keys and values of one block at every position of each row, shared by the row's candidates.

    Attributes:
        keys: Rotated, shape ``[rows, heads, length, head_size]``.
        values: The same shape.
    """

    keys: Tensor
    values: Tensor

    def write(self, rows: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Replace stale entries in place by ``[..., heads, head_size]`` at ``rows[...]``, ``positions[...]``."""
        self.keys[rows, :, positions] = keys
        self.values[rows, :, positions] = values

    def with_tokens(self, positions: Tensor, valid: Tensor, own: Own) -> Memory:
        """A copy with the tokens of ``own`` (one candidate) at ``positions[rows, n]`` where ``valid``."""
        rows, places = valid.nonzero(as_tuple=True)
        at = positions[rows, places]
        keys, values = self.keys.clone(), self.values.clone()
        keys[rows, :, at] = own.keys[rows, :, 0, places]
        values[rows, :, at] = own.values[rows, :, 0, places]
        return Memory(keys, values)


@dataclass
class Own:
    """Keys and values of each candidate's own tokens, shape ``[rows, heads, k, n, head_size]``."""

    keys: Tensor
    values: Tensor


class Rotary(nn.Module):
    """Rotary position embedding, rotate-half form.

    References:
        Su et al. 2021, arXiv:2104.09864.
    """

    def __init__(self, head_size: int, theta: float):
        super().__init__()
        frequencies = 1.0 / theta ** (torch.arange(0, head_size, 2).float() / head_size)
        self.register_buffer("frequencies", frequencies.repeat(2), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine, and sine (minus in the first half), of positions ``[rows, n]``: ``[rows, 1, 1, n, head_size]``."""
        angles = positions[:, None, None, :, None] * self.frequencies
        sine = angles.sin()
        return angles.cos(), torch.cat([-sine[..., : sine.shape[-1] // 2], sine[..., sine.shape[-1] // 2 :]], -1)


def _rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    return torch.addcmul(x * angles[0], x.roll(x.shape[-1] // 2, -1), angles[1])


class Block(nn.Module):
    """Pre-norm Transformer block whose queries may come from other tokens than its keys.

    Args:
        width: Size of a token's state.
        num_heads: Attention heads.
        intermediate_size: Size of the gated feed-forward layer.
        norm_eps: Of the layer norms (which have no bias).
    """

    def __init__(self, width: int, num_heads: int, intermediate_size: int, norm_eps: float):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width, eps=norm_eps, bias=False)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = nn.LayerNorm(width, eps=norm_eps, bias=False)
        self.feed_forward_in = nn.Linear(width, 2 * intermediate_size, bias=False)
        self.feed_forward_out = nn.Linear(intermediate_size, width, bias=False)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).permute(0, 3, 1, 2, 4)

    def own(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Own:
        """Keys and values of tokens ``x[rows, k, n, width]``."""
        keys, values = self.key_value(self.attention_norm(x)).chunk(2, -1)
        return Own(_rotate(self._heads(keys), angles), self._heads(values))

    def memory(self, states: Tensor, angles: tuple[Tensor, Tensor]) -> Memory:
        """Keys and values of the denoiser's states ``[rows, length, width]``."""
        own = self.own(states[:, None], angles)
        return Memory(own.keys[:, :, 0].contiguous(), own.values[:, :, 0].contiguous())

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        memory: Memory,
        memory_visible: Tensor | None = None,
        own: Own | None = None,
        own_visible: Tensor | None = None,
    ) -> Tensor:
        """Update tokens ``x[rows, k, n, width]``.

        Args:
            x: Their states.
            angles: Of their positions.
            memory: Attended to by all candidates of a row.
            memory_visible: Which token sees which position, bool ``[rows, n, length]``; all if None.
            own: Tokens of the same candidate.
            own_visible: Which token sees which of them, bool ``[rows, n, m]``.
        """
        query = _rotate(self._heads(self.query(self.attention_norm(x))), angles)
        mixed = _attend(query, memory, memory_visible, own, own_visible)
        return self._finish(x, mixed.permute(0, 2, 3, 1, 4).flatten(-2))

    def next_key_value(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of tokens ``x[rows, n, width]``, each ``[rows, n, heads, head_size]``."""
        both = apply_to_few(self.key_value, self.attention_norm(x))
        keys, values = both.unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        return _rotate(keys, angles), values

    def next_state(self, x: Tensor, angles: tuple[Tensor, Tensor], memory: Memory, seen: Tensor | None) -> Tensor:
        """Update tokens ``x[rows, n, width]`` that attend to the memory of their row and to nothing else."""
        seen = seen[:, None] if seen is not None else None
        query = apply_to_few(self.query, self.attention_norm(x)).unflatten(-1, (self.num_heads, -1))
        query = _rotate(query, angles).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, memory.keys, memory.values, attn_mask=seen)
        return self._finish(x, mixed.transpose(1, 2).flatten(-2), apply_to_few)

    def _finish(self, x: Tensor, mixed: Tensor, apply: Callable[..., Tensor] = nn.Module.__call__) -> Tensor:
        x = x + apply(self.attention_out, mixed)
        hidden, gate = apply(self.feed_forward_in, self.feed_forward_norm(x)).chunk(2, -1)
        return x + apply(self.feed_forward_out, F.gelu(hidden) * gate)


def _attend(
    query: Tensor, memory: Memory, memory_visible: Tensor | None, own: Own | None, own_visible: Tensor | None
) -> Tensor:
    """One softmax over the shared memory and the candidate's own tokens; ``[rows, heads, k, n, head_size]``.

    The memory is never copied for the k candidates: their queries form one sequence.
    """
    rows, heads, k, n, size = query.shape
    flat = query.reshape(rows, heads, k * n, size) * size**-0.5
    scores = (flat @ memory.keys.transpose(-1, -2)).view(rows, heads, k, n, -1)
    if memory_visible is not None:
        scores = scores.masked_fill(~memory_visible[:, None, None], -torch.inf)
    if own is None:
        return (scores.softmax(-1).view(rows, heads, k * n, -1) @ memory.values).view_as(query)
    own_scores = (query * size**-0.5) @ own.keys.transpose(-1, -2)
    own_scores = own_scores.masked_fill(~own_visible[:, None, None], -torch.inf)
    share = torch.cat([scores, own_scores], -1).softmax(-1)
    of_memory, of_own = share.split([scores.shape[-1], own_scores.shape[-1]], -1)
    from_memory = (of_memory.reshape(rows, heads, k * n, -1) @ memory.values).view_as(query)
    return from_memory + of_own @ own.values
