"""Bounds and gains of settings on the same rows and seeds, those of an order on shared denoiser passes."""

from collections.abc import Sequence
from typing import Any

from edlm.evaluation.estimates.estimate import Likelihood, mean_of
from edlm.evaluation.experiment.lab import Lab
from edlm.evaluation.experiment.plan import Setting
from edlm.evaluation.experiment.store import Entry, record_of
from edlm.evaluation.likelihood.bounds import ESTIMATOR, estimate_bounds, paired_gain
from edlm.evaluation.likelihood.text import measure_recovery
from edlm.sampler.sampler import EnergySampler


def measure_bound(lab: Lab, setting: Setting) -> Entry:
    """The bound of a setting; those of other settings of its order that are missing are measured on the same passes.

    The gain is paired with the rows of the base, which is measured first, or along.
    """
    if setting.sampled_steps is not None:
        return _entry(lab, setting, _from_sampled_steps(lab, setting))
    law = (setting.row.order, setting.sampler.masking_schedule)  # settings of one share their passes
    order = [s for s in lab.settings if (s.row.order, s.sampler.masking_schedule) == law and s.sampled_steps is None]
    missing = [s for s in order if lab.store.find(*bound_key(lab, s)) is None]
    likelihoods = _estimate(lab, missing, [s.sampler for s in missing], inner_draws=[s.inner_draws for s in missing])
    measured = dict(zip(missing, likelihoods, strict=True))
    for s in sorted(missing, key=lambda s: not s.row.is_base):
        lab.store.put(*bound_key(lab, s), _entry(lab, s, measured[s]))
    return lab.store.find(*bound_key(lab, setting))


def bound_key(lab: Lab, setting: Setting) -> tuple[str, Any]:
    """Key of a bound, and what it is made from."""
    return f"bound/{setting.row.key}", [dict(setting.row.options), lab.config.given]


def likelihood_of(lab: Lab, setting: Setting) -> Likelihood | None:
    """The bound of a setting that was measured, or None."""
    entry = lab.store.find(*bound_key(lab, setting))
    if entry is None:
        return None
    direction = entry.value["notes"]["bound_direction"]
    nats, tokens = entry.tensors["nats"], entry.tensors["tokens"]
    return Likelihood.of(nats, tokens, estimator=ESTIMATOR, direction=direction).by_document(lab.documents)


def _from_sampled_steps(lab: Lab, setting: Setting) -> Likelihood:
    """The base's bound, less the gain over the base that is measured on a sample of each row's steps."""
    base = lab.base_of(setting)
    whole = likelihood_of(lab, base) if base is not None else None
    if whole is None:
        raise ValueError(f"sampled_steps needs the base's bound, got none for {setting.row.key}")
    pair, draws = [base.sampler, setting.sampler], [1, setting.inner_draws]
    before, after = _estimate(lab, [setting], pair, inner_draws=draws, sampled_steps=setting.sampled_steps)
    nats = whole.nats_per_row + after.nats_per_row - before.nats_per_row
    return Likelihood.of(nats, whole.tokens_per_row, estimator=ESTIMATOR, direction="upper bound of -log p")


def _estimate(
    lab: Lab, settings: Sequence[Setting], samplers: Sequence[EnergySampler], **options: Any
) -> list[Likelihood]:
    """Bounds of samplers; an interrupt loses at most one batch of rows."""
    key = f"partial/{settings[0].row.key}"
    made_from = [[dict(s.row.options) for s in settings], lab.config.given]
    done = lab.store.find(key, made_from)
    likelihoods = estimate_bounds(
        samplers,
        lab.x_0,
        given=lab.given,
        done=done.tensors["bounds"] if done is not None else None,
        keep=lambda bounds: lab.store.put(key, made_from, Entry(tensors={"bounds": bounds})),
        **lab.batches(f"bounds, {settings[0].row.order}"),
        **options,
    )
    lab.store.drop(key)
    return likelihoods


def _entry(lab: Lab, setting: Setting, likelihood: Likelihood) -> Entry:
    likelihood = likelihood.by_document(lab.documents)
    metrics = {"bound_nats_per_token": likelihood.nats_per_token, **lab.units.of(likelihood)}
    if likelihood.passes_per_row is not None:
        metrics["passes_per_sequence"] = mean_of(likelihood.passes_per_row, lab.documents)
    base = lab.base_of(setting)
    whole = likelihood_of(lab, base) if base is not None and base is not setting else None
    if whole is not None:
        metrics["gain_nats_per_token"] = paired_gain(whole, likelihood)
    tensors = {"nats": likelihood.nats_per_row, "tokens": likelihood.tokens_per_row}
    return Entry(record_of(metrics, bound_direction=likelihood.direction), tensors)


def measure_infilling(lab: Lab, setting: Setting) -> Entry:
    """How much of the tokens that are not given is recovered by draws."""
    rows = {"given": lab.given, "documents": lab.documents}
    spans, tokens = measure_recovery(setting.sampler, lab.x_0, **rows, **lab.batches())
    return Entry(record_of({"spans_recovered": spans, "tokens_recovered": tokens}))
