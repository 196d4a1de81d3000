"""Puzzles: languages of one length with an exact check; and those of 4x4 cells."""

import math
from abc import abstractmethod
from itertools import permutations

import torch
from torch import Tensor

from edlm.corpus.language import Language, check_draw, check_rows, check_tokens

SIZE, BOX = 4, 2  # of the grids
ENTRIES_AT_ONCE = 2**21  # of the tables of a posterior: about 16 MiB


class Puzzle(Language):
    """A language of one length: the uniform law over the valid rows.

    Attributes:
        length: Tokens of every row.
        num_given: Tokens of a prompt, by default.
    """

    length: int

    @abstractmethod
    def count(self) -> int:
        """Number of valid rows, exactly."""

    def entropy_nats(self) -> float:
        """Entropy of a whole row, nats: log `count`."""
        return math.log(self.count())

    def log_marginals(self, x_t: Tensor) -> Tensor:
        x_t = self._checked(x_t, name="x_t")
        check_rows(self.log_prob(x_t).isneginf(), "observed tokens of x_t must have positive probability, got zero")
        return torch.cat([self._posterior(rows) for rows in self._parts(x_t)]).log_()

    def _checked(self, x: Tensor, **options) -> Tensor:
        """`x` as `check_tokens` gives it, of this length."""
        x = check_tokens(x, self.mask_token_id, **options)
        if x.shape[1] != self.length:
            raise ValueError(f"rows must have the puzzle's {self.length} tokens, got {x.shape[1]}")
        return x

    def _checked_draw(self, n: int, length: int, generator: torch.Generator) -> int:
        n, length = check_draw(n, length, generator)
        if length != self.length:
            raise ValueError(f"length must be the puzzle's {self.length}, got {length}")
        return n

    @abstractmethod
    def _posterior(self, x_t: Tensor) -> Tensor:
        """P(x^i = v | observed), ``[rows, length, vocab_size]``."""

    @abstractmethod
    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Few rows at a time, which bounds the memory of `_posterior`."""


class Grid(Puzzle):
    """4x4 grids, row after row, of the symbols 1 to 4 (ids 0 to 3), equally likely; some cells are given.

    Attributes:
        grids: All valid rows, ``[count, 16]``.
        groups: Cells that hold each symbol once, ``[groups, 4]``.
    """

    vocab_size = mask_token_id = SIZE
    length, num_given = SIZE**2, SIZE
    symbols = tuple(str(symbol + 1) for symbol in range(SIZE))

    def __init__(self, grids: list[list[int]], groups: Tensor):
        self.grids, self.groups = torch.tensor(grids), groups

    def count(self) -> int:
        return len(self.grids)

    def given(self, n: int, length: int, num_given: int, generator: torch.Generator) -> Tensor:
        """As `Language.given`; any cells are equally likely."""
        places = torch.rand(n, length, generator=generator, device=generator.device).argsort(1).argsort(1)
        return places < num_given

    def sample(self, n: int, length: int, generator: torch.Generator) -> Tensor:
        n, device = self._checked_draw(n, length, generator), generator.device
        return self.grids.to(device)[torch.randint(self.count(), (n,), generator=generator, device=device)]

    def log_prob(self, x: Tensor) -> Tensor:
        x = self._checked(x)
        agreeing = torch.cat([self._agree(rows).sum(1) for rows in self._parts(x)])
        return agreeing.log() - self.entropy_nats()

    def is_valid(self, x: Tensor) -> Tensor:
        x = self._checked(x, observed=True)
        return (self._sorted(x) == torch.arange(SIZE, device=x.device)).all(2).all(1)

    def conflicts(self, x: Tensor) -> Tensor:
        """Cells of the same symbol as another cell of their row, column or box.

        Args:
            x: Integers, masks allowed, shape ``[batch, 16]``.

        Returns:
            bool, the same shape; never at a mask.
        """
        x = self._checked(x)
        inside = x[:, self.groups]
        equal = (inside[..., None] == inside[..., None, :]).sum(3) > 1
        found = torch.zeros_like(x, dtype=torch.int)
        found.scatter_add_(1, self.groups.flatten().to(x.device).expand(len(x), -1), equal.flatten(1).int())
        return (found > 0) & (x != self.mask_token_id)

    def _sorted(self, x: Tensor) -> Tensor:
        """Symbols of each group in ascending order, ``[rows, groups, 4]``."""
        return x[:, self.groups.to(x.device)].sort(2).values

    def _agree(self, x: Tensor) -> Tensor:
        """1 for each grid that agrees with the observed cells, else 0; float64 ``[rows, count]``."""
        hidden = (x == self.mask_token_id)[:, None]
        return ((x[:, None] == self.grids.to(x.device)) | hidden).all(2).double()

    def _posterior(self, x_t: Tensor) -> Tensor:
        agree = self._agree(x_t)
        cells = torch.nn.functional.one_hot(self.grids.to(x_t.device), SIZE).double()
        return torch.einsum("bg,gcv->bcv", agree / agree.sum(1, keepdim=True), cells)

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(max(1, ENTRIES_AT_ONCE // self.grids.numel()))


class LatinSquare(Grid):
    """The 576 Latin squares of order 4: each symbol once in each row and column.

    Example:
        >>> LatinSquare().count()
        576
    """

    def __init__(self):
        super().__init__(_latin_squares(), _lines())


class Sudoku(Grid):
    """The 288 sudokus of order 4: Latin squares with each symbol once in each box of 2x2 cells.

    Example:
        >>> sudoku = Sudoku()
        >>> sudoku.count()
        288
        >>> grid = torch.tensor([[0, 1, 2, 3, 2, 3, 0, 1, 1, 0, 3, 2, 3, 2, 1, 0]])
        >>> sudoku.is_valid(grid).tolist(), LatinSquare().is_valid(grid.view(1, 4, 4).roll(1, 1).flatten(1)).tolist()
        ([True], [True])
    """

    def __init__(self):
        cells = torch.arange(SIZE**2).view(BOX, BOX, BOX, BOX)  # band, row in it, stack, column in it
        boxes = cells.transpose(1, 2).reshape(SIZE, SIZE)
        whole = [g for g in _latin_squares() if not any({*g[i : i + BOX]} & {*g[i + 4 : i + 6]} for i in (0, 2, 8, 10))]
        super().__init__(whole, torch.cat([_lines(), boxes]))


def _lines() -> Tensor:
    """Cells of each row and of each column, ``[8, 4]``."""
    cells = torch.arange(SIZE**2).view(SIZE, SIZE)
    return torch.cat([cells, cells.T])


def _latin_squares() -> list[list[int]]:
    """Row by row: each row is a permutation that differs from those above it in every column."""
    squares = [[]]
    for _ in range(SIZE):
        squares = [
            [*above, *row]
            for above in squares
            for row in permutations(range(SIZE))
            if all(symbol not in above[column::SIZE] for column, symbol in enumerate(row))
        ]
    return squares
