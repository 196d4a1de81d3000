"""Settings that are timed in turns, and ratios of their times with intervals."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from edlm.diffusion.streams import generator_of

_RESAMPLES = 2000


class Ratio(NamedTuple):
    """A ratio of times.

    Attributes:
        value: Median over turns of the ratio within a turn.
        low: End of a 95 % interval, by a bootstrap over turns.
        high: The other end.
    """

    value: float
    low: float
    high: float


def time_in_turns(
    settings: Mapping[str, Callable[[], object]], turns: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each setting in each turn, after a turn that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    for turn in range(turns + 1):
        for name, run in settings.items():
            started = clock()
            run()
            if turn:
                seconds[name].append(clock() - started)
    return seconds


def ratio_of(seconds: list[float], base: list[float], seed: int = 0) -> Ratio:
    """The ratio of two settings of the same turns.

    Example:
        >>> ratio_of([2.0, 3.0, 8.0], [1.0, 1.0, 2.0]).value
        3.0
    """
    ratios = torch.tensor(seconds, dtype=torch.float64) / torch.tensor(base, dtype=torch.float64)
    drawn = torch.randint(len(ratios), (_RESAMPLES, len(ratios)), generator=generator_of(seed))
    low, high = ratios[drawn].quantile(0.5, 1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Ratio(statistics.median(ratios.tolist()), low, high)
