"""Puzzles of lists: items that are shuffled, or of which some are replaced."""

import math
from itertools import combinations, permutations

import torch
from torch import Tensor

from edlm.corpus.language import check_count
from edlm.corpus.puzzles import ENTRIES_AT_ONCE, Puzzle

MOST_ITEMS = 8


class ListTask(Puzzle):
    """A list of distinct items and what is made of it; items and outcomes are equally likely.

    Args:
        vocab_size: Kinds of item.
        arrangements: One a row and equally likely: which item each token is, ``[arrangements, length]``.

    Raises:
        ValueError: fewer kinds than items.
    """

    def __init__(self, vocab_size: int, arrangements: list[list[int]]):
        self.arrangements = torch.tensor(arrangements)
        self.num_distinct = int(self.arrangements.max()) + 1
        if check_count("vocab_size", vocab_size, 1) < self.num_distinct:
            raise ValueError(f"vocab_size must be >= {self.num_distinct}, the distinct items, got {vocab_size}")
        self.vocab_size = self.mask_token_id = vocab_size
        self.length = self.arrangements.shape[1]

    def count(self) -> int:
        return len(self.arrangements) * math.perm(self.vocab_size, self.num_distinct)

    def sample(self, n: int, length: int, generator: torch.Generator) -> Tensor:
        n, g = self._checked_draw(n, length, generator), generator
        items = torch.rand(n, self.vocab_size, dtype=torch.float64, generator=g, device=g.device).argsort(1)
        chosen = torch.randint(len(self.arrangements), (n,), generator=g, device=g.device)
        return items.gather(1, self.arrangements.to(g.device)[chosen])

    def log_prob(self, x: Tensor) -> Tensor:
        x = self._checked(x)
        ways = torch.cat([self._log_ways(self._items(rows)).logsumexp(1) for rows in self._parts(x)])
        return ways - self.entropy_nats()

    def _items(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest token seen of each item under each arrangement, ``[rows, arrangements, items]``.

        They are ``vocab_size`` and -1 of an item that is not seen, and differ where tokens contradict each other.
        """
        place = self.arrangements.to(x.device).expand(len(x), -1, -1)
        least = x.new_full((*place.shape[:2], self.num_distinct), self.vocab_size)
        seen = x.masked_fill(x == self.mask_token_id, -1)[:, None].expand_as(place)
        greatest = torch.full_like(least, -1).scatter_reduce(2, place, seen, "amax")
        return least.scatter_reduce(2, place, x[:, None].expand_as(place), "amin"), greatest

    def _log_ways(self, items: tuple[Tensor, Tensor]) -> Tensor:
        """Log of the number of choices of the unseen items, nats, ``[rows, arrangements]``; ``-inf`` for none."""
        least, greatest = items
        seen, ordered = greatest >= 0, least.sort(2).values
        repeated = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] < self.vocab_size)
        wrong = (seen & (least != greatest)).any(2) | repeated.any(2)
        left = (self.vocab_size - seen.sum(2)).double()
        log_ways = torch.lgamma(left + 1) - math.lgamma(self.vocab_size - self.num_distinct + 1)
        return log_ways.masked_fill(wrong, -torch.inf)

    def _posterior(self, x_t: Tensor) -> Tensor:
        items = self._items(x_t)
        weights, seen = self._log_ways(items).softmax(1), items[1] >= 0
        shown = torch.nn.functional.one_hot(items[0], self.vocab_size + 1)[..., :-1].double()
        unused = 1 - shown.amax(2, keepdim=True)
        law = torch.where(seen[..., None], shown, unused / unused.sum(3, keepdim=True).clamp(min=1))
        place = self.arrangements.to(x_t.device)[None, ..., None].expand(len(x_t), -1, -1, self.vocab_size)
        return (weights[..., None, None] * law.gather(2, place)).sum(1)

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(max(1, ENTRIES_AT_ONCE // (self.arrangements.numel() * self.vocab_size)))


class Shuffling(ListTask):
    """A list, which is given, then any permutation of it: the task that parallel decoding breaks in arXiv:2510.04767.

    Args:
        num_items: Items of the list, 2 to 8.
        vocab_size: Kinds of item.

    Example:
        >>> task = Shuffling(3, vocab_size=5)
        >>> task.is_valid(torch.tensor([[4, 0, 2, 2, 4, 0], [4, 0, 2, 2, 4, 4]])).tolist()
        [True, False]
    """

    def __init__(self, num_items: int, vocab_size: int):
        self.num_given = _num_items(num_items)
        first = [*range(num_items)]
        super().__init__(vocab_size, [[*first, *shuffled] for shuffled in permutations(first)])

    def is_valid(self, x: Tensor) -> Tensor:
        items, outcome = (half.sort(1).values for half in self._checked(x, observed=True).chunk(2, 1))
        return (items == outcome).all(1) & (items.diff(dim=1) > 0).all(1)


class Replacement(ListTask):
    """An item and a list, which are given, then the list with some items, any of them, replaced by the first item.

    Args:
        num_items: Items of the list, 2 to 8.
        num_replaced: How many are replaced, at most all.
        vocab_size: Kinds of item.

    Example:
        >>> task = Replacement(3, num_replaced=1, vocab_size=5)
        >>> task.is_valid(torch.tensor([[4, 0, 2, 1, 0, 4, 1], [4, 0, 2, 1, 4, 4, 1]])).tolist()
        [True, False]
    """

    def __init__(self, num_items: int, num_replaced: int, vocab_size: int):
        self.num_given = _num_items(num_items) + 1
        self.num_replaced = check_count("num_replaced", num_replaced, 1)
        if num_replaced > num_items:
            raise ValueError(f"num_replaced must be <= num_items, {num_items}, got {num_replaced}")
        first = [*range(num_items + 1)]
        chosen = combinations(first[1:], num_replaced)
        super().__init__(vocab_size, [[*first, *(0 if i in places else i for i in first[1:])] for places in chosen])

    def is_valid(self, x: Tensor) -> Tensor:
        x = self._checked(x, observed=True)
        item, items, outcome = x[:, :1], x[:, 1 : self.num_given], x[:, self.num_given :]
        distinct = (x[:, : self.num_given].sort(1).values.diff(dim=1) > 0).all(1)
        new = outcome != items
        return distinct & (new.sum(1) == self.num_replaced) & (~new | (outcome == item)).all(1)


def _num_items(num_items: int) -> int:
    if check_count("num_items", num_items, 2) > MOST_ITEMS:
        raise ValueError(f"num_items must be <= {MOST_ITEMS}, got {num_items}")
    return num_items
