"""``edlm benchmark``: seconds per sequence of sampling, as ratios to the base inside one run."""

import time
from dataclasses import dataclass

from edlm.commands.terminal import print_table
from edlm.denoisers.loading import load_denoiser
from edlm.energies.loading import load_energy
from edlm.evaluation.experiment.provenance import write_result
from edlm.evaluation.samples.cost import measure_speed
from edlm.files import check_writable
from edlm.rules import Config
from edlm.sampler.kernel import device_of


@dataclass(frozen=True)
class BenchmarkConfig(Config):
    """Models and settings that are timed.

    Args:
        denoiser: The denoiser.
        energy: Its normalised head.
        causal_lm: A causal LM over the same tokens, by its name as an energy; null leaves it out.
        num_steps: Denoiser passes.
        batch_sizes: Sequences at a time.
        repeats: Timed batches of each setting; the median counts.
        seed: Seed of the samples.
        device: Device of denoiser and energies: "cpu", "cuda", "mps", or "auto" for the best of these.
        output: JSON file to write; none by default.
    """

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
    started = time.perf_counter()
    denoiser = load_denoiser(config.denoiser, device=config.device)
    device = device_of(denoiser)
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
        "MiB": lambda r: "–" if r["peak_memory_bytes"] is None else f"{r['peak_memory_bytes'] / 2**20:.0f}",
        "of matmul rate": lambda r: f"{r['share_of_matmul_rate']:.1%}",
    }
    print_table(f"seconds per sequence on {device}, and ratio to the base of the same passes", rows, columns)
    if config.output:
        write_result(config.output, config, device=str(device), seconds=time.perf_counter() - started, rows=rows)
