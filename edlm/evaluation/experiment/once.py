"""What is measured once: likelihoods in continuous time, energies of candidates, held-out text."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from edlm.evaluation.experiment.lab import Lab
from edlm.evaluation.experiment.orders import options_of_order
from edlm.evaluation.experiment.plan import Setting
from edlm.evaluation.experiment.rows import Row, flat
from edlm.evaluation.experiment.store import Entry
from edlm.evaluation.likelihood.continuous import continuous_nelbo
from edlm.evaluation.likelihood.partition import StepSpread, step_spreads
from edlm.evaluation.likelihood.published import published_perplexity
from edlm.sampler.sampler import EnergySampler

NUM_CANDIDATES, NUM_STEPS, MOST_ROWS = 32, 4, 16  # of the energies of candidates
_SHOWN = 4096  # energies of the picture


def measure_held_out_text(lab: Lab) -> Entry:
    """Measures of as many held-out texts as there are samples: what perfect samples would have."""
    number = lab.config.samples.judged
    notes = {"num_texts": min(number, len(lab.x_0)), "texts_held_against": lab.texts.identity}
    return Entry(flat(Row({}, lab.texts.of_held_out(number), notes)))


def measure_continuous(lab: Lab) -> Entry:
    """Bounds of the base by two estimators, and the published formula with energies.

    Returns:
        ``nelbo``: records of likelihoods; ``published``: of `PublishedPerplexity`; each with a ``name``.
    """
    config = lab.config.continuous
    x_0, given = (x if x is None else x[: config.num_rows] for x in (lab.x_0, lab.given))
    documents = None if lab.documents is None else lab.documents[: config.num_rows]
    nelbo, published = [], []
    for estimator in ("times", "counts"):
        options = {"given": given, "num_draws": config.num_draws, **lab.batches(f"NELBO, {estimator}")}
        value = continuous_nelbo(lab.denoiser, x_0, estimator=estimator, **options)
        nelbo.append({"name": "base", **lab.units.record_of(value.by_document(documents))})
    for name, setting in energies_by_name(lab.settings).items():
        energy = setting.energy
        if config.published == "all" or (config.published == "normalized" and energy.is_normalized):
            options = {"num_draws": config.num_draws, **lab.batches(f"published formula, {name}")}
            options |= {"given": given, "num_candidates": config.num_candidates}
            value = published_perplexity(lab.denoiser, energy, x_0, **options)
            published.append({"name": name, **value.by_document(documents).as_record(lab.units)})
    return Entry({"nelbo": nelbo, "published": published})


def energies_by_name(settings: Sequence[Setting]) -> dict[str, Setting]:
    """A setting of each energy, by the names of its methods, with its orders where a name has several energies."""
    groups: dict[int, list[Setting]] = {}
    for s in settings:
        if s.energy is not None:
            groups.setdefault(id(s.energy), []).append(s)
    names = [tuple(dict.fromkeys(s.name for s in group)) for group in groups.values()]
    all_names = [name for of_energy in names for name in of_energy]
    named = {}
    for of_energy, group in zip(names, groups.values(), strict=True):
        orders = ", ".join(dict.fromkeys(s.row.order for s in group))
        shared = any(all_names.count(name) > 1 for name in of_energy)
        named[", ".join(of_energy) + (f" ({orders})" if shared else "")] = group[0]
    return named


def nearest(settings: Iterable[Setting]) -> list[Setting]:
    """One setting for each energy, order and scope, at the number of steps nearest to 4."""
    chosen: dict[tuple[int, str, str], Setting] = {}
    for s in sorted(settings, key=lambda s: abs(s.row.num_steps - NUM_STEPS)):
        if s.energy is not None:
            chosen.setdefault((id(s.energy), s.row.order, s.sampler.scope), s)
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
        shared = {"num_steps": s.row.num_steps, "scope": s.sampler.scope, "num_candidates": NUM_CANDIDATES}
        options = {**options_of_order(s.order), **shared, "on_impossible": "redraw"}
        sampler = EnergySampler(lab.denoiser, s.energy, **options)
        output = sampler.sample(num_rows, lab.length, seeds=range(seed, seed + num_rows))
        normalized = s.energy.is_normalized
        about = {"name": s.name, "order": s.order, **shared, "normalized": normalized}
        records.append({**about, "steps": [_record(step) for step in step_spreads(output)]})
        energies = torch.cat([info.energies[info.judged > 0] for info in output.steps.taken.values()]).double().cpu()
        values = (energies - energies.mean(1, keepdim=True)).flatten()
        values = values[values.isfinite()]
        centred[str(i)] = values[:: max(1, len(values) // _SHOWN)]
    return Entry(records, centred)


def _record(step: StepSpread) -> dict[str, Any]:
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in vars(step).items()}
