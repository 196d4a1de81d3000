"""What a training of an energy is built of."""

from types import SimpleNamespace

import pytest
import torch

from edlm.training import energy as module
from edlm.training.energy import TrainEnergyConfig, run_config
from edlm.training.trainer_config import TrainerConfig


class Reached(Exception):
    """The run is built."""


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, torch.float32), ({"denoiser_dtype": "bfloat16"}, torch.bfloat16)],
    ids=["default", "bf16"],
)
def test_the_dtype_of_the_denoiser_is_an_option_and_part_of_the_identity(monkeypatch, tmp_path, options, dtype):
    seen = {}

    def train(energy, objective, *blocks, save, identity):
        seen.update(energy=energy, objective=objective, identity=identity)
        raise Reached

    monkeypatch.setattr(module, "train", train)
    tokens = SimpleNamespace(tokens=torch.zeros(2, 8, dtype=torch.long))
    monkeypatch.setattr(module, "corpus_of", lambda corpus, denoiser: SimpleNamespace(train=tokens, valid=tokens))
    with pytest.raises(Reached):
        run_config(TrainEnergyConfig("none", "tinystories", TrainerConfig(str(tmp_path)), **options))
    assert {weight.dtype for weight in seen["objective"].denoiser.parameters()} == {dtype}
    assert {weight.dtype for weight in seen["energy"].parameters()} == {torch.float32}
    assert seen["identity"].get("denoiser_dtype") == options.get("denoiser_dtype")
