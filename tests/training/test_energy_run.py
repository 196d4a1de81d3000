"""What a training of an energy is built of."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from edlm.energies import ChainHead, MarkovHead
from edlm.energies.neighbour_head import NeighbourOptions
from edlm.training import energy as module
from edlm.training.energy import TrainEnergyConfig, run_config
from edlm.training.mixtures import EnergyObjectiveConfig
from edlm.training.trainer_config import TrainerConfig


class Reached(Exception):
    """The run is built."""


@pytest.fixture
def built(monkeypatch, tmp_path):
    """``built(**options)``: the energy, objective and identity that a run trains with."""
    seen = {}

    def train(energy, objective, *blocks, save, identity):
        seen.update(energy=energy, objective=objective, identity=identity)
        raise Reached

    def build(**options):
        with suppress(Reached):
            run_config(TrainEnergyConfig("none", "tinystories", TrainerConfig(str(tmp_path)), **options))
        return seen

    monkeypatch.setattr(module, "train", train)
    tokens = SimpleNamespace(tokens=torch.zeros(2, 8, dtype=torch.long))
    monkeypatch.setattr(module, "corpus_of", lambda corpus, denoiser: SimpleNamespace(train=tokens, valid=tokens))
    return build


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, torch.float32), ({"denoiser_dtype": "bfloat16"}, torch.bfloat16)],
    ids=["default", "bf16"],
)
def test_the_dtype_of_the_denoiser_is_an_option_and_part_of_the_identity(built, options, dtype):
    seen = built(**options)
    assert {weight.dtype for weight in seen["objective"].denoiser.parameters()} == {dtype}
    assert {weight.dtype for weight in seen["energy"].parameters()} == {torch.float32}
    assert seen["identity"].get("denoiser_dtype") == options.get("denoiser_dtype")


@pytest.mark.parametrize(("kind", "expected"), [("markov", MarkovHead), ("chain", ChainHead)])
def test_heads_of_neighbours_have_a_shape_and_a_mixture_of_their_own(built, kind, expected):
    seen = built(kind=kind, neighbours=NeighbourOptions(rank=8, num_likeliest=5, reads_states=False))
    energy, config = seen["energy"], seen["objective"].config
    assert type(energy) is expected and (energy.shape.rank, energy.shape.num_likeliest) == (8, 5)
    assert not seen["objective"].reads_hidden and seen["identity"]["head"]["rank"] == 8
    assert config.loss == "likelihood" and config.block_lengths == (None, 32) and "confidence" in config.orders
    assert energy.trained_for.orders == config.orders and energy.trained_for.num_candidates is None


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"group_sizes": (None, 2)}, r"group_sizes must be \[null\] for kind 'chain'.*got \[None, 2\]"),
        ({"loss": "ranking"}, "loss must be 'likelihood' for kind 'chain', got 'ranking'"),
        ({"scope": "sequence"}, "needs another objective.scope"),
    ],
)
def test_a_chain_is_trained_on_whole_steps_by_its_likelihood(built, objective, message):
    with pytest.raises(ValueError, match=message):
        built(kind="chain", objective=EnergyObjectiveConfig(**objective))
