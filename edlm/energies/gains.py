"""What a normalised energy gains at which steps, as it is measured after training and kept with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Window = tuple[float, float]
"""Times ``low < t <= high``."""

ALWAYS: Window = (0.0, 1.0)
NEVER: Window = (0.0, 0.0)
_MOST_PARTS = 32  # of the steps, between which windows begin and end


@dataclass(frozen=True)
class SettingGain:
    """The gain of exact decisions over the denoiser's own marginals on held-out rows, in one setting of the sampler.

    Attributes:
        order: Reveal order.
        num_steps: Passes of a block.
        block_length: Tokens of a block; None: whole rows.
        length: Tokens of a row.
        num_rows: Rows, which share no document.
        gain: Mean gain of all steps, nats per token, high = good.
        stderr: Its standard error.
        window: The times at which it gains, see `gaining_steps`.
        window_gain: Mean gain of these steps alone: what a sampler gains that uses the energy there. Measured on the
            rows that chose them, so a little too good.
        window_stderr: Its standard error.
    """

    order: str
    num_steps: int
    block_length: int | None
    length: int
    num_rows: int
    gain: float
    stderr: float
    window: Window
    window_gain: float
    window_stderr: float

    @classmethod
    def of(cls, gains: Tensor, order: str, block_length: int | None, length: int) -> SettingGain:
        """That of gains of each row and step of its blocks, nats per token, float64, ``[num_rows, num_steps]``."""
        num_rows, num_steps = gains.shape
        first, end = gaining_steps(gains)
        whole, part = _mean_and_error(gains.sum(1)), _mean_and_error(gains[:, first:end].sum(1))
        return cls(order, num_steps, block_length, length, num_rows, *whole, _window(first, end, num_steps), *part)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SettingGain:
        """From the JSON values of ``asdict``."""
        return cls(**{**values, "window": tuple(values["window"])})

    def __str__(self) -> str:
        low, high = self.window
        blocks = "" if self.block_length is None else f" in blocks of {self.block_length}"
        used = f"{self.window_gain:.4f} at times {low:.3g} to {high:.3g}" if low < high else "left out"
        return f"{self.order}, {self.num_steps} passes{blocks}: {self.gain:.4f} ± {self.stderr:.4f}; {used}"


def gaining_window(gains: Sequence[SettingGain], order: str, num_steps: int, block_length: int | None) -> Window:
    """The window of the setting of this order whose tokens a pass are nearest; all times where there is none.

    A sampler without blocks is taken to write rows as long as those of the setting.
    """

    def distance(setting: SettingGain) -> tuple[float, bool]:
        tokens, others = block_length or setting.length, setting.block_length or setting.length
        ratio = tokens * setting.num_steps / (others * num_steps)
        return abs(math.log(ratio)), setting.block_length != block_length

    of_order = [setting for setting in gains if setting.order == order]
    return min(of_order, key=distance).window if of_order else ALWAYS


def gaining_steps(gains: Tensor) -> tuple[int, int]:
    """Consecutive steps ``first .. end - 1`` at which an energy is worth its cost.

    The fewest whose mean gain is within one standard error (of the difference) of that of the best ones. None are among
    the choices, of gain 0, so that a gain must be greater than its own error.

    Args:
        gains: Of each row and step, nats, float64, shape ``[num_rows, num_steps]``, at least two rows.

    Returns:
        ``(0, 0)`` for no step.

    References:
        The one-standard-error rule: Breiman et al. 1984, Classification and Regression Trees.

    Example:
        >>> noise = torch.tensor([[0.1, -0.1], [-0.1, 0.1], [0.1, 0.1], [-0.1, -0.1]]).double()
        >>> gaining_steps(noise + torch.tensor([1.0, 0.01]))
        (0, 1)
        >>> gaining_steps(noise - 0.01)
        (0, 0)
    """
    num_steps = gains.shape[1]
    parts = min(num_steps, _MOST_PARTS)
    edges = [i * num_steps // parts for i in range(parts + 1)]
    before = torch.nn.functional.pad(gains.cumsum(1), (1, 0))
    windows = [(0, 0), *((first, end) for i, first in enumerate(edges) for end in edges[i + 1 :])]
    first, end = torch.tensor(windows).T
    sums = before[:, end] - before[:, first]
    missing = sums[:, [int(sums.mean(0).argmax())]] - sums
    errors = missing.std(0) / len(gains) ** 0.5
    good = [i for i, (mean, error) in enumerate(zip(missing.mean(0), errors, strict=True)) if mean <= error]
    return windows[min(good, key=lambda i: (windows[i][1] - windows[i][0], missing[:, i].sum()))]


def _window(first: int, end: int, num_steps: int) -> Window:
    """The times of steps ``first .. end - 1``, and half a step on both sides, so that no rounding matters."""
    if first == end:
        return NEVER
    return (1 - (end - 0.5) / num_steps if end < num_steps else 0.0), min(1.0, 1 - (first - 0.5) / num_steps)


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) / len(values) ** 0.5
