"""Whether two tokenizers give the same ids to the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edlm.denoisers.base import Denoiser

_SHOWN = 3


def check_same_tokens(tokenizer: Any, denoiser: Denoiser, reader: str, advice: str) -> None:
    """Refuse a denoiser whose tokens are not those of a tokenizer, where both are known.

    Only ids that both have are compared, and none that the denoiser never writes (its mask, padded columns).

    Args:
        tokenizer: Of the energy, or None.
        denoiser: What writes the tokens.
        reader: What the energy's side is called in the message.
        advice: What to do instead, the end of the message.

    Raises:
        ValueError: names the first ids that differ.
    """
    if tokenizer is None or denoiser.tokenizer is None:
        return
    theirs, ours = token_names(tokenizer), token_names(denoiser.tokenizer)
    never = {denoiser.mask_token_id, *denoiser._impossible.tolist()}
    differing = [i for i in sorted(theirs.keys() & ours.keys()) if theirs[i] != ours[i] and i not in never]
    if differing:
        shown = ", ".join(f"{i} ({ours[i]!r}, {reader}: {theirs[i]!r})" for i in differing[:_SHOWN])
        raise ValueError(
            f"{reader} must give the denoiser's tokens the same ids, got {len(differing)} ids that differ, "
            f"the first: {shown}; {advice}"
        )


def token_names(tokenizer: Any) -> Mapping[int, str]:
    """Tokens by id."""
    return {index: token for token, index in tokenizer.get_vocab().items()}
