"""Samples of a sampler: how long they take, and how varied they are."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.sampler.sampler import EnergySampler


@dataclass(frozen=True)
class TimedSamples:
    """Samples, and what they cost.

    Attributes:
        tokens: Shape ``[num_samples, length]``.
        seconds_of_batches: Wall-clock seconds of each batch, per sequence.
        denoiser_passes: Of a sequence.
        energy_passes: Candidates that the energy judged for a sequence, mean; for exact decisions, tokens.
    """

    tokens: Tensor
    seconds_of_batches: tuple[float, ...]
    denoiser_passes: int
    energy_passes: float

    @property
    def seconds_per_sequence(self) -> float:
        """Median over batches."""
        return statistics.median(self.seconds_of_batches)


def draw_timed(
    sampler: EnergySampler,
    length: int,
    *,
    batch_size: int,
    num_batches: int,
    seed: int,
) -> TimedSamples:
    """Sample batches from nothing, after a single row that warms up.

    Args:
        sampler: What is timed.
        length: Tokens of a sample.
        batch_size: Samples of a batch.
        num_batches: Batches, >= 1.
        seed: Sample ``i`` has seed ``seed + i``.

    Raises:
        ValueError: ``num_batches`` is not positive.
    """
    if num_batches < 1:
        raise ValueError(f"num_batches must be >= 1, got {num_batches}")
    sampler.sample(1, length, seeds=[seed])
    tokens, seconds, judged = [], [], []
    for first in range(seed, seed + num_batches * batch_size, batch_size):
        started = time.perf_counter()
        output = sampler.sample(batch_size, length, seeds=range(first, first + batch_size))
        tokens.append(output.tokens.cpu())
        seconds.append((time.perf_counter() - started) / batch_size)
        judged.append(sum(step.judged for step in output.steps))
    denoiser_passes = sum(step.denoiser_calls for step in output.steps)
    energy_passes = torch.cat(judged).double().mean().item()
    return TimedSamples(torch.cat(tokens), tuple(seconds), denoiser_passes, energy_passes)
