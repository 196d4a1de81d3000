"""Modules that predict the clean tokens and have no column for the mask: D3PM-absorb, MD4, flow_matching."""

from typing import Any, Literal

from torch import Tensor, nn

from edlm.corpus.tokens import never_in_text
from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.families.family import Family, LoadOptions, unwrap_logits
from edlm.denoisers.logits import LogitsDenoiser, unpadded
from edlm.denoisers.vocabulary import Vocabulary, first_given, token_id


def wrap(
    module: nn.Module,
    tokenizer: Any = None,
    *,
    mask_token_id: int | None = None,
    vocab_size: int | None = None,
    time_conditioned: bool = True,
    returns: Literal["logits", "probabilities"] = "logits",
    max_length: int | None = None,
) -> Denoiser:
    """A denoiser of a module that is called as ``module(x_t, t)``, or ``module(x_t)`` if not ``time_conditioned``.

    Rows are run in groups of equal length, since such modules take no attention mask.

    Args:
        module: Tokens ``[n, length]`` (and times ``[n]`` in [0, 1]) to ``[n, length, vocab_size]``.
        tokenizer: Its tokenizer, or None.
        mask_token_id: ``vocab_size`` by default: outside the columns.
        vocab_size: Number of columns; ``mask_token_id`` by default.
        time_conditioned: Whether it takes times.
        returns: ``"probabilities"`` for modules that end in a softmax.
        max_length: Longest sequence it takes.

    Raises:
        ValueError: neither id nor size is known, or ``returns`` is none of these.
    """
    if returns not in ("logits", "probabilities"):
        raise ValueError(f"returns must be 'logits' or 'probabilities', got {returns!r}")
    vocab_size = first_given(vocab_size, mask_token_id, of="vocab_size or mask_token_id")
    mask_token_id = first_given(mask_token_id, vocab_size, of="mask_token_id")

    def run(x_t: Tensor, t: Tensor) -> Tensor:
        output = unwrap_logits(module(x_t, t) if time_conditioned else module(x_t))
        return output.log() if returns == "probabilities" else output

    never = () if tokenizer is None else (token for token in never_in_text(tokenizer) if token < vocab_size)
    others = {"impossible": tuple(never), "eos_token_id": token_id(tokenizer, "eos")}
    vocabulary = Vocabulary.of(tokenizer, vocab_size, mask_token_id, **others)
    return LogitsDenoiser(module, unpadded(run), vocabulary, time_conditioned=time_conditioned, max_length=max_length)


def _load(checkpoint: Checkpoint, options: LoadOptions) -> Denoiser:
    raise ValueError(
        f"family 'x0_prediction' has no files of its own: build the module and use wrap_denoiser, got {checkpoint.path}"
    )


FAMILY = Family("x0_prediction", lambda checkpoint: False, _load, wrap)
