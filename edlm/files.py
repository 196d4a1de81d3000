"""Files are read so that every error names the file, whatever is wrong with it; and replaced as a whole."""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import safe_open

from edlm.disk import in_one_line, naming_what_is_full, sync, sync_names
from edlm.lock import locked

_POINTER = b"version https://git-lfs"
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
    except ImportError:
        raise
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:
        raise ValueError(f"{path} must {rule}, got {what_is_wrong(path, error)}") from error


def what_is_wrong(path: str | Path, error: BaseException) -> str:
    """What an error in reading a file says, in one line; of a Git LFS pointer, that it is one."""
    if is_pointer(path):
        return "a Git LFS pointer in its place, which `git lfs pull` replaces"
    if isinstance(error, KeyError):
        return f"no {error}"
    return in_one_line(error)


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
    """A file that takes the place of another when the block ends; folders are made, and links stay links.

    After an error, a kill or a full disk inside, the other file is as it was. What is no file, such as /dev/stdout, is
    written to as it is.

    Raises:
        LockedError: another process is replacing it.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    new = path.with_name(path.name + ".new")
    with naming_what_is_full(path), locked(path.parent, f".{path.name}.new.lock", path):
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


@contextmanager
def replacing_text(path: str | Path) -> Iterator[IO[str]]:
    """As `replacing`, for text in UTF-8 whose line breaks stay as they are."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        yield text
        text.flush()
        text.detach()


@contextmanager
def filling(folder: str | Path) -> Iterator[Path]:
    """An empty folder, whose files take their places in another one, which is made, when the block ends.

    After an error or a full disk inside, the files of the other folder are as they were.

    Raises:
        LockedError: another process is filling it.
        OSError: the files cannot be written, whatever kind of error their writer says that by.
    """
    folder = Path(folder)
    new, old = folder / ".new", folder / ".old"
    with naming_what_is_full(folder), locked(folder, ".new.lock"):
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        try:
            new.mkdir(parents=True)
            yield new
            files = sync(new)
            _exchange([(file, folder / file.relative_to(new), old / file.relative_to(new)) for file in files])
            sync_names(folder)
        finally:
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)


def _exchange(moves: Sequence[tuple[Path, Path, Path]]) -> None:
    """Rename each new file to its place, and what is there to another place; all or, after an error, none."""
    undo: list[tuple[Path, Path]] = []
    try:
        for new, place, old in moves:
            for source, target in ((place, old), (new, place)):
                if source.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source.replace(target)
                    undo.append((target, source))
    except BaseException:
        for target, source in reversed(undo):
            target.replace(source)
        raise


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Replace a file as a whole, see `replacing`; text in UTF-8."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def check_writable(*paths: str | Path | None) -> None:
    """Fail before the long run: OSError where a file cannot be written; None is none."""
    for path in paths:
        if path is None:
            continue
        path = Path(os.path.abspath(path))
        if path.is_dir():
            raise IsADirectoryError(f"what is written must be a file, got the folder {path}")
        folder = next(above for above in path.parents if above.exists())  # others are made
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
