"""A module that gives logits, as a denoiser; padded rows for modules that know no padding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edlm.denoisers.network import NetworkDenoiser, shifted
from edlm.denoisers.vocabulary import Vocabulary


class LogitsDenoiser(NetworkDenoiser):
    """A module that gives logits at all positions at once; it keeps no hidden states.

    Args:
        module: The network.
        call: ``call(x_t[n, length], t[n], attention_mask[n, length] or None) -> logits[n, length, vocab_size]``;
            logits at real positions must not depend on padding.
        vocabulary: Its tokens.
        options: ``name`` and traits, as for `NetworkDenoiser`.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        vocabulary: Vocabulary,
        **options: Any,
    ):
        super().__init__(module, vocabulary, **options)
        self.call = call

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


def unpadded(run: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """``run(x_t[n, l], t[n]) -> features[n, l, width]`` for right-padded rows, each of which gives what it gives alone.

    Rows of equal length run together, without their padding; features are 0 there. The result is called with
    ``(x_t, t, attention_mask)``, and raises ValueError for a mask that has another shape than the tokens, is not right
    padding, or keeps no token.

    Example:
        >>> def running_mean(x_t, t):
        ...     return x_t.float().mean(1, keepdim=True).expand(x_t.shape)[..., None]
        >>> mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
        >>> unpadded(running_mean)(torch.tensor([[1, 3, 9], [1, 3, 8]]), torch.ones(2), mask)[..., 0]
        tensor([[2., 2., 0.],
                [4., 4., 4.]])
    """

    def call(x_t: Tensor, t: Tensor, attention_mask: Tensor | None) -> Tensor:
        if attention_mask is None:
            return run(x_t, t)
        lengths = _lengths(attention_mask, x_t)
        features = None
        for length in lengths[lengths > 0].unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            output = run(x_t[rows, :length], t[rows])
            if features is None:
                features = output.new_zeros(*x_t.shape, output.shape[-1])
            padded = torch.nn.functional.pad(output, (0, 0, 0, x_t.shape[1] - length))
            features = features.index_put((rows,), padded)
        if features is None:
            raise ValueError(f"attention_mask must keep some tokens, got a mask of {len(x_t)} rows that keeps none")
        return features

    return call


def _lengths(attention_mask: Tensor, x_t: Tensor) -> Tensor:
    """Lengths of right-padded rows, shape ``[batch]``."""
    if attention_mask.shape != x_t.shape:
        raise ValueError(
            f"attention_mask must have the shape {list(x_t.shape)} of the tokens, got {list(attention_mask.shape)}"
        )
    is_token = attention_mask.bool()
    has_gap = (is_token[:, 1:] & ~is_token[:, :-1]).any(1)
    if has_gap.any():
        row = int(has_gap.nonzero()[0, 0])
        raise ValueError(f"rows must be padded on the right, got {is_token[row].int().tolist()} in row {row}")
    return is_token.sum(1)
