"""What an audit concludes from samples: their distance from a law, and a verdict for each check."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from scipy.stats import binomtest
from torch import Tensor

from edlm.diffusion.streams import generator_of
from edlm.evaluation.estimates.bootstrap import share_of
from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.estimates.goodness import chi_square, excess, normal_tail
from edlm.verdicts import CheckReport, Verdict

LEVEL = 1e-3  # chance that a sampler that is right fails any check
RARE = 0.01  # share of the language's sequences, the least likely ones, that count as errors
LAGS = range(1, 9)  # distances of rows that are compared


@dataclass(frozen=True, repr=False)
class AuditReport(CheckReport):
    """What an audit found: a verdict for each check, and how far the samples are from the law.

    Attributes:
        num_samples: Sequences that were drawn.
        total_variation: Between the frequencies of whole sequences and the law, less what as many draws of the law
            itself have on average: 0, but for chance, for a sampler that is right.
        kl: ``KL(samples || law)``, nats of a sequence, likewise; ``inf`` where an impossible one was drawn.
        error_rate: Share of sequences that are impossible, or among the least likely 1 % of the language's.
        law_error_rate: The law's own.
        distance_to_truth: Total variation between the law, if it is not that of the language, and the language.
        passes: Denoiser passes of a batch that begins from nothing.
    """

    num_samples: int
    total_variation: Estimate
    kl: Estimate
    error_rate: Estimate
    law_error_rate: float
    distance_to_truth: float
    passes: float

    def __str__(self) -> str:
        failed = ", ".join(verdict.name for verdict in self.failed)
        end = f"The sampler does NOT follow the law: {failed}" if failed else "No difference from the law was found"
        return f"{super().__str__()}\n{end} ({self.num_samples} sequences, {self.passes:g} passes)."

    __repr__ = __str__


@dataclass(frozen=True)
class Draws:
    """What was drawn.

    Attributes:
        x_t: What the sampler was given, ``[n, length]``.
        tokens: What it returned, ``[n, length]``.
        again: The first rows, drawn alone, ``[m, length]``.
        passes: Denoiser passes of a batch that begins from nothing.
    """

    x_t: Tensor
    tokens: Tensor
    again: Tensor
    passes: float


def judge(draws: Draws, sequences: Tensor, truth: Tensor, law: Tensor, is_truth: bool) -> AuditReport:
    """The report on draws, given all ``sequences[n, length]``, the language's law and the one that is meant, ``[n]``.

    Where the latter ``is_truth``, rows that began from prompts are tested too.
    """
    vocab_size, length = int(sequences.max()) + 1, sequences.shape[1]
    masked = draws.x_t == vocab_size
    whole = ((draws.tokens >= 0) & (draws.tokens < vocab_size)).all(1)
    kept = (masked | (draws.tokens == draws.x_t)).all(1)
    free = masked.all(1)
    tested = whole & kept & (free | is_truth)
    if not tested.any():
        raise ValueError("sampler must fill masks with tokens of the language, and leave given ones, got no such row")
    powers = vocab_size ** torch.arange(length - 1, -1, -1)
    number = (draws.tokens[tested] * powers).sum(1)
    counts = torch.bincount(number, minlength=len(law))
    generator = generator_of(0, 2)
    distance, by_chance = excess(lambda p: 0.5 * (p - law).abs().sum(-1), counts, law, generator)
    kl, _ = excess(lambda p: _kl(p, law), counts, law, generator)
    wrong = _rare(truth)
    errors, expected_errors = share_of(wrong[number]), law[wrong].sum().item()
    tests = {
        "likelihood": _likelihood(draws.x_t[tested], number, sequences, law),
        "sequences": (chi_square(counts, law), f"of {int((law > 0).sum())} sequences"),
        "distance": (by_chance, f"total variation {_shown(distance)} beyond chance, KL {_shown(kl)} nats"),
        "positions": _cells(draws.tokens[tested], sequences, law, 1),
        "pairs": _cells(draws.tokens[tested], sequences, law, 2),
        "errors": (
            float(binomtest(int(wrong[number].sum()), len(number), min(1.0, expected_errors)).pvalue),
            f"{errors.value:.2%} are impossible or rare, {expected_errors:.2%} by the law",
        ),
        "rows": _equal_rows(draws.tokens[free & whole], powers, law),
    }
    level = LEVEL / len(tests)
    impossible = int(counts[law == 0].sum())
    alone = bool((draws.again == draws.tokens[: len(draws.again)]).all())
    verdicts = [
        Verdict("complete", bool(whole.all()), f"masks were left in {int((~whole).sum())} of {len(whole)} rows"),
        Verdict("carry-over", bool(kept.all()), f"given tokens changed in {int((~kept).sum())} of {len(kept)} rows"),
        Verdict("possible", not impossible, f"the law rules out {impossible} of {len(number)} rows"),
        *(Verdict(name, p > level, f"p = {p:.2g}; {text}") for name, (p, text) in tests.items()),
        Verdict("seeds", alone or None, f"rows drawn alone with their seeds are {'' if alone else 'not '}the same"),
    ]
    return AuditReport(
        verdicts=tuple(verdicts),
        num_samples=len(draws.tokens),
        total_variation=distance,
        kl=kl,
        error_rate=errors,
        law_error_rate=expected_errors,
        distance_to_truth=0.5 * (law - truth).abs().sum().item(),
        passes=draws.passes,
    )


def _likelihood(x_t: Tensor, number: Tensor, sequences: Tensor, law: Tensor) -> tuple[float, str]:
    """Mean ``log p`` of what was written, given what was there, against its own mean and variance by the law."""
    mask, log_law = int(sequences.max()) + 1, law.log()
    prompts, which = x_t.unique(dim=0, return_inverse=True)
    moments = []
    for prompt in prompts:
        fits = ((prompt == mask) | (prompt == sequences)).all(1) & (law > 0)
        p, log_p = law[fits] / law[fits].sum(), log_law[fits] - law[fits].sum().log()
        mean = (p * log_p).sum()
        moments.append(torch.stack([law[fits].sum().log(), mean, (p * (log_p - mean).square()).sum()]))
    given, mean, variance = torch.stack(moments)[which].unbind(1)
    log_p = log_law[number] - given
    known = log_p.isfinite()
    if not known.any():
        return 0.0, "no row is possible"
    spread = variance[known].sum().sqrt().item()
    z = (log_p - mean)[known].sum().item() / spread if spread > 1e-9 else 0.0
    text = f"-log p is {-log_p[known].mean().item():.3f} nats, by the law {-mean[known].mean().item():.3f}"
    return normal_tail(z), text


def _cells(tokens: Tensor, sequences: Tensor, law: Tensor, size: int) -> tuple[float, str]:
    """Pearson's test of the tokens at each position, or each pair of positions; the worst of them, corrected."""
    vocab_size, length = int(sequences.max()) + 1, sequences.shape[1]
    places = [*combinations(range(length), size)] if length >= size else []
    powers, values = vocab_size ** torch.arange(size), []
    for place in places:
        cell, of_law = ((x[:, place] * powers).sum(1) for x in (tokens, sequences))
        marginal = torch.zeros(vocab_size**size, dtype=law.dtype).index_add_(0, of_law, law)
        values.append(chi_square(torch.bincount(cell, minlength=len(marginal)), marginal))
    if not values:
        return 1.0, "no such tokens"
    worst = min(range(len(places)), key=values.__getitem__)
    return min(1.0, len(values) * values[worst]), f"the worst of {len(values)} is {', '.join(map(str, places[worst]))}"


