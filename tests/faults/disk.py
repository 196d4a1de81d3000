"""Disks that are full, read-only or beyond a quota, for every command that writes, at every call that writes."""

import builtins
import errno
import io
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.cases import contents, timeless
from tests.faults.forks import Forks, Outcome
from tests.faults.world import CORPUS, EVALUATE, GENERATE, MODELS, SAMPLE, SCORE, TRAIN, TRAIN_OPTIONS

ERRORS = {"write": "ENOSPC", "sync": "EDQUOT", "rename": "EROFS"}
_RUN = ("--corpus", "corpus", "--trainer.num_steps", "2", *TRAIN_OPTIONS, "--trainer.output_dir", "disk/out")
_OTHER = "stories.jsonl"


@dataclass(frozen=True)
class Writer:
    """A command that writes ``disk/out...``.

    Attributes:
        words: The command.
        before: Another that writes there before it; empty for a file of other content, or none in a training's folder.
        resumes: Whether what it has written is kept for the next call, so that the folder need not be as it was.
    """

    words: tuple[str, ...]
    before: tuple[str, ...] = ()
    resumes: bool = False

    @property
    def output(self) -> str:
        return next(word for word in reversed(self.words) if word.startswith("disk/out"))


WRITERS = {
    "sample": Writer((*SAMPLE, "--output", "disk/out.txt")),
    "sample jsonl": Writer((*SAMPLE, "--format", "jsonl", "--output", "disk/out.jsonl")),
    "sample trace": Writer((*SAMPLE, "--trace", "disk/out.html")),
    "score": Writer((*SCORE, "--output", "disk/out.jsonl")),
    "rerank": Writer(("rerank", "candidates.jsonl", "--energy", "causal:lm", "--output", "disk/out.jsonl")),
    "compare": Writer(("compare", "a", "b", "--output", "disk/out.json")),
    "plot logs": Writer(("plot", "logs", "--logs", "[run/log.jsonl]", "--output", "disk/out.svg")),
    "generate": Writer(("generate", *GENERATE, "--output", "disk/out.jsonl"), resumes=True),
    "generate parquet": Writer(("generate", *GENERATE, "--output", "disk/out.parquet"), resumes=True),
    "evaluate": Writer((*EVALUATE, "--report", "true", "--energy", "head", "--output", "disk/out"), resumes=True),
    "evaluate table": Writer((*EVALUATE, "--energy", "head", "--markdown", "disk/out.md")),
    "prepare corpus": Writer(
        ("prepare", "corpus", *CORPUS, "--output_dir", "disk/out"),
        ("prepare", "corpus", *CORPUS, "--length", "8", "--source", _OTHER, "--output_dir", "disk/out"),
    ),
    "export": Writer(
        tuple("export --denoiser denoiser --energies.head head --corpus corpus --output_dir disk/out".split()),
        resumes=True,
    ),
    "train denoiser": Writer((*TRAIN[:2], "--start_from", "denoiser", *_RUN), resumes=True),
    "train energy": Writer(("train", "energy", *MODELS[:2], *_RUN), resumes=True),
}  # fmt: skip


def fail_at(error: str, kind: str, number: int, folder: Path) -> None:
    """Let the n-th call that writes, syncs or renames a file below a folder fail, and others of its kind after it.

    Of renames, one alone fails: a disk that lets nothing be renamed lets nothing be written before.
    """
    calls, code = 0, getattr(errno, error)
    real = {"open": io.open, "fsync": os.fsync, "replace": os.replace, "rename": os.rename}

    def count(of: str) -> None:
        nonlocal calls
        if of == kind:
            calls += 1
            if calls == number or (calls > number and kind != "rename"):
                raise OSError(code, os.strerror(code))

    class Counted(io.FileIO):
        def write(self, content: bytes) -> int:
            count("write")
            return super().write(content)

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **rest):
        inside = isinstance(file, (str, Path)) and Path(os.path.abspath(file)).is_relative_to(folder)
        if not inside or not set(mode) & set("wax+"):
            return real["open"](file, mode, buffering, encoding, errors, newline, **rest)
        binary = Counted(file, mode.replace("b", "").replace("t", ""), **rest)
        buffered = io.BufferedRandom(binary) if "+" in mode else io.BufferedWriter(binary)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def fsync(file: int) -> None:
        count("sync")
        real["fsync"](file)

    def renaming(name: str):
        def rename(source, target, **options) -> None:
            if Path(os.path.abspath(target)).is_relative_to(folder):
                count("rename")
            real[name](source, target, **options)

        return rename

    builtins.open = io.open = opened
    os.fsync, os.replace, os.rename = fsync, renaming("replace"), renaming("rename")


