"""Files are read so that every error names the file, whatever is wrong with it; and replaced as a whole."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import safe_open

_POINTER, _LONGEST = b"version https://git-lfs", 200
_BLOCK = 2**20  # bytes


@contextmanager
def reading(path: str | Path, rule: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes one error that names a file and the rule that it breaks.

    An `OSError` (there is no such file) and an `ImportError` (a package is missing) stay what they are.

    Args:
        path: The file, or a folder.
        rule: What it must do, as "be a safetensors file".

    Raises:
        ValueError: anything else was raised inside; readers of formats raise errors of many kinds.

    Example:
        >>> with reading("energy.json", "hold an energy"):
        ...     {}["settings"]
        Traceback (most recent call last):
        ValueError: energy.json must hold an energy, got no 'settings'
    """
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        raise ValueError(f"{path} must {rule}, got {what_is_wrong(path, error)}") from error


def what_is_wrong(path: str | Path, error: BaseException) -> str:
    """What an error in reading a file says, in one line; of a Git LFS pointer, that it is one."""
    if is_pointer(path):
        return "a Git LFS pointer in its place, which `git lfs pull` replaces"
    if isinstance(error, KeyError):
        return f"no {error}"
    text = " ".join(str(error).partition(" Please")[0].split())  # torch asks to allow what was refused
    return (text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...") or type(error).__name__


def is_pointer(path: str | Path) -> bool:
    """Whether a file is the few lines that Git LFS leaves where the content was not fetched."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_POINTER)) == _POINTER


@contextmanager
def open_safetensors(path: str | Path, framework: str = "pt") -> Iterator[Any]:
    """A safetensors file, checked to be whole; its tensors are read when they are asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, or a damaged one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"a safetensors file must exist, got no file {path}")
    with reading(path, "be a whole safetensors file"):
        opened = safe_open(str(path), framework)
    with opened as file:
        yield file


def check_content(path: str | Path, rule: str) -> None:
    """Refuse a Git LFS pointer in place of a file, by a ValueError with its rule."""
    with reading(path, rule):
        if is_pointer(path):
            raise TypeError


def check_weights(path: str | Path) -> None:
    """Refuse a file of weights that is a Git LFS pointer, or a damaged safetensors file; nothing else is read."""
    check_content(path, "hold weights")
    if Path(path).suffix == ".safetensors":
        with open_safetensors(path):
            pass


def load_safetensors(path: str | Path) -> dict[str, Any]:
    """All tensors of a safetensors file by name, on the CPU; errors are those of `open_safetensors`."""
    with open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object; ValueError if the file holds anything else."""
    with reading(path, "hold a JSON object"):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__}")
    return content


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of another when the block ends; folders are made.

    After an error, a kill or a full disk inside, the other file is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_names(path.parent)


def write_atomically(path: str | Path, content: bytes) -> None:
    """Replace a file as a whole, see `replacing`."""
    with replacing(path) as file:
        file.write(content)


def sync_names(folder: Path) -> None:
    """Put on disk which files a folder holds, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
