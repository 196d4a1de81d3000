"""How energies spread over candidates, method by method, and what that says of weights and of ``log Z``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from edlm.denoisers.base import Denoiser
from edlm.evaluation.experiment.measurement import Setting
from edlm.evaluation.likelihood.partition import StepSpread, step_spreads
from edlm.sampler.sampler import EnergySampler

_SHOWN = 4096  # energies of the picture


@dataclass(frozen=True)
class EnergyLook:
    """Energies of whole-step (or whole-sequence) candidates under one method's energy; nats.

    Attributes:
        name: Of the method.
        order: Reveal order.
        num_steps: Denoiser passes.
        scope: What a candidate fills.
        num_candidates: Drawn for each decision.
        normalized: Whether ``Z = 1`` by construction.
        steps: What the energies of each step say.
        centred: Energies less their decision's mean, for the picture.
    """

    name: str
    order: str
    num_steps: int
    scope: str
    num_candidates: int
    normalized: bool
    steps: tuple[StepSpread, ...]
    centred: tuple[float, ...]

    def mean(self, field: str) -> float:
        """Mean of a `StepSpread` field over steps."""
        values = [getattr(step, field) for step in self.steps]
        return sum(getattr(value, "value", value) for value in values) / len(values)

    def as_record(self) -> dict[str, Any]:
        """For JSON, without what the picture alone needs."""
        record = {name: value for name, value in vars(self).items() if name not in ("centred", "steps")}
        steps = [
            {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in vars(step).items()}
            for step in self.steps
        ]
        return {**record, "steps": steps}


def look_at_energies(
    denoiser: Denoiser,
    settings: Iterable[Setting],
    length: int,
    *,
    num_rows: int = 16,
    num_candidates: int = 32,
    num_steps: int = 4,
    seed: int = 0,
) -> list[EnergyLook]:
    """Sample with ``num_candidates`` candidates from every energy, and look at their energies.

    Args:
        denoiser: The frozen denoiser.
        settings: One for each energy, order and scope is looked at, at the number of steps nearest to ``num_steps``.
        length: Tokens of a sample.
        num_rows: Samples.
        num_candidates: Of each decision, >= 2.
        num_steps: Denoiser passes.
        seed: Sample ``i`` has seed ``seed + i``.

    Note:
        Exact decisions and groups draw no whole-step candidates: they are looked at as if they did, which shows what
        candidates would be worth.
    """
    nearest: dict[tuple[int, str, str], Setting] = {}
    for s in sorted(settings, key=lambda s: abs(s.sampler.num_steps - num_steps)):
        if s.energy is not None:
            nearest.setdefault((id(s.energy), s.sampler.order, s.sampler.scope), s)
    seeds = range(seed, seed + num_rows)
    looks = []
    for setting in tqdm(nearest.values(), desc="energies", disable=None, leave=False):
        order, steps = setting.cell
        how = {"order": order, "num_steps": steps, "scope": setting.sampler.scope, "on_impossible": "redraw"}
        sampler = EnergySampler(denoiser, setting.energy, num_candidates=num_candidates, **how)
        output = sampler.sample(num_rows, length, seeds=seeds)
        energies = torch.cat([info.energies[info.judged > 0] for info in output.steps]).double().cpu()
        centred = (energies - energies.mean(1, keepdim=True)).flatten()
        centred = centred[centred.isfinite()]
        shown = centred[:: max(1, len(centred) // _SHOWN)]
        normalized = setting.energy.is_normalized
        found = (tuple(step_spreads(output)), tuple(shown.tolist()))
        looks.append(EnergyLook(setting.name, order, steps, how["scope"], num_candidates, normalized, *found))
    return looks
