"""What a sampler costs: seconds as ratios to the base, floating-point operations and memory."""

import ctypes
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.evaluation.samples.draw import draw_timed
from edlm.sampler.sampler import EnergySampler

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
    seeds = range(seed, seed + batch_size)
    device = next(iter([*sampler.denoiser.parameters(), *sampler.denoiser.buffers()])).device
    memory = _CudaMemory(device) if device.type == "cuda" else _ResidentMemory()
    before = memory.start()
    with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
        sampler.sample(batch_size, length, seeds=seeds)
    peak = memory.peak()
    used = None if before is None or peak is None else max(0, peak - before)
    return Cost(counter.get_total_flops() / batch_size, used, memory.method)


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
                sampler = EnergySampler(denoiser, energy, num_steps=steps, order="dilated", **options)
                batches = {"batch_size": batch_size, "num_batches": repeats, "seed": seed}
                seconds = draw_timed(sampler, denoiser.max_length, **batches).seconds_per_sequence
                base = base or seconds
                measured = {"seconds_per_sequence": seconds, "ratio_to_base": seconds / base}
                rows.append({"decided by": name, "num_steps": steps, "batch_size": batch_size, **measured, **options})
    return rows


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


# The counter knows the attention of GPUs alone (torch 2.13).
_UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


class _CudaMemory:
    method = "torch.cuda.max_memory_allocated, above what was allocated before"

    def __init__(self, device: torch.device):
        self.device = device

    def start(self) -> int:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)


class _ResidentMemory:
    """The highest resident set since Linux was told to forget the one before."""

    method = "growth of the process's resident set at its highest (VmHWM)"

    def start(self) -> int | None:
        try:
            ctypes.CDLL(None).malloc_trim(0)  # give back what is free, so that its use is seen
            _CLEAR.write_text("5")
            return _kilobytes("VmRSS")
        except (OSError, AttributeError, ValueError):
            self.method = "not known: this system does not report the peak memory of a process"
            return None

    def peak(self) -> int | None:
        try:
            return _kilobytes("VmHWM")
        except (OSError, ValueError):
            return None


def _kilobytes(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if match is None:
        raise ValueError(f"{_STATUS} must say {field}, got none")
    return 1024 * int(match[1])
