"""Likelihoods in continuous time, as the literature reports them, next to the bounds of samplers."""

from collections.abc import Sequence

from edlm.evaluation.experiment.lab import Lab
from edlm.evaluation.experiment.plan import Setting
from edlm.evaluation.experiment.store import Entry
from edlm.evaluation.likelihood.continuous import continuous_nelbo
from edlm.evaluation.likelihood.published import published_perplexity


def measure_continuous(lab: Lab) -> Entry:
    """Bounds of the base by two estimators, and the published formula with energies.

    Returns:
        ``nelbo``: records of `Likelihood`; ``published``: records of `PublishedPerplexity`; each with a ``name``.
    """
    config, x_0 = lab.config.continuous, lab.x_0[: lab.config.continuous.num_rows]
    options = {"num_draws": config.num_draws, "seed": lab.config.seed, "batch_size": lab.config.batch_size}
    nelbo, published = [], []
    for estimator in ("times", "counts"):
        value = continuous_nelbo(lab.denoiser, x_0, estimator=estimator, progress=f"NELBO, {estimator}", **options)
        nelbo.append({"name": "base", **value.as_record(), **lab.units.as_record(value)})
    for name, setting in energies_by_name(lab.settings).items():
        energy = setting.energy
        if config.published == "all" or (config.published == "normalized" and energy.is_normalized):
            title = f"published formula, {name}"
            value = published_perplexity(
                lab.denoiser, energy, x_0, num_candidates=config.num_candidates, progress=title, **options
            )
            record = value.as_record()
            for part in ("with_lower", "with_upper", "marginal"):
                record[part] |= lab.units.as_record(getattr(value, part))
            published.append({"name": name, **record})
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
