"""Checks and what they found, one line each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        name: Of the check, in one or two words.
        passed: None where nothing could be decided.
        text: What was found, in a line.
    """

    name: str
    passed: bool | None
    text: str

    @property
    def mark(self) -> str:
        """Of one check in a table: "ok", "FAILED" or "-"."""
        return {True: "ok", False: "FAILED", None: "-"}[self.passed]

    def __str__(self) -> str:
        return f"{self.mark:6}  {self.name:16}  {self.text}"


@dataclass(frozen=True)
class CheckReport:
    """The verdicts of several checks.

    Attributes:
        verdicts: One a check.
    """

    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The verdicts of checks that failed."""
        return tuple(verdict for verdict in self.verdicts if verdict.passed is False)

    def __getitem__(self, name: str) -> Verdict:
        return {verdict.name: verdict for verdict in self.verdicts}[name]

    def __str__(self) -> str:
        return "\n".join(map(str, self.verdicts))

    __repr__ = __str__
