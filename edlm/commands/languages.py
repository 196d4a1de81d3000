"""``edlm languages oracle`` and ``truth``: what a perfect energy gains, and which share trained ones reach."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edlm.commands.terminal import print_table
from edlm.corpus.language import Language
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.denoisers.base import Denoiser
from edlm.denoisers.loading import load_denoiser
from edlm.energies.base import Energy
from edlm.energies.loading import load_energy
from edlm.evaluation.experiment.provenance import write_result
from edlm.evaluation.languages.exact import check_mask_token, exact_denoiser, truth_energy
from edlm.evaluation.languages.oracle import cells, measure_cells, measure_data, shares_of_oracle
from edlm.rules import Config


@dataclass(frozen=True)
class RerankerConfig(Config):
    """An energy and how it decides.

    Args:
        name: Name in tables and plots.
        energy: Folder of a trained energy; "truth" for the exact residual energy of the language (errors).
        num_candidates: Candidates k; null decides token by token, exactly (trained energies only).
        group_size: Tokens decided together; null for all of a step. Exact decisions: drawn at once; null for one.
        num_particles: Particles across steps, each with passes of its own; see `edlm.sampler.particles`.
    """

    name: str
    energy: str = "truth"
    num_candidates: int | None = None
    group_size: int | None = None
    num_particles: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.energy == "truth" and self.num_candidates is None:
            raise ValueError("exact decisions by 'truth' are the language itself: give num_candidates, got None")

    @property
    def options(self) -> dict[str, Any]:
        """Of the sampler."""
        return {name: getattr(self, name) for name in ("num_candidates", "group_size", "num_particles")}


def models_of(
    language: Language, denoiser: str | None, rerankers: Sequence[RerankerConfig]
) -> tuple[Denoiser, dict[str, tuple[Energy | None, dict[str, Any]]]]:
    """The denoiser of an experiment, and by name an energy and how it decides: first the base, then the rerankers.

    Args:
        language: The truth.
        denoiser: Folder of a trained denoiser; None for the language's own exact marginals.
        rerankers: Measured in addition to the base.
    """
    settings: dict[str, tuple[Energy | None, dict[str, Any]]] = {"base": (None, {"num_candidates": 1})}
    for reranker in rerankers:
        energy = truth_energy(language) if reranker.energy == "truth" else load_energy(reranker.energy)
        settings[reranker.name] = (energy, reranker.options)
    return load_denoiser(denoiser) if denoiser else exact_denoiser(language), settings


@dataclass(frozen=True)
class OracleConfig(Config):
    """The tables of the method page, on the reference language: what a perfect energy gains.

    Args:
        num_samples: Samples per cell.
        seed: Of samples, orders and candidates.
        output: JSON file to write; none by default.
    """

    num_samples: int = 1000
    seed: int = 0
    output: str | None = None


@dataclass(frozen=True)
class TruthConfig(Config):
    """Which share of a perfect energy's gain trained energies reach, by bounds on held-out rows.

    Args:
        corpus: Prepared corpus that the denoiser was trained on, with held-out rows.
        denoiser: Folder of the trained denoiser.
        language: Language of the corpus.
        energies: Trained energies.
        num_steps: Denoiser passes.
        orders: Reveal orders.
        num_samples: Held-out rows.
        seed: Of orders and candidates.
        output: JSON file to write; none by default.
    """

    corpus: str
    denoiser: str
    language: LanguageConfig = field(default_factory=LanguageConfig)
    energies: tuple[RerankerConfig, ...] = ()
    num_steps: tuple[int, ...] = (4, 8, 16)
    orders: tuple[str, ...] = ("random",)
    num_samples: int = 1000
    seed: int = 0
    output: str | None = None


def oracle(config: OracleConfig) -> None:
    """Measure the tables of the method page again, and print each cell next to the published one."""
    started, rows = time.perf_counter(), []
    for row in measure_cells(cells(), config.num_samples, config.seed):
        rows.append(row)
        options = {key: value for key, value in row.items() if key in ("num_candidates", "scope", "group_size")}
        print(
            f"{row['table']:7} {row['num_steps']:3} steps  published {row['published']:.3f}  measured "
            f"{row['measured']:.3f} ± {row['stderr']:.3f}  off by {row['deviations']:+.1f}  {options or 'base'}",
            flush=True,
        )
    worst = max(abs(row["deviations"]) for row in rows)
    data = measure_data(config.num_samples, config.seed)
    print(f"data: {data['measured']:.3f}; furthest cell: {worst:.1f} combined standard errors of {len(rows)}")
    if config.output:
        write_result(config.output, config, seconds=time.perf_counter() - started, rows=[*rows, data])


def truth(config: TruthConfig) -> None:
    """Measure base, oracle and trained energies on the same rows, and print a table."""
    started = time.perf_counter()
    denoiser, language = load_denoiser(config.denoiser), build_language(config.language)
    check_mask_token(denoiser, language)
    x_0 = PreparedCorpus.load(config.corpus).valid.tokens[: config.num_samples].long()
    settings = {e.name: (load_energy(e.energy), e.options) for e in config.energies}
    rows = [
        row
        for order in config.orders
        for steps in config.num_steps
        for row in shares_of_oracle(denoiser, language, settings, x_0, num_steps=steps, order=order, seed=config.seed)
    ]
    columns = {
        "order": lambda r: r["order"],
        "passes": lambda r: str(r["num_steps"]),
        "decided by": lambda r: r["name"],
        "nats/token": lambda r: f"{r['bound_nats_per_token']:.4f} ± {r['bound_stderr']:.4f}",
        "share": lambda r: f"{r['share']:.1%} ± {r['share_stderr']:.1%}",
    }
    print_table("bound on held-out rows; share of the oracle's gain over the base", rows, columns)
    if config.output:
        write_result(config.output, config, seconds=time.perf_counter() - started, rows=rows)
