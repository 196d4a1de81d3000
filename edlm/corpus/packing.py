"""Documents in, blocks of tokens of one length out."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from edlm.corpus.blocks import TokenBlocks
from edlm.corpus.text import TooFewDocumentsError
from edlm.corpus.tokens import PLAIN, never_in_text, separator_of, vocabulary_fingerprint

logger = logging.getLogger(__name__)
_DOCUMENTS, _CHARACTERS = 1000, 2**20  # that are tokenised together

Write = Callable[[np.ndarray, np.ndarray], None]
"""Takes further blocks, int64 ``[n, length]``, and for each the document that most of its tokens are of, ``[n]``."""


def pack_documents(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int, never: Collection[int] | None = None
) -> TokenBlocks:
    """Cut ``sep doc sep doc ... sep`` into blocks of ``length`` tokens; the last, incomplete one is dropped (logged).

    Args:
        documents: Texts. Special tokens spelled out in them are encoded as ordinary text.
        tokenizer: Any fast one; `separator_of` says what separates documents.
        length: Tokens per block.
        never: Tokens that the model rules out, which are left out, with their characters (logged); by default what
            `never_in_text` says of the tokenizer.

    Raises:
        TooFewDocumentsError: less than one block.
        ValueError: ``length`` < 1, or a tokenizer that is not fast or has nothing to separate documents by.

    Example:
        >>> from edlm.corpus.text import train_tokenizer
        >>> tokenizer = train_tokenizer(["ab"], kind="character")
        >>> pack_documents(["ab", "a"], tokenizer, 3).tokens.tolist()  # sep a b, sep a sep
        [[0, 3, 4], [0, 3, 0]]
    """
    packer, pieces = Packer(tokenizer, length, never), []
    packer.add(documents, lambda *blocks: pieces.append(blocks))
    counts, made_by = packer.counts(), vocabulary_fingerprint(tokenizer)
    tokens, owners = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*pieces, strict=True))
    return TokenBlocks(tokens, **counts, documents=owners, vocabulary=made_by)


class _Waiting(NamedTuple):
    """A document with tokens that are in no block yet: of the stream's, those from start to end, with a separator."""

    text: str
    start: int
    end: int
    is_lacking: bool


@dataclass
class PackerState:
    """What a `Packer` has seen; JSON values."""

    num_documents: int = 0
    num_tokens: int = 0
    num_left_out: int = 0
    num_unknown: int = 0
    num_characters: int = 0
    num_blocks: int = 0
    rest: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    waiting: list[_Waiting] = field(default_factory=list)

    @classmethod
    def restored(cls, values: dict[str, Any]) -> "PackerState":
        """Of what JSON made of one's ``vars``."""
        return cls(**{**values, "waiting": [_Waiting(*document) for document in values["waiting"]]})


