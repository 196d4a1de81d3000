"""Lightning files of BD3-LM's and DUO's code, whose settings are in a section of their own; SMDM's training files."""

import pytest
import torch

from edlm import load_denoiser
from edlm.energies import MDLMCausalLM
from tests.denoisers import published, published_decoders
from tests.denoisers.decoders import some_rows
from tests.denoisers.published import LENGTH, MASK, backbone_weights, write_algo


def test_averages_and_the_bounds_of_the_noise(tmp_path):
    raw, averaged = backbone_weights(seed=1), backbone_weights()
    denoiser = load_denoiser(
        write_algo(tmp_path / "a", "bd3lm", block_size=4, weights=raw, averaged=averaged, compiled=True)
    )
    assert (denoiser.family, denoiser.block_size, denoiser.max_length) == ("bd3lm", 4, LENGTH)
    for name, weight in denoiser.network.named_parameters():
        assert torch.equal(weight, averaged[name])
    shadows = published.shadow_params(averaged)[:-2]
    with pytest.raises(ValueError, match=r"b.ckpt: ema.shadow_params must be a list of 40 tensors.* got 38"):
        load_denoiser(write_algo(tmp_path / "b", "bd3lm", block_size=4, averaged=shadows))


def test_a_block_size_that_refers_to_the_length(tmp_path):
    denoiser = load_denoiser(write_algo(tmp_path / "a", "bd3lm", block_size="${model.length}"))
    assert denoiser.block_size == LENGTH
    for wrong, message in (
        ("${model.width}", "a.ckpt: the configuration must have model.width"),
        ("wide", "a.ckpt must hold the sizes of a network, got block_size must be an integer, got 'wide'"),
        (0, "a.ckpt must hold the sizes of a network, got block_size must be >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message.replace("$", r"\$")):
            load_denoiser(write_algo(tmp_path / "a", "bd3lm", block_size=wrong))


@pytest.mark.parametrize("name", ["duo", "duo_base", "distillation", "ot-finetune"])
def test_models_whose_noise_is_uniform_are_refused_by_name(name, tmp_path):
    path = write_algo(tmp_path / "a", name, noise="log-linear", parameterization="mean", time_conditioning=True)
    for family in (None, "mdlm", "d3pm"):
        with pytest.raises(ValueError, match=rf"a.ckpt must be trained with masks, got algo.name '{name}', whose"):
            load_denoiser(path, family)
    udlm = published.write_lightning(tmp_path / "u", parameterization="d3pm", diffusion="uniform")
    with pytest.raises(ValueError, match=r"u.ckpt must be trained with masks, got diffusion 'uniform', whose noise"):
        load_denoiser(udlm)


def test_settings_that_do_not_fit(tmp_path):
    def refuse(message, name, family=None, **options):
        with pytest.raises(ValueError, match=message) as caught:
            load_denoiser(write_algo(tmp_path / "a", name, **options), family)
        assert "\n" not in str(caught.value) and "a.ckpt" in str(caught.value)

    timed = {"time_conditioning": True, "parameterization": "score"}
    refuse("noise.type must be 'loglinear' with time_conditioning, got 'cosine'", "sedd", noise="cosine", **timed)
    noise = {"noise": {"type": "log-linear", "eps": 1e-4}}
    refuse("noise.eps must be 0.001 with time_conditioning, got 0.0001", "sedd", config=noise, **timed)
    refuse("parameterization must be one of .*, got 'flow'", "mdlm", parameterization="flow")
    refuse("parameterization must be 'subs', got 'sedd'", "bd3lm", block_size=4, parameterization="sedd")
    refuse("backbone must be 'dit', got 'unet'", "mdlm", backbone="unet")
    refuse("backbone must be 'dit', got 'dimamba'", "bd3lm", block_size=4, backbone="dimamba")
    refuse("must have no blocks for family='mdlm', got cross_attn true", "bd3lm", "mdlm", block_size=4)
    refuse("must be a folder of model_type 'bd3lm' or its Lightning checkpoint", "mdlm", "bd3lm")
    refuse("hold the settings of a network, got cross_attn must be True or False, got 'yes'", "mdlm", cross_attn="yes")
    sizes = dict(published.lightning_config()["model"])
    for name, value, got in (("n_heads", "two", "'two'"), ("hidden_size", 2**30, "1073741824"), ("n_blocks", [3], "")):
        refuse(
            rf"must hold the sizes of a network, got model.{name} must be .*{got}",
            "mdlm",
            config={"model": {**sizes, name: value}},
        )
    refuse(
        "mask_token_id or the tokenizer must be given, .* with 'bert-base-uncased'",
        "bd3lm",
        block_size=4,
        config={"data": {"tokenizer_name_or_path": "bert-base-uncased"}},
    )
    refuse("must be a diffusion model, got an autoregressive one", "ar", parameterization="ar")


@torch.no_grad()
def test_autoregressive_baselines(tmp_path):
    raw, averaged = backbone_weights(seed=1, conditioned=False), backbone_weights(conditioned=False)
    options = {"parameterization": "ar", "causal_attention": True, "weights": raw, "averaged": averaged}
    expected = MDLMCausalLM.from_checkpoint(published.write_ar_ckpt(tmp_path / "mdlm.ckpt", averaged))
    tokens = torch.tensor([[3, 1, 0, 10, 2, 7]])
    for name, block_size in (("duo", None), ("bd3lm", "${model.length}")):
        path = write_algo(tmp_path / name, "ar", block_size=block_size, **options)
        model = MDLMCausalLM.from_checkpoint(path)
        assert model.config.max_position_embeddings == LENGTH and model.config.mask_token_id == MASK
        assert torch.equal(model(tokens).logits, expected(tokens).logits)


def test_a_state_dict_that_is_none(tmp_path):
    path = published.write_lightning(tmp_path / "a")
    with published.fake_packages() as (as_omegaconf, _):
        config = as_omegaconf(published.lightning_config())
        for state, message in (([1, 2], "must be a dictionary, got list"), ({}, "must hold a matrix backbone.vocab")):
            torch.save({"state_dict": state, "hyper_parameters": {"config": config}}, path)
            with pytest.raises(ValueError, match="a.ckpt: state_dict " + message):
                load_denoiser(path)


@pytest.mark.parametrize("legacy", [False, True])
@torch.no_grad()
def test_a_training_file_of_smdm(legacy, tmp_path):
    weights = published_decoders.random_weights("smdm")
    content = {"model": weights, "optimizer": {"state": {0: torch.ones(2)}}, "hparams": {"lr": 0.1}, "iter_num": 7}
    torch.save(content, tmp_path / "iter-7.pth", _use_new_zipfile_serialization=not legacy)
    denoiser = load_denoiser(tmp_path / "iter-7.pth")
    (tmp_path / "folder").mkdir()
    plain = load_denoiser(published_decoders.write("smdm", tmp_path / "folder"))
    assert denoiser.family == "smdm" and denoiser.identity.revision == plain.identity.revision
    for row in some_rows("smdm"):
        assert torch.equal(denoiser.log_probs(row[None]), plain.log_probs(row[None]))
    del weights["lm_head.weight"]
    torch.save({"model": weights}, tmp_path / "iter-7.pth")
    with pytest.raises(ValueError, match=r"must hold \['lm_head.weight'\], got files \['iter-7.pth'\]"):
        load_denoiser(tmp_path / "iter-7.pth")
    torch.save({"model": [1]}, tmp_path / "iter-7.pth")
    with pytest.raises(ValueError, match=r"iter-7.pth must be a checkpoint of one of the families"):
        load_denoiser(tmp_path / "iter-7.pth")
