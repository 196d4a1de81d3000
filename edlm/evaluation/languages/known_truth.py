"""How much of the way from a base to the oracle a trained energy goes, on a language with known truth."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edlm.corpus.languages import HiddenMarkov, MarkovChain
from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.energies.oracle import OracleEnergy
from edlm.evaluation.estimates.estimate import mean_of
from edlm.evaluation.likelihood.bounds import estimate_bound, paired_gain
from edlm.sampler.sampler import EnergySampler


def share_of_the_way(
    denoiser: Denoiser,
    language: MarkovChain | HiddenMarkov,
    settings: dict[str, tuple[Energy, dict[str, Any]]],
    x_0: Tensor,
    *,
    num_steps: int,
    order: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Bounds of base, oracle and each setting, all on the same rows and seeds.

    ``share = (base - setting) / (base - oracle)``, base and oracle being bounds in nats per token; the oracle decides
    exactly, so its bound is the data's own ``-log p_true``.

    Args:
        denoiser: The trained denoiser.
        language: Its truth.
        settings: Name -> energy and options of the sampler.
        x_0: Rows drawn from the language, ``[n, length]``.
        num_steps: Denoiser passes.
        order: Reveal order.
        seed: Of orders and candidates.

    Returns:
        A dict a setting; the share's standard error is the delta method's, over paired rows.
    """
    common = {"num_steps": num_steps, "order": order}
    base = estimate_bound(EnergySampler(denoiser, **common), x_0, seed=seed)
    oracle = estimate_bound(
        EnergySampler(denoiser, OracleEnergy(language), num_candidates=None, **common), x_0, seed=seed
    )
    results = []
    everything = {"base": (base, None), "oracle": (oracle, None)}
    for name, (energy, options) in settings.items():
        sampler = EnergySampler(denoiser, energy, **common, **options)
        everything[name] = (estimate_bound(sampler, x_0, seed=seed), options)
    distance = paired_gain(base, oracle).nats_per_token.value
    for name, (bound, options) in everything.items():
        gain = paired_gain(base, bound).nats_per_token
        share = gain.value / distance
        residual = (base.nats_per_row - bound.nats_per_row) - share * (base.nats_per_row - oracle.nats_per_row)
        mean = bound.nats_per_token
        results.append(
            {
                "name": name,
                **common,
                **(options or {}),
                "n": mean.n,
                "bound_nats_per_token": mean.value,
                "bound_stderr": mean.stderr,
                "gain_nats_per_token": gain.value,
                "gain_stderr": gain.stderr,
                "share": share,
                "share_stderr": mean_of(residual / bound.length).stderr / distance,
            }
        )
    return results
