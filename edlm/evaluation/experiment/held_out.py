"""Held-out data: token blocks of a file, or text cut into blocks."""

from pathlib import Path

from edlm.corpus.text import TokenBlocks, load_blocks, pack_documents, read_documents
from edlm.denoisers.base import Denoiser

TEXT = (".txt", ".jsonl", ".json")


def load_held_out(path: str | Path, denoiser: Denoiser, length: int | None = None) -> TokenBlocks:
    """Blocks of a ``.safetensors`` file, or those that a text file is cut into by the denoiser's tokenizer.

    Args:
        path: What ``edlm prepare corpus`` wrote; a ``.jsonl`` file with ``{"text": ...}`` in each line; or a ``.txt``
            file, in which a line with nothing but the tokenizer's separator ends a document.
        denoiser: Its tokenizer reads the text.
        length: Tokens of a block of text; by default the longest that the denoiser takes, with its framing tokens.
            Blocks that are cut already have theirs, and any other is an error.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is corrupt (names file and line), too short, or its length is not known; or its blocks
            are not of ``length``.
    """
    path = Path(path)
    if path.suffix not in TEXT:
        blocks = load_blocks(path)
        if length not in (None, blocks.tokens.shape[1]):
            raise ValueError(
                f"length must be that of the blocks, {blocks.tokens.shape[1]}, where data are cut already, "
                f"got {length} with {path}"
            )
        return blocks
    if not path.is_file():
        raise FileNotFoundError(f"data must be an existing file, got {path}")
    if denoiser.tokenizer is None:
        raise ValueError(f"text needs a denoiser with a tokenizer, got {path} and {type(denoiser).__name__} without")
    if length is None:
        if denoiser.max_length is None:
            raise ValueError(f"length must be given for text where the denoiser has no longest one, got {path}")
        framing = len(denoiser.prefix_ids) + len(denoiser.suffix_ids) if denoiser.is_framed else 0
        length = denoiser.max_length - framing
    _check_utf8(path)
    separator = denoiser.tokenizer.eos_token or denoiser.tokenizer.sep_token
    documents = read_documents(path, **({"separator": separator} if separator else {}))
    try:
        return pack_documents(documents, denoiser.tokenizer, length)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_utf8(path: Path) -> None:
    """Name the line, which `read_documents` does not."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"a text file must be UTF-8, got a bad byte (0x{line[error.start]:02x}) in {path}:{number}"
            ) from error
