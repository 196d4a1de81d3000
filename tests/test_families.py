"""Every family behind one object: prompts of unequal length in one batch give what each gives alone."""

from functools import partial

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from edlm import AutoregressiveEnergy, CallableEnergy, EnergySampler, ResidualHead, load_denoiser, wrap_denoiser
from edlm.energies import MDLMCausalLM
from tests.denoisers import decoders, published, published_blocks, published_decoders

NEW = 6
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24}
DISTIL = {"n_layers": 2, "n_heads": 2, "dim": 16, "hidden_dim": 24}
MASKED_LMS = {
    "bert": (BertForMaskedLM, BertConfig, SIZES),
    "roberta": (RobertaForMaskedLM, RobertaConfig, {**SIZES, "pad_token_id": 1}),
    "modernbert": (ModernBertForMaskedLM, ModernBertConfig, {**SIZES, "pad_token_id": 0}),
    "distilbert": (DistilBertForMaskedLM, DistilBertConfig, DISTIL),
}


def of_masked_lm(name, path):
    network, config, sizes = MASKED_LMS[name]
    torch.manual_seed(0)
    special = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    model = network(config(vocab_size=30, max_position_embeddings=40, initializer_range=0.5, **sizes, **special))
    model.save_pretrained(path / name)
    return load_denoiser(path / name, mask_token_id=4)


def of_x0_prediction(path):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.out = nn.Embedding(13, 16), nn.Linear(16, 12)

        def forward(self, x_t, t):
            return self.out(self.embed(x_t).cumsum(1).flip(1).tanh() + t[:, None, None])

    return wrap_denoiser(Network(), family="x0_prediction", vocab_size=12)


FAMILIES = {
    **{name: partial(of_masked_lm, name) for name in MASKED_LMS},
    "mdlm": lambda path: load_denoiser(published.write_mdlm_hub(path / "m")),
    "mdlm_lightning": lambda path: load_denoiser(published.write_lightning(path / "m")),
    "d3pm": lambda path: load_denoiser(published.write_lightning(path / "m", parameterization="d3pm")),
    "mdlm_with_time": lambda path: load_denoiser(published.write_lightning(path / "m", time_conditioning=True)),
    "sedd": lambda path: load_denoiser(published.write_sedd(path / "s")),
    "bd3lm": lambda path: load_denoiser(published.write_bd3lm(path / "b", block_size=4)),
    **{
        name: lambda path, name=name: decoders.load(name, published_decoders.write(name, path))
        for name in published_decoders.FAMILIES
    },
    **{
        name: lambda path, name=name: load_denoiser(
            published_blocks.write(name, path), **published_blocks.SHAPES[name].options
        )
        for name in published_blocks.SHAPES
    },
    "x0_prediction": of_x0_prediction,
}
VARIANTS = {"mdlm_lightning", "mdlm_with_time", "sdar_moe", *(name for name in FAMILIES if name.startswith("a2d-"))}


@pytest.fixture(params=FAMILIES, scope="module")
def denoiser(request, tmp_path_factory):
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


def prompts_for(denoiser):
    generator = torch.Generator().manual_seed(1)
    most = min(denoiser.vocab_size, 30)
    usual = [token for token in range(most) if token != denoiser.mask_token_id]
    return [[usual[i] for i in torch.randint(len(usual), (n,), generator=generator)] for n in (3, 7, 20)]


def check_rows(sampler):
    prompts, seeds = prompts_for(sampler.denoiser), [5, 11, 2]
    together = sampler.generate(prompts, NEW, seed=seeds)
    for prompt, seed, tokens in zip(prompts, seeds, together.tokens, strict=True):
        alone = sampler.generate([prompt], NEW, seed=seed).tokens[0]
        assert torch.equal(tokens, alone)
        start = len(sampler.denoiser.prefix_ids) if sampler.denoiser.is_framed else 0
        assert tokens[start : start + len(prompt)].tolist() == prompt
        written = tokens[start + len(prompt) :][:NEW]
        assert (written != sampler.denoiser.mask_token_id).all() and (written < sampler.denoiser.vocab_size).all()
    assert len({tuple(tokens[-NEW:].tolist()) for tokens in together.tokens}) > 1  # rows differ


@pytest.mark.parametrize("order", ["random", "dilated", "confidence"])
def test_without_energy(denoiser, order):
    check_rows(EnergySampler(denoiser, num_steps=3, order=order))


@pytest.mark.parametrize("scope", ["step", "sequence"])
def test_with_a_function_as_energy(denoiser, scope):
    energy = CallableEnergy(lambda candidates, x, log_p: (candidates % 5 == 1).double().sum(-1) * 0.7)
    check_rows(EnergySampler(denoiser, energy, num_steps=3, num_candidates=4, scope=scope, order="random"))


@pytest.mark.parametrize("num_candidates", [None, 4])
def test_with_a_head_on_its_states(denoiser, num_candidates):
    if type(denoiser).__name__ == "LogitsDenoiser":
        with pytest.raises(ValueError, match="LogitsDenoiser keeps no hidden states, which heads read"):
            ResidualHead.from_denoiser(denoiser, start="cold", width=16)
        return
    head = ResidualHead.from_denoiser(denoiser, start="cold", width=16)
    torch.manual_seed(1)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    check_rows(EnergySampler(denoiser, head, num_steps=2, num_candidates=num_candidates, order="dilated"))


def test_with_the_causal_lm_of_the_mdlm_code(tmp_path):
    """Over the same tokens, as ``ar.ckpt`` and ``mdlm.ckpt`` are."""
    denoiser = load_denoiser(published.write_lightning(tmp_path / "mdlm"))
    model = MDLMCausalLM.from_checkpoint(published.write_ar_ckpt(tmp_path / "ar.ckpt"))
    energy = AutoregressiveEnergy(model, bos_token_id=0)
    check_rows(EnergySampler(denoiser, energy, num_steps=3, num_candidates=4, scope="sequence", order="random"))


def test_every_family_is_here():
    from edlm.denoisers.families import FAMILIES as registered

    tested = {"masked_lm", "a2d", *FAMILIES} - {*MASKED_LMS, *VARIANTS}
    assert tested == set(registered)
