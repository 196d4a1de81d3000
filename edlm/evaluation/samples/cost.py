"""What a sampler costs: seconds, floating-point operations and memory."""

import ctypes
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.sampler.sampler import EnergySampler

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
        judged.append(sum(step.judged for step in output.steps.taken.values()))
    denoiser_passes = sum(step.denoiser_calls for step in output.steps.taken.values())
    energy_passes = torch.cat(judged).double().mean().item()
    return TimedSamples(torch.cat(tokens), tuple(seconds), denoiser_passes, energy_passes)


class Cost(NamedTuple):
    """What it costs to sample a batch.

    Attributes:
        flops_per_sequence: Of matrix products, convolutions and attention, as `torch.utils.flop_counter` counts them
            (a multiplication and an addition are two); nothing else is counted.
        peak_memory_bytes: Above what was in use before; None where the system does not report it.
        memory: How it was measured, or why not.
    """

    flops_per_sequence: float
    peak_memory_bytes: int | None
    memory: str


def measure_cost(sampler: EnergySampler, length: int, *, batch_size: int, seed: int) -> Cost:
    """Sample a batch and count.

    Args:
        sampler: What is measured.
        length: Tokens of a sample.
        batch_size: Samples of the batch.
        seed: Sample ``i`` has seed ``seed + i``.

    Note:
        Rows that are equal are run once, so that the count of a sequence falls a little with the batch size. On a CPU
        memory is the growth of the process's resident set at its highest (Linux alone), which misses what fits into
        pages that it held already.
    """
    with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
        peak, memory = peak_memory(
            sampler.denoiser.device,
            lambda: sampler.sample(batch_size, length, seeds=range(seed, seed + batch_size)),
        )
    return Cost(counter.get_total_flops() / batch_size, peak, memory)


def matmul_rate(device: torch.device, size: int = 1024, repeats: int = 8) -> float:
    """Floating-point operations per second of float32 products of square matrices; the best of some repeats."""
    left, seconds = torch.randn(size, size, device=device), []
    for _ in range(repeats):
        started = time.perf_counter()
        (left @ left)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def measure_speed(
    denoiser: Denoiser,
    head: Energy,
    causal_lm: Energy | None = None,
    *,
    num_steps: Sequence[int],
    batch_sizes: Sequence[int],
    repeats: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Time the base and ways to decide by an energy, setting by setting.

    Args:
        denoiser: Its ``max_length`` is the length of the samples.
        head: Normalised.
        causal_lm: An energy that is a causal LM over the same tokens; None leaves it out.
        num_steps: Denoiser passes.
        batch_sizes: Sequences at a time.
        repeats: Timed batches of each setting; the median counts.
        seed: Of the samples.

    Returns:
        For each setting its options, ``seconds_per_sequence``, ``ratio_to_base`` (the base of the same passes),
        ``peak_memory_bytes`` and ``share_of_matmul_rate``: `Cost.flops_per_sequence` a second, as a share of
        `matmul_rate`.
    """
    deciding = {
        "base": (None, {"num_candidates": 1}),
        "head, exact": (head, {"num_candidates": None}),
        "head, exact, rounds of 4": (head, {"num_candidates": None, "group_size": 4}),
        "head, k = 4, whole step": (head, {"num_candidates": 4}),
        "head, k = 16, whole step": (head, {"num_candidates": 16}),
        "head, k = 16, groups of 4": (head, {"num_candidates": 16, "group_size": 4}),
    }
    if causal_lm is not None:
        deciding["causal LM, k = 4, sequences"] = (causal_lm, {"num_candidates": 4, "scope": "sequence"})
        deciding["causal LM, k = 4, left to right"] = (causal_lm, {"num_candidates": 4, "order": "left_to_right"})
    rate, rows = matmul_rate(denoiser.device), []
    for batch_size in batch_sizes:
        for steps in num_steps:
            base = None
            for name, (energy, options) in deciding.items():
                sampler = EnergySampler(denoiser, energy, num_steps=steps, **{"order": "dilated", **options})
                batches = {"batch_size": batch_size, "num_batches": repeats, "seed": seed}
                seconds = draw_timed(sampler, denoiser.max_length, **batches).seconds_per_sequence
                cost = measure_cost(sampler, denoiser.max_length, batch_size=batch_size, seed=seed)
                base = base or seconds
                measured = {
                    "seconds_per_sequence": seconds,
                    "ratio_to_base": seconds / base,
                    "peak_memory_bytes": cost.peak_memory_bytes,
                    "share_of_matmul_rate": cost.flops_per_sequence / seconds / rate,
                }
                rows.append({"decided by": name, "num_steps": steps, "batch_size": batch_size, **measured, **options})
    return rows


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


# The counter knows the attention of GPUs alone (torch 2.13).
_UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def peak_memory(device: torch.device, call: Callable[[], object]) -> tuple[int | None, str]:
    """Bytes that a call takes at its highest, above what was in use before, and how that was measured."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
        return peak, "torch.cuda.max_memory_allocated, above what was allocated before"
    try:
        ctypes.CDLL(None).malloc_trim(0)  # give back what is free, so that its use is seen
        _CLEAR.write_text("5")  # Linux forgets the highest resident set so far
        before = _kilobytes("VmRSS")
    except (OSError, AttributeError, ValueError):
        call()
        return None, "not known: this system does not report the peak memory of a process"
    call()
    return max(0, _kilobytes("VmHWM") - before), "growth of the process's resident set at its highest (VmHWM)"


def _kilobytes(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if match is None:
        raise ValueError(f"{_STATUS} must say {field}, got none")
    return 1024 * int(match[1])
