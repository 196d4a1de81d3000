"""Part files: finished work items, one a line, appended by one process each; a kill tears a last line at most."""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from edlm.disk import naming_what_is_full, sync_names
from edlm.files import reading, sha256_of

Key = str | int
Keep = Callable[[Iterable[tuple[Key, Any]]], None]
"""Appends finished items, JSON values by key, and returns when they are on disk."""

_BLOCK = 2**16  # bytes


class Place(NamedTuple):
    """Where an item is: a part file, and the bytes at which its line begins."""

    path: Path
    start: int


@dataclass(frozen=True)
class Parts:
    """The part files of a folder.

    A line is an item, and holds its key, its value and a checksum of both. What follows a file's last line break was
    torn by a kill: it is not read, and is cut off when the file is appended to.

    Args:
        folder: Is made when a part is written.
    """

    folder: Path

    def files(self) -> list[Path]:
        """All parts, by name."""
        return sorted(self.folder.glob("*.jsonl"))

    def find(self) -> dict[Key, Place]:
        """Where each finished item is.

        Raises:
            ValueError: a line is no item (names file and line).
        """
        places = {}
        for path in self.files():
            start = 0
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.endswith(b"\n"):
                        with reading(f"{path}:{number}", "hold a work item"):
                            key, value, crc = map(json.loads(line).__getitem__, ("key", "value", "crc32"))
                            if crc != _crc(key, value):
                                raise ValueError("one that has changed since it was written")
                            places[key] = Place(path, start)
                    start += len(line)
        return places

    def read(self, places: Iterable[Place]) -> Iterator[Any]:
        """The values of items, one after the other."""
        files: dict[Path, IO[bytes]] = {}
        try:
            for path, start in places:
                file = files.setdefault(path, files.get(path) or path.open("rb"))
                file.seek(start)
                yield json.loads(file.readline())["value"]
        finally:
            for file in files.values():
                file.close()

    @contextmanager
    def writing(self, name: str) -> Iterator[Keep]:
        """Append to the part of this name, whose only writer this is; without an item it is not made."""
        path, file = self.folder / f"{name}.jsonl", None

        def keep(items: Iterable[tuple[Key, Any]]) -> None:
            nonlocal file
            lines = ({"key": key, "crc32": _crc(key, value), "value": value} for key, value in items)
            content = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode()
            with naming_what_is_full(path):
                if file is None:
                    file = _open_whole(path)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

        try:
            yield keep
        finally:
            if file is not None:
                with naming_what_is_full(path):
                    file.close()

    def checksums(self) -> dict[str, str]:
        """SHA-256 of each part, by name."""
        return {path.name: sha256_of(path) for path in self.files()}

    def check(self, checksums: Mapping[str, str]) -> None:
        """Refuse parts that have changed since they were finished, by a ValueError; one that is gone is no mistake."""
        for name, expected in checksums.items():
            path = self.folder / name
            if path.exists() and (found := sha256_of(path)) != expected:
                raise ValueError(
                    f"{path} must be as it was finished (SHA-256 {expected[:16]}...), got {found[:16]}...: "
                    "remove it, and its items are made again"
                )


def _crc(key: Key, value: Any) -> int:
    return zlib.crc32(json.dumps([key, value]).encode())


def _open_whole(path: Path) -> IO[bytes]:
    """A file to append to, new or without its torn line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b")
    file.truncate(_whole(file))
    sync_names(path.parent)
    return file


def _whole(file: IO[bytes]) -> int:
    """Bytes of a file up to its last line break."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = file.seek(max(0, end - _BLOCK))
        if (at := file.read(end - start).rfind(b"\n")) >= 0:
            return start + at + 1
        end = start
    return 0
