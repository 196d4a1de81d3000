"""One writer for each output, whatever else is started by mistake."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from edlm.disk import naming_what_is_full


class LockedError(OSError):
    """Another process writes to an output; the message says which."""


@contextmanager
def locked(folder: str | Path, name: str = ".lock", output: str | Path | None = None) -> Iterator[None]:
    """Be the only writer of a folder, which is made if there is none, while the block runs.

    A file in it names the writer's process and host, and is removed at the end, as is a folder that was made and is
    still empty. What a process that died on this host has left is taken over.

    Args:
        folder: The folder.
        name: Of the file, where several outputs of one folder have a writer each.
        output: What is written, for the message; the folder by default.

    Raises:
        LockedError: another process holds the lock; or one of another host left it, and may be dead or alive.
    """
    path = Path(folder) / name
    is_new = not path.parent.exists()
    while not _is_current(path, file := _opened(path), output or folder):
        file.close()  # its last writer removed it just now
    with file:
        try:
            with naming_what_is_full(Path(output or path)):
                file.truncate(0)
                os.write(file.fileno(), json.dumps([os.getpid(), socket.gethostname()]).encode())
            yield
        finally:
            path.unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):
                    path.parent.rmdir()


def _opened(path: Path) -> IO[str]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # its last writer removed the folder just now
            return path.open("a+", encoding="utf-8")


def _is_current(path: Path, file: IO[str], output: str | Path) -> bool:
    """Lock a file, for as long as it is open; whether it still is the one at the path."""
    here, rule = socket.gethostname(), f"{output} must have one writer, got a second"
    pid, host = _writer(file)
    if not _lock(file, pid):
        file.close()
        raise LockedError(f"{rule}: process {pid or 'unknown'} on {host or here} writes to it")
    if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
        return False
    pid, host = _writer(file)
    if host not in (None, here):
        file.close()
        raise LockedError(f"{rule}: process {pid} on {host} wrote to it; if that is dead, remove {path}")
    return True


def _writer(file: IO[str]) -> tuple[int | None, str | None]:
    """Process id and host that the file names; None each if it is new, or its writer died while writing."""
    file.seek(0)
    try:
        pid, host = json.load(file)
    except (ValueError, TypeError):
        return None, None
    return pid, host


def _lock(file: IO[str], pid: int | None) -> bool:
    """Have the system lock the file, unless a living process has; process `pid` wrote it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, or a file system without locks
        return pid is None or not psutil.pid_exists(pid)
    return True
