"""Balanced brackets under the uniform law, and the input checks that all languages share."""

import math
import operator
import sys

import torch
from torch import Tensor


def check_count(name: str, value: int, minimum: int) -> int:
    """`value` as an int, if it is one and at least `minimum`."""
    try:
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}") from None
    if count < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {count}")
    return count


def check_generator(generator: torch.Generator) -> None:
    """Raise unless it is a generator."""
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator, got {type(generator).__name__}")


def check_draw(n: int, length: int, generator: torch.Generator) -> tuple[int, int]:
    """The checked sizes of a call of `sample`."""
    check_generator(generator)
    return check_count("n", n, 0), check_count("length", length, 1)


def check_rows(bad: Tensor, rule: str) -> None:
    """Raise `rule`, and the numbers of the rows that are True in `bad` (eight at most)."""
    if bad.any():
        rows = bad.nonzero()[:, 0].tolist()
        more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
        raise ValueError(f"{rule} in rows {rows[:8]}{more}")


def check_tokens(x: Tensor, mask: int, name: str = "x", observed: bool = False) -> Tensor:
    """`x` as int64 ``[batch, length]``, ids in ``0..mask``; `observed` forbids the mask itself."""
    kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
    if not isinstance(x, Tensor) or kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise ValueError(f"{name} must be a tensor of integers, got {kind}")
    if x.dim() != 2 or x.shape[1] == 0:
        rule = f"{name} must have shape [batch, length] with length >= 1"
        raise ValueError(f"{rule}, got {list(x.shape)}")
    outside = x[(x < 0) | (x > mask)]
    if len(outside):
        rule = f"{name} must hold ids in 0..{mask} ({mask} is the mask token)"
        raise ValueError(f"{rule}, got {outside[0].item()}")
    if observed:
        check_rows((x == mask).any(1), f"{name} must have no mask token ({mask}), got one")
    return x.long()


def check_probabilities(name: str, values, *shape: int | str) -> Tensor:
    """`values` as float64, its last axis normalised; a letter in `shape` is any size >= 1."""
    table = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    pairs = zip(table.shape, shape, strict=False)
    wanted = [got or 1 if isinstance(want, str) else want for got, want in pairs]
    if table.dim() != len(shape) or list(table.shape) != wanted:
        rule = f"{name} must have shape [{', '.join(map(str, shape))}]"
        raise ValueError(f"{rule}, got {list(table.shape)}")
    wrong = ~(table.isfinite() & (table >= 0))
    if wrong.any():
        got = f"{table[wrong][0].item()} at {wrong.nonzero()[0].tolist()}"
        raise ValueError(f"{name} must be finite and non-negative, got {got}")
    sums = table.sum(-1, keepdim=True)
    off = ((sums - 1).abs() > 1e-6).reshape(-1)
    worst = sums.reshape(-1)[(sums - 1).abs().argmax()].item()
    check_rows(off, f"{name} must sum to 1 within 1e-6, got {worst:.8g} at worst")
    return table / sums


