"""What a perfect energy gains where the truth is known, and how much of that a trained energy gains.

The tables of the project's method page: reference hidden Markov language (16 states, 32 symbols, length 32), exact
marginals as denoiser, exact joint as energy, equal-size random reveal; mean ``-log p_true`` per token of the samples,
nats, low = plausible.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edlm.corpus.languages import HiddenMarkov, MarkovChain
from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.energies.oracle import OracleEnergy
from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.languages.exact import exact_denoiser
from edlm.evaluation.likelihood.bounds import estimate_bounds, paired_gain
from edlm.sampler.sampler import EnergySampler

LENGTH = 32

# method.md section 3: steps -> base, then (sequence, step) at k = 4, 16, 64. 1000 samples.
_SCOPES = {
    2: (3.173, 2.968, 2.874, 2.804, 2.664, 2.711, 2.523),
    4: (2.724, 2.588, 2.451, 2.512, 2.333, 2.465, 2.303),
    8: (2.490, 2.410, 2.313, 2.377, 2.292, 2.350, 2.287),
    16: (2.354, 2.328, 2.297, 2.302, 2.290, 2.296, 2.293),
    32: (2.290, 2.270, 2.291, 2.271, 2.295, 2.276, 2.281),
}
# The same section: passes -> base, then k = 16 in the whole step and in groups of 4, 2, 1. 500 samples.
_GROUPS = {
    1: (3.825, 3.459, 2.911, 2.632, 2.405),
    2: (3.173, 2.665, 2.440, 2.358, 2.334),
    4: (2.724, 2.344, 2.317, 2.310, 2.303),
}
_DATA = 2.289  # of the language's own samples: what a perfect sampler has


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        table: "scopes" or "groups".
        options: The sampler's.
        published: The value on the method page, nats per token.
        published_n: Number of samples behind it.
    """

    table: str
    options: dict[str, Any]
    published: float
    published_n: int


def cells() -> list[Cell]:
    """All cells, table by table, row by row."""
    scopes = [{}] + [{"num_candidates": k, "scope": scope} for k in (4, 16, 64) for scope in ("sequence", "step")]
    groups = [{}] + [{"num_candidates": 16, "group_size": size} for size in (None, 4, 2, 1)]
    return [
        Cell(table, {"num_steps": steps, **options}, published, n)
        for table, rows, columns, n in (("scopes", _SCOPES, scopes, 1000), ("groups", _GROUPS, groups, 500))
        for steps, row in rows.items()
        for options, published in zip(columns, row, strict=True)
    ]


def measure_cells(cells: Sequence[Cell], num_samples: int, seed: int) -> Iterator[dict[str, Any]]:
    """Sample every cell.

    Args:
        cells: Of the tables.
        num_samples: Samples per cell; each cell has its own seeds.
        seed: Of the first sample.

    Yields:
        Its table and options, the published and the measured value, and ``deviations``, their distance in combined
        standard errors.
    """
    language = HiddenMarkov.reference()
    denoiser, oracle = exact_denoiser(language), OracleEnergy(language)
    for number, cell in enumerate(cells):
        energy = oracle if "num_candidates" in cell.options else None
        sampler = EnergySampler(denoiser, energy, order="random", **cell.options)
        first = seed + number * num_samples
        tokens = sampler.sample(num_samples, LENGTH, batch_size=500, seeds=range(first, first + num_samples)).tokens
        mean = _nats_per_token(language, tokens)
        published_stderr = mean.stderr * math.sqrt(num_samples / cell.published_n)
        yield {
            "table": cell.table,
            **cell.options,
            "published": cell.published,
            "measured": mean.value,
            "stderr": mean.stderr,
            "deviations": (mean.value - cell.published) / math.hypot(mean.stderr, published_stderr),
        }


def measure_data(num_samples: int, seed: int) -> dict[str, Any]:
    """The row of the language's own samples."""
    language = HiddenMarkov.reference()
    tokens = language.sample(num_samples, LENGTH, torch.Generator().manual_seed(seed))
    mean = _nats_per_token(language, tokens)
    return {"table": "data", "published": _DATA, "measured": mean.value, "stderr": mean.stderr}


def _nats_per_token(language: HiddenMarkov, tokens: Tensor) -> Estimate:
    return mean_of(-language.log_prob(tokens) / LENGTH)


def shares_of_oracle(
    denoiser: Denoiser,
    language: MarkovChain | HiddenMarkov,
    settings: dict[str, tuple[Energy, dict[str, Any]]],
    x_0: Tensor,
    *,
    num_steps: int,
    order: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Bounds of base, oracle and each setting on the same rows and seeds, and shares of the oracle's gain.

    ``share = (base - setting) / (base - oracle)``, bounds in nats per token; the oracle decides exactly, so its bound
    is the data's own ``-log p_true``.

    Args:
        denoiser: The trained denoiser.
        language: Its truth.
        settings: Name -> energy and options of the sampler.
        x_0: Rows drawn from the language, ``[n, length]``.
        num_steps: Denoiser passes.
        order: Reveal order.
        seed: Of orders and candidates.

    Returns:
        A dict a setting; the share's standard error is the delta method's, over paired rows.
    """
    common = {"num_steps": num_steps, "order": order}
    settings = {
        "base": (None, {"num_candidates": 1}),
        "oracle": (OracleEnergy(language), {"num_candidates": None}),
        **settings,
    }
    samplers = [EnergySampler(denoiser, energy, **common, **options) for energy, options in settings.values()]
    bounds = estimate_bounds(samplers, x_0, seed=seed)
    base, oracle = bounds[:2]
    way, distance = base.nats_per_row - oracle.nats_per_row, paired_gain(base, oracle).value
    rows = []
    for (name, (_, options)), bound in zip(settings.items(), bounds, strict=True):
        gain = paired_gain(base, bound)
        share = gain.value / distance
        residual = (base.nats_per_row - bound.nats_per_row - share * way) / bound.tokens_per_row
        rows.append(
            {
                "name": name,
                **common,
                **options,
                "n": bound.n,
                "bound_nats_per_token": bound.value,
                "bound_stderr": bound.stderr,
                "gain_nats_per_token": gain.value,
                "gain_stderr": gain.stderr,
                "share": share,
                "share_stderr": mean_of(residual).stderr / distance,
            }
        )
    return rows
