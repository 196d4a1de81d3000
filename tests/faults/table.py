"""Counts of what was tried and what was wrong, a row for each kind."""

import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cases import Case, Judge, Verdict
from tests.faults.disk import WRITERS, Disks, can_mount
from tests.faults.forks import Forks
from tests.faults.inputs import KINDS

COLUMNS = ("kind", "cases", "tracebacks", "hangs", "wrong successes", "other", "seconds")
LIMITS, FREE = (600, 1500, 5000), (0, 1, 4096, 8192, 16384, 32768, 65536)


@dataclass
class Row:
    """Counts of a kind.

    Attributes:
        kind: What is wrong with the world.
        wrong: What is wrong with the outcomes, in words.
    """

    kind: str
    cases: int = 0
    tracebacks: int = 0
    hangs: int = 0
    wrong_successes: int = 0
    other: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def count(self, name: str, verdict: Verdict) -> None:
        """Count a case."""
        self.cases += 1
        self.tracebacks += bool(verdict.traceback)
        self.hangs += bool(verdict.hang)
        self.wrong_successes += bool(verdict.wrong_success)
        self.other += bool(verdict.other)
        if verdict.text:
            self.wrong.append(f"{self.kind}, {name}: {verdict.text}")

    @property
    def cells(self) -> list[str]:
        """Of the table."""
        counts = (self.cases, self.tracebacks, self.hangs, self.wrong_successes, self.other)
        return [self.kind, *map(str, counts), f"{self.seconds:.0f}"]


@contextmanager
def bench() -> Iterator[tuple[Judge, Disks]]:
    """What cases and disks are tried with."""
    with tempfile.TemporaryDirectory() as folder:
        world, scratch = Path(folder) / "world", Path(folder) / "scratch"
        world.mkdir()
        scratch.mkdir()
        with Forks(world) as forks:
            yield Judge(forks, world, scratch), Disks(forks, world, scratch)


def damage_row(judge: Judge, kind: str, cases: Iterable[Case] | None = None) -> Row:
    """All cases of a kind, in turns with and without an earlier output in its place."""
    row, started = Row(kind), time.monotonic()
    for number, case in enumerate(KINDS[kind](judge.world) if cases is None else cases):
        row.count(case.name, judge.verdict(case, has_previous=number % 2 == 1))
    row.seconds = time.monotonic() - started
    return row


def disk_row(disks: Disks, kind: str, names: Iterable[str] = WRITERS) -> Row:
    """Faults of a kind at every call of the commands; "limit" is of a file's length, "disk" a real one."""
    row, started = Row(f"disk: {kind}"), time.monotonic()
    for name in names:
        writer = WRITERS[name]
        if kind == "limit":
            tried = [disks.limited(writer, size) for size in LIMITS]
        elif kind == "mounted":
            tried = [disks.full(writer, free) for free in FREE] if can_mount() else []
        else:
            tried = [*disks.injected(writer, kind)]
        for number, wrong in enumerate(tried, start=1):
            if wrong is not None:
                row.count(f"{name}, {number}", _verdict(wrong))
    row.seconds = time.monotonic() - started
    return row


DISK_KINDS = ("write", "sync", "rename", "limit", "mounted")


def _verdict(wrong: str) -> Verdict:
    if wrong.startswith("traceback"):
        return Verdict(traceback=wrong)
    return Verdict(hang=wrong) if wrong == "hang" else Verdict(other=wrong)


def table(rows: Iterable[Row]) -> str:
    """In Markdown."""
    lines = [[*COLUMNS], ["---"] * len(COLUMNS), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
