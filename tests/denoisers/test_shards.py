"""Denoisers whose weights are several files."""

import json

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from edlm import load_denoiser
from edlm.denoisers.families.masked_lm import MaskedLMDenoiser

MASK = 2


def bert():
    shape = {"vocab_size": 11, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 40}
    return BertForMaskedLM(BertConfig(**shape, num_hidden_layers=3, num_attention_heads=2))


@pytest.mark.parametrize("sizes", [("1GB", "4KB"), ("4KB", "1GB"), ("2KB", "4KB")])
def test_a_save_over_one_of_another_number_of_files_is_what_loads(tmp_path, sizes):
    for size, value in zip(sizes, (1.0, 2.0), strict=True):
        model = bert()
        torch.nn.init.constant_(model.get_input_embeddings().weight, value)
        MaskedLMDenoiser(model, mask_token_id=MASK).save_pretrained(tmp_path, max_shard_size=size)
    loaded = load_denoiser(tmp_path, mask_token_id=MASK).network
    assert loaded.get_input_embeddings().weight.eq(2.0).all()
    is_sharded = (tmp_path / "model.safetensors.index.json").exists()
    assert is_sharded == (sizes[1] == "4KB") and is_sharded != (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("place", ["../{}", "sub/../../{}", "{folder}/../{}"])
def test_an_index_that_leaves_its_folder_is_refused(tmp_path, place):
    folder = tmp_path / "model"
    MaskedLMDenoiser(bert(), mask_token_id=MASK).save_pretrained(folder, max_shard_size="4KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shard = min(content["weight_map"].values())
    (folder / "sub").mkdir()
    (folder / shard).rename(tmp_path / shard)
    outside = place.format(shard, folder=folder)
    content["weight_map"] = {k: outside if v == shard else v for k, v in content["weight_map"].items()}
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="must name files of its folder, got '[^\n]*$"):
        load_denoiser(folder, mask_token_id=MASK)


@pytest.mark.parametrize("content", ["{}", "[1]", "no JSON", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none_is_refused(tmp_path, content):
    MaskedLMDenoiser(bert(), mask_token_id=MASK).save_pretrained(tmp_path, max_shard_size="4KB")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="model.safetensors.index.json must "):
        load_denoiser(tmp_path, mask_token_id=MASK)
