"""The oracle tables of the project's method page: what a perfect energy gains, at which scope and grouping.

Reference hidden Markov language (16 states, 32 symbols, length 32), exact marginals as denoiser, exact
joint as energy, equal-size random reveal: mean ``-log p_true`` per token of the samples, nats, low = plausible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from edlm.corpus.languages import HiddenMarkov
from edlm.denoisers.base import FunctionDenoiser
from edlm.energies.oracle import OracleEnergy
from edlm.evaluation.estimates.estimate import mean_of
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


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        table: "scopes" or "groups".
        options: The sampler's.
        published: What the method page says, nats per token.
        published_n: From how many samples.
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


def measure_cells(num_samples: int, seed: int) -> Iterator[dict[str, Any]]:
    """Sample every cell; yields its options, the published and the measured value, and their distance.

    Args:
        num_samples: Samples per cell; each cell has seeds of its own.
        seed: Of the first sample.

    Yields:
        Dicts; ``deviations`` is the distance in combined standard errors.
    """
    language = HiddenMarkov.reference()
    vocab_size = language.vocab_size
    denoiser = FunctionDenoiser(lambda x_t, t: language.log_marginals(x_t), vocab_size, vocab_size)
    oracle = OracleEnergy(language)
    for number, cell in enumerate(cells()):
        energy = oracle if "num_candidates" in cell.options else None
        sampler = EnergySampler(denoiser, energy, order="random", **cell.options)
        first = seed + number * num_samples
        tokens = sampler.sample(num_samples, LENGTH, batch_size=500, seeds=range(first, first + num_samples)).tokens
        mean = mean_of(-language.log_prob(tokens) / LENGTH)
        published_stderr = mean.stderr * math.sqrt(num_samples / cell.published_n)
        yield {
            "table": cell.table,
            **cell.options,
            "published": cell.published,
            "measured": mean.value,
            "stderr": mean.stderr,
            "deviations": (mean.value - cell.published) / math.hypot(mean.stderr, published_stderr),
        }


def data_nats_per_token(num_samples: int, seed: int) -> dict[str, Any]:
    """The same of the language's own samples: the value that a perfect sampler has."""
    language = HiddenMarkov.reference()
    tokens = language.sample(num_samples, LENGTH, torch.Generator().manual_seed(seed))
    mean = mean_of(-language.log_prob(tokens) / LENGTH)
    return {"measured": mean.value, "stderr": mean.stderr}
