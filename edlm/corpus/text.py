"""Documents in, fixed-length token blocks out: train a tokenizer, split, pack."""

import hashlib
import logging
import re
from collections.abc import Collection
from fractions import Fraction

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from edlm.corpus.blocks import TokenBlocks
from edlm.corpus.tokens import PLAIN, SEPARATOR, never_in_text, separator_of, vocabulary_fingerprint

logger = logging.getLogger(__name__)
MASK, UNKNOWN = "<|mask|>", "<|unk|>"


def train_tokenizer(documents: list[str], *, kind: str = "bpe", vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Tokenizer with ``<|endoftext|>`` (id 0: eos, bos, sep, pad), ``<|mask|>`` (1); "character": ``<|unk|>`` (2).

    Args:
        documents: Training texts.
        kind: "bpe" (byte level, lossless on any text) or "character" (one token per code point).
        vocab_size: Largest size, special tokens included; smaller if no further pair occurs twice.

    Raises:
        ValueError: no documents, unknown kind, or ``vocab_size`` below alphabet and special tokens.
    """
    if not documents or kind not in ("bpe", "character"):
        raise ValueError(f"documents must not be empty, kind 'bpe' or 'character', got {len(documents)} and {kind!r}")
    special = [SEPARATOR, MASK] + [UNKNOWN] * (kind == "character")
    alphabet = sorted(set().union(*documents) if kind == "character" else pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < (least := len(special + alphabet)):
        raise ValueError(f"vocab_size must be >= {least} ({len(alphabet)} symbols + special tokens), got {vocab_size}")
    names = dict.fromkeys(("eos_token", "bos_token", "sep_token", "pad_token"), SEPARATOR)
    names |= dict(
        mask_token=MASK, model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False
    )
    if kind == "character":
        names["unk_token"] = UNKNOWN
        backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(special + alphabet)}, UNKNOWN))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        options = dict(vocab_size=vocab_size, min_frequency=2, special_tokens=special, initial_alphabet=alphabet)
        backend.train_from_iterator(documents, trainers.BpeTrainer(**options, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


class TooFewDocumentsError(ValueError):
    """A side of a split has no document, or documents fill no block."""


def split_documents(documents: list[str], valid_fraction: float) -> tuple[list[str], list[str]]:
    """(train, valid) by a hash of each text, whatever the order; texts with the same words stay together.

    valid where (first 32 bits of SHA-256(lower-cased words)) modulo n < m, for valid_fraction = m / n, n <= 10000

    Args:
        documents: Texts; each side keeps their order.
        valid_fraction: Expected share of valid documents, in (0, 1).

    Raises:
        TooFewDocumentsError: a side would be empty, or less than one valid document is to be expected.
        ValueError: ``valid_fraction`` outside (0, 1).

    Example:
        >>> split_documents(["a", "b", "c", "d"], 0.5)
        (['c', 'd'], ['a', 'b'])
    """
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction must be in (0, 1), got {valid_fraction}")
    if len(documents) * valid_fraction < 1:
        raise TooFewDocumentsError(f"{valid_fraction:g} of the documents must be one, got {len(documents)} documents")
    ratio = Fraction(valid_fraction).limit_denominator(10_000)
    train, valid = [], []
    for text in documents:
        key = " ".join(re.findall(r"[^\W_]+", text.lower())) or text  # a text without words is its key itself
        number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)
        (valid if number % ratio.denominator < ratio.numerator else train).append(text)
    if not train or not valid:
        raise TooFewDocumentsError(f"both sides must hold a document, got {len(train)} train and {len(valid)} valid")
    return train, valid


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
