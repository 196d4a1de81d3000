"""The share of the way to the oracle: 0 for the base, 1 for the oracle, in between by hand and with its error."""

import pytest
import torch

from edlm.corpus.languages import HiddenMarkov, MarkovChain
from edlm.denoisers.base import FunctionDenoiser
from edlm.energies import CallableEnergy, OracleEnergy
from edlm.evaluation.languages.known_truth import share_of_the_way
from edlm.evaluation.likelihood.bounds import estimate_bound
from edlm.sampler import EnergySampler

CHAIN = MarkovChain([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]], [0.5, 0.2, 0.3])
HIDDEN = HiddenMarkov([[0.9, 0.1], [0.3, 0.7]], [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [0.6, 0.4])
LENGTH, STEPS = 8, 2
NOTHING = CallableEnergy(lambda candidates, x, log_p: torch.zeros_like(log_p))


def rough_denoiser(language) -> FunctionDenoiser:
    """The exact marginals, flattened, so that there is something to gain in the marginals too."""
    return FunctionDenoiser(lambda x_t, t: 0.7 * language.log_marginals(x_t).clamp(min=-30), 3, 3)


def shares(language, settings=None, n=200, order="random"):
    x_0 = language.sample(n, LENGTH, torch.Generator().manual_seed(1))
    rows = share_of_the_way(
        rough_denoiser(language), language, settings or {}, x_0, num_steps=STEPS, order=order, seed=5
    )
    return x_0, {row["name"]: row for row in rows}


@pytest.mark.parametrize("order", ["random", "dilated"])
@pytest.mark.parametrize("language", [CHAIN, HIDDEN])
def test_the_base_has_share_0_and_the_oracle_share_1(language, order):
    settings = {"zero": (NOTHING, {"num_candidates": 4}), "truth": (OracleEnergy(language), {"num_candidates": None})}
    x_0, found = shares(language, settings, order=order)
    assert list(found) == ["base", "oracle", "zero", "truth"]
    for name, share in (("base", 0), ("zero", 0), ("oracle", 1), ("truth", 1)):
        assert found[name]["share"] == pytest.approx(share, abs=1e-9)
        assert found[name]["share_stderr"] == pytest.approx(0, abs=1e-9)
    # The oracle decides exactly, so its bound is the data's own likelihood, whatever denoiser, order and steps are.
    exact = -language.log_prob(x_0) / LENGTH
    assert found["oracle"]["bound_nats_per_token"] == pytest.approx(exact.mean().item())
    assert found["oracle"]["bound_stderr"] == pytest.approx(exact.std().item() / 200**0.5)
    base = estimate_bound(EnergySampler(rough_denoiser(language), num_steps=STEPS, order=order), x_0, seed=5)
    assert found["base"]["bound_nats_per_token"] == pytest.approx(base.nats_per_token.value)
    distance = found["base"]["bound_nats_per_token"] - found["oracle"]["bound_nats_per_token"]
    assert found["oracle"]["gain_nats_per_token"] == pytest.approx(distance) and distance > 1e-3


def test_a_share_in_between_by_hand_with_the_error_that_a_jackknife_gives():
    options = {"num_candidates": 3, "group_size": 2}
    x_0, found = shares(CHAIN, {"some": (OracleEnergy(CHAIN), options)})
    assert 0.2 < found["some"]["share"] < 0.95
    assert (found["some"]["num_candidates"], found["some"]["group_size"], found["some"]["n"]) == (3, 2, 200)

    def bound(energy, **more):
        sampler = EnergySampler(rough_denoiser(CHAIN), energy, num_steps=STEPS, order="random", **more)
        return sampler.likelihood_bound(x_0, seeds=range(5, 205))

    base, some, oracle = bound(None), bound(OracleEnergy(CHAIN), **options), -CHAIN.log_prob(x_0)
    gained, way = base - some, base - oracle
    assert found["some"]["share"] == pytest.approx((gained.sum() / way.sum()).item())
    without = (gained.sum() - gained) / (way.sum() - way)
    jackknife = ((without - without.mean()) ** 2).sum().mul(199 / 200).sqrt().item()
    assert found["some"]["share_stderr"] == pytest.approx(jackknife, rel=0.1)
    assert found["some"]["gain_stderr"] == pytest.approx((gained / LENGTH).std().item() / 200**0.5)


def test_an_energy_of_the_wrong_sign_has_a_negative_share():
    wrong = CallableEnergy(lambda candidates, x, log_p: -OracleEnergy(CHAIN)(_Decision(candidates, x, log_p)))
    _, found = shares(CHAIN, {"wrong": (wrong, {"num_candidates": 4})})
    assert found["wrong"]["share"] < -0.2


class _Decision:
    def __init__(self, candidates, x_partial, log_proposal):
        self.candidates, self.x_partial, self.log_proposal = candidates, x_partial, log_proposal
