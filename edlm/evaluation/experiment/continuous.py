"""Likelihoods in continuous time, as the literature reports them, beside the bounds of samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.evaluation.estimates.units import TextUnits
from edlm.evaluation.experiment.measurement import Setting
from edlm.evaluation.experiment.plan import ContinuousConfig
from edlm.evaluation.likelihood.continuous import continuous_nelbo
from edlm.evaluation.likelihood.published import published_perplexity


def in_continuous_time(
    denoiser: Denoiser,
    settings: Sequence[Setting],
    x_0: Tensor,
    config: ContinuousConfig,
    *,
    units: TextUnits,
    seed: int = 0,
    batch_size: int = 32,
) -> dict[str, list[dict[str, Any]]]:
    """Bounds of the base by two estimators, and the published formula with energies, as JSON values.

    Args:
        denoiser: The frozen denoiser.
        settings: Whose energies; each counts once, under the names of its methods.
        x_0: Held-out rows, ``[n, length]``.
        config: How many draws, and which energies; its ``num_rows`` has no part in this.
        units: Of this text.
        seed: Row ``i`` has the seed ``seed + i``.
        batch_size: Rows at a time.

    Returns:
        ``nelbo``: records of `Likelihood`; ``published``: records of `PublishedPerplexity`, each with a ``name``.
    """
    how = {"num_draws": config.num_draws, "seed": seed, "batch_size": batch_size}
    found = {"nelbo": [], "published": []}
    for estimator in ("times", "counts"):
        value = continuous_nelbo(denoiser, x_0, estimator=estimator, progress=f"NELBO, {estimator}", **how)
        found["nelbo"].append({"name": "base", **value.as_record(), **units.of(value)})
    for name, energy in energies_by_name(settings).items():
        if config.published == "all" or (config.published == "normalized" and energy.is_normalized):
            how["num_candidates"] = config.num_candidates
            value = published_perplexity(denoiser, energy, x_0, progress=f"published formula, {name}", **how)
            record = value.as_record()
            for part in ("with_lower", "with_upper", "marginal"):
                record[part] |= units.of(getattr(value, part))
            found["published"].append({"name": name, **record})
    return found


def energies_by_name(settings: Sequence[Setting]) -> dict[str, Energy]:
    """Each energy once, under the names of its methods, with its orders where a name has several energies."""
    energies: dict[int, Energy] = {}
    named: dict[int, list[Setting]] = {}
    for setting in (s for s in settings if s.energy is not None):
        energies[id(setting.energy)] = setting.energy
        named.setdefault(id(setting.energy), []).append(setting)
    names = {key: tuple(dict.fromkeys(s.name for s in group)) for key, group in named.items()}
    all_names = [name for some in names.values() for name in some]
    found = {}
    for key, energy in energies.items():
        orders = ", ".join(dict.fromkeys(s.sampler.order for s in named[key]))
        shared = any(all_names.count(name) > 1 for name in names[key])
        found[", ".join(names[key]) + (f" ({orders})" if shared else "")] = energy
    return found
