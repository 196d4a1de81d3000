"""Reveal orders: in which sequence masked positions are decided, and how many at each step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edlm.diffusion.schedule import Schedule
from edlm.diffusion.streams import BatchOrder, RowGenerators
from edlm.numerics import precise, widest_float


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

    def ranking(self, key: Tensor) -> Tensor:
        """Positions in the order of ``key[batch, length]``, lowest first, masked ones before others; same shape."""
        return precise(key).masked_fill(~self.masked, torch.inf).argsort(dim=1, stable=True)

    def equal_steps(self, key: Tensor) -> Tensor:
        """The step of each position, ``[batch, length]``: ``floor(n i / T)`` of the lowest keys come before step i."""
        rank = self.ranking(key).argsort(dim=1)
        return -(-(rank + 1) * self.num_steps // self.counts[:, None].clamp(min=1)) - 1

    def uniform(self) -> Tensor:
        """A uniform draw for each masked position, in the widest float, ``[batch, length]``; 0 elsewhere."""
        drawn = torch.zeros(self.masked.shape, dtype=widest_float(self.masked.device), device=self.masked.device)
        drawn[self.masked] = self.generators.uniform(self.counts.cpu())[:, 0].to(drawn)
        return drawn

    def left_to_right_within(self, step: Tensor) -> Tensor:
        """Key of an order by ``step[batch, length]``, and inside a step from left to right."""
        return step * self.masked.shape[1] + precise(self.nth)


RankedOrder = Callable[[MaskedRows], tuple[Tensor, Tensor]]
"""Ranks masked positions: a key for each, lowest first, and the step ``0 .. T - 1`` that reveals it, which rises with
the key; both ``[batch, length]``, anything elsewhere."""


def ancestral(rows: MaskedRows) -> tuple[Tensor, Tensor]:
    """Each position alone turns clean with the posterior's probability, as in the reverse process."""
    key = rows.uniform()
    first, last = torch.zeros_like(rows.nth), torch.full_like(rows.nth, rows.num_steps - 1)
    for _ in range((rows.num_steps - 1).bit_length()):  # of the steps first .. last, all that may reveal a position
        middle = (first + last) // 2
        s = 1 - (middle + 1).to(key) / rows.num_steps
        # Posterior q(x_s | x_t, x_0): one uniform a position decides at which step it turns clean.
        is_clean = key < rows.schedule.reveal_probability(torch.ones_like(s), s)
        first = torch.where(is_clean, first, torch.minimum(middle + 1, last))
        last = torch.where(is_clean, middle, last)
    return key, first


def random(rows: MaskedRows) -> tuple[Tensor, Tensor]:
    """Steps of equal size, of positions in random order."""
    key = rows.uniform()
    return key, rows.equal_steps(key)


def left_to_right(rows: MaskedRows) -> tuple[Tensor, Tensor]:
    """Steps of equal size, from the left."""
    key = precise(rows.nth)
    return key, rows.equal_steps(key)


def dilated(rows: MaskedRows) -> tuple[Tensor, Tensor]:
    """Steps of equal size, of positions that are far apart.

    Step ``i`` takes one residue class modulo ``T`` of the masked positions, classes in bit-reversed sequence; left to
    right inside a step, also where ``T`` does not divide ``n`` and a step spans two classes.

    References:
        DUS, arXiv:2506.19037.
    """
    place = _bit_reversed(rows.nth % rows.num_steps, (rows.num_steps - 1).bit_length())
    step = rows.equal_steps(rows.left_to_right_within(place))
    return rows.left_to_right_within(step), step


def bisecting(rows: MaskedRows) -> tuple[Tensor, Tensor]:
    """As `dilated` where ``T`` is a power of two that divides ``n``; else later steps are larger.

    It takes residue classes modulo the least power of two ``P >= T``, in bit-reversed sequence: a class at each of the
    first ``2 T - P`` steps and two at each later one, since tokens whose near neighbours are revealed depend less on
    each other.
    """
    bits = (rows.num_steps - 1).bit_length()
    single = 2 * rows.num_steps - 2**bits  # steps of one class
    place = _bit_reversed(rows.nth % 2**bits, bits)
    step = torch.where(place < single, place, single + (place - single) // 2)
    return rows.left_to_right_within(step), step


ORDERS: dict[str, RankedOrder] = {
    order.__name__: order for order in (ancestral, random, dilated, bisecting, left_to_right)
}
RANDOM_ORDERS = ("ancestral", "random")


def _bit_reversed(classes: Tensor, bits: int) -> Tensor:
    """Residue classes with their bits reversed; by these, classes follow the van der Corput sequence 0, 1/2, 1/4, ...

    Example:
        >>> _bit_reversed(torch.arange(6), 3).tolist()
        [0, 4, 2, 6, 1, 5]
    """
    turned = torch.zeros_like(classes)
    for bit in range(bits):
        turned += (classes >> bit & 1) << bits - 1 - bit
    return turned
