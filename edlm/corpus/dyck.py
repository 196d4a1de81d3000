"""Balanced brackets under the uniform law."""

import math
import sys

import torch
from torch import Tensor

from edlm.corpus.language import Language, check_count, check_draw, check_rows, check_tokens

ENTRIES_AT_ONCE = 2**19  # of the tables of `Dyck`: about 4 MiB


class Dyck(Language):
    """Balanced strings of `num_pairs` kinds of bracket, at most `max_depth` deep, equally likely.

    log p(x) = -log(number of balanced strings of that length), nats.
    Token i < num_pairs opens kind i; num_pairs + i closes it.

    Args:
        num_pairs: Kinds of bracket, >= 1.
        max_depth: Most brackets open at once, >= 1.

    Attributes:
        vocab_size, mask_token_id: ``2 * num_pairs``.

    Raises:
        ValueError: an argument is not an integer >= 1. In every method: an odd length. With masks: a length for which
            float64 cannot hold the count.

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
        # P(open | remaining, depth) = ways[remaining - 1][depth + 1] / ways[remaining][depth]
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
        # log(number of balanced strings that agree with the row) - log(count(length))
        x = check_tokens(x, self.mask_token_id)
        total, most = self.count(x.shape[1]), sys.float_info.max
        masked = (x == self.mask_token_id).any(1)
        completions = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        completions[~masked] = self.is_valid(x[~masked]).double()
        if masked.any():
            if total > most:
                rule = f"length of rows with masks must keep the count below {most:.1e}"
                raise ValueError(f"{rule}, got {x.shape[1]}")
            completions[masked] = torch.cat([self._completions(self._allowed(rows)) for rows in self._parts(x[masked])])
        return completions.log() - math.log(total)

    def log_marginals(self, x_t: Tensor) -> Tensor:
        x_t = check_tokens(x_t, self.mask_token_id, name="x_t")
        check_rows(self.log_prob(x_t).isneginf(), "observed tokens of x_t must have positive probability, got zero")
        return torch.cat([self._posterior(rows) for rows in self._parts(x_t)]).log_()

    def is_valid(self, x: Tensor) -> Tensor:
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

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Few rows at a time, which bounds the memory of `_completions`."""
        length = x.shape[1]
        return x.split(max(1, ENTRIES_AT_ONCE // (min(self.max_depth, length // 2) * length**2)))

    def _posterior(self, x_t: Tensor) -> Tensor:
        """P(x^i = v | observed), ``[rows, length, vocab_size]``.

        The number of balanced strings that agree with a row is a polynomial in what each position allows,
        ``allowed[i, v]`` in {0, 1}; its share of strings with ``v`` at ``i`` is ``d log count / d log allowed[i, v]``.
        """
        with torch.enable_grad():
            allowed = self._allowed(x_t).requires_grad_()
            count = self._completions(allowed)
            (slope,) = torch.autograd.grad(count.sum(), allowed)
        return (allowed * slope).detach() / count.detach()[:, None, None]

    def _allowed(self, x: Tensor) -> Tensor:
        """1 for each token that a position may hold, else 0; float64 ``[rows, length, vocab_size]``."""
        observed = torch.nn.functional.one_hot(x.clamp(max=self.vocab_size - 1), self.vocab_size).double()
        return torch.where((x == self.mask_token_id)[..., None], 1.0, observed)

    def _completions(self, allowed: Tensor) -> Tensor:
        """Total weight of the balanced strings, ``[rows]``; a string x weighs ``prod_i allowed[row, i, x_i]``.

        Dynamic programming over intervals: ways[p][h, s] is the weight of the p pairs that start at s, at most h deep;
        the first bracket closes after q inner pairs: sum over q of
        fits[q][s] * ways[q][h - 1, s + 1] * ways[p - 1 - q][h, s + 2q + 2].
        """
        rows, length, _ = allowed.shape
        opens, closes = allowed.permute(1, 2, 0).split(self.num_pairs, dim=1)
        fits = [(opens[: length - gap] * closes[gap:]).sum(1) for gap in range(1, length, 2)]
        deepest = min(self.max_depth, length // 2)
        ways = [allowed.new_ones(deepest + 1, length + 1, rows)]
        for p in range(1, length // 2 + 1):
            n = length - 2 * p + 1
            total = sum(
                fits[q][:n] * ways[q][:-1, 1 : n + 1] * ways[p - 1 - q][1:, 2 * q + 2 : 2 * q + 2 + n] for q in range(p)
            )
            ways.append(torch.cat([torch.zeros_like(total[:1]), total]))
        return ways[-1][deepest, 0]
