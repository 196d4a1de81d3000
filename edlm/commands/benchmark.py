"""``edlm benchmark``: oracle tables, trained energies against the oracle, infilling, and speed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edlm.commands.languages import RerankerConfig
from edlm.commands.terminal import print_table
from edlm.config import SamplerConfig
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.text import load_blocks
from edlm.denoisers.loading import SHIPPED, load_denoiser
from edlm.energies.loading import load_energy
from edlm.energies.text import TextEnergy
from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.provenance import write_result
from edlm.evaluation.likelihood.bounds import estimate_bounds, paired_gain
from edlm.evaluation.likelihood.text import measure_recovery, middle_third
from edlm.evaluation.samples.judge import Judge, load_judge
from edlm.evaluation.samples.reranked_text import cost_of_disorder, judge_samplers
from edlm.evaluation.samples.speed import measure_speed


@dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured.

    Args:
        what: "infilling": the middle third of held-out rows. "text": a causal LM
            with other tokens as energy, under a judge. "speed": seconds per sequence, as ratios to the base of the same
            passes.
        output: JSON file to write; none by default.
        seed: Of samples, orders and candidates.
        num_samples: Samples per cell ("oracle"), or held-out rows ("truth", "infilling").
        denoiser: The trained denoiser (all but "oracle").
        energy: Its normalised head ("speed"); a causal LM that reads text ("text").
        corpus: Prepared corpus of held-out rows ("truth"; "infilling", by default the shipped rows).
        energies: What is held against the oracle ("truth") or the base ("infilling").
        num_steps: Denoiser passes (all but "oracle" take each of them).
        orders: Reveal orders ("truth", "infilling", "text").
        sampler: How samples are reranked ("text").
        judge: An `AutoregressiveEnergy` over the denoiser's tokens ("text").
        batch_sizes: Sequences at a time ("speed"; the last of them, "text").
        repeats: Timed batches of each setting ("speed").
    """

    what: Literal["infilling", "text", "speed"]
    output: str | None = None
    seed: int = 0
    num_samples: int = 1000
    denoiser: str = "tinystories"
    energy: str = "tinystories"
    corpus: str | None = None
    energies: tuple[RerankerConfig, ...] = ()
    num_steps: tuple[int, ...] = (4, 8, 16)
    orders: tuple[str, ...] = ("random",)
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(num_candidates=8, scope="sequence"))
    judge: str = "tinystories/autoregressive"
    batch_sizes: tuple[int, ...] = (1, 16)
    repeats: int = 3


def run(config: BenchmarkConfig) -> None:
    """Measure, print a table, write JSON."""
    started = time.perf_counter()
    measures = {"infilling": _infilling, "text": _text, "speed": _speed}
    rows = measures[config.what](config)
    if config.output:
        write_result(config.output, config, seconds=time.perf_counter() - started, rows=rows)


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
            x_0 = blocks.tokens[: config.num_samples]
            given = ~middle_third(x_0)
            bounds = estimate_bounds(list(samplers.values()), x_0, given=given, seed=config.seed)
            for (name, sampler), bound in zip(samplers.items(), bounds, strict=True):
                gain = paired_gain(bounds[0], bound) if name != "base" else Estimate(None, None, 0)
                spans, tokens = measure_recovery(sampler, x_0, given=given, seed=config.seed)
                row = {"order": order, "num_steps": steps, "name": name, "n": bound.n}
                row |= {"bound_nats_per_token": bound.value, "bound_stderr": bound.stderr}
                row |= {"gain_nats_per_token": gain.value, "gain_stderr": gain.stderr}
                row |= {"spans_recovered": spans.value, "spans_recovered_stderr": spans.stderr}
                row |= {"tokens_recovered": tokens.value, "tokens_recovered_stderr": tokens.stderr}
                rows.append(row)
    print_table(
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
    print_table(
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
    print_table(
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
