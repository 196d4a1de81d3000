"""A module that gives logits, as a denoiser."""

from collections.abc import Callable
from typing import Any

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
