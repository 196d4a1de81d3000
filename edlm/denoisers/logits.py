"""A module that gives logits, as a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edlm.denoisers.base import Denoiser
from edlm.denoisers.identity import DenoiserIdentity, identity_of


class LogitsDenoiser(Denoiser):
    """A module that gives logits at all positions at once; it keeps no hidden states.

    Args:
        module: The network.
        call: ``call(x_t[n, length], t[n], attention_mask[n, length] or None) -> logits[n, length, vocab_size]``;
            must leave padding out of what it gives at real positions.
        mask_token_id: Inside or outside (``= vocab_size``) the columns.
        vocab_size: Width of the logits.
        impossible_token_ids: Tokens that text never holds.
        tokenizer: Its tokenizer, or None.
        name: What the identity calls it.
        attributes: Those of `Denoiser` that differ from their defaults, such as ``shift`` or ``max_length``.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        *,
        mask_token_id: int,
        vocab_size: int,
        impossible_token_ids: tuple[int, ...] = (),
        tokenizer: Any = None,
        name: str | None = None,
        **attributes: Any,
    ):
        super().__init__(mask_token_id, vocab_size, impossible_token_ids)
        self.network = module
        self.call = call
        self.tokenizer = tokenizer
        self.name = name or name_of(module)
        set_attributes(self, attributes)

    def encode_tokens(
        self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None, keep_hidden: bool
    ) -> tuple[Callable[[], Tensor], None]:
        logits = self.call(x_t, t, attention_mask)
        expected = (*x_t.shape, self.vocab_size)
        if tuple(logits.shape) != expected:
            raise ValueError(f"{self.name} must give logits of shape {expected}, got {tuple(logits.shape)}")
        features = shifted(logits) if self.shift else logits
        return lambda: features, None

    def decode(self, features: Tensor) -> Tensor:
        return features

    @property
    def identity(self) -> DenoiserIdentity:
        return identity_of(self, self.network, self.name)


def shifted(table: Tensor) -> Tensor:
    """Move ``[n, length, width]`` one position to the right; the first position keeps its own."""
    return torch.cat([table[:, :1], table[:, :-1]], 1)


def name_of(module: nn.Module) -> str:
    """Name of the checkpoint that a module was loaded from, else of its class."""
    return getattr(getattr(module, "config", None), "name_or_path", None) or type(module).__name__


def unused_columns(tokenizer: Any, vocab_size: int) -> tuple[int, ...]:
    """Columns beyond the tokenizer's vocabulary, which pad the logits to a round number."""
    return tuple(range(len(tokenizer), vocab_size)) if tokenizer is not None else ()


def set_attributes(denoiser: Denoiser, attributes: dict[str, Any]) -> None:
    """Set attributes that `Denoiser` declares.

    Raises:
        TypeError: it declares no such attribute.
    """
    for name, value in attributes.items():
        if name not in Denoiser.__annotations__:
            raise TypeError(f"{type(denoiser).__name__} has no attribute {name!r}")
        setattr(denoiser, name, value)
