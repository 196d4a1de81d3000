"""How energies spread over candidates, method by method, and what follows for weights and ``log Z``."""

from collections.abc import Iterable
from typing import Any

import torch

from edlm.evaluation.experiment.lab import Lab
from edlm.evaluation.experiment.plan import Setting
from edlm.evaluation.experiment.store import Entry
from edlm.evaluation.likelihood.partition import StepSpread, step_spreads
from edlm.sampler.sampler import EnergySampler

NUM_CANDIDATES, NUM_STEPS, MOST_ROWS = 32, 4, 16
_SHOWN = 4096  # energies of the picture


def nearest(settings: Iterable[Setting]) -> list[Setting]:
    """One setting for each energy, order and scope, at the number of steps nearest to 4."""
    chosen: dict[tuple[int, str, str], Setting] = {}
    for s in sorted(settings, key=lambda s: abs(s.row.num_steps - NUM_STEPS)):
        if s.energy is not None:
            chosen.setdefault((id(s.energy), s.row.order, s.config.scope), s)
    return list(chosen.values())


def measure_spreads(lab: Lab) -> Entry:
    """Energies of whole-step (or whole-sequence) candidates in samples with 32 candidates, nats.

    Settings that decide token by token or in groups draw no such candidates: they are measured as if they did, which
    shows what candidates would be worth.

    Returns:
        A record for each energy, order and scope: name, order, num_steps, scope, num_candidates, normalized (whether
        ``Z = 1`` by construction) and steps (fields of `StepSpread`). Tensors: by its index, the energies less their
        decision's mean, for the picture.
    """
    num_rows, seed = min(lab.config.samples.batch_size, MOST_ROWS), lab.config.seed
    records, centred = [], {}
    for i, s in enumerate(nearest(lab.settings)):
        options = {"order": s.row.order, "num_steps": s.row.num_steps, "scope": s.sampler.scope}
        sampler = EnergySampler(
            lab.denoiser, s.energy, num_candidates=NUM_CANDIDATES, on_impossible="redraw", **options
        )
        output = sampler.sample(num_rows, lab.length, seeds=range(seed, seed + num_rows))
        normalized = s.energy.is_normalized
        about = {"name": s.name, **options, "num_candidates": NUM_CANDIDATES, "normalized": normalized}
        records.append({**about, "steps": [_record(step) for step in step_spreads(output)]})
        energies = torch.cat([info.energies[info.judged > 0] for info in output.steps]).double().cpu()
        values = (energies - energies.mean(1, keepdim=True)).flatten()
        values = values[values.isfinite()]
        centred[str(i)] = values[:: max(1, len(values) // _SHOWN)]
    return Entry(records, centred)


def _record(step: StepSpread) -> dict[str, Any]:
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in vars(step).items()}
