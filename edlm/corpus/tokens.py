"""What a tokenizer says of the tokens of running text."""

import hashlib
from collections.abc import Collection
from typing import Any, Literal

SEPARATOR = "<|endoftext|>"  # of documents, in text and in tokenizers that are trained here
PLAIN = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False, "verbose": False}


def token_id(tokenizer: Any, kind: Literal["mask", "bos", "eos", "cls", "sep", "pad", "unk"]) -> int | None:
    """Id of a special token; None without a tokenizer, or if it has none."""
    return getattr(tokenizer, f"{kind}_token_id", None)


def digest(content: bytes) -> str:
    """First 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def vocabulary_fingerprint(tokenizer: Any) -> str:
    """Digest of the tokenizer's tokens and their ids; "" without a tokenizer."""
    return "" if tokenizer is None else digest(repr(sorted(tokenizer.get_vocab().items())).encode())


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Digest of all that decides the tokens of a text: rules, merges, and which tokens are special."""
    special = {kind: token_id(tokenizer, kind) for kind in ("mask", "bos", "eos", "cls", "sep", "pad", "unk")}
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else vocabulary_fingerprint(tokenizer)
    return digest(f"{special} {rules}".encode())


def is_of_chat(tokenizer: Any) -> bool:
    """Whether a tokenizer with a ``[CLS]`` token is that of a chat model, such as dllm's of ModernBERT.

    It has a chat template, or the ``[/Answer]`` token of dllm's. Such a model is trained on chats without a frame, and
    to write ``[PAD]`` after its answer.
    """
    if token_id(tokenizer, "cls") is None:
        return False
    return getattr(tokenizer, "chat_template", None) is not None or "[/Answer]" in tokenizer.get_vocab()


def never_in_text(tokenizer: Any) -> frozenset[int]:
    """Tokens that running text never holds.

    That is the mask; and where there is a ``[CLS]`` token, as in BERT's tokenizer, whatever frames a text, pads it, or
    stands for a word that is unknown: such a masked LM is trained to write none of them, but for ``[PAD]`` in chats.
    Of other tokenizers, an end-of-sequence token separates documents, and text may hold unknown words.
    """
    never = {token_id(tokenizer, "mask")}
    if token_id(tokenizer, "cls") is not None:
        end = "eos" if token_id(tokenizer, "sep") is None else "sep"
        never |= {token_id(tokenizer, kind) for kind in ("cls", end, "bos", "unk")}
        if not is_of_chat(tokenizer):
            never.add(token_id(tokenizer, "pad"))
    return frozenset(never - {None})


def separator_of(tokenizer: Any, never: Collection[int]) -> list[int]:
    """Tokens between documents: the eos, or else the sep token; where text holds neither, a blank line.

    Of a blank line, tokenizers like BERT's make no token at all: documents then follow each other.

    Raises:
        ValueError: a tokenizer that has neither eos, sep nor cls token.
    """
    ends = [token_id(tokenizer, kind) for kind in ("eos", "sep")]
    if possible := [i for i in ends if i is not None and i not in never]:
        return possible[:1]
    if ends == [None, None]:
        raise ValueError(f"tokenizer must have an eos or sep token, got {type(tokenizer).__name__} with neither")
    return [i for i in tokenizer("\n\n", **PLAIN)["input_ids"] if i not in never]
