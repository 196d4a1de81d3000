"""Trainings against a denoiser that two real processes shard by the shipped FSDP2 config; the head is replicated."""

import json
import re
import sys

import pytest
import torch
from accelerate import PartialState

from edlm.cli import main
from edlm.denoisers import FunctionDenoiser
from edlm.energies import load_energy
from edlm.training.sharding import place
from tests.training.test_processes import ROOT, TRAINER, assert_equal, finish, options_of, read_log, start
from tests.training.test_processes import made as made  # a fixture

CONFIG = ROOT / "configs" / "accelerate" / "fsdp2.yaml"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG), "--num_processes", "2"]
TELLING = """
from torch.distributed.tensor import DTensor
from edlm.training.objectives import EnergyObjective
call = EnergyObjective.__call__

def telling(self, model, batch, streams):
    result = call(self, model, batch, streams)
    named = dict(self.denoiser.named_parameters())
    sharded = [name for name, w in named.items() if isinstance(w, DTensor)]
    held = sum(named[name].to_local().numel() for name in sharded)
    outer = {name for name in sharded if ".layers." not in name}
    mine = {type(w).__name__ for w in model.parameters()}
    total = sum(named[name].numel() for name in sharded)
    print(f"HELD {held}/{total} of {len(sharded)} {outer} {type(model).__name__} {mine}")
    return result

EnergyObjective.__call__ = telling
"""
COMMAND = """
import sys
from edlm.cli import main
sys.exit(main(["train", "energy", *sys.argv[1:]]))
"""
DECODER = """
import json, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from edlm.denoisers.decoder import DecoderDenoiser
from edlm.denoisers.vocabulary import Vocabulary
from edlm.training.energy import train_energy

shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
torch.manual_seed(1)
network = LlamaForCausalLM(LlamaConfig(vocab_size=8, max_position_embeddings=16, initializer_range=0.3, **shape))
denoiser = DecoderDenoiser(network, Vocabulary(8, 6))
before = denoiser.identity
options = json.loads(sys.argv[1])
train_energy(denoiser, options.pop("corpus"), "head", **options)
assert denoiser.identity == before
"""


def assert_sharded(printed: str, num_weights: int) -> None:
    """All parameters of the blocks, and no others, were held by half; the head was not sharded."""
    told = re.findall(r"HELD (\d+)/(\d+) of (\d+) set\(\) DistributedDataParallel {'Parameter'}", printed)
    assert len(told) == printed.count("HELD") > 0 and len({*told}) == 1, printed[-2000:]
    held, total, number = map(int, told[0])
    assert 2 * held == total and number == num_weights


@pytest.mark.slow
def test_a_sharded_masked_lm_trains_a_head_like_a_whole_one(made, tmp_path):
    script = tmp_path / "telling.py"
    script.write_text(TELLING + COMMAND)
    _, options = options_of("head", made, tmp_path / "two", batch_size=8)
    assert_sharded(finish(start([str(script), *options], launcher=LAUNCH)), num_weights=11)
    _, options = options_of("head", made, tmp_path / "one", batch_size=16)
    assert main(["train", "energy", *options]) == 0
    assert len(read_log(tmp_path / "one")) == 22
    assert_equal(tmp_path / "one", tmp_path / "two")
    one, two = (load_energy(tmp_path / name / "final").trained_for.gains for name in ("one", "two"))
    assert len(one) == 6 and [gain.gain for gain in two] == pytest.approx([gain.gain for gain in one], abs=1e-3)


@pytest.mark.slow
def test_a_sharded_decoder_trains_a_head_like_a_whole_one(made, tmp_path):
    script = tmp_path / "telling.py"
    script.write_text(TELLING + DECODER)
    for name, launcher, batch_size in (("one", [sys.executable], 16), ("two", LAUNCH, 8)):
        options = {**TRAINER, "corpus": str(made / "corpus"), "batch_size": batch_size}
        options["output_dir"] = str(tmp_path / name)
        printed = finish(start([str(script), json.dumps(options)], launcher=launcher))
    assert_sharded(printed, num_weights=27)
    assert_equal(tmp_path / "one", tmp_path / "two")


def test_what_cannot_be_sharded_is_refused(monkeypatch):
    function = FunctionDenoiser(lambda x, t: torch.zeros(*x.shape, 3), 3, 3)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    place(function, torch.device("cpu"))  # by one process
    monkeypatch.setattr(PartialState(), "num_processes", 2)
    with pytest.raises(ValueError, match="fsdp_version must be 2, got 1"):
        place(function, torch.device("cpu"))
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ValueError, match="FSDP needs a denoiser of known blocks, got a FunctionDenoiser"):
        place(function, torch.device("cpu"))
