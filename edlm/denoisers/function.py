"""A denoiser made of a function."""

from collections.abc import Callable

from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.denoisers.vocabulary import Vocabulary
from edlm.rules import shown


class FunctionDenoiser(Denoiser):
    """A denoiser from a function, for oracles and quick experiments.

    Args:
        f: ``f(x_t[batch, length], t[batch]) -> log_probs[batch, length, vocab_size]``, nats; need not be
            normalised, and may return an expanded view (it is never written into). Rows in which no
            token is due are left out of the call.
        mask_token_id: Outside (``= vocab_size``) or inside the columns, which then get no mass.
        vocab_size: Number of columns.

    Example:
        >>> import torch
        >>> uniform = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), mask_token_id=4, vocab_size=4)
        >>> uniform.log_probs(torch.tensor([[4, 2]])).exp()
        tensor([[[0.2500, 0.2500, 0.2500, 0.2500],
                 [0.0000, 0.0000, 1.0000, 0.0000]]])
    """

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor], mask_token_id: int, vocab_size: int):
        super().__init__(Vocabulary(vocab_size, mask_token_id), time_conditioned=True)
        self.f = f

    def encode_tokens(
        self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None, keep_hidden: bool
    ) -> tuple[Callable[[], Tensor], None]:
        log_probs = self.f(x_t, t)
        expected, is_table = (*x_t.shape, self.vocab_size), isinstance(log_probs, Tensor)
        if not is_table or not log_probs.is_floating_point() or tuple(log_probs.shape) != expected:
            got = f"{log_probs.dtype} {tuple(log_probs.shape)}" if is_table else shown(log_probs)
            raise ValueError(f"f must return log_probs, a floating-point tensor of shape {expected}, got {got}")
        return lambda: log_probs, None

    def decode(self, features: Tensor) -> Tensor:
        return features