@dataclass
class Disks:
    """Runs writers on disks with faults, and says what is wrong.

    Attributes:
        forks: Run the commands.
        world: Holds what the commands read.
        scratch: Where folders are made.
    """

    forks: Forks
    world: Path
    scratch: Path

    def injected(self, writer: Writer, kind: str, most: int = 200) -> Iterator[str]:
        """For each n: what is wrong where the n-th call of a kind fails; "" if nothing is."""
        expected = self._expected(writer)
        for number in itertools.count(1):
            with self._folder(writer) as folder:
                before = contents(folder / "disk")
                outcome = self.forks.run(writer.words, folder, fault=[ERRORS[kind], kind, number])
                if outcome.code == 0:  # there is no n-th call
                    return
                yield self._judged(writer, outcome, before, folder, expected)
            if number >= most:
                raise RuntimeError(f"a command must write at most {most} times, got {writer.words}")

    def limited(self, writer: Writer, size: int) -> str | None:
        """What is wrong where no file may be longer than some bytes; None if all are shorter."""
        with self._folder(writer) as folder:
            before = contents(folder / "disk")
            outcome = self.forks.run(writer.words, folder, file_bytes=size)
            return None if outcome.code == 0 else self._judged(writer, outcome, before, folder, self._expected(writer))

    def full(self, writer: Writer, free: int) -> str | None:
        """What is wrong on a real disk with so many bytes free, 0 for a read-only one; None if they suffice."""
        with self._folder(writer, mounted=True) as folder:
            disk, before = folder / "disk", contents(folder / "disk")
            page = os.sysconf("SC_PAGESIZE")
            used = shutil.disk_usage(disk).used
            size = max(page, used + free // page * page)  # 0 is no limit
            _mount(f"remount,size={size}" if free else "remount,ro", disk)
            outcome = self.forks.run(writer.words, folder)
            left = contents(disk)
            _mount("remount,rw,size=64m", disk)
            if outcome.code == 0:
                return None
            return self._judged(writer, outcome, before, folder, self._expected(writer), left)

    def _judged(
        self, writer: Writer, outcome: Outcome, before: dict, folder: Path, expected: dict, left: dict | None = None
    ) -> str:
        after = contents(folder / "disk") if left is None else left
        if outcome.code is None:
            return "hang"
        last = outcome.lines[-1] if outcome.lines else ""
        if "Traceback (most recent call last)" in outcome.err or outcome.code != 2:
            return f"traceback, exit code {outcome.code}: {last}"
        if not last.startswith("edlm: error: ") or "disk" not in last:
            return f"a line that names no file: {outcome.lines[-3:]}"
        if not writer.resumes and after != before and timeless(after) != expected:
            return f"changed: {sorted(name for name in {**before, **after} if before.get(name) != after.get(name))}"
        if loose := [name for name in after if name.endswith((".new", ".partial")) or ".new/" in name]:
            return f"left: {loose}"
        again = self.forks.run(writer.words, folder)
        if again.code != 0:
            return f"does not work again: {again.lines[-1:]}"
        found = timeless(contents(folder / "disk"))
        return "" if found == expected else f"other content when repeated: {_differing(found, expected)}"

    def _expected(self, writer: Writer) -> dict[str, bytes]:
        with self._folder(writer) as folder:
            outcome = self.forks.run(writer.words, folder)
            if outcome.code != 0:
                raise RuntimeError(f"{writer.words} must succeed on a good disk, got {outcome.err}")
            return timeless(contents(folder / "disk"))

    @contextmanager
    def _folder(self, writer: Writer, mounted: bool = False) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        disk = folder / "disk"
        disk.mkdir()
        for entry in self.world.iterdir():
            os.symlink(entry, folder / entry.name)
        if mounted:
            _mount("size=64m", disk)
        try:
            if writer.before:
                if (outcome := self.forks.run(writer.before, folder)).code != 0:
                    raise RuntimeError(f"{writer.before} must succeed, got {outcome.err}")
            elif not writer.resumes:
                (folder / writer.output).write_bytes(b"of an earlier run\n")
            yield folder
        finally:
            if mounted:
                subprocess.run(["umount", str(disk)], check=True)
            shutil.rmtree(folder)


def can_mount() -> bool:
    """Whether this process may mount disks."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _mount("size=64k", Path(folder))
        except (OSError, subprocess.CalledProcessError):
            return False
        subprocess.run(["umount", folder], check=True)
        return True


def _mount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True, capture_output=True)


def _differing(found: dict, expected: dict) -> list[str]:
    return sorted(name for name in {**found, **expected} if found.get(name) != expected.get(name))
