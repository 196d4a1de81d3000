"""The oracle tables of method.md; shares of the oracle's gain: 0 for the base, 1 for the oracle, by hand between."""

import math

import pytest
import torch

from edlm.corpus.languages import HiddenMarkov, MarkovChain
from edlm.denoisers.function import FunctionDenoiser
from edlm.energies import CallableEnergy, OracleEnergy
from edlm.evaluation.languages.oracle import cells, measure_cells, measure_data, shares_of_oracle
from edlm.sampler import EnergySampler

CHAIN = MarkovChain([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]], [0.5, 0.2, 0.3])
HIDDEN = HiddenMarkov([[0.9, 0.1], [0.3, 0.7]], [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [0.6, 0.4])
LENGTH, STEPS, SAMPLES = 8, 2, 120
NOTHING = CallableEnergy(lambda candidates, x, log_p: torch.zeros_like(log_p))


def test_all_fifty_cells_are_there_once():
    keys = {(cell.table, *sorted(cell.options.items())) for cell in cells()}
    assert len(cells()) == len(keys) == 50
    assert [sum(cell.table == table for cell in cells()) for table in ("scopes", "groups")] == [5 * 7, 3 * 5]


def test_a_few_cells_are_measured_as_published():
    """Within five combined standard errors: false alarm 6e-7 a cell, 4e-6 in all; a swapped column is 20 off."""
    chosen = [
        cell
        for cell in cells()
        if (cell.table, cell.options["num_steps"]) in (("scopes", 2), ("groups", 1))
        and cell.options.get("num_candidates") != 64
    ]
    rows = list(measure_cells(chosen, SAMPLES, seed=0))
    assert len(rows) == len(chosen) == 10
    for row, cell in zip(rows, chosen, strict=True):
        assert abs(row["deviations"]) < 5, row
        stderr = math.hypot(row["stderr"], row["stderr"] * math.sqrt(SAMPLES / cell.published_n))
        assert row["deviations"] == pytest.approx((row["measured"] - row["published"]) / stderr)
        assert {key: row[key] for key in cell.options} == cell.options and row["published"] == cell.published


def test_every_cell_has_its_own_seeds():
    rows = [list(measure_cells([cells()[0]] * 3, 8, seed=0)) for _ in range(2)]
    assert len({row["measured"] for row in rows[0]}) == 3 and rows[0] == rows[1]


def test_the_data_have_the_published_entropy():
    """Three decimals and five of our standard errors: false alarm 6e-7."""
    data = measure_data(2000, seed=1)
    assert abs(data["measured"] - data["published"]) < 5 * data["stderr"] + 0.01  # the page's own error is about 0.01
    tokens = HiddenMarkov.reference().sample(2000, 32, torch.Generator().manual_seed(1))
    nats = -HiddenMarkov.reference().log_prob(tokens) / 32
    assert data["measured"] == pytest.approx(nats.mean().item())
    assert data["stderr"] == pytest.approx(nats.std().item() / 2000**0.5)


def rough_denoiser(language) -> FunctionDenoiser:
    """The exact marginals, flattened, so that there is something to gain in the marginals too."""
    return FunctionDenoiser(lambda x_t, t: 0.7 * language.log_marginals(x_t).clamp(min=-30), 3, 3)


def shares(language, settings, order="random"):
    x_0 = language.sample(200, LENGTH, torch.Generator().manual_seed(1))
    rows = shares_of_oracle(rough_denoiser(language), language, settings, x_0, num_steps=STEPS, order=order, seed=5)
    return x_0, {row["name"]: row for row in rows}


@pytest.mark.parametrize("order", ["random", "dilated"])
@pytest.mark.parametrize("language", [CHAIN, HIDDEN])
def test_the_base_has_share_0_and_the_oracle_share_1(language, order):
    settings = {"zero": (NOTHING, {"num_candidates": 4}), "truth": (OracleEnergy(language), {"num_candidates": None})}
    x_0, rows = shares(language, settings, order)
    assert list(rows) == ["base", "oracle", "zero", "truth"]
    for name, share in (("base", 0), ("zero", 0), ("oracle", 1), ("truth", 1)):
        assert rows[name]["share"] == pytest.approx(share, abs=1e-9)
        assert rows[name]["share_stderr"] == pytest.approx(0, abs=1e-9)
    # The oracle decides exactly, so its bound is the data's own likelihood, whatever denoiser, order and steps are.
    exact = -language.log_prob(x_0) / LENGTH
    assert rows["oracle"]["bound_nats_per_token"] == pytest.approx(exact.mean().item())
    assert rows["oracle"]["bound_stderr"] == pytest.approx(exact.std().item() / 200**0.5)
    distance = rows["base"]["bound_nats_per_token"] - rows["oracle"]["bound_nats_per_token"]
    assert rows["oracle"]["gain_nats_per_token"] == pytest.approx(distance) and distance > 1e-3


def test_a_share_between_by_hand_with_the_error_of_a_jackknife():
    options = {"num_candidates": 3, "group_size": 2}
    x_0, rows = shares(CHAIN, {"ours": (OracleEnergy(CHAIN), options)})
    row = rows["ours"]
    assert 0.2 < row["share"] < 0.95
    assert (row["num_candidates"], row["group_size"], row["n"]) == (3, 2, 200)

    def bound(energy, **options):
        sampler = EnergySampler(rough_denoiser(CHAIN), energy, num_steps=STEPS, order="random", **options)
        return sampler.likelihood_bound(x_0, seeds=range(5, 205))

    base, ours, oracle = bound(None, num_candidates=1), bound(OracleEnergy(CHAIN), **options), -CHAIN.log_prob(x_0)
    gained, way = base - ours, base - oracle
    assert row["share"] == pytest.approx((gained.sum() / way.sum()).item())
    without = (gained.sum() - gained) / (way.sum() - way)
    jackknife = ((without - without.mean()) ** 2).sum().mul(199 / 200).sqrt().item()
    assert row["share_stderr"] == pytest.approx(jackknife, rel=0.1)
    assert row["gain_stderr"] == pytest.approx((gained / LENGTH).std().item() / 200**0.5)


def test_an_energy_of_the_wrong_sign_has_a_negative_share():
    _, rows = shares(CHAIN, {"wrong": (-1.0 * OracleEnergy(CHAIN), {"num_candidates": 4})})
    assert rows["wrong"]["share"] < -0.2
