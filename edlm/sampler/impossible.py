"""The error of rows that nothing possible can be written in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor


class ImpossibleCandidates(ValueError):
    """All candidates, or particles, of rows have infinite energy.

    Args:
        which: What is impossible: "all 8 candidates".
        rows: Numbers of the rows.
        t: Time of the step.
        more: What was tried, and what may help.
    """

    def __init__(self, which: str, rows: list[int], t: float, more: str):
        super().__init__(which, rows, t, more)  # so that it can be sent to another process
        self.which, self.rows, self.t, self.more = which, rows, t, more

    def __str__(self) -> str:
        return f"{self.which} have infinite energy at t = {self.t:.4g} in rows {self.rows}{self.more}"

    @classmethod
    def at_first(cls, which: str, impossible: Tensor, t: Tensor, more: str) -> ImpossibleCandidates:
        """Of the rows ``impossible[batch]`` at times ``t[batch]``; of several times it names the first row's."""
        time = t[impossible][0]
        return cls(which, (impossible & (t == time)).nonzero()[:, 0].tolist(), time.item(), more)


@contextmanager
def rows_numbered(numbers: Sequence[int]) -> Iterator[None]:
    """An `ImpossibleCandidates` of row ``r`` of a batch names it as row ``numbers[r]``, which the user knows it by."""
    try:
        yield
    except ImpossibleCandidates as error:
        rows = sorted(numbers[row] for row in error.rows)
        raise ImpossibleCandidates(error.which, rows, error.t, error.more) from None
