"""``edlm benchmark``: seconds per sequence of sampling, as ratios inside one run."""

import time
from dataclasses import dataclass
from typing import Any, Literal

import torch

from edlm.commands.benchmark_costs import compare_costs
from edlm.commands.terminal import print_table
from edlm.denoisers.loading import load_denoiser, usable_device
from edlm.energies.loading import load_energy
from edlm.evaluation.experiment.provenance import write_result
from edlm.evaluation.samples.block_cost import BLOCK, NEW, PROMPT, STEPS, measure_blocks
from edlm.evaluation.samples.cost import measure_speed
from edlm.files import check_writable
from edlm.rules import Config


@dataclass(frozen=True)
class BenchmarkConfig(Config):
    """Models and settings that are timed.

    Args:
        preset: "models": the denoiser and energies below; "blocks": a random denoiser that writes in blocks, with and
            without the keys and values of finished blocks; "s1": random models of 6 layers, hidden size 256 and
            vocabulary 50258, and the models below: ratios to the base and to a plain program, and where time goes.
        denoiser: The denoiser.
        energy: Its normalised head.
        causal_lm: A causal LM over the same tokens, by its name as an energy; null leaves it out, or under preset "s1"
            takes the one that is shipped with the denoiser.
        num_steps: Denoiser passes; those of other presets are their own.
        batch_sizes: Sequences at a time.
        repeats: Timed batches of each setting; the median counts.
        seed: Seed of the samples.
        device: Device of denoiser and energies: "cpu", "cuda", "mps", or "auto" for the best of these.
        output: JSON file to write; none by default. Preset "s1" writes a page .md beside it.
    """

    preset: Literal["models", "blocks", "s1"] = "models"
    denoiser: str = "tinystories"
    energy: str = "tinystories"
    causal_lm: str | None = None
    num_steps: tuple[int, ...] = (4, 8, 16)
    batch_sizes: tuple[int, ...] = (1, 16)
    repeats: int = 3
    seed: int = 0
    device: str = "auto"
    output: str | None = None


def run(config: BenchmarkConfig) -> None:
    """Time each setting, print a table, write JSON."""
    check_writable(config.output)
    by = {"models": _time_models, "blocks": _time_blocks, "s1": compare_costs}[config.preset]
    started = time.perf_counter()
    rows, device = by(config)
    if config.output:
        write_result(config.output, config, device=str(device), seconds=time.perf_counter() - started, rows=rows)


def _time_blocks(config: BenchmarkConfig) -> tuple[list[dict[str, Any]], torch.device]:
    device = torch.device(usable_device(config.device))
    options = {name: getattr(config, name) for name in ("batch_sizes", "repeats", "seed")}
    rows = measure_blocks(**options, device=device)
    columns = {
        "batch": lambda r: str(r["batch_size"]),
        "finished blocks": lambda r: "kept" if r["cache"] == "auto" else "run again",
        "s/sequence": lambda r: f"{r['seconds_per_sequence']:.4f}",
        "ratio": lambda r: f"{r['ratio_to_base']:.3f}",
        "MiB": _mebibytes,
        "same tokens": lambda r: "yes" if r["same_tokens"] else "no",
    }
    print_table(f"{NEW} tokens after {PROMPT} in blocks of {BLOCK}, {STEPS} passes each, on {device}", rows, columns)
    return rows, device


def _time_models(config: BenchmarkConfig) -> tuple[list[dict[str, Any]], torch.device]:
    denoiser = load_denoiser(config.denoiser, device=config.device)
    device = denoiser.device
    energy = load_energy(config.energy).to(device)
    causal_lm = None if config.causal_lm is None else load_energy(config.causal_lm).to(device)
    names = ("num_steps", "batch_sizes", "repeats", "seed")
    rows = [
        {**row, "tokens_per_second": denoiser.max_length / row["seconds_per_sequence"]}
        for row in measure_speed(denoiser, energy, causal_lm, **{name: getattr(config, name) for name in names})
    ]
    columns = {
        "batch": lambda r: str(r["batch_size"]),
        "passes": lambda r: str(r["num_steps"]),
        "decided by": lambda r: r["decided by"],
        "s/sequence": lambda r: f"{r['seconds_per_sequence']:.4f}",
        "tokens/s": lambda r: f"{r['tokens_per_second']:.0f}",
        "ratio": lambda r: f"{r['ratio_to_base']:.2f}",
        "MiB": _mebibytes,
        "of matmul rate": lambda r: f"{r['share_of_matmul_rate']:.1%}",
    }
    print_table(f"seconds per sequence on {device}, and ratio to the base of the same passes", rows, columns)
    return rows, device


def _mebibytes(row: dict[str, Any]) -> str:
    return "–" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**20:.0f}"
