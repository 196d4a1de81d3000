"""``edlm benchmark --preset s1``: what joint decisions cost, as ratios, and where time goes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from edlm.commands.terminal import print_table
from edlm.denoisers.loading import load_denoiser, usable_device
from edlm.energies.loading import load_energy
from edlm.evaluation.experiment.provenance import in_words, provenance
from edlm.evaluation.experiment.rows import markdown_table
from edlm.evaluation.samples import s1
from edlm.evaluation.samples.ratios import Models, measure_ratios, measure_shares
from edlm.evaluation.samples.shares import PARTS
from edlm.files import write_atomically

Columns = Mapping[str, Callable[[dict[str, Any]], str]]
RATIOS: Columns = {
    "models": lambda r: r["model"],
    "decided by": lambda r: r["setting"],
    "batch": lambda r: str(r["batch_size"]),
    "passes": lambda r: str(r["num_steps"]),
    "ms/step": lambda r: f"{1000 * r['seconds_per_step']:.1f}" if "ratio" in r else "–",
    "time": lambda r: f"{r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" if "ratio" in r else "–",
    "MiB": lambda r: "–" if r["peak_memory_bytes"] is None else f"{r['peak_memory_bytes'] / 2**20:.0f}",
    "memory": lambda r: f"{r['memory_ratio']:.2f}" if r.get("memory_ratio") else "–",
    "in units of": lambda r: r.get("versus", "–"),
}
SHARES: Columns = {
    "models": lambda r: r["model"],
    "decided by": lambda r: r["setting"],
    **{part: lambda r, part=part: f"{1000 * r['seconds_per_step'][part]:.1f}" for part in PARTS},
    "all": lambda r: f"{1000 * sum(r['seconds_per_step'].values()):.1f}",
    "floor": lambda r: f"{1000 * r['floor']:.1f}",
}
SPEED, PLACES = "Ratios", "Where time goes, and what the floor is"
TEXT = {
    SPEED: """Settings timed in turns, medians; 95 % intervals by a bootstrap over turns. The ratio of a plain program
says how many times longer than this package it takes. Memory is the peak above what was in use before. The settings of
256 candidates ran once.""",
    PLACES: """Milliseconds a step, batch 1. The trunk is the denoiser without its output layer; the output layer
includes what heads decode; energy is all else that an energy does, a causal LM as a whole; the rest is draws, weights
and bookkeeping. The floor is the time of the base's matrix products at the rate of a product of square matrices.""",
}


def compare_costs(config: Any) -> tuple[list[dict[str, Any]], torch.device]:
    """Measure random models and the configuration's own, print both tables, and write them to a page."""
    device = torch.device(usable_device(config.device))
    ratios, shares = [], []
    for models in (_random_models(config.seed, device), _given_models(config, device)):
        options = {"repeats": config.repeats, "seed": config.seed}
        ratios += measure_ratios(models, batch_sizes=config.batch_sizes, **options)
        shares += measure_shares(models, **options)
    tables = {SPEED: (ratios, RATIOS), PLACES: (shares, SHARES)}
    for title, table in tables.items():
        print_table(f"{title}, on {device}", *table)
    if config.output:
        parts = [
            f"## {title}\n\n{TEXT[title]}\n\n{markdown_table(table[1], table[0])}" for title, table in tables.items()
        ]
        made = f"{in_words(provenance())}, seed {config.seed}, turns: {config.repeats}."
        page = "\n".join(["# What joint decisions cost\n", f"{made}\n", *parts])
        write_atomically(Path(config.output).with_suffix(".md"), page.encode())
    return [*ratios, *shares], device


def _random_models(seed: int, device: torch.device) -> Models:
    denoiser = s1.random_denoiser(seed).to(device)
    energies = {name: energy.to(device) for name, energy in s1.random_energies(denoiser, seed).items()}
    return Models("S1", denoiser, energies, s1.random_causal_lm(seed).to(device), s1.LENGTH)


def _given_models(config: Any, device: torch.device) -> Models:
    denoiser = load_denoiser(config.denoiser, device=str(device))
    # Chains cost the same whatever their weights.
    energies = {**s1.random_energies(denoiser, config.seed), "head": load_energy(config.energy)}
    causal_lm = load_energy(config.causal_lm or f"{config.denoiser}/autoregressive")
    energies = {name: energy.to(device) for name, energy in energies.items()}
    return Models(config.denoiser, denoiser, energies, causal_lm.to(device), denoiser.max_length)
