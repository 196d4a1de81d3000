"""A grid of samplers, measured on the same rows, seeds and passes: bounds, gains, seconds, samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from torch import Tensor

from edlm.config import SamplerConfig
from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.evaluation.likelihood import BoundEstimate, estimate_bounds, paired_gain


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        name: What it is called.
        energy: What judges; None for the base.
        sampler: How to sample.
        sampled_steps: Estimate the gain over the base from so many steps of each row (`likelihood_bounds`), for
            energies that cost many passes; the bound is then the base's, measured at all steps, less this gain.
    """

    name: str
    energy: Energy | None
    sampler: SamplerConfig
    sampled_steps: int | None = None

    @property
    def key(self) -> str:
        """Name, order and number of steps."""
        return _key(self.name, self.sampler.order, self.sampler.num_steps)

    @property
    def described(self) -> dict[str, Any]:
        """Fields of its `Measurement` that are known before anything is measured."""
        return {
            "name": self.name,
            "order": self.sampler.order,
            "num_steps": self.sampler.num_steps,
            "num_candidates": self.sampler.num_candidates if self.energy is not None else 1,
            "group_size": self.sampler.group_size,
            "scope": self.sampler.scope,
            "sampled_steps": self.sampled_steps,
        }


@dataclass(frozen=True)
class Measurement:
    """What was measured of a setting; nats, low = good, but for the gain and the diversity.

    Attributes:
        name: Of the setting.
        order: Reveal order.
        num_steps: Denoising steps.
        num_candidates: k; None for exact decisions.
        group_size: Tokens decided together; None for a whole step.
        scope: "step" or "sequence".
        sampled_steps: Steps of each row that the gain was estimated from; None for all.
        n: Rows.
        bound_nats_per_token: The bound.
        bound_stderr: Its standard error over rows.
        perplexity: exp of the bound.
        bits_per_char: The bound in bits per character, or None.
        gain_nats_per_token: Bound of the base at the same steps and order, minus this one; None for the base.
        gain_stderr: Standard error of the paired differences.
        timed_batch_size: Sequences sampled at a time for the seconds.
        seconds_per_sequence: Of sampling: median over batches; None where not sampled.
        seconds_of_batches: Of each timed batch, per sequence.
        denoiser_passes: Of a sequence.
        energy_passes: Candidates that the energy judged for a sequence; for exact decisions, tokens.
        num_samples: Samples that the following were measured on; None where none were.
        entropy_nats: Unigram entropy of a sample, mean (low = repetitive).
        entropy_stderr: Its standard error.
        distinct_2: Share of bigrams that are distinct, over all samples.
        judge_nats_per_token: Loss of the samples' text under the judge, per token of the judge.
        judge_stderr: Its standard error.
    """

    name: str
    order: str
    num_steps: int
    num_candidates: int | None
    group_size: int | None
    scope: str
    sampled_steps: int | None
    n: int
    bound_nats_per_token: float
    bound_stderr: float
    perplexity: float
    bits_per_char: float | None
    gain_nats_per_token: float | None
    gain_stderr: float | None
    timed_batch_size: int | None = None
    seconds_per_sequence: float | None = None
    seconds_of_batches: tuple[float, ...] | None = None
    denoiser_passes: int | None = None
    energy_passes: float | None = None
    num_samples: int | None = None
    entropy_nats: float | None = None
    entropy_stderr: float | None = None
    distinct_2: float | None = None
    judge_nats_per_token: float | None = None
    judge_stderr: float | None = None

    @property
    def key(self) -> str:
        """The key of its setting."""
        return _key(self.name, self.order, self.num_steps)


