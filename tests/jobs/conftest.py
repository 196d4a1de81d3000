"""Small models in folders, and a launcher of processes that use them."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, ModernBertConfig, ModernBertForMaskedLM

from edlm import ResidualHead, load_denoiser
from edlm.corpus.text import train_tokenizer
from edlm.denoisers.families.masked_lm import MaskedLMDenoiser
from tests.jobs.forks import Launcher

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A denoiser of sharp marginals, a head as if trained, a judge and text, in a folder."""
    folder, tokenizer = (
        tmp_path_factory.mktemp("models"),
        train_tokenizer(["the cat sat on a <mask>."], kind="character"),
    )
    torch.manual_seed(0)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    shape = {**SHAPE, **special, "initializer_range": 0.4, "max_position_embeddings": 32, "pad_token_id": None}
    denoiser = MaskedLMDenoiser(ModernBertForMaskedLM(ModernBertConfig(vocab_size=len(tokenizer), **shape)), tokenizer)
    denoiser.save_pretrained(folder / "denoiser")
    head = ResidualHead.from_denoiser(load_denoiser(folder / "denoiser"), num_blocks=1)
    for weight in head.parameters():
        weight.data += 0.3 * torch.randn(weight.shape)
    head.save_pretrained(folder / "head")
    shape = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    judge = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape))
    judge.save_pretrained(folder / "judge")
    tokenizer.save_pretrained(folder / "judge")
    sentences = (f"the cat sat on {word} mat. a cat sat on the {word}." for word in "abcdehimno")
    (folder / "text.txt").write_text("<|endoftext|>".join(sentences))
    return folder


@pytest.fixture(scope="session")
def launcher(models):
    with Launcher(models) as started:
        yield started
