"""Token blocks that are written while they are made, and only then become a file of blocks."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from edlm.corpus.blocks import TokenBlocks, metadata_of, smallest_kind
from edlm.disk import naming_what_is_full
from edlm.files import replacing

_DOCUMENTS = np.dtype(np.int32)


class Spool:
    """Blocks and their documents, as plain numbers in two files.

    Args:
        path: Of the files, without their suffixes.
        length: Tokens of a block.
        largest: Largest token id.
        num_blocks: Blocks of an earlier spool that are kept; what it has beyond them is cut off.
    """

    def __init__(self, path: Path, length: int, largest: int, num_blocks: int = 0):
        self._path, self._shape, self._kind = path, [num_blocks, length], smallest_kind(largest)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._tokens, self._documents = (path.with_suffix(f".{name}").open("a+b") for name in ("tokens", "documents"))
        self._tokens.truncate(num_blocks * length * self._kind.itemsize)
        self._documents.truncate(num_blocks * _DOCUMENTS.itemsize)

    def write(self, tokens: np.ndarray, documents: np.ndarray) -> None:
        """Append blocks, int64 ``[n, length]``, and the document of each."""
        with naming_what_is_full(self._path):
            self._tokens.write(tokens.astype(self._kind).tobytes())
            self._documents.write(documents.astype(_DOCUMENTS).tobytes())
        self._shape[0] += len(tokens)

    def sync(self) -> None:
        """Put all blocks on disk."""
        with naming_what_is_full(self._path):
            for file in (self._tokens, self._documents):
                file.flush()
                os.fsync(file.fileno())

    def save(self, path: Path, counts: Mapping[str, int], vocabulary: str, *, with_documents: bool) -> None:
        """Write the file that `save_blocks` would write, in pieces."""
        arrays = {"documents": (self._documents, _DOCUMENTS, self._shape[:1])} if with_documents else {}
        arrays["tokens"] = (self._tokens, self._kind, self._shape)
        header, end = {"__metadata__": metadata_of(counts, vocabulary)}, 0
        for name, (_, kind, shape) in arrays.items():
            start, end = end, end + kind.itemsize * int(np.prod(shape))
            dtype = f"{kind.kind.upper()}{8 * kind.itemsize}"
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with replacing(path) as target:
            target.write(len(text).to_bytes(8, "little") + text)
            for file, _, _ in arrays.values():
                file.flush()
                file.seek(0)
                shutil.copyfileobj(file, target, 2**20)

    def load(self, counts: Mapping[str, int], vocabulary: str) -> TokenBlocks:
        """All blocks, in memory."""
        self.sync()
        tokens, documents = (
            torch.from_numpy(np.fromfile(file.name, kind).astype(np.int64))
            for file, kind in ((self._tokens, self._kind), (self._documents, _DOCUMENTS))
        )
        return TokenBlocks(tokens.view(self._shape), **counts, documents=documents, vocabulary=vocabulary)

    def close(self) -> None:
        """Close the files."""
        self._tokens.close()
        self._documents.close()
