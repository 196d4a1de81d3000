"""Seconds per sequence of sampling, as ratios to the base inside one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edlm.config import SamplerConfig
from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.evaluation.samples.draw import draw_timed


def measure_speed(
    denoiser: Denoiser,
    head: Energy,
    *,
    num_steps: Sequence[int],
    batch_sizes: Sequence[int],
    repeats: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Time the base and ways to decide by a normalised head, setting by setting.

    Args:
        denoiser: Its ``max_length`` is the length of the samples.
        head: Normalised.
        num_steps: Denoiser passes.
        batch_sizes: Sequences at a time.
        repeats: Timed batches of each setting; the median counts.
        seed: Of the samples.

    Returns:
        For each setting its options, ``seconds_per_sequence`` and ``ratio_to_base``, the base of the same passes.
    """
    deciding = {
        "base": (None, {"num_candidates": 1}),
        "head, exact": (head, {"num_candidates": None}),
        "head, k = 4, whole step": (head, {"num_candidates": 4}),
        "head, k = 16, whole step": (head, {"num_candidates": 16}),
        "head, k = 16, groups of 4": (head, {"num_candidates": 16, "group_size": 4}),
    }
    rows = []
    for batch_size in batch_sizes:
        for steps in num_steps:
            base = None
            for name, (energy, options) in deciding.items():
                sampler = SamplerConfig(num_steps=steps, **options).build(denoiser, energy)
                how = {"batch_size": batch_size, "num_batches": repeats, "seed": seed}
                seconds = draw_timed(sampler, denoiser.max_length, **how).seconds_per_sequence
                base = base or seconds
                measured = {"seconds_per_sequence": seconds, "ratio_to_base": seconds / base}
                rows.append({"decided by": name, "num_steps": steps, "batch_size": batch_size, **measured, **options})
    return rows
