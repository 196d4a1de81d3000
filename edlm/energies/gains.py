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
_MOST_PARTS = 32  # of the steps


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
        (num_rows, num_steps), number = gains.shape, gaining_steps(gains)
        # It ends half a step after the last one, where no rounding matters.
        window = NEVER if number == 0 else ALWAYS if number == num_steps else (1 - (number - 0.5) / num_steps, 1.0)
        whole, part = (_mean_and_error(values.sum(1)) for values in (gains, gains[:, :number]))
        return cls(order, num_steps, block_length, length, num_rows, *whole, window, *part)

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


def gaining_steps(gains: Tensor) -> int:
    """How many of the first steps an energy is worth using at.

    The fewest whose mean gain is within one standard error (of the difference) of that of the best number. No step is
    among the choices, so that a gain must exceed its own error. First steps, since there tokens depend on each other
    most: little is revealed. Of more than 32 steps the choices are 32 parts.

    Args:
        gains: Of each row and step, nats, float64, shape ``[num_rows, num_steps]``, at least two rows.

    References:
        The one-standard-error rule: Breiman et al. 1984, Classification and Regression Trees. A window of first steps:
        Xu et al. 2025, arXiv:2410.21357, Alg. 1.

    Example:
        >>> noise = torch.tensor([[0.1, -0.1], [-0.1, 0.1], [0.1, 0.1], [-0.1, -0.1]]).double()
        >>> gaining_steps(noise + torch.tensor([1.0, 0.01])), gaining_steps(noise - 0.01)
        (1, 0)
    """
    num_steps = gains.shape[1]
    parts = min(num_steps, _MOST_PARTS)
    numbers = [i * num_steps // parts for i in range(parts + 1)]
    sums = torch.nn.functional.pad(gains.cumsum(1), (1, 0))[:, numbers]
    missing = sums[:, [int(sums.mean(0).argmax())]] - sums
    good = missing.mean(0) <= missing.std(0) / len(gains) ** 0.5
    return numbers[int(good.int().argmax())]


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) / len(values) ** 0.5
