"""Reveal orders: in which sequence masked positions are decided, and how many at each step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edlm.diffusion.schedule import Schedule
from edlm.diffusion.streams import BatchOrder, RowGenerators


@dataclass(frozen=True)
class MaskedRows:
    """The masked positions of a batch, which a reveal order ranks.

    Attributes:
        masked: Initially masked positions that are to be revealed, bool, shape ``[batch, length]``.
        num_steps: Number of denoising steps ``T``.
        schedule: Masking schedule.
        generators: Order streams of the rows.
    """

    masked: Tensor
    num_steps: int
    schedule: Schedule
    generators: RowGenerators | BatchOrder

    @cached_property
    def counts(self) -> Tensor:
        """Number ``n`` of masked positions of each row, ``[batch]``."""
        return self.masked.sum(1)

    @cached_property
    def nth(self) -> Tensor:
        """Index of a masked position among the masked ones of its row, from the left, ``[batch, length]``."""
        return self.masked.cumsum(1) - 1

    @cached_property
    def equal_bounds(self) -> Tensor:
        """Bounds ``floor(n i / T)`` of steps of equal size, ``[batch, T + 1]``."""
        return self.counts[:, None] * torch.arange(self.num_steps + 1, device=self.masked.device) // self.num_steps

    def uniform(self) -> Tensor:
        """A uniform draw for each masked position, float64, ``[batch, length]``; 0 elsewhere."""
        drawn = torch.zeros(self.masked.shape, dtype=torch.float64, device=self.masked.device)
        drawn[self.masked] = self.generators.uniform(self.counts.cpu())[:, 0].to(drawn)
        return drawn

    def left_to_right_within(self, step: Tensor) -> Tensor:
        """Key of an order by ``step[batch, length]``, and inside a step from left to right."""
        return step * self.masked.shape[1] + self.nth.double()


RankedOrder = Callable[[MaskedRows], tuple[Tensor, Tensor]]
"""Ranks masked positions: a key for each, ``[batch, length]``, lowest first; and the bounds of the steps,
``[batch, T + 1]``: how many positions are revealed before each step, from 0 to all."""


def ancestral(rows: MaskedRows) -> tuple[Tensor, Tensor]:
    """Each position alone turns clean with the posterior's probability, as in the reverse process."""
    key = rows.uniform()
    # Posterior q(x_s | x_t, x_0): one uniform a position decides at which step it turns clean.
    s = 1 - torch.arange(rows.num_steps + 1, device=key.device, dtype=key.dtype) / rows.num_steps
    clean = rows.schedule.reveal_probability(torch.ones_like(s), s)
    bounds = ((key[:, None, :] < clean[None, :, None]) & rows.masked[:, None, :]).sum(2)
    bounds[:, -1] = rows.counts  # whatever rounding does to alpha(0)
    return key, bounds


def random(rows: MaskedRows) -> tuple[Tensor, Tensor]:
    """Steps of equal size, of positions in random order."""
    return rows.uniform(), rows.equal_bounds


def left_to_right(rows: MaskedRows) -> tuple[Tensor, Tensor]:
    """Steps of equal size, from the left."""
    return rows.nth.double(), rows.equal_bounds


def dilated(rows: MaskedRows) -> tuple[Tensor, Tensor]:
    """Steps of equal size, of positions that are far apart.

    Step ``i`` takes one residue class modulo ``T`` of the masked positions, classes in bit-reversed sequence; left to
    right inside a step, also where ``T`` does not divide ``n`` and a step spans two classes.

    References:
        DUS, arXiv:2506.19037.
    """
    place = _bit_reversed(rows.num_steps).to(rows.masked.device).argsort().argsort()
    by_class = rows.left_to_right_within(place[rows.nth % rows.num_steps]).masked_fill(~rows.masked, torch.inf)
    step = torch.searchsorted(rows.equal_bounds, by_class.argsort(dim=1).argsort(dim=1), right=True)
    return rows.left_to_right_within(step), rows.equal_bounds


def bisecting(rows: MaskedRows) -> tuple[Tensor, Tensor]:
    """As `dilated` where ``T`` is a power of two that divides ``n``; else later steps are larger.

    It takes residue classes modulo the least power of two ``P >= T``, in bit-reversed sequence: a class at each of the
    first ``2 T - P`` steps and two at each later one, since tokens whose near neighbours are revealed depend less on
    each other.
    """
    num_classes = 2 ** (rows.num_steps - 1).bit_length()
    single = 2 * rows.num_steps - num_classes  # steps of one class
    place = _bit_reversed(num_classes).to(rows.masked.device)
    step = torch.where(place < single, place, single + (place - single) // 2)[rows.nth % num_classes]
    before = step[:, None] < torch.arange(rows.num_steps + 1, device=step.device)[:, None]
    return rows.left_to_right_within(step), (before & rows.masked[:, None]).sum(2)


ORDERS: dict[str, RankedOrder] = {
    order.__name__: order for order in (ancestral, random, dilated, bisecting, left_to_right)
}
RANDOM_ORDERS = ("ancestral", "random")


def _bit_reversed(num_classes: int) -> Tensor:
    """Each residue class with its bits reversed; by these, classes follow the van der Corput sequence 0, 1/2, 1/4, ...

    Example:
        >>> _bit_reversed(6).tolist()
        [0, 4, 2, 6, 1, 5]
    """
    bits = max(1, (num_classes - 1).bit_length())
    return torch.tensor([int(f"{c:0{bits}b}"[::-1], 2) for c in range(num_classes)])
