"""A grid of samplers, each measured on the same rows and seeds: bound, gain over the base, seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from torch import Tensor

from edlm.config import SamplerConfig
from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.evaluation.likelihood import BoundEstimate, estimate_bound, paired_gain
from edlm.sampler.sampler import EnergySampler


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        name: What it is called; rows named "base" have no energy.
        energy: What judges, or None.
        sampler: How to sample.
    """

    name: str
    energy: Energy | None
    sampler: SamplerConfig


@dataclass(frozen=True)
class Measurement:
    """What was measured of a setting; nats, low = good, but for the gain.

    Attributes:
        name: Of the setting.
        order: Reveal order.
        num_steps: Denoising steps: denoiser passes of a sequence.
        num_candidates: k; None for exact decisions.
        group_size: Tokens decided together; None for a whole step.
        scope: "step" or "sequence".
        n: Rows.
        bound_nats_per_token: The bound.
        bound_stderr: Its standard error over rows.
        perplexity: exp of the bound.
        bits_per_char: The bound in bits per character, or None.
        gain_nats_per_token: Bound of the base at the same steps and order, minus this one; None for the base.
        gain_stderr: Standard error of the paired differences.
        seconds_per_sequence: Of sampling, at ``timed_batch_size``; None where not timed.
        timed_batch_size: Sequences sampled at a time.
    """

    name: str
    order: str
    num_steps: int
    num_candidates: int | None
    group_size: int | None
    scope: str
    n: int
    bound_nats_per_token: float
    bound_stderr: float
    perplexity: float
    bits_per_char: float | None
    gain_nats_per_token: float | None
    gain_stderr: float | None
    seconds_per_sequence: float | None
    timed_batch_size: int


def measure(
    denoiser: Denoiser,
    settings: Iterable[Setting],
    x_0: Tensor,
    *,
    seed: int = 0,
    batch_size: int = 32,
    timed_batch_size: int = 16,
    repeats: int = 2,
    characters_per_token: float | None = None,
    on_measured: Callable[[Measurement], None] = lambda measurement: None,
) -> list[Measurement]:
    """Measure each setting on the same rows, seeds and orders.

    Args:
        denoiser: The frozen denoiser.
        settings: What to measure; a gain needs its base (the same steps and order) before it.
        x_0: Held-out rows, ``[n, length]``.
        seed: Of orders, candidates and timed samples.
        batch_size: Rows at a time for the bound.
        timed_batch_size: Sequences sampled at a time for the seconds.
        repeats: Timed batches, after one that is not counted; the least is reported. 0: no timing.
        characters_per_token: For bits per character.
        on_measured: Called with each measurement as soon as it is there.
    """
    bases: dict[tuple[str, int], BoundEstimate] = {}
    measurements = []
    for setting in settings:
        sampler = setting.sampler.build(denoiser, setting.energy)
        title = f"{setting.name}, {setting.sampler.order}, {setting.sampler.num_steps} steps"
        bound = estimate_bound(
            sampler,
            x_0,
            seed=seed,
            batch_size=batch_size,
            characters_per_token=characters_per_token,
            progress=title,
        )
        key = (setting.sampler.order, setting.sampler.num_steps)
        gain = paired_gain(bases[key], bound).nats_per_token if setting.energy and key in bases else None
        if setting.energy is None:
            bases[key] = bound
        mean = bound.nats_per_token
        chosen = {name: getattr(setting.sampler, name) for name in ("order", "num_steps", "group_size", "scope")}
        measurement = Measurement(
            name=setting.name,
            **chosen,
            num_candidates=setting.sampler.num_candidates if setting.energy else 1,
            n=mean.n,
            bound_nats_per_token=mean.value,
            bound_stderr=mean.stderr,
            perplexity=bound.perplexity,
            bits_per_char=bound.bits_per_char,
            gain_nats_per_token=gain.value if gain else None,
            gain_stderr=gain.stderr if gain else None,
            seconds_per_sequence=seconds_per_sequence(sampler, x_0.shape[1], timed_batch_size, repeats, seed),
            timed_batch_size=timed_batch_size,
        )
        measurements.append(measurement)
        on_measured(measurement)
    return measurements


def seconds_per_sequence(sampler: EnergySampler, length: int, batch_size: int, repeats: int, seed: int) -> float | None:
    """Least seconds per sequence over ``repeats`` batches, after one that warms up."""
    taken = []
    for repeat in range(repeats + 1 if repeats else 0):
        seeds = range(seed + repeat * batch_size, seed + (repeat + 1) * batch_size)
        started = time.perf_counter()
        sampler.sample(batch_size, length, seeds=seeds).tokens.cpu()
        taken.append((time.perf_counter() - started) / batch_size)
    return min(taken[1:]) if repeats else None


def as_table(measurements: Iterable[Measurement]) -> Table:
    """For the terminal."""
    table = Table(title="likelihood bound of the sampler (upper bound of -log p; low = good)")
    for heading in ("sampler", "order", "passes", "k", "groups", "nats/token", "perplexity", "gain", "s/sequence"):
        table.add_column(heading, justify="left" if heading in ("sampler", "order") else "right")
    for m in measurements:
        gain = "" if m.gain_nats_per_token is None else f"{m.gain_nats_per_token:.3f} ± {m.gain_stderr:.3f}"
        table.add_row(
            m.name,
            m.order,
            str(m.num_steps),
            "exact" if m.num_candidates is None else str(m.num_candidates),
            "1" if m.num_candidates is None else str(m.group_size or "step"),
            f"{m.bound_nats_per_token:.3f} ± {m.bound_stderr:.3f}",
            f"{m.perplexity:.1f}",
            gain,
            "" if m.seconds_per_sequence is None else f"{m.seconds_per_sequence:.3f}",
        )
    return table


def as_json(measurements: Iterable[Measurement]) -> list[dict[str, Any]]:
    """Plain values, a dict a row."""
    return [asdict(measurement) for measurement in measurements]
