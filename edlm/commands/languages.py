"""``edlm errors``: the sequence error rate on languages with known truth, over lengths and denoiser passes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from tqdm.auto import tqdm

from edlm.commands.terminal import console
from edlm.config import SamplerConfig
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.denoisers.loading import load_denoiser
from edlm.diffusion.reveal import Order
from edlm.energies.loading import load_energy
from edlm.evaluation.experiment.provenance import write_result
from edlm.evaluation.languages.errors import ErrorRule, sequence_error_table
from edlm.evaluation.languages.exact import exact_denoiser, truth_energy
from edlm.evaluation.languages.law import exact_distance
from edlm.evaluation.plots.errors import plot_sequence_errors


@dataclass(frozen=True)
class RerankerConfig:
    """A way of deciding that is measured beside the base.

    Args:
        name: What tables and pictures call it.
        energy: "truth" for the exact residual energy of the language; else folder of a trained energy.
        num_candidates: Candidates k; null decides token by token, exactly (trained energies only).
        group_size: Tokens decided together; null for all of a step. Exact decisions: drawn at once; null for one.
    """

    name: str
    energy: str = "truth"
    num_candidates: int | None = 16
    group_size: int | None = None

    def __post_init__(self) -> None:
        if self.energy == "truth" and self.num_candidates is None:
            raise ValueError("exact decisions by 'truth' are the language itself: give num_candidates, got None")


@dataclass(frozen=True)
class ExperimentConfig:
    """A language, its lengths, and what is measured on it.

    Args:
        name: What tables and pictures call it.
        language: The truth.
        lengths: Tokens of a sequence (even for Dyck).
        num_steps: Denoiser passes; those beyond a length are left out.
        rerankers: Measured beside the base.
        denoiser: Folder of a trained denoiser; null for the language's own exact marginals.
        order: Reveal order.
    """

    name: str
    language: LanguageConfig = field(default_factory=LanguageConfig)
    lengths: tuple[int, ...] = (16, 32, 64)
    num_steps: tuple[int, ...] = (2, 4, 8, 16, 32)
    rerankers: tuple[RerankerConfig, ...] = (RerankerConfig("truth, k = 16"),)
    denoiser: str | None = None
    order: Order = "random"


@dataclass(frozen=True)
class DistanceConfig:
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
    order: Order = "bisecting"


@dataclass(frozen=True)
class SequenceErrorsConfig:
    """What is measured.

    Args:
        experiments: One language each.
        distances: Exact divergences on small languages.
        num_samples: Sequences of a cell.
        num_reference: Sequences of a language that its 99th percentile is taken from.
        num_bound_rows: Data of a cell on which the divergence is bounded; 0 for none.
        seed: Of samples and orders.
        batch_size: Sequences at a time.
        output: JSON file to write.
        plot: Picture to draw (.svg or .png).
    """

    experiments: tuple[ExperimentConfig, ...] = (ExperimentConfig("markov"),)
    distances: tuple[DistanceConfig, ...] = ()
    num_samples: int = 500
    num_reference: int = 20000
    num_bound_rows: int = 200
    seed: int = 0
    batch_size: int = 500
    output: str | None = None
    plot: str | None = None


def run(config: SequenceErrorsConfig) -> None:
    """Measure, print a table for each language, write JSON, draw."""
    started = time.perf_counter()
    rows = []
    for experiment in config.experiments:
        table = tqdm(_measure(experiment, config), desc=experiment.name, disable=None, leave=False)
        found = [{"experiment": experiment.name, **row} for row in table]
        _print(experiment.name, found)
        rows += found
    distances = [row for distance in config.distances for row in _exact(distance)]
    if distances:
        _print_distances(distances)
    if config.output:
        write_result(config.output, config, seconds=time.perf_counter() - started, rows=rows, exact=distances)
    if config.plot:
        plot_sequence_errors(rows, config.plot)


def _measure(experiment: ExperimentConfig, config: SequenceErrorsConfig) -> Any:
    language = build_language(experiment.language)
    denoiser = load_denoiser(experiment.denoiser) if experiment.denoiser else exact_denoiser(language)
    ways: dict[str, tuple[Any, dict[str, Any]]] = {"base": (None, {})}
    for way in experiment.rerankers:
        energy = truth_energy(language) if way.energy == "truth" else load_energy(way.energy)
        ways[way.name] = (energy, {"num_candidates": way.num_candidates, "group_size": way.group_size})

    def builder(energy: Any, options: dict[str, Any]) -> Callable[[int], Any]:
        return lambda steps: SamplerConfig(num_steps=steps, order=experiment.order, **options).build(denoiser, energy)

    rules = [
        ErrorRule.of(language, length, num_reference=config.num_reference, seed=config.seed)
        for length in experiment.lengths
    ]
    names = ("num_samples", "num_bound_rows", "seed", "batch_size")
    how = {name: getattr(config, name) for name in names}
    samplers = {name: builder(*way) for name, way in ways.items()}
    return sequence_error_table(rules, samplers, experiment.num_steps, **how)


def _exact(config: DistanceConfig) -> list[dict[str, Any]]:
    language = build_language(config.language)
    denoiser, energy = exact_denoiser(language), truth_energy(language)
    rows = []
    for steps in config.num_steps:
        for k in config.num_candidates:
            sampler = SamplerConfig(num_steps=steps, num_candidates=k, order=config.order).build(denoiser, energy)
            found = exact_distance(sampler, language, config.length)
            where = {"language": config.language.kind, "length": config.length, "order": config.order}
            rows.append({**where, "num_steps": steps, "num_candidates": k, **asdict(found)})
    return rows


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table("length", "passes", "decided by", "wrong sequences", "ruled out", "nats/token", "KL <=", title=title)
    for row in rows:
        kl = row["kl_bound_nats_per_token"]
        table.add_row(
            str(row["length"]),
            str(row["num_steps"] or ""),
            row["name"],
            f"{row['error_rate']:.1%} [{row['error_low']:.1%}, {row['error_high']:.1%}]",
            f"{row['invalid_rate']:.1%}",
            _with_error(row["nats_per_token"], row["nats_stderr"], 3),
            "" if kl is None else _with_error(kl, row["kl_bound_stderr"], 4),
        )
    console().print(table)


def _with_error(value: float, error: float, digits: int) -> str:
    """A dash where nothing is known; of a single value no error is."""
    if math.isnan(value):
        return "–"
    return f"{value:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def _print_distances(rows: list[dict[str, Any]]) -> None:
    names = ("language", "length", "order", "num_steps", "num_candidates")
    table = Table(
        *names, "KL(sampler || truth)", "KL(truth || sampler)", "ruled out", title="exact, nats of a sequence"
    )
    for row in rows:
        found = (f"{row[name]:.6f}" for name in ("kl_to_truth", "kl_from_truth", "invalid"))
        table.add_row(*(str(row[name]) for name in names), *found)
    console().print(table)
