"""Energies by name: saved ones, shipped ones, and causal LMs."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edlm import AutoregressiveEnergy, EnergySampler, ResidualHead, TextEnergy, load_denoiser, load_energy
from edlm.cli import main


@pytest.fixture(scope="module")
def denoiser():
    return load_denoiser("tinystories")


@pytest.fixture
def causal_lm(tmp_path, denoiser):
    """Over the shipped denoiser's tokens."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=2048, initializer_range=0.5, bos_token_id=0, eos_token_id=0, **shape)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "lm")
    denoiser.tokenizer.save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


def test_a_name_says_what_kind_of_energy_a_causal_lm_is(causal_lm, denoiser):
    same = load_energy(f"causal:{causal_lm}")
    assert type(same) is AutoregressiveEnergy and same.bos_token_id == 0
    text = load_energy(f"text:{causal_lm}")
    assert type(text) is TextEnergy
    for energy in (same, text):
        sampler = EnergySampler(denoiser, energy, num_steps=2, num_candidates=3, scope="sequence", order="random")
        reranked = sampler.sample(1, 8, seeds=[1])
        assert reranked.steps[0].energies.std() > 0


def test_without_such_a_name_it_is_a_saved_energy(causal_lm):
    assert type(load_energy("tinystories")) is ResidualHead
    with pytest.raises(FileNotFoundError, match=r"by name 'causal:PATH' or 'text:PATH'"):
        load_energy(causal_lm)


def test_the_command_takes_such_names(causal_lm, capsys):
    options = ["--num_samples", "1", "--length", "8", "--sampler.num_steps", "2", "--sampler.num_candidates", "2"]
    assert main(["sample", "--energy", f"text:{causal_lm}", "--sampler.scope", "sequence", *options]) == 0
    assert capsys.readouterr().out.startswith("--- seed 0")
