"""A denoiser pass that somebody else has run, as a denoiser with that one pass."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.denoisers.encoding import Encoding
from edlm.denoisers.identity import DenoiserIdentity
from edlm.denoisers.vocabulary import Vocabulary
from edlm.diffusion.slots import Slots


class GivenPass(Denoiser):
    """Marginals and states that the network of another library's loop gave; the rules are the denoiser's.

    Args:
        denoiser: The mask token, or a `Denoiser` of the same network: its vocabulary, identity, embeddings and output
            layer are then used. It is never run.
        logits: For the token at the same position, normalised or not, ``[batch, width, vocab_size]``.
        hidden: States that enter each block, each ``[batch, length, hidden_size]``; then, where known, the input of the
            output layer.
        index: Which position of the loop each position is, ``[batch, length]``; by default the same.
        offset: Position of the loop at which the logits begin.

    Raises:
        ValueError: logits or states have another shape than the denoiser's, or states come without a denoiser.
    """

    def __init__(
        self,
        denoiser: Denoiser | int,
        logits: Tensor,
        hidden: Sequence[Tensor] | None = None,
        index: Tensor | None = None,
        offset: int = 0,
    ):
        self._own = () if isinstance(denoiser, int) else (denoiser,)  # in a tuple: it is no part of this module
        size = logits.shape[-1]
        if self._own and size != denoiser.vocab_size:
            raise ValueError(f"logits must have vocab_size = {denoiser.vocab_size} columns, got {size}")
        super().__init__(denoiser.vocabulary if self._own else Vocabulary(size, denoiser))
        self._logits, self._index, self._offset = logits, index, offset
        self._hidden = None if hidden is None else self._states(list(hidden))
        self.to(logits.device)

    def encoding(self) -> Encoding:
        """The pass; its features are there if the input of the output layer was given."""
        entering = None if self._hidden is None else self._hidden[: self._own[0].num_blocks]
        return Encoding(self._features, entering, torch.arange(len(self._logits), device=self._logits.device))

    def slot_logits(self, encoding: Encoding | None, slots: Slots) -> Tensor:
        positions = slots.positions if self._index is None else slots.gather(self._index)
        return self._logits[slots.rows, positions - self._offset]

    def decode(self, features: Tensor) -> Tensor:
        return self._own[0].decode(features)

    @property
    def output_layer(self) -> Any:
        return self._own[0].output_layer if self._own else None

    def embed(self, tokens: Tensor) -> Tensor:
        return self._own[0].embed(tokens)

    def encode_tokens(self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None, keep_hidden: bool) -> Any:
        raise NotImplementedError("the loop runs the network")

    @property
    def hidden_size(self) -> int:
        return self._own[0].hidden_size if self._own else super().hidden_size

    @property
    def identity(self) -> DenoiserIdentity | None:
        return self._own[0].identity if self._own else None

    def _states(self, hidden: list[Tensor]) -> tuple[Tensor, ...]:
        if not self._own:
            raise ValueError("hidden needs the Denoiser whose states they are, got its mask token alone")
        (denoiser,), shapes = self._own, sorted({tuple(states.shape) for states in hidden})
        number, batch, size = denoiser.num_blocks, len(self._logits), denoiser.hidden_size
        if len(hidden) not in (number, number + 1) or len(shapes) != 1 or shapes[0][::2] != (batch, size):
            rule = f"{number} or {number + 1} tensors [{batch}, length, {size}]"
            raise ValueError(f"hidden must be {rule}, got {len(hidden)} of {[list(shape) for shape in shapes]}")
        if self._index is not None:
            hidden = [states.gather(1, self._index[..., None].expand(-1, -1, size)) for states in hidden]
        return tuple(hidden)

    def _features(self) -> Tensor:
        if self._hidden is None or len(self._hidden) == self._own[0].num_blocks:
            raise ValueError("hidden must hold the input of the output layer too, after the states that enter blocks")
        return self._hidden[-1]
