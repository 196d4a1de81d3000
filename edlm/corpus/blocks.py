"""Blocks of tokens of equal length, and their files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

FORMAT = "edlm-token-blocks-1"


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """Blocks of equal length cut from one stream ``sep doc sep doc ... sep``.

    Attributes:
        tokens: int64, shape ``[num_blocks, length]``.
        num_documents: Documents in the stream, a cut or dropped last one included.
        num_tokens: Tokens of the whole stream, separators and dropped ones included.
        num_dropped: Tokens of the last, incomplete block, which ``tokens`` lacks.
        num_characters: Characters (code points) of the documents' text in ``tokens``; a separator counts none.
    """

    tokens: torch.LongTensor
    num_documents: int
    num_tokens: int
    num_dropped: int
    num_characters: int

    def __post_init__(self):
        if self.tokens.ndim != 2 or self.num_tokens != self.tokens.numel() + self.num_dropped:
            got = f"{list(self.tokens.shape)}, {self.num_tokens} tokens, {self.num_dropped} dropped"
            raise ValueError(f"tokens must be [num_blocks, length], num_tokens kept + dropped, got {got}")

    @property
    def characters_per_token(self) -> float:
        """Characters per kept token; bits_per_char = nats per token / ln 2 / this (nats of separators included)."""
        return self.num_characters / self.tokens.numel()

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
        tokens = torch.cat([cut[: len(cut) // length * length].view(-1, length) for cut in cuts])
        characters = round(self.characters_per_token * tokens.numel())
        return TokenBlocks(tokens, self.num_documents, tokens.numel(), 0, characters)


def save_blocks(blocks: TokenBlocks, path: str | Path) -> None:
    """Write a safetensors file: ``tokens`` as uint16 where all ids fit, else int32, and the counts as metadata."""
    tokens = blocks.tokens.numpy()
    kind = np.uint16 if np.array_equal(tokens, tokens.astype(np.uint16)) else np.int32
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    metadata = {name: str(value) for name, value in {**vars(blocks), "format": FORMAT}.items() if name != "tokens"}
    save_file({"tokens": np.ascontiguousarray(tokens, kind)}, str(path), metadata=metadata)


def load_blocks(path: str | Path) -> TokenBlocks:
    """Read a file of `save_blocks`, tokens as int64; FileNotFoundError or ValueError for anything else."""
    try:
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata() or {}
            if (got := metadata.pop("format", None)) != FORMAT:
                raise ValueError(f"format must be {FORMAT!r}, got {got!r} in {path}")
            tokens = torch.from_numpy(file.get_tensor("tokens").astype(np.int64))
        return TokenBlocks(tokens, **{name: int(count) for name, count in metadata.items()})
    except SafetensorError as error:
        raise ValueError(f"path must be a safetensors file of token blocks, got {path}: {error}") from error
