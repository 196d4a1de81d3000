"""Bounds and gains of a grid of samplers, measured on the same rows, seeds and denoiser passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from edlm.config import SamplerConfig
from edlm.denoisers.base import Denoiser
from edlm.evaluation.estimates.units import Likelihood, TextUnits
from edlm.evaluation.experiment.measurement import Measurement, Setting
from edlm.evaluation.experiment.unfinished import Unfinished
from edlm.evaluation.likelihood.bounds import ESTIMATOR, estimate_bounds, paired_gain


def measure_bounds(
    denoiser: Denoiser,
    settings: Iterable[Setting],
    x_0: Tensor,
    *,
    seed: int = 0,
    batch_size: int = 32,
    units: TextUnits | None = None,
    unfinished: Unfinished | None = None,
) -> Iterator[tuple[Setting, Measurement, Likelihood]]:
    """Bounds of all settings on the same rows, seeds and orders; those of equal order share their passes.

    Args:
        denoiser: The frozen denoiser.
        settings: What to measure. A gain needs a base (no energy) of the same order and number of steps among them.
        x_0: Held-out rows, ``[n, length]``.
        seed: Of orders and candidates.
        batch_size: Rows at a time.
        units: For bits per character and perplexity per word.
        unfinished: Keeps the rows that are done, and goes on from them after an interrupt.

    Yields:
        Each setting with its measurement and the nats of each row, as soon as they are there.

    Raises:
        ValueError: a setting with ``sampled_steps`` has no base.
    """
    by_order: dict[str, list[Setting]] = {}
    for setting in settings:
        by_order.setdefault(setting.sampler.order, []).append(setting)
    how, units = {"seed": seed, "batch_size": batch_size}, units or TextUnits()
    for order, group in by_order.items():
        whole = [s for s in group if s.sampled_steps is None]
        samplers = [s.sampler.build(denoiser, s.energy) for s in whole]
        draws = [s.inner_draws for s in whole]
        more = {**how, **_resumed(unfinished, whole), "inner_draws": draws, "progress": f"bounds, {order}"}
        bounds = estimate_bounds(samplers, x_0, **more) if whole else []
        bases = {s.sampler.num_steps: b for s, b in zip(whole, bounds, strict=True) if s.is_base}
        for setting, bound in zip(whole, bounds, strict=True):
            yield setting, _measurement(setting, bound, bases.get(setting.sampler.num_steps), units), bound
        for setting in (s for s in group if s.sampled_steps is not None):
            bound = _from_sampled_steps(denoiser, setting, x_0, bases, {**how, **_resumed(unfinished, [setting])})
            yield setting, _measurement(setting, bound, bases[setting.sampler.num_steps], units), bound


def _resumed(unfinished: Unfinished | None, settings: Sequence[Setting]) -> dict[str, Any]:
    """Options of `estimate_bounds` by which these settings, measured together, go on where they were."""
    if unfinished is None:
        return {}
    made_by = [[setting.described, setting.revision] for setting in settings]
    return {"known": unfinished.of(made_by), "keep": partial(unfinished.keep, made_by)}


def _from_sampled_steps(
    denoiser: Denoiser, setting: Setting, x_0: Tensor, bases: dict[int, Likelihood], how: dict[str, Any]
) -> Likelihood:
    """The base's bound less the gain on some steps of each row, where the base is run along."""
    num_steps = setting.sampler.num_steps
    if num_steps not in bases:
        raise ValueError(f"sampled_steps needs the base's bound, and there is none for {setting.key}")
    base = SamplerConfig(order=setting.sampler.order, num_steps=num_steps).build(denoiser, None)
    pair = [base, setting.sampler.build(denoiser, setting.energy)]
    how = {**how, "sampled_steps": min(setting.sampled_steps, num_steps), "inner_draws": [1, setting.inner_draws]}
    before, after = estimate_bounds(pair, x_0, progress=setting.key, **how)
    whole = bases[num_steps]
    return Likelihood.of(
        whole.nats_per_row + after.nats_per_row - before.nats_per_row,
        whole.tokens_per_row,
        estimator=ESTIMATOR,
        direction="upper bound of -log p",
    )


def _measurement(setting: Setting, bound: Likelihood, base: Likelihood | None, units: TextUnits) -> Measurement:
    gain = paired_gain(base, bound) if not setting.is_base and base is not None else None
    return Measurement(
        **setting.described,
        n=bound.n,
        bound_nats_per_token=bound.value,
        bound_stderr=bound.stderr,
        bound_direction=bound.direction,
        **units.of(bound),
        gain_nats_per_token=gain.value if gain else None,
        gain_stderr=gain.stderr if gain else None,
    )
