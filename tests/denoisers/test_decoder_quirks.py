"""What only one or some of the published decoder families have."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from edlm import load_denoiser, wrap_denoiser
from tests.denoisers import published_decoders as published
from tests.denoisers.decoders import ByHand, FakeTokenizer, load, some_rows


def test_the_published_mask_of_a_family_needs_its_vocabulary(tmp_path):
    for family, mask in (("diffullama", 811), ("diffugpt", 50257)):
        with pytest.raises(ValueError, match=f"got {mask}"):
            load_denoiser(published.write(family, tmp_path))


def test_an_ordinary_llama_is_not_taken_for_a_denoiser(tmp_path):
    published.write("diffullama", tmp_path).rename(tmp_path / "llama-2-7b")
    with pytest.raises(ValueError, match="must be a checkpoint of one of the families"):
        load_denoiser(tmp_path / "llama-2-7b")
    assert load_denoiser(tmp_path / "llama-2-7b", "diffullama", mask_token_id=31).family == "diffullama"


@torch.no_grad()
def test_an_ordinary_token_as_mask_may_be_text(tmp_path):
    weights, path = published.random_weights("diffullama"), published.write("diffullama", tmp_path)
    token, outside = published.MASK["diffullama"], published.VOCAB
    loaded = load_denoiser(path, tokenizer=FakeTokenizer(mask_token_id=token), mask_token_id=outside)
    module = ByHand("diffullama", weights, SimpleNamespace(bos_token_id=34, eos_token_id=35))
    tokenizer = FakeTokenizer(mask_token_id=token)
    row = torch.tensor([4, outside, token, outside, 9])
    as_fed = torch.tensor([4, token, token, token, 9])
    logits = published.logits_by_hand("diffullama", weights, as_fed)[[0, 2]]
    for denoiser in (loaded, wrap_denoiser(module, tokenizer, family="diffullama", mask_token_id=outside)):
        log_probs = denoiser.log_probs(row[None])[0]
        torch.testing.assert_close(log_probs[[1, 3]], logits.log_softmax(-1), rtol=1e-5, atol=1e-5)
        assert log_probs[2, token] == 0 and torch.isfinite(log_probs[1, token])
    torch.testing.assert_close(loaded.embed(row), loaded.embed(as_fed))


@pytest.mark.parametrize("family", ["llada", "dream"])
@torch.no_grad()
def test_columns_beyond_the_tokenizer_have_no_mass(family, tmp_path):
    denoiser = load_denoiser(published.write(family, tmp_path), tokenizer=FakeTokenizer(38))
    row = some_rows(family)[1]
    log_probs = denoiser.log_probs(row[None])[0, row == denoiser.mask_token_id]
    assert torch.isneginf(log_probs[:, 38:]).all() and torch.isfinite(log_probs[:, :36]).all()


def test_a_mask_named_by_the_config_goes_before_the_familys(tmp_path):
    assert load_denoiser(published.write("llada", tmp_path, mask_token_id=5)).mask_token_id == 5
    with pytest.raises(ValueError, match="got 126336"):
        load_denoiser(published.write("llada", tmp_path, mask_token_id=None))


@pytest.mark.parametrize("setting", [{"alibi": True}, {"include_bias": True}, {"block_type": "sequential"}])
def test_other_settings_of_olmo_are_refused(setting, tmp_path):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"a LLaDA config must have {name} = .*, got {value!r}"):
        load_denoiser(published.write("llada", tmp_path, **setting))


@torch.no_grad()
def test_llada_with_tied_weights(tmp_path):
    weights = published.random_weights("llada")
    tied = {**weights, "model.transformer.ff_out.weight": weights["model.transformer.wte.weight"]}
    del weights["model.transformer.ff_out.weight"]
    denoiser = load_denoiser(published.write("llada", tmp_path, weights, weight_tying=True))
    row = some_rows("llada")[1]
    expected = published.log_probs_by_hand("llada", tied, row)
    log_probs = denoiser.log_probs(row[None])[0, row == denoiser.mask_token_id]
    torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)
    assert denoiser.network.lm_head.weight is denoiser.network.model.embed_tokens.weight


@torch.no_grad()
def test_diffugpt_with_the_names_of_its_output_layer_and_old_buffers(tmp_path):
    weights = published.random_weights("diffugpt")
    head = {**weights, "lm_head.weight": weights["embed_tokens.weight"].clone()}
    del head["embed_tokens.weight"]
    head["denoise_model.h.0.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    row = some_rows("diffugpt")[1]
    expected = published.log_probs_by_hand("diffugpt", weights, row)
    denoiser = load("diffugpt", published.write("diffugpt", tmp_path, head))
    torch.testing.assert_close(denoiser.log_probs(row[None])[0, row == 39], expected, rtol=1e-5, atol=1e-5)
    assert isinstance(denoiser.network, GPT2LMHeadModel)


def test_smdm_needs_one_embedding_more_than_columns(tmp_path):
    path = published.write("smdm", tmp_path)
    weights = load_file(path)
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"][:-1].contiguous()
    save_file(weights, path)
    with pytest.raises(ValueError, match="one embedding more than columns, that of the mask, got 40 and 40"):
        load_denoiser(path)


@pytest.mark.parametrize("family", ["llada", "dream", "diffullama"])
@torch.no_grad()
def test_old_and_new_names_of_rotary_settings_count(family, tmp_path):
    weights, row = published.random_weights(family), some_rows(family)[2]
    expected = published.log_probs_by_hand(family, weights, row, factor=2.0)
    theta = published.CONFIGS[family]["rope_theta"]
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": theta}, "rope_theta": None}
    for config in ({"rope_scaling": {"type": "linear", "factor": 2.0}}, new):
        denoiser = load(family, published.write(family, tmp_path, weights, **config))
        log_probs = denoiser.log_probs(row[None])[0, row == denoiser.mask_token_id]
        torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)
