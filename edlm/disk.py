"""Errors of full and read-only disks, and files that are on disk for good."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 200
_UNWRITABLE = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def naming_what_is_full(path: Path) -> Iterator[None]:
    """Errors of a full or read-only disk become an OSError that names what was to be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:  # of the writers of safetensors, tokenizers and torch
        if not re.search(r"\bos error \d+|PytorchStreamWriter|inline_container|iostream error", str(error)):
            raise
        raise OSError(f"{path} must be writable, got {in_one_line(error)}") from error


def in_one_line(error: BaseException) -> str:
    """What an error says, in one line that is not too long; its class if it says nothing."""
    text = " ".join(str(error).partition(" Please")[0].split())  # torch asks to allow what was refused
    return (text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...") or type(error).__name__


def sync(folder: Path) -> list[Path]:
    """Put all files of a folder on disk; returns them."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for file in files:
        with file.open("rb") as written:
            os.fsync(written.fileno())
    return files


def sync_names(folder: Path) -> None:
    """Put on disk which files a folder holds, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