def measure_bounds(
    denoiser: Denoiser,
    settings: Iterable[Setting],
    x_0: Tensor,
    *,
    seed: int = 0,
    batch_size: int = 32,
    characters_per_token: float | None = None,
) -> Iterator[tuple[Setting, Measurement, BoundEstimate]]:
    """Bounds of all settings on the same rows, seeds and orders; those of equal order share their passes.

    Args:
        denoiser: The frozen denoiser.
        settings: What to measure. A gain needs a base (no energy) of the same order and number of steps among them.
        x_0: Held-out rows, ``[n, length]``.
        seed: Of orders and candidates.
        batch_size: Rows at a time.
        characters_per_token: For bits per character.

    Yields:
        Each setting with its measurement and the nats of each row, as soon as they are there.

    Raises:
        ValueError: a setting with ``sampled_steps`` has no base.
    """
    by_order: dict[str, list[Setting]] = {}
    for setting in settings:
        by_order.setdefault(setting.sampler.order, []).append(setting)
    how = {"seed": seed, "batch_size": batch_size, "characters_per_token": characters_per_token}
    for order, group in by_order.items():
        whole = [s for s in group if s.sampled_steps is None]
        samplers = [s.sampler.build(denoiser, s.energy) for s in whole]
        bounds = estimate_bounds(samplers, x_0, progress=f"bounds, {order}", **how) if whole else []
        bases = {s.sampler.num_steps: b for s, b in zip(whole, bounds, strict=True) if s.energy is None}
        for setting, bound in zip(whole, bounds, strict=True):
            yield setting, _measurement(setting, bound, bases.get(setting.sampler.num_steps)), bound
        for setting in (s for s in group if s.sampled_steps is not None):
            bound = _from_sampled_steps(denoiser, setting, x_0, bases, how)
            yield setting, _measurement(setting, bound, bases[setting.sampler.num_steps]), bound


def _from_sampled_steps(
    denoiser: Denoiser, setting: Setting, x_0: Tensor, bases: dict[int, BoundEstimate], how: dict[str, Any]
) -> BoundEstimate:
    """The base's bound less the gain on some steps of each row, where the base is run along."""
    num_steps = setting.sampler.num_steps
    if num_steps not in bases:
        raise ValueError(f"sampled_steps needs the base's bound, and there is none for {setting.key}")
    base = SamplerConfig(order=setting.sampler.order, num_steps=num_steps).build(denoiser, None)
    pair = [base, setting.sampler.build(denoiser, setting.energy)]
    sampled_steps = min(setting.sampled_steps, num_steps)
    before, after = estimate_bounds(pair, x_0, sampled_steps=sampled_steps, progress=setting.key, **how)
    return bases[num_steps].shifted(after.nats_per_row - before.nats_per_row)


def _measurement(setting: Setting, bound: BoundEstimate, base: BoundEstimate | None) -> Measurement:
    gain = paired_gain(base, bound).nats_per_token if setting.energy is not None and base is not None else None
    mean = bound.nats_per_token
    return Measurement(
        **setting.described,
        n=mean.n,
        bound_nats_per_token=mean.value,
        bound_stderr=mean.stderr,
        perplexity=bound.perplexity,
        bits_per_char=bound.bits_per_char,
        gain_nats_per_token=gain.value if gain else None,
        gain_stderr=gain.stderr if gain else None,
    )


def _key(name: str, order: str, num_steps: int) -> str:
    return f"{name}, {order}, {num_steps} steps"


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
            _candidates(m),
            _groups(m),
            f"{m.bound_nats_per_token:.3f} ± {m.bound_stderr:.3f}",
            f"{m.perplexity:.1f}",
            gain,
            "" if m.seconds_per_sequence is None else f"{m.seconds_per_sequence:.3f}",
        )
    return table


def as_markdown(measurements: Iterable[Measurement]) -> str:
    """All that was measured, a line a setting; a dash where nothing was."""
    columns = {
        "method": lambda m: m.name,
        "order": lambda m: m.order,
        "passes": lambda m: str(m.num_steps),
        "k": _candidates,
        "groups": _groups,
        "bound": lambda m: _with_error(m.bound_nats_per_token, m.bound_stderr, 3),
        "gain": lambda m: _with_error(m.gain_nats_per_token, m.gain_stderr, 4),
        "s/sequence": lambda m: _number(m.seconds_per_sequence, 4),
        "energy passes": lambda m: _number(m.energy_passes, 0),
        "judge": lambda m: _with_error(m.judge_nats_per_token, m.judge_stderr, 3),
        "entropy": lambda m: _with_error(m.entropy_nats, m.entropy_stderr, 3),
        "distinct-2": lambda m: _number(m.distinct_2, 3),
    }
    lines = [columns, ["---"] * len(columns), *([cell(m) for cell in columns.values()] for m in measurements)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _candidates(m: Measurement) -> str:
    return "exact" if m.num_candidates is None else str(m.num_candidates)


def _groups(m: Measurement) -> str:
    return str(m.group_size or (1 if m.num_candidates is None else "step"))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _with_error(value: float | None, error: float | None, digits: int) -> str:
    return _number(value, digits) + ("" if error is None else f" ± {error:.{digits}f}")
