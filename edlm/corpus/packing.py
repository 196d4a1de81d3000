"""Documents in, blocks of tokens of one length out."""

import logging
from collections.abc import Collection

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from edlm.corpus.blocks import TokenBlocks
from edlm.corpus.text import TooFewDocumentsError
from edlm.corpus.tokens import PLAIN, never_in_text, separator_of, vocabulary_fingerprint

logger = logging.getLogger(__name__)


def pack_documents(
    documents: list[str], tokenizer: PreTrainedTokenizerBase, length: int, never: Collection[int] | None = None
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
    if length < 1:
        raise ValueError(f"length must be >= 1, got {length}")
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer must be fast, got {type(tokenizer).__name__}")
    never = sorted(never_in_text(tokenizer) if never is None else never)
    separator = separator_of(tokenizer, never)
    batches = (tokenizer(documents[i : i + 1000], **PLAIN)["input_ids"] for i in range(0, len(documents), 1000))
    pieces = [np.array([*ids, *separator], int) for ids in [[], *(ids for batch in batches for ids in batch)]]
    stream, ends = np.concatenate(pieces), np.cumsum([len(piece) for piece in pieces])  # document i starts at ends[i]
    left_out = np.flatnonzero(np.isin(stream, never))
    if len(left_out):
        logger.warning("left out %d of %d tokens, which the model never writes", len(left_out), len(stream))
    lacking = set(np.searchsorted(ends[1:], left_out, "right").tolist())
    stream, ends = np.delete(stream, left_out), ends - np.searchsorted(left_out, ends)
    kept = len(stream) // length * length
    if kept == 0:
        raise TooFewDocumentsError(f"documents must fill one block of {length} tokens, got {len(stream)} tokens")
    whole = int((ends[1:] - len(separator) <= kept).sum())  # documents with every token kept
    num_characters = sum(len(text) for i, text in enumerate(documents[:whole]) if i not in lacking)
    num_characters += sum(_num_characters(documents[i], tokenizer, never) for i in lacking if i < whole)
    if whole < len(documents) and kept > ends[whole]:  # a character cut between two byte tokens counts
        num_characters += _num_characters(documents[whole], tokenizer, never, kept - ends[whole])
    unknown = tokenizer.unk_token_id
    if unknown not in (None, *separator) and (count := int((stream == unknown).sum())):
        logger.warning("%d of %d tokens are unknown: bits per character will be too low", count, len(stream))
    logger.info("packed %d blocks; dropped the last %d of %d tokens", kept // length, len(stream) - kept, len(stream))
    tokens = torch.from_numpy(stream[:kept]).view(-1, length)
    owners = torch.from_numpy(np.searchsorted(ends[1:], np.arange(kept), "right")).view(-1, length)
    owner = owners.mode(1).values  # of a tie, the earlier document
    made_by = vocabulary_fingerprint(tokenizer)
    return TokenBlocks(tokens, len(documents), len(stream), len(stream) - kept, num_characters, owner, made_by)


def _num_characters(
    text: str, tokenizer: PreTrainedTokenizerBase, never: Collection[int], num_tokens: int | None = None
) -> int:
    """Characters of a text, or of its first tokens, without those of tokens that are left out."""
    encoded = tokenizer(text, **PLAIN, return_offsets_mapping=True)
    tokens = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    end = len(text)
    if num_tokens is not None:
        end = [stop for token, (_, stop) in tokens if token not in never][num_tokens - 1]
    return end - sum(stop - start for token, (start, stop) in tokens if token in never and stop <= end)
