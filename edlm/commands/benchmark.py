"""``edlm benchmark``: oracle tables, trained energies against the oracle, infilling, and speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rich.table import Table

from edlm.commands.terminal import console
from edlm.config import SamplerConfig
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.corpus.text import load_blocks
from edlm.denoisers.loading import SHIPPED, load_denoiser
from edlm.energies.loading import load_energy
from edlm.energies.text import TextEnergy
from edlm.evaluation.experiment.provenance import write_result
from edlm.evaluation.languages.known_truth import share_of_the_way
from edlm.evaluation.languages.oracle_tables import data_nats_per_token, measure_cells
from edlm.evaluation.likelihood.infilling import measure_infilling
from edlm.evaluation.samples.judge import Judge, load_judge
from edlm.evaluation.samples.reranked_text import cost_of_disorder, judge_samplers
from edlm.evaluation.samples.speed import measure_speed


@dataclass(frozen=True)
class EnergyConfig:
    """A trained energy that is held against the base, or the oracle.

    Args:
        name: What the table calls it.
        energy: Its folder.
        num_candidates: Candidates k; null decides token by token, exactly.
        group_size: Tokens decided together; null for all of a step. Exact decisions: drawn at once; null for one.
    """

    name: str
    energy: str
    num_candidates: int | None = None
    group_size: int | None = None


@dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured.

    Args:
        what: "oracle": the tables of the method page, on the reference language. "truth": how much of the way to the
            oracle trained energies go. "infilling": the middle third of held-out rows. "text": a causal LM
            with other tokens as energy, under a judge. "speed": seconds per sequence, as ratios to the base of the same
            passes.
        output: JSON file to write; none by default.
        seed: Of samples, orders and candidates.
        num_samples: Samples per cell ("oracle"), or held-out rows ("truth", "infilling").
        denoiser: The trained denoiser (all but "oracle").
        energy: Its normalised head ("speed"); a causal LM that reads text ("text").
        corpus: Prepared corpus of held-out rows ("truth"; "infilling", by default the shipped rows).
        language: Its language ("truth").
        energies: What is held against the oracle ("truth") or the base ("infilling").
        num_steps: Denoiser passes (all but "oracle" take each of them).
        orders: Reveal orders ("truth", "infilling", "text").
        sampler: How samples are reranked ("text").
        judge: An `AutoregressiveEnergy` over the denoiser's tokens ("text").
        batch_sizes: Sequences at a time ("speed"; the last of them, "text").
        repeats: Timed batches of each setting ("speed").
    """

    what: Literal["oracle", "truth", "infilling", "text", "speed"]
    output: str | None = None
    seed: int = 0
    num_samples: int = 1000
    denoiser: str = "tinystories"
    energy: str = "tinystories"
    corpus: str | None = None
    language: LanguageConfig = field(default_factory=LanguageConfig)
    energies: tuple[EnergyConfig, ...] = ()
    num_steps: tuple[int, ...] = (4, 8, 16)
    orders: tuple[str, ...] = ("random",)
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(num_candidates=8, scope="sequence"))
    judge: str = "tinystories/autoregressive"
    batch_sizes: tuple[int, ...] = (1, 16)
    repeats: int = 3


def run(config: BenchmarkConfig) -> None:
    """Measure, print a table, write JSON."""
    started = time.perf_counter()
    measures = {"oracle": _oracle, "truth": _truth, "infilling": _infilling, "text": _text, "speed": _speed}
    rows = measures[config.what](config)
    if config.output:
        write_result(config.output, config, seconds=time.perf_counter() - started, rows=rows)


def _oracle(config: BenchmarkConfig) -> list[dict[str, Any]]:
    rows = []
    for row in measure_cells(config.num_samples, config.seed):
        rows.append(row)
        options = {key: value for key, value in row.items() if key in ("num_candidates", "scope", "group_size")}
        print(
            f"{row['table']:7} {row['num_steps']:3} steps  published {row['published']:.3f}  measured "
            f"{row['measured']:.3f} ± {row['stderr']:.3f}  off by {row['deviations']:+.1f}  {options or 'base'}",
            flush=True,
        )
    rows.append({"table": "data", "published": 2.289, **data_nats_per_token(config.num_samples, config.seed)})
    worst = max(abs(row["deviations"]) for row in rows[:-1])
    print(f"data: {rows[-1]['measured']:.3f}; furthest cell: {worst:.1f} combined standard errors of {len(rows) - 1}")
    return rows


def _truth(config: BenchmarkConfig) -> list[dict[str, Any]]:
    if config.corpus is None:
        raise ValueError("'truth' needs corpus, the folder that the denoiser was trained on")
    denoiser = load_denoiser(config.denoiser)
    corpus, language = PreparedCorpus.load(config.corpus), build_language(config.language)
    if language.mask_token_id != denoiser.mask_token_id:
        raise ValueError(
            f"the language's mask token ({language.mask_token_id}) must be the denoiser's ({denoiser.mask_token_id})"
        )
    x_0 = corpus.valid.tokens[: config.num_samples]
    settings = {
        e.name: (load_energy(e.energy), {"num_candidates": e.num_candidates, "group_size": e.group_size})
        for e in config.energies
    }
    rows = []
    for order in config.orders:
        for steps in config.num_steps:
            rows += share_of_the_way(denoiser, language, settings, x_0, num_steps=steps, order=order, seed=config.seed)
    _print_table(
        "bound on held-out rows; share of the way from the base to the oracle",
        rows,
        {
            "order": lambda r: r["order"],
            "passes": lambda r: str(r["num_steps"]),
            "decided by": lambda r: r["name"],
            "nats/token": lambda r: f"{r['bound_nats_per_token']:.4f} ± {r['bound_stderr']:.4f}",
            "share": lambda r: f"{r['share']:.1%} ± {r['share_stderr']:.1%}",
        },
    )
    return rows


