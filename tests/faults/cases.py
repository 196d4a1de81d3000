"""A damaged input, and what must come of it: one line that names it, exit code 2, and nothing written."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.forks import Forks, InProcess, Outcome

PREVIOUS = b"of an earlier run\n"
Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A command on damaged files.

    Attributes:
        kind: The row of the table that counts it.
        name: Tells it from others of its kind.
        words: The command, after ``edlm``.
        damage: Changes files of a copy of the world, its working directory; None if the words alone are wrong.
        touched: Entries of the world that it changes.
        named: The error's line must hold one of these.
        output: File or folder that the command writes.
    """

    kind: str
    name: str
    words: tuple[str, ...]
    named: tuple[str, ...]
    damage: Damage | None = None
    touched: tuple[str, ...] = ()
    output: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What is wrong with an outcome; all of it is empty if nothing is."""

    traceback: str = ""
    hang: str = ""
    wrong_success: str = ""
    other: str = ""
    """More than one line, none that names the file, or something written."""

    @property
    def text(self) -> str:
        return next(filter(None, (self.traceback, self.hang, self.wrong_success, self.other)), "")


@dataclass
class Judge:
    """Runs cases, and compares a success with that of the same command on undamaged files."""

    forks: Forks | InProcess
    world: Path
    scratch: Path
    _expected: dict[tuple[str, ...], object] = field(default_factory=dict)

    def verdict(self, case: Case, *, has_previous: bool = False) -> Verdict:
        """Run a case in a new folder; ``has_previous``: its output exists already, where that is a file."""
        folder = self.copy(case.touched)
        try:
            if case.damage is not None:
                case.damage(folder)
            if has_previous and case.output and Path(case.output).suffix:
                (folder / case.output).write_bytes(PREVIOUS)
            before = contents(folder)
            outcome = self.forks.run(case.words, folder)
            return self._judged(case, outcome, before, contents(folder))
        finally:
            shutil.rmtree(folder)

    def copy(self, touched: tuple[str, ...]) -> Path:
        """A new folder with the entries of the world: links, but for copies of those that are changed."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        for entry in self.world.iterdir():
            if entry.name in touched:
                (shutil.copytree if entry.is_dir() else shutil.copy)(entry, folder / entry.name)
            else:
                os.symlink(entry, folder / entry.name)
        return folder

    def _judged(self, case: Case, outcome: Outcome, before: dict, after: dict) -> Verdict:
        lines = outcome.lines
        if outcome.code is None:
            return Verdict(hang=f"no end: {lines[-1:]}")
        if "Traceback (most recent call last)" in outcome.err or outcome.code not in (0, 2):
            return Verdict(traceback=f"exit code {outcome.code}: {lines[-1] if lines else ''}")
        if outcome.code == 0:
            if case.damage is None or outcome_of(outcome, after, case.output) != self.expected(case):
                return Verdict(wrong_success=f"success: {outcome.out.strip()[-200:]!r}")
            return Verdict()
        problems = [f"wrote {name}" for name in written(before, after, case)]
        if len(lines) != 1 or not lines[0].startswith("edlm: error: "):
            problems.append(f"{len(lines)} lines: {lines[:3]}")
        elif not any(name in lines[0] for name in case.named):
            problems.append(f"names none of {case.named}: {lines[0]}")
        return Verdict(other="; ".join(problems))

    def expected(self, case: Case) -> object:
        """What the command prints and writes on undamaged files."""
        if case.words not in self._expected:
            folder = self.copy(case.touched)
            outcome = self.forks.run(case.words, folder)
            if outcome.code != 0:
                raise RuntimeError(f"{case.words} must succeed on what is not damaged, got {outcome.err}")
            self._expected[case.words] = outcome_of(outcome, contents(folder), case.output)
            shutil.rmtree(folder)
        return self._expected[case.words]


def contents(folder: Path) -> dict[str, bytes]:
    """Content of all files below, by name, but for those that are linked."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def outcome_of(outcome: Outcome, after: Mapping[str, bytes], output: str | None) -> object:
    """What can be compared: what is printed, without rates, and the output's files that hold no times."""
    printed = re.sub(r"[\d.]+ a second|: \d+ of them new", "", outcome.out)
    return printed, timeless({name: content for name, content in after.items() if output and name.startswith(output)})


def timeless(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those of some files that are the same whenever they are made."""
    suffixes = {".jsonl", ".parquet", ".safetensors", ".txt", ".svg", ".html", ".md"}
    times = ("log.jsonl", "report.html", ".store.safetensors", "README.md")
    return {
        name: content
        for name, content in files.items()
        if Path(name).suffix in suffixes
        and not name.endswith(times)
        and not {".parts", "checkpoints"} & {*name.split("/")}
    }


def written(before: Mapping[str, bytes], after: Mapping[str, bytes], case: Case) -> list[str]:
    """Files that were changed, or that look like a whole output."""
    changed = [name for name in before if after.get(name) != before[name]]
    new = [name for name in after if name not in before and case.output and name.startswith(case.output)]
    return [*changed, *(name for name in new if not may_stay(name, case.output))]


def may_stay(name: str, output: str) -> bool:
    """Whether a file may be left by a command that failed: what it resumes from, and a training run's log."""
    inside = name.removeprefix(output)
    return inside.startswith((".parts/", "/log.jsonl", "/config.yaml", "/checkpoints/")) or ".store." in inside
