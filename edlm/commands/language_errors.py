"""``edlm languages errors``: rates of wrong sequences on languages with known truth, and exact divergences."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from tqdm.auto import tqdm

from edlm.commands.languages import RerankerConfig, models_of
from edlm.commands.terminal import print_table
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.evaluation.experiment.provenance import write_result
from edlm.evaluation.languages.errors import ErrorRule, sequence_error_table
from edlm.evaluation.languages.exact import exact_denoiser, truth_energy
from edlm.evaluation.languages.law import exact_distance
from edlm.evaluation.plots.evaluation import plot_sequence_errors
from edlm.rules import Config
from edlm.sampler.sampler import EnergySampler


@dataclass(frozen=True)
class ExperimentConfig(Config):
    """A language, its lengths, and the samplers that are measured on it.

    Args:
        name: Name in tables and plots.
        language: The truth.
        lengths: Tokens of a sequence (even for Dyck).
        num_steps: Denoiser passes; those beyond a length are left out.
        rerankers: Measured in addition to the base.
        denoiser: Folder of a trained denoiser; null for the language's own exact marginals.
        order: Reveal order.
    """

    name: str
    language: LanguageConfig = field(default_factory=LanguageConfig)
    lengths: tuple[int, ...] = (16, 32, 64)
    num_steps: tuple[int, ...] = (2, 4, 8, 16, 32)
    rerankers: tuple[RerankerConfig, ...] = field(
        default=(RerankerConfig("truth, k = 16", "truth", 16),), metadata={"least": 0}
    )
    denoiser: str | None = None
    order: str = "random"


@dataclass(frozen=True)
class DistanceConfig(Config):
    """A language so small that the samplers' laws are summed over all of its sequences.

    Args:
        language: The truth.
        length: Tokens of a sequence.
        num_steps: Denoiser passes.
        num_candidates: Candidates of the truth's energy; 1 is the base.
        order: Reveal order, not a random one.
    """

    language: LanguageConfig = field(default_factory=lambda: LanguageConfig(vocab_size=4, num_successors=2))
    length: int = 6
    num_steps: tuple[int, ...] = (1, 2, 3)
    num_candidates: tuple[int, ...] = (1, 4, 16, 64)
    order: str = "bisecting"


@dataclass(frozen=True)
class ErrorsConfig(Config):
    """Sequence error rates, over lengths and denoiser passes, and exact divergences.

    Args:
        experiments: One language each.
        distances: Exact divergences on small languages.
        num_samples: Sequences of a cell.
        num_reference: Sequences of a language from which its 99th percentile is taken.
        num_bound_rows: Data of a cell on which the divergence is bounded; 0 for none.
        seed: Of samples and orders.
        batch_size: Sequences at a time.
        output: JSON file to write; none by default.
        plot: Plot to write (.svg or .png); none by default.
    """

    experiments: tuple[ExperimentConfig, ...] = (ExperimentConfig("markov"),)
    distances: tuple[DistanceConfig, ...] = ()
    num_samples: int = 500
    num_reference: int = 20000
    num_bound_rows: int = field(default=200, metadata={"least": 0})
    seed: int = 0
    batch_size: int = 500
    output: str | None = None
    plot: str | None = None


def errors(config: ErrorsConfig) -> None:
    """Measure error rates and divergences, print a table for each language, write JSON and a plot."""
    started, rows = time.perf_counter(), []
    for experiment in config.experiments:
        cells = tqdm(_error_rows(experiment, config), desc=experiment.name, disable=None, leave=False)
        measured = [{"experiment": experiment.name, **row} for row in cells]
        print_table(experiment.name, measured, _ERROR_COLUMNS)
        rows += measured
    exact = [row for distance in config.distances for row in _distance_rows(distance)]
    if exact:
        print_table("exact, nats of a sequence", exact, _DISTANCE_COLUMNS)
    if config.output:
        write_result(config.output, config, seconds=time.perf_counter() - started, rows=rows, exact=exact)
    if config.plot:
        plot_sequence_errors(rows, config.plot)


def _error_rows(experiment: ExperimentConfig, config: ErrorsConfig) -> Iterator[dict[str, Any]]:
    language = build_language(experiment.language)
    denoiser, settings = models_of(language, experiment.denoiser, experiment.rerankers)
    rules = [
        ErrorRule.of(language, length, num_reference=config.num_reference, seed=config.seed)
        for length in experiment.lengths
    ]
    samplers = {
        (name, steps): EnergySampler(denoiser, energy, num_steps=steps, order=experiment.order, **options)
        for steps in experiment.num_steps
        for name, (energy, options) in settings.items()
    }
    names = ("num_samples", "num_bound_rows", "seed", "batch_size")
    return sequence_error_table(rules, samplers, **{name: getattr(config, name) for name in names})


def _distance_rows(config: DistanceConfig) -> Iterator[dict[str, Any]]:
    language = build_language(config.language)
    denoiser, energy = exact_denoiser(language), truth_energy(language)
    for steps in config.num_steps:
        for k in config.num_candidates:
            options = {"order": config.order, "num_steps": steps, "num_candidates": k}
            distance = exact_distance(EnergySampler(denoiser, energy, **options), language, config.length)
            yield {"language": config.language.kind, "length": config.length, **options, **asdict(distance)}


def _with_error(value: float, error: float | None, digits: int) -> str:
    """A dash for NaN or None; without an error where that is NaN."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


_ERROR_COLUMNS = {
    "length": lambda r: str(r["length"]),
    "passes": lambda r: str(r["num_steps"] or ""),
    "decided by": lambda r: r["name"],
    "wrong sequences": lambda r: f"{r['error_rate']:.1%} [{r['error_low']:.1%}, {r['error_high']:.1%}]",
    "ruled out": lambda r: f"{r['invalid_rate']:.1%}",
    "nats/token": lambda r: _with_error(r["nats_per_token"], r["nats_stderr"], 3),
    "KL <=": lambda r: _with_error(r["kl_bound_nats_per_token"], r["kl_bound_stderr"], 4),
}
_DISTANCE_COLUMNS = {
    **{name: lambda r, name=name: str(r[name]) for name in ("language", "length", "order", "num_steps")},
    "num_candidates": lambda r: str(r["num_candidates"]),
    "KL(sampler || truth)": lambda r: f"{r['kl_to_truth']:.6f}",
    "KL(truth || sampler)": lambda r: f"{r['kl_from_truth']:.6f}",
    "ruled out": lambda r: f"{r['invalid']:.6f}",
}
