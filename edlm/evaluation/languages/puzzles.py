"""Puzzles that samplers solve: the share that is valid, the bound on the same puzzles, and one number over passes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edlm.corpus.language import Language
from edlm.evaluation.estimates.bootstrap import share_of
from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.languages.exact import check_mask_token
from edlm.evaluation.likelihood.bounds import estimate_bounds
from edlm.sampler.sampler import EnergySampler

PENALTY, MOST_LOST = 3.0, 5.0  # alpha; points of accuracy
RESAMPLES = 500


@dataclass(frozen=True)
class Puzzles:
    """Puzzles of one language with equally many given tokens, and a solution of each.

    Attributes:
        language: The truth.
        solutions: Rows that the language drew, ``[n, length]``.
        given: True where a token is given, bool, ``[n, length]``.
    """

    language: Language
    solutions: Tensor
    given: Tensor

    @classmethod
    def draw(cls, language: Language, n: int, length: int | None, num_given: int | None, seed: int) -> Puzzles:
        """Puzzles by a seed; ``length`` and ``num_given`` of None are the language's own.

        Raises:
            ValueError: a language without a length of its own needs one; or nothing is left to write.
        """
        length = language.length if length is None else length
        num_given = language.num_given if num_given is None else num_given
        if length is None:
            raise ValueError(f"length must be given: a {type(language).__name__} has none of its own")
        if not 0 <= num_given < length:
            raise ValueError(f"num_given must be in 0..{length - 1}, got {num_given}")
        generator = torch.Generator().manual_seed(seed)
        solutions = language.sample(n, length, generator)
        return cls(language, solutions, language.given(n, length, num_given, generator))

    @property
    def prompts(self) -> Tensor:
        """Given tokens, and masks elsewhere, ``[n, length]``."""
        return self.solutions.masked_fill(~self.given, self.language.mask_token_id)

    @property
    def num_written(self) -> int:
        """Tokens of a row that are not given."""
        return int((~self.given[0]).sum())

    def nats_per_token(self) -> Estimate:
        """Mean ``-log p_true(solution | given)`` of a written token: what no sampler's likelihood is below."""
        known = self.language.log_prob(self.prompts)
        return mean_of((known - self.language.log_prob(self.solutions)) / self.num_written)

    def solved(self, sampler: EnergySampler, seed: int, batch_size: int) -> Tensor:
        """Which puzzles the sampler fills without a mistake, bool ``[n]``; puzzle ``i`` has the seed ``seed + i``."""
        check_mask_token(sampler.denoiser, self.language)
        prompts = self.prompts.split(batch_size)
        first = range(seed, seed + len(self.solutions), batch_size)
        filled = [
            sampler.fill(x_t, seeds=range(s, s + len(x_t))).tokens.cpu() for x_t, s in zip(prompts, first, strict=True)
        ]
        return self.language.is_valid(torch.cat(filled))


def measure_puzzles(
    puzzles: Puzzles,
    samplers: Mapping[tuple[str, int], EnergySampler],
    *,
    num_bound_rows: int = 200,
    inner_draws: int = 1,
    seed: int = 0,
    batch_size: int = 250,
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Every sampler on the same puzzles and seeds.

    Args:
        puzzles: What is to be filled.
        samplers: By name and number of passes.
        num_bound_rows: Puzzles whose solutions the bound is measured on.
        inner_draws: Of samplers that weigh candidates, see `EnergySampler.likelihood_bound`.
        seed: Puzzle ``i`` has the seed ``seed + i``.
        batch_size: Puzzles at a time.

    Yields:
        A record of JSON values, and which puzzles were solved, bool ``[n]``:

        - ``name``, ``num_steps``, ``tokens_per_pass``.
        - ``n``, ``valid_rate``, ``valid_stderr``, ``valid_low``, ``valid_high`` (Wilson).
        - ``bound_nats_per_token``, ``bound_stderr``, ``bound_n``, ``bound_direction``: of written tokens, low = good.
    """
    x_0, given = puzzles.solutions[:num_bound_rows], puzzles.given[:num_bound_rows]
    for (name, steps), sampler in samplers.items():
        solved = puzzles.solved(sampler, seed, batch_size)
        share = share_of(solved)
        draws = [inner_draws if sampler.candidates_weighed > 1 else 1]
        options = {"seed": seed, "batch_size": batch_size, "inner_draws": draws}
        (bound,) = estimate_bounds([sampler], x_0, given=given, **options)
        yield (
            {
                "name": name,
                "num_steps": steps,
                "tokens_per_pass": puzzles.num_written / steps,
                "n": share.n,
                "valid_rate": share.value,
                "valid_stderr": share.stderr,
                "valid_low": share.low,
                "valid_high": share.high,
                "bound_nats_per_token": bound.value,
                "bound_stderr": bound.stderr,
                "bound_n": bound.n,
                "bound_direction": bound.direction,
            },
            solved,
        )


def accuracy_under_parallelism(points: Sequence[tuple[float, float]], best: float) -> float:
    """Area under accuracy over tokens per pass, in which lost accuracy counts little; high = good.

    ``rho_1 y_1 + sum_i (rho_i - rho_(i-1)) (y_i W(y_i) + y_(i-1) W(y_(i-1))) / 2``

    with ``W(y) = min(exp(-3 (1 - y / best)), 1)``, over the points of at least ``y_1 - 5``, of ascending ``rho``.

    Args:
        points: Tokens per pass ``rho`` and accuracy ``y`` in percent.
        best: Highest accuracy that any method has on the task, percent.

    References:
        AUP of d3LLM, arXiv:2601.07568.

    Example:
        >>> accuracy_under_parallelism([(1, 80.0), (2, 80.0), (4, 70.0)], best=80.0)  # 4 tokens a pass lose too much
        160.0
    """
    points = sorted(points)
    points = [(rho, y) for rho, y in points if y >= points[0][1] - MOST_LOST]
    (first, y), *_ = points
    area = first * y

    def weighted(y: float) -> float:
        return y * min(math.exp(-PENALTY * (1 - y / best)), 1.0) if best else 0.0

    for (before, y_before), (rho, y) in zip(points, points[1:], strict=False):
        area += (rho - before) * (weighted(y_before) + weighted(y)) / 2
    return area


def parallelism_scores(solved: Mapping[str, Mapping[float, Tensor]], seed: int = 0) -> dict[str, Estimate]:
    """`accuracy_under_parallelism` of each method, and its standard error by a bootstrap over the puzzles.

    Args:
        solved: Name -> tokens per pass -> which of the puzzles were solved, bool ``[n]``, the same ones everywhere.
        seed: Of the bootstrap.
    """
    n = len(next(iter(next(iter(solved.values())).values())))
    drawn = torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros(RESAMPLES, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
    weights = torch.cat([torch.ones(1, n, dtype=torch.float64), counts]) * (100 / n)  # the puzzles themselves first
    shares = {
        name: {rho: (weights @ flags.double()).tolist() for rho, flags in of_method.items()}
        for name, of_method in solved.items()
    }
    best = [max(y[r] for of_method in shares.values() for y in of_method.values()) for r in range(len(weights))]
    scores = {
        name: [
            accuracy_under_parallelism([(rho, y[r]) for rho, y in of_method.items()], highest)
            for r, highest in enumerate(best)
        ]
        for name, of_method in shares.items()
    }
    return {name: Estimate(of_all[0], torch.tensor(of_all[1:]).std().item(), n) for name, of_all in scores.items()}
