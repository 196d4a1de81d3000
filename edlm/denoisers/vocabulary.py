"""Tokens of a denoiser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from edlm.corpus.blocks import TokenBlocks
from edlm.corpus.tokens import PLAIN, is_of_chat, never_in_text, token_id, vocabulary_fingerprint
from edlm.rules import check, check_unicode, shown

_ROWS = 2**13  # whose tokens are counted at a time


class Frame(NamedTuple):
    """Tokens before and after a text."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a denoiser, and what frames its texts.

    Attributes:
        size: Width of the logits.
        mask_token_id: The mask token; may lie outside the logits (``= size``).
        impossible: Columns that get no mass, sorted: the mask's, if it has one, and those that text never holds.
        prefix_ids: Tokens before the text: ``[CLS]``, a begin-of-sequence token, a separator of documents.
        suffix_ids: Tokens after the text, such as ``[SEP]``.
        is_framed: Whether prefix and suffix surround every sequence, so that they are always given; else a prefix
            only marks the start of a text, and may be absent.
        eos_token_id: The token that ends a text, or None.
        tokenizer: The matching tokenizer, or None.

    Raises:
        ValueError: the mask token lies outside ``0..size``.
    """

    size: int
    mask_token_id: int
    impossible: tuple[int, ...] = ()
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    is_framed: bool = False
    eos_token_id: int | None = None
    tokenizer: Any = None

    def __post_init__(self) -> None:
        for name, field in (("vocab_size", "size"), ("mask_token_id", "mask_token_id")):
            object.__setattr__(self, field, check(name, getattr(self, field), int))
        if not 0 <= self.mask_token_id <= self.size:
            raise ValueError(f"mask_token_id must lie in 0..vocab_size ({self.size}), got {self.mask_token_id}")
        impossible = {*self.impossible, self.mask_token_id} - {self.size}
        object.__setattr__(self, "impossible", tuple(sorted(impossible)))

    @classmethod
    def of(cls, tokenizer: Any, size: int, mask_token_id: int, **others: Any) -> Vocabulary:
        """The vocabulary of a tokenizer (or None); columns beyond it pad the logits, and are impossible."""
        padding = range(len(tokenizer), size) if tokenizer is not None else ()
        impossible = (*others.pop("impossible", ()), *padding)
        return cls(size, mask_token_id, impossible, tokenizer=tokenizer, **others)

    @classmethod
    def of_masked_lm(cls, tokenizer: Any, size: int, mask_token_id: int | None = None) -> Vocabulary:
        """The vocabulary of a masked LM; its mask is by default the tokenizer's.

        Tokenizers like BERT's are recognised by their ``[CLS]`` token: ``[CLS] text [SEP]``; those of chat models frame
        nothing, and ``[PAD]`` ends a text. Of others only the mask
        is never text: their end-of-sequence token may separate documents, as in what ``edlm prepare corpus`` writes;
        it comes before a prompt.

        Raises:
            ValueError: no mask token is known.
        """
        if mask_token_id is None:
            mask_token_id = token_id(tokenizer, "mask")
        if mask_token_id is None:
            raise ValueError("a denoiser needs a mask token: give mask_token_id, or a tokenizer that has one")
        cls_id, sep, eos = (token_id(tokenizer, kind) for kind in ("cls", "sep", "eos"))
        framing = {"prefix_ids": () if eos is None else (eos,)}
        if is_of_chat(tokenizer):
            eos = token_id(tokenizer, "pad")
            framing = {"impossible": never_in_text(tokenizer)}
        elif cls_id is not None:
            end = eos if sep is None else sep
            framing = {"prefix_ids": (cls_id,), "suffix_ids": () if end is None else (end,), "is_framed": True}
            framing["impossible"] = never_in_text(tokenizer)
        return cls.of(tokenizer, size, mask_token_id, eos_token_id=eos, **framing)

    @property
    def frame_ids(self) -> Frame:
        """Tokens that surround every text; none where a prefix only marks a start."""
        return Frame(tuple(self.prefix_ids), tuple(self.suffix_ids)) if self.is_framed else Frame()

    @property
    def frame_length(self) -> int:
        """Number of `frame_ids`."""
        return sum(map(len, self.frame_ids))

    @property
    def possible_ids(self) -> torch.Tensor:
        """The tokens that may be written, ascending."""
        possible = torch.ones(self.size, dtype=torch.bool)
        possible[list(self.impossible)] = False
        return possible.nonzero()[:, 0]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the tokenizer's tokens and their ids; "" without a tokenizer."""
        return vocabulary_fingerprint(self.tokenizer)

    def tokens_of(self, text: str) -> tuple[list[int], int]:
        """Tokens of running text that the denoiser may write, without a frame; and the number of those left out.

        Special tokens that are spelled out are text. As in a corpus, what cannot be written is left out: the mask, in
        vocabularies that hold it as a piece of text, and of tokenizers like BERT's unknown words.
        """
        if self.tokenizer is None:
            raise ValueError(f"text needs a denoiser with a tokenizer, got one without, and {shown(text)}")
        tokens = self.tokenizer(check_unicode("text", text), **PLAIN)["input_ids"]
        never = {*self.impossible, self.mask_token_id}
        kept = [token for token in tokens if token not in never]
        return kept, len(tokens) - len(kept)

    def check_blocks(self, *several: TokenBlocks) -> None:
        """Refuse blocks that are no text of this denoiser, before anything is computed from them.

        Raises:
            ValueError: they were made with another tokenizer, where both are known; or hold a token that gets no mass.
        """
        for blocks in several:
            if blocks.vocabulary and self.fingerprint and blocks.vocabulary != self.fingerprint:
                got = f"{blocks.vocabulary} and {self.fingerprint}"
                raise ValueError(f"blocks must be made with the tokenizer of the denoiser, got vocabularies {got}")
            if wrong := _counts_of_impossible(blocks.tokens, self.size, self.impossible):
                token, count = next(iter(wrong.items()))
                named = self.tokenizer is not None and token < self.size
                name = f" {self.tokenizer.convert_ids_to_tokens(token)!r}" if named else ""
                got = f"{count} of{name} (id {token})"
                raise ValueError(
                    f"blocks must hold no token that the denoiser rules out, got {got}: prepare the corpus anew"
                )


def _counts_of_impossible(tokens: torch.Tensor, size: int, impossible: Collection[int]) -> dict[int, int]:
    """How often each id occurs that is impossible or beyond the size; in parts: tokens may be mapped from a file."""
    never, counts = torch.tensor([*impossible], dtype=torch.long), Counter()
    for rows in tokens.split(_ROWS):
        ids = rows.flatten().long()
        ids, numbers = ids[(ids < 0) | (ids >= size) | torch.isin(ids, never)].unique(return_counts=True)
        counts.update(dict(zip(ids.tolist(), numbers.tolist(), strict=True)))
    return dict(sorted(counts.items()))


def first_given(*values: int | None, of: str) -> int:
    """The first that is not None; ValueError if all are, which names what is missing (``of``)."""
    for value in values:
        if value is not None:
            return value
    raise ValueError(f"{of} must be given: neither the checkpoint nor its tokenizer says it")