def _equal_rows(tokens: Tensor, powers: Tensor, law: Tensor) -> tuple[float, str]:
    """How often near rows are equal, against chance."""
    number, same, cubes = (tokens * powers).sum(1), law.square().sum().item(), law.pow(3).sum().item()
    values, shares = [], []
    for lag in (lag for lag in LAGS if lag < len(number)):
        pairs = len(number) - lag
        equal = int((number[lag:] == number[:-lag]).sum())
        variance = pairs * same * (1 - same) + 2 * max(0, pairs - lag) * (cubes - same**2)
        values.append(normal_tail((equal - pairs * same) / max(variance, 1e-12) ** 0.5, both=False))
        shares.append(equal / pairs)
    if not values:
        return 1.0, "no such rows"
    return min(1.0, len(values) * min(values)), f"up to {max(shares):.1%} of near rows are equal, {same:.1%} by the law"


def _rare(truth: Tensor) -> Tensor:
    """The least likely sequences, which together have at most `RARE`, bool, ``[n]``."""
    ascending, order = truth.sort()
    return torch.zeros_like(truth, dtype=torch.bool).index_fill(0, order[ascending.cumsum(0) <= RARE], True)


def _kl(p: Tensor, law: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p.log() - law.log()), 0.0).sum(-1)


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ± {estimate.stderr:.3f}"