def _infilling(config: BenchmarkConfig) -> list[dict[str, Any]]:
    denoiser = load_denoiser(config.denoiser)
    blocks = load_blocks(SHIPPED / "tinystories" / "valid.safetensors")
    if config.corpus is not None:
        blocks = PreparedCorpus.load(config.corpus).valid
    deciding = {e.name: (load_energy(e.energy), e.num_candidates, e.group_size) for e in config.energies}
    rows = []
    for order in config.orders:
        for steps in config.num_steps:
            common = SamplerConfig(order=order, num_steps=steps)
            samplers = {"base": common.build(denoiser, None)}
            for name, (energy, k, size) in deciding.items():
                samplers[name] = replace(common, num_candidates=k, group_size=size).build(denoiser, energy)
            found = measure_infilling(samplers, blocks.tokens[: config.num_samples], seed=config.seed)
            rows += [{"order": order, "num_steps": steps, **infilling.as_record()} for infilling in found]
    _print_table(
        "middle thirds of held-out rows: bound of the truth, and what draws recover of it",
        rows,
        {
            "order": lambda r: r["order"],
            "passes": lambda r: str(r["num_steps"]),
            "decided by": lambda r: r["name"],
            "nats/token": lambda r: f"{r['bound_nats_per_token']:.3f} ± {r['bound_stderr']:.3f}",
            "gain": lambda r: f"{r['gain_nats_per_token']:.3f} ± {r['gain_stderr']:.3f}" if r["gain_stderr"] else "",
            "spans": lambda r: f"{r['spans_recovered']:.1%}",
            "tokens": lambda r: f"{r['tokens_recovered']:.1%} ± {r['tokens_recovered_stderr']:.1%}",
        },
    )
    return rows


def _text(config: BenchmarkConfig) -> list[dict[str, Any]]:
    denoiser, energy = load_denoiser(config.denoiser), TextEnergy.from_causal_lm(config.energy)
    judge = load_judge(config.judge, denoiser)
    blocks = load_blocks(SHIPPED / "tinystories" / "valid.safetensors")
    texts = denoiser.tokenizer.batch_decode(blocks.tokens[: config.num_samples], skip_special_tokens=True)
    disorder = cost_of_disorder(Judge(energy.model, energy.tokenizer, name=config.energy), texts, config.seed)
    print(f"shuffled words cost {disorder.value:.2f} ± {disorder.stderr:.2f} nats a word (n = {disorder.n})")
    rows = [{"what": "energy of shuffled words minus energy, nats a word", **disorder._asdict()}]
    how = {"num_samples": config.num_samples, "batch_size": config.batch_sizes[-1], "seed": config.seed}
    for order in config.orders:
        for steps in config.num_steps:
            common = replace(config.sampler, order=order, num_steps=steps)
            base = replace(common, num_candidates=1, scope="step").build(denoiser, None)
            samplers = {"base": base, "reranked": common.build(denoiser, energy)}
            found = judge_samplers(samplers, judge, blocks.tokens.shape[1], **how)
            rows += [{"order": order, "num_steps": steps, **judged.as_record(found[0])} for judged in found]
    _print_table(
        f"samples reranked by {config.energy} as text, judged by {config.judge}",
        rows[1:],
        {
            "order": lambda r: r["order"],
            "passes": lambda r: str(r["num_steps"]),
            "sampler": lambda r: r["name"],
            "judge, nats/token": lambda r: f"{r['judge_nats_per_token']:.3f} ± {r['judge_stderr']:.3f}",
            "minus base": lambda r: f"{r['judge_minus_base']:.3f} ± {r['judge_minus_base_stderr'] or 0:.3f}",
            "entropy": lambda r: f"{r['entropy_nats']:.3f} ({r['entropy_over_base']:.1%})",
            "distinct-2": lambda r: f"{r['distinct_2']:.3f}",
            "ess": lambda r: f"{r['ess']:.1f}",
        },
    )
    return rows


def _speed(config: BenchmarkConfig) -> list[dict[str, Any]]:
    rows = measure_speed(
        load_denoiser(config.denoiser),
        load_energy(config.energy),
        num_steps=config.num_steps,
        batch_sizes=config.batch_sizes,
        repeats=config.repeats,
        seed=config.seed,
    )
    _print_table(
        "seconds per sequence of sampling, and ratio to the base of the same passes",
        rows,
        {
            "batch": lambda r: str(r["batch_size"]),
            "passes": lambda r: str(r["num_steps"]),
            "decided by": lambda r: r["decided by"],
            "s/sequence": lambda r: f"{r['seconds_per_sequence']:.4f}",
            "ratio": lambda r: f"{r['ratio_to_base']:.2f}",
        },
    )
    return rows


def _print_table(title: str, rows: list[dict[str, Any]], columns: dict[str, Callable[[dict], str]]) -> None:
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    console().print(table)