class Dyck:
    """Balanced strings of `num_pairs` kinds of bracket, at most `max_depth` deep, equally likely.

    log p(x) = -log(number of balanced strings of that length), nats.
    Token i < num_pairs opens kind i; num_pairs + i closes it.

    Args:
        num_pairs: Kinds of bracket, >= 1.
        max_depth: Most brackets open at once, >= 1.

    Attributes:
        vocab_size, mask_token_id: ``2 * num_pairs``.

    Raises:
        ValueError: an argument is not an integer >= 1. In every method: an odd length.

    Note:
        `log_prob` of a masked row takes O(length^3 * max_depth) float64 operations.

    Example:
        >>> brackets = Dyck(num_pairs=2, max_depth=1)  # ( [ ) ] are 0 1 2 3, and 4 is the mask
        >>> brackets.count(4)  # ()() ()[] []() [][]
        4
        >>> brackets.log_prob(torch.tensor([[0, 2, 4, 4], [0, 3, 4, 4]])).exp()
        tensor([0.5000, 0.0000], dtype=torch.float64)
    """

    def __init__(self, num_pairs: int, max_depth: int):
        self.num_pairs = check_count("num_pairs", num_pairs, 1)
        self.max_depth = check_count("max_depth", max_depth, 1)
        self.vocab_size = self.mask_token_id = 2 * self.num_pairs

    def count(self, length: int) -> int:
        """Number of balanced strings of `length` tokens, exactly."""
        return self._ways(length)[length][0] * self.num_pairs ** (length // 2)

    def entropy_nats(self, length: int) -> float:
        """Entropy of a whole sequence, nats: log `count(length)`."""
        return math.log(self.count(length))

    def sample(self, n: int, length: int, generator: torch.Generator) -> Tensor:
        """Draw `n` strings, exactly uniform, on the generator's device.

        P(open | remaining, depth) = ways[remaining - 1][depth + 1] / ways[remaining][depth]

        Args:
            n: Number of strings, >= 0.
            length: Tokens per string, even.
            generator: The only source of randomness.

        Returns:
            int64, shape ``[n, length]``.
        """
        n, length = check_draw(n, length, generator)
        g, ways = generator, self._ways(length)
        opening = [
            [up / here if here else 0.0 for up, here in zip([*fewer[1:], 0], now, strict=True)]
            for fewer, now in zip(ways[:-1], ways[1:], strict=True)
        ]
        opening = torch.tensor(opening, dtype=torch.float64, device=g.device)
        u = torch.rand(2, length, n, dtype=torch.float64, generator=g, device=g.device)
        x = torch.empty(n, length, dtype=torch.long, device=g.device)
        depth = torch.zeros_like(x[:, 0])
        stack = depth.new_zeros(n, opening.shape[1])  # slots from `depth` up are dead
        for i in range(length):
            opens = u[0, i] < opening[length - 1 - i][depth]
            kind = (u[1, i] * self.num_pairs).long()
            last = stack.gather(1, (depth - 1).clamp_min(0)[:, None])[:, 0]
            x[:, i] = torch.where(opens, kind, last + self.num_pairs)
            stack.scatter_(1, depth[:, None], kind[:, None])
            depth = torch.where(opens, depth + 1, depth - 1)
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probability of each row, nats; positions that hold the mask are summed out exactly.

        log p = log(number of balanced strings that agree with the row) - log(count(length))

        Args:
            x: Integers, shape ``[batch, length]``, ids in ``0..mask_token_id``.

        Returns:
            float64, shape ``[batch]``; ``-inf`` where no balanced string agrees.

        Raises:
            ValueError: wrong ids or shape, odd length, masks where float64 cannot hold the count.
        """
        x = check_tokens(x, self.mask_token_id)
        total, most = self.count(x.shape[1]), sys.float_info.max
        masked = (x == self.mask_token_id).any(1)
        completions = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        completions[~masked] = self.is_valid(x[~masked]).double()
        if masked.any():
            if total > most:
                rule = f"length of rows with masks must keep the count below {most:.1e}"
                raise ValueError(f"{rule}, got {x.shape[1]}")
            completions[masked] = self._completions(x[masked])
        return completions.log() - math.log(total)

    def is_valid(self, x: Tensor) -> Tensor:
        """Whether each fully observed row is balanced and at most `max_depth` deep.

        Args:
            x: Integers, shape ``[batch, length]``, ids in ``0..vocab_size - 1``.

        Returns:
            bool, shape ``[batch]``.

        Raises:
            ValueError: a row holds a mask token, wrong ids or shape, odd length.
        """
        x = check_tokens(x, self.mask_token_id, observed=True)
        deepest = len(self._ways(x.shape[1])[0]) - 1
        valid = torch.ones_like(x[:, 0], dtype=torch.bool)
        depth = torch.zeros_like(x[:, 0])
        stack = depth.new_zeros(len(x), deepest + 1)
        for token in x.unbind(1):
            last = stack.gather(1, (depth - 1).clamp_min(0)[:, None])[:, 0]
            opens, closes = token < self.num_pairs, last == token - self.num_pairs
            valid &= torch.where(opens, depth < deepest, (depth > 0) & closes)
            stack.scatter_(1, depth[:, None], token[:, None])
            depth = torch.where(opens, depth + 1, depth - 1).clamp(0, deepest)
        return valid & (depth == 0)

    def _ways(self, length: int) -> list[list[int]]:
        """ways[r][d]: one-kind strings of r tokens that close d open brackets, within the limit."""
        if check_count("length", length, 1) % 2:
            raise ValueError(f"length must be even, got {length}")
        top = min(self.max_depth, length // 2)
        ways = [[1] + [0] * top]
        for _ in range(length):
            last = [0, *ways[-1], 0]
            ways.append([last[d] + last[d + 2] for d in range(top + 1)])
        return ways

    def _completions(self, x: Tensor) -> Tensor:
        """Number of balanced strings that agree with each row; float64 ``[batch]``."""
        length, deepest = x.shape[1], min(self.max_depth, x.shape[1] // 2)
        rows = max(1, 2**19 // (deepest * length**2))  # about 2 MiB of counts at a time
        return torch.cat([self._intervals(part.T, deepest) for part in x.split(rows)])

    def _intervals(self, x: Tensor, deepest: int) -> Tensor:
        """Dynamic programming over the intervals of `x` ``[length, rows]``.

        ways[h, p, s]: balanced fillings, at most h deep, of the p pairs that start at s; the first
        bracket closes after q inner pairs: sum over q of
        fits(s, s + 2q + 1) * ways[h - 1, q, s + 1] * ways[h, p - 1 - q, s + 2q + 2].
        """
        length, rows = x.shape
        ways = x.new_zeros(deepest + 1, length // 2 + 1, length + 1, rows, dtype=torch.float64)
        ways[:, 0] = 1
        fits = [self._fits(x[: length - gap], x[gap:]) for gap in range(1, length, 2)]
        for p in range(1, length // 2 + 1):
            n = length - 2 * p + 1
            for q in range(p):
                inner, rest = ways[:-1, q, 1 : n + 1], ways[1:, p - 1 - q, 2 * q + 2 :][:, :n]
                ways[1:, p, :n] += fits[q][:n] * inner * rest
        return ways[deepest, -1, 0]

    def _fits(self, first: Tensor, last: Tensor) -> Tensor:
        """Kinds of bracket that `first` can open and `last` close."""
        masked = last == self.mask_token_id
        any_kind = torch.where(masked, self.num_pairs, (last >= self.num_pairs).long())
        one_kind = (first < self.num_pairs) & (masked | (last == first + self.num_pairs))
        return torch.where(first == self.mask_token_id, any_kind, one_kind.long()).double()
