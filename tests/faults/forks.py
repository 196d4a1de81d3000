"""Commands in forks of a process that has imported everything, each within limits of seconds and memory.

As a script it reads requests, one JSON object a line, and answers each with how its process ended.
"""

import fcntl
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS, BYTES = 60, 4 * 2**30  # a process may take, the latter beyond what its imports have mapped


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, minus the signal that killed it; None if it hung."""

    code: int | None
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Lines on the standard error."""
        return [line for line in self.err.splitlines() if line.strip()]


class Forks:
    """Starts commands; used as a context.

    Args:
        world: An empty folder, in which the server builds the world, and by that imports whatever commands import.
    """

    def __init__(self, world: Path):
        self.world = world

    def __enter__(self) -> "Forks":
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
        }
        environment.pop("EDLM_DEBUG", None)
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-W", "ignore", "-m", "tests.faults.forks", str(self.world)]
        self._forks = subprocess.Popen(command, env=environment, cwd=ROOT, **options)
        self._forks.stdout.readline()  # it is built
        return self

    def __exit__(self, *error: object) -> None:
        self._forks.stdin.close()
        self._forks.wait()

    def run(self, words: Sequence[str], folder: Path, **limits: object) -> Outcome:
        """The outcome of ``edlm`` with these words in a folder.

        Args:
            words: After ``edlm``.
            folder: The working directory.
            limits: ``fault``: a pair of an errno's name and of which call to write, sync or rename a file fails with
                it, and all calls after it; ``file_bytes``: the longest file that can be written.
        """
        request = {"words": [*words], "folder": str(folder), **limits}
        self._forks.stdin.write(json.dumps(request) + "\n")
        self._forks.stdin.flush()
        return Outcome(*json.loads(self._forks.stdout.readline()))


class InProcess:
    """Runs commands in this process, without limits: starts at once."""

    def run(self, words: Sequence[str], folder: Path) -> Outcome:
        """As `Forks.run`."""
        from edlm.cli import main

        streams, before = [io.StringIO(), io.StringIO()], os.getcwd()
        os.chdir(folder)
        try:
            with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
                code = main(words)
        finally:
            os.chdir(before)
        return Outcome(code, *(stream.getvalue() for stream in streams))


def _serve() -> None:

    from tests.faults.world import build

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    build(Path(sys.argv[1]))
    print(file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        reads, writes = zip(*(os.pipe() for _ in range(2)), strict=True)  # no files, whose length may be limited
        for end in writes:
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 2**20)
        pid = _fork(request, writes)
        for end in writes:
            os.close(end)
        code, texts = _wait(pid), [_content(end) for end in reads]
        print(json.dumps([code, *texts]), file=answers, flush=True)


def _wait(pid: int) -> int | None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _content(end: int) -> str:
    """What is in a pipe, whose other end a grandchild may hold open; closes it."""
    os.set_blocking(end, False)
    content = b""
    try:
        while some := os.read(end, 2**16):
            content += some
    except BlockingIOError:
        pass
    os.close(end)
    return content.decode(errors="replace")


def _fork(request: dict, ends: Sequence[int]) -> int:
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream, end in enumerate(ends, start=1):
            os.dup2(end, stream)
        os.chdir(request["folder"])
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + BYTES,) * 2)
        if limit := request.get("file_bytes"):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit,) * 2)
        if fault := request.get("fault"):
            from tests.faults.disk import fail_at

            fail_at(*fault, Path(request["folder"]))
        from edlm.cli import main

        try:
            code = main(request["words"])
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