class Packer:
    """Packs documents as they arrive, as `pack_documents` does all together; arguments and errors are its own.

    Attributes:
        state: Packs on from there, in a packer of the same arguments.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int, never: Collection[int] | None):
        if length < 1:
            raise ValueError(f"length must be >= 1, got {length}")
        if not tokenizer.is_fast:
            raise ValueError(f"tokenizer must be fast, got {type(tokenizer).__name__}")
        self._tokenizer, self._length = tokenizer, length
        self._never = sorted(never_in_text(tokenizer) if never is None else never)
        self._separator = separator_of(tokenizer, self._never)
        unknown = tokenizer.unk_token_id
        self._unknown = -1 if unknown is None or unknown in self._separator else unknown
        size = len(self._separator)
        self.state = PackerState(num_tokens=size, rest=[*self._separator], owners=[0] * size)

    def add(self, documents: Iterable[str], write: Write, max_tokens: float = np.inf) -> bool:
        """Pack further documents, up to the one with which there are so many tokens.

        Returns:
            Whether there are.
        """
        for texts in batches(documents):
            if self.state.num_tokens >= max_tokens:
                return True
            self._add(texts, write, max_tokens)
        return self.state.num_tokens >= max_tokens

    def _add(self, texts: list[str], write: Write, max_tokens: float) -> None:
        state, length = self.state, self._length
        pieces = [np.array([*ids, *self._separator], int) for ids in self._tokenizer(texts, **PLAIN)["input_ids"]]
        stream, owners = np.concatenate(pieces), np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
        is_kept = ~np.isin(stream, self._never)
        lacking = np.bincount(owners[~is_kept], minlength=len(pieces))
        ends = state.num_tokens + np.cumsum(np.bincount(owners[is_kept], minlength=len(pieces)))
        taken = min(len(texts), int(np.searchsorted(ends, max_tokens)) + 1)
        is_kept &= owners < taken
        stream = np.concatenate([np.array(state.rest, int), stream[is_kept]])
        owners = np.concatenate([np.array(state.owners, int), owners[is_kept] + state.num_documents])
        starts = [state.num_tokens, *ends.tolist()]
        state.waiting += [_Waiting(texts[i], starts[i], starts[i + 1], bool(lacking[i])) for i in range(taken)]
        state.num_documents, state.num_tokens = state.num_documents + taken, starts[taken]
        state.num_left_out += int(lacking[:taken].sum())
        state.num_unknown += int((stream[len(state.rest) :] == self._unknown).sum())
        if whole := len(stream) // length:
            of_blocks = torch.from_numpy(owners[: whole * length]).view(-1, length)
            owner = of_blocks.mode(1).values  # of a tie, the earlier document
            write(stream[: whole * length].reshape(-1, length), owner.numpy())
        state.num_blocks += whole
        state.rest, state.owners = stream[whole * length :].tolist(), owners[whole * length :].tolist()
        kept, ready = state.num_blocks * length, 0
        while ready < len(state.waiting) and state.waiting[ready].end - len(self._separator) <= kept:
            document = state.waiting[ready]
            state.num_characters += self._num_characters(document.text) if document.is_lacking else len(document.text)
            ready += 1
        del state.waiting[:ready]

    def counts(self) -> dict[str, int]:
        """Counts of `TokenBlocks`; what is unusual is logged.

        Raises:
            TooFewDocumentsError: less than one block.
        """
        state, kept = self.state, self.state.num_blocks * self._length
        if state.num_left_out:
            seen = state.num_tokens + state.num_left_out
            logger.warning("left out %d of %d tokens, which the model never writes", state.num_left_out, seen)
        if not kept:
            raise TooFewDocumentsError(
                f"documents must fill one block of {self._length} tokens, got {state.num_tokens} tokens"
            )
        num_characters = state.num_characters
        if state.waiting and kept > state.waiting[0].start:  # a character cut between two byte tokens counts
            num_characters += self._num_characters(state.waiting[0].text, kept - state.waiting[0].start)
        if state.num_unknown:
            logger.warning(
                "%d of %d tokens are unknown: bits per character will be too low", state.num_unknown, state.num_tokens
            )
        dropped = state.num_tokens - kept
        logger.info("packed %d blocks; dropped the last %d of %d tokens", state.num_blocks, dropped, state.num_tokens)
        return {
            "num_documents": state.num_documents,
            "num_tokens": state.num_tokens,
            "num_dropped": dropped,
            "num_characters": num_characters,
        }

    def _num_characters(self, text: str, num_tokens: int | None = None) -> int:
        """Characters of a text, or of its first tokens, without those of tokens that are left out."""
        encoded = self._tokenizer(text, **PLAIN, return_offsets_mapping=True)
        tokens = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
        end = len(text)
        if num_tokens is not None:
            end = [stop for token, (_, stop) in tokens if token not in self._never][num_tokens - 1]
        return end - sum(stop - start for token, (start, stop) in tokens if token in self._never and stop <= end)


def batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents that are read and tokenised together."""
    batch, size = [], 0
    for text in documents:
        batch.append(text)
        size += len(text)
        if len(batch) == _DOCUMENTS or size >= _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
