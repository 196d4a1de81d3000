"""Energies by name: saved ones, shipped ones, and causal LMs."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edlm import (
    AutoregressiveEnergy,
    CallableEnergy,
    EnergySampler,
    ResidualHead,
    TextEnergy,
    load_denoiser,
    load_energy,
)
from edlm.energies import ScalarHead
from edlm.energies.card import EnergyCard, TrainedFor


@pytest.fixture(scope="module")
def denoiser():
    return load_denoiser("tinystories")


@pytest.fixture
def causal_lm(tmp_path, denoiser):
    """Over the shipped denoiser's tokens."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=8192, initializer_range=0.5, bos_token_id=0, eos_token_id=0, **shape)
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


def test_head_saved_as_unnormalized_loads_as_scalar_head(denoiser, tmp_path):
    """Such a file was written when one class had both forms."""
    head = ScalarHead.from_denoiser(denoiser)
    head.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "energy.json").read_text())
    described |= {"energy": "ResidualHead", "settings": {**described["settings"], "form": "unnormalized"}}
    (tmp_path / "energy.json").write_text(json.dumps(described))
    again = load_energy(tmp_path)
    assert type(again) is ScalarHead and again.card == head.card and not again.is_normalized
    with pytest.raises(ValueError, match="class ResidualHead, got ScalarHead"):
        ResidualHead.from_pretrained(tmp_path)


def test_carry_over_is_an_argument_of_loading():
    plain, carried = (load_energy("tinystories/autoregressive", carry_over=carry) for carry in (None, True))
    assert not plain.carry_over and carried.carry_over and carried.is_normalized
    assert plain.card.fingerprint != carried.card.fingerprint
    with pytest.raises(ValueError, match="carry_over"):
        load_energy("tinystories", carry_over=True)


@pytest.mark.parametrize(
    ("name", "recommended"),
    [
        ("head", {"num_candidates": None, "order": "bisecting"}),
        ("head_random", {"num_candidates": None, "order": "random"}),
        ("autoregressive", {"num_candidates": 8, "scope": "sequence"}),
    ],
)
def test_shipped_energies_recommend_what_they_were_trained_for(name, recommended):
    energy = load_energy(f"tinystories/{name}")
    assert energy.recommended == recommended
    assert energy.trained_orders is None or recommended["order"] in energy.trained_orders


def test_card_tells_kinds_weights_and_settings_apart(tmp_path):
    head, blind = load_energy("tinystories/head"), load_energy("tinystories/head_blind")
    assert (head.card.is_control, blind.card.is_control, blind.card.label) == (False, True, "ResidualHead, blind")
    assert head.card.fingerprint != blind.card.fingerprint and len(head.card.fingerprint) == 16
    assert head.card.num_steps == (2, 3, 4, 5, 6, 8, 16) and head.card.group_sizes == (1, 2, 4)
    head.save_pretrained(tmp_path, dtype=torch.float16)
    assert load_energy(tmp_path).card == head.card
    assert EnergyCard.of(CallableEnergy(max)).kind == "CallableEnergy"


def test_mixture_of_a_run_precedes_that_of_the_run_before():
    first, later = TrainedFor(("dilated",), (2, 8), (None,)), TrainedFor(("bisecting", "dilated"), (4, 2), (1,), 3)
    assert later.after(first) == TrainedFor(("bisecting", "dilated"), (4, 2, 8), (1, None), 3)


def test_large_weights_are_saved_as_shards_and_small_ones_replace_them(denoiser, tmp_path):
    head = ScalarHead.from_denoiser(denoiser)
    head.save_pretrained(tmp_path, max_shard_size="1MB")
    shards = sorted(path for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 1 and not (tmp_path / "model.safetensors").exists()
    again = load_energy(tmp_path)
    assert again.card == head.card
    for name, weight in head.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    (tmp_path / "model-00009-of-00009.safetensors").write_bytes(shards[0].read_bytes()[:99])  # not in the index
    assert load_energy(tmp_path).card == head.card
    shards[0].unlink()
    with pytest.raises(FileNotFoundError, match=f"names {shards[0].name}, which is missing$"):
        load_energy(tmp_path)
    head.save_pretrained(tmp_path, max_shard_size="1GB")
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    assert load_energy(tmp_path).card == head.card
