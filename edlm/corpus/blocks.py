"""Blocks of tokens of equal length, and their files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from edlm.files import open_safetensors, reading, write_atomically
from edlm.rules import MAX_COUNT, check_least

FORMAT = "edlm-token-blocks-1"
FEW_DOCUMENTS, NUM_STRETCHES = 10, 32
COUNTS = ("num_documents", "num_tokens", "num_dropped", "num_characters")


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """Blocks of equal length cut from one stream ``sep doc sep doc ... sep``.

    Attributes:
        tokens: Integers, shape ``[num_blocks, length]``: int64; or those of a file, mapped: uint16 or int32.
        num_documents: Documents in the stream, a cut or dropped last one included.
        num_tokens: Tokens of the whole stream, separators and dropped ones included.
        num_dropped: Tokens of the last, incomplete block, which ``tokens`` lacks.
        num_characters: Characters (code points) of the documents' text in ``tokens``; a separator counts none.
        documents: Index of the document that most tokens of each block are of, ``[num_blocks]``; None where that is not
            known, or each block is one.
        vocabulary: Fingerprint of the tokenizer that made them; "" where that is not known.
    """

    tokens: torch.LongTensor
    num_documents: int
    num_tokens: int
    num_dropped: int
    num_characters: int
    documents: torch.LongTensor | None = None
    vocabulary: str = ""

    def __post_init__(self):
        if self.tokens.ndim != 2 or self.num_tokens != self.tokens.numel() + self.num_dropped:
            got = f"{list(self.tokens.shape)}, {self.num_tokens} tokens, {self.num_dropped} dropped"
            raise ValueError(f"tokens must be [num_blocks, length], num_tokens kept + dropped, got {got}")
        if self.documents is not None and self.documents.shape != self.tokens.shape[:1]:
            got = f"{list(self.documents.shape)} for {len(self.tokens)} blocks"
            raise ValueError(f"documents must be one for each block, got {got}")

    @property
    def characters_per_token(self) -> float:
        """Characters per kept token; bits_per_char = nats per token / ln 2 / this (nats of separators included)."""
        return self.num_characters / self.tokens.numel()

    def with_stretches(self) -> "TokenBlocks":
        """The same blocks; where fewer than ten documents are known, each ``documents`` is a stretch of blocks.

        Errors that are clustered by one or two documents say nothing. There are 32 stretches of equal length (one for
        each block, if there are fewer), as in a block bootstrap, which takes distant parts of a book as independent.
        """
        if self.documents is None or len(self.documents.unique()) >= FEW_DOCUMENTS:
            return self
        size = len(self.tokens)
        return replace(self, documents=torch.arange(size) * min(size, NUM_STRETCHES) // size)

    def draw(self, num_blocks: int, seed: int) -> "TokenBlocks":
        """So many blocks, or all where there are fewer, drawn without replacement over all documents.

        They are in random order, so that the first of them are drawn over all documents too. Characters are counted at
        the mean rate of all blocks.
        """
        drawn = torch.randperm(len(self.tokens), generator=torch.Generator().manual_seed(seed))[:num_blocks]
        documents = None if self.documents is None else self.documents[drawn]
        return self._with(self.tokens[drawn], self.num_documents, documents)

    def hold_out(self, fraction: float) -> tuple["TokenBlocks", "TokenBlocks"]:
        """The first blocks and, for validation, the last: this share of them, at least one on each side.

        Characters are counted at the mean rate of all blocks; a document on both sides counts on both.

        Raises:
            ValueError: ``fraction`` outside (0, 1), or there are fewer than two blocks.
        """
        size, length = self.tokens.shape
        if not 0 < fraction < 1 or size < 2:
            got = f"{fraction} and {size} blocks of {length} tokens"
            raise ValueError(f"fraction must be in (0, 1) and text fill two blocks to hold one out, got {got}")
        cut = size - min(max(1, round(fraction * size)), size - 1)
        return self._part(slice(cut)), self._part(slice(cut, None))

    def _part(self, rows: slice) -> "TokenBlocks":
        if self.documents is None:
            return self._with(self.tokens[rows], self.num_documents, None)
        documents = self.documents[rows]
        return self._with(self.tokens[rows], int(documents[-1] - documents[0]) + 1, documents)

    def _with(self, tokens: torch.Tensor, num_documents: int, documents: torch.Tensor | None) -> "TokenBlocks":
        """Other blocks of the same text; characters are counted at the mean rate of all blocks."""
        size = tokens.numel()
        characters = round(self.characters_per_token * size)
        return TokenBlocks(tokens, num_documents, size, 0, characters, documents, self.vocabulary)

    def cut_again(self, num_cuts: int) -> "TokenBlocks":
        """The kept tokens cut ``num_cuts`` times, evenly shifted, so that each is seen at so many places of a block.

        Tokens and characters are counted as often as they are seen; documents once.

        Raises:
            ValueError: ``num_cuts`` is not in 1 .. length.

        Example:
            >>> blocks = TokenBlocks(torch.arange(8).view(2, 4), 1, 8, 0, 8).cut_again(2)
            >>> blocks.tokens.tolist()
            [[0, 1, 2, 3], [4, 5, 6, 7], [2, 3, 4, 5]]
        """
        length = self.tokens.shape[1]
        if not 1 <= num_cuts <= length:
            raise ValueError(f"num_cuts must lie in 1 .. {length}, got {num_cuts}")
        stream = self.tokens.flatten()
        cuts = [stream[length * i // num_cuts :] for i in range(num_cuts)]
        tokens = [cut[: len(cut) // length * length].view(-1, length) for cut in cuts]
        tokens = torch.cat(tokens) if num_cuts > 1 else tokens[0]  # which is not copied
        return self._with(tokens, self.num_documents, None)


def save_blocks(blocks: TokenBlocks, path: str | Path) -> None:
    """Write a safetensors file: ``tokens`` as uint16 where all ids fit, else int32, documents; the rest as metadata."""
    tokens = blocks.tokens.numpy()
    arrays = {"tokens": np.ascontiguousarray(tokens, smallest_kind(int(tokens.max(initial=0))))}
    if blocks.documents is not None:
        arrays["documents"] = blocks.documents.numpy().astype(np.int32)
    counts = {name: getattr(blocks, name) for name in COUNTS}
    write_atomically(path, save(arrays, metadata=metadata_of(counts, blocks.vocabulary)))


def smallest_kind(largest: int) -> np.dtype:
    """Of the numbers in a file, by the largest of them."""
    return np.dtype(np.uint16 if largest < 2**16 else np.int32)


def metadata_of(counts: Mapping[str, int], vocabulary: str) -> dict[str, str]:
    """What a file of blocks says beyond its arrays; ``counts`` are `COUNTS`."""
    return {**{name: str(counts[name]) for name in COUNTS}, "vocabulary": vocabulary, "format": FORMAT}


def load_blocks(path: str | Path, *, mapped: bool = False) -> TokenBlocks:
    """Read a file of `save_blocks`; FileNotFoundError or ValueError for anything else.

    Args:
        path: The file.
        mapped: Whether to leave the tokens in the file until they are used, instead of an int64 copy of them.
    """
    with open_safetensors(path) as file:
        metadata = file.metadata() or {}
        if (got := metadata.pop("format", None)) != FORMAT:
            raise ValueError(f"format must be {FORMAT!r}, got {got!r} in {path}")
        with reading(path, "hold token blocks"):
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            for name, values in arrays.items():
                _check_integers(name, values)
            arrays = {name: x if mapped and name == "tokens" else x.long() for name, x in arrays.items()}
            vocabulary = metadata.pop("vocabulary", "")  # files of earlier versions have none
            counts = {name: int(count) for name, count in metadata.items()}
            check_least(0, **counts)
            return TokenBlocks(**arrays, **counts, vocabulary=vocabulary)


def _check_integers(name: str, values: torch.Tensor) -> None:
    if values.dtype in (torch.uint8, torch.uint16):
        return
    if values.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64):
        raise ValueError(f"{name} of {values.dtype}, which are no integers of at most 64 bits with a sign")
    least, most = (int(values.min()), int(values.max())) if values.numel() else (0, 0)
    if not 0 <= least <= most <= MAX_COUNT:
        raise ValueError(f"{name} from {least} to {most}, outside of 0..{MAX_COUNT}")
