"""A wrapped module is probed once: it must see both sides, or its blocks and nothing after them."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from edlm import wrap_denoiser
from edlm.denoisers.visibility import visible_positions

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


class Mixer(nn.Module):
    """Logits of a token from those that ``sees`` lets it read."""

    def __init__(self, sees, noise=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out, self.sees, self.noise = nn.Embedding(13, 16), nn.Linear(16, 12), sees, noise

    def forward(self, x_t):
        read = self.sees(x_t.shape[1]).float()
        states = self.embed(x_t)
        mixed = (read / read.sum(1, keepdim=True)) @ states + self.noise * torch.randn_like(states)
        return self.out((states + mixed).tanh())


def blocks(size):
    return lambda length: visible_positions(length, size, None, torch.device("cpu"))[0, 0]


def both_sides(length):
    return torch.ones(length, length)


def window(length):
    return (torch.arange(length)[:, None] - torch.arange(length)).abs() <= 1


def wrap(module):
    return wrap_denoiser(module, family="x0_prediction", vocab_size=12, time_conditioned=False)


@pytest.mark.parametrize("sees", [both_sides, window, torch.eye, lambda n: both_sides(n).triu()])
def test_modules_that_read_what_is_on_the_right_pass(sees):
    assert wrap(Mixer(sees)).mask_token_id == 12


@pytest.mark.parametrize("sees", [blocks(1), lambda n: both_sides(n).tril(-1) + torch.eye(n)])
def test_a_causal_module_is_refused(sees):
    with pytest.raises(ValueError, match="^Mixer must see both sides of a token, but .* on the right: it is causal$"):
        wrap(Mixer(sees))


def test_what_tells_nothing_passes():
    embed, out = nn.Embedding(101, 32), nn.Linear(32, 100)
    options = {"family": "x0_prediction", "vocab_size": 100, "time_conditioned": False}
    assert wrap_denoiser(nn.Sequential(embed, out), **options).vocab_size == 100
    nn.init.zeros_(embed.weight)
    assert wrap_denoiser(nn.Sequential(embed, out), **options).vocab_size == 100
    assert wrap(Mixer(blocks(1), noise=1.0)).vocab_size == 12  # not the same each time
    assert wrap_denoiser(nn.Linear(3, 3), **options).vocab_size == 100  # takes no tokens: an error where it is used


class Blocks(nn.Module):
    """A network as Fast-dLLM's, which makes its mask itself, of blocks of its own size."""

    def __init__(self, size):
        super().__init__()
        torch.manual_seed(0)
        ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        self.network = LlamaForCausalLM(LlamaConfig(vocab_size=20, initializer_range=0.5, **SIZES, **ids))
        self.config, self.size = self.network.config, size

    def forward(self, x_t, block_size):
        visible = visible_positions(x_t.shape[1], self.size, None, x_t.device)
        mask = visible.expand(len(x_t), -1, -1, -1) if self.size else torch.ones(len(x_t), 1, *[x_t.shape[1]] * 2)
        return self.network(x_t, attention_mask=mask.bool())


@pytest.mark.parametrize("size", [4, 8, 2, 1, None])
def test_blocks_are_those_of_the_family(size):
    def wrapped():
        return wrap_denoiser(Blocks(size), family="fast_dllm", mask_token_id=9, block_size=4)

    if size == 4:
        assert wrapped().block_size == 4 and wrapped().shift
        return
    wrong = "reads tokens of later blocks" if size in (8, None) else "does not read what is on the right: it is causal"
    with pytest.raises(ValueError, match=f"^Blocks must see .*blocks of 4 tokens, but {wrong}$"):
        wrapped()


@pytest.mark.parametrize("is_decoder", [False, True])
def test_a_masked_lm_that_is_a_decoder_is_refused(is_decoder):
    torch.manual_seed(0)
    module = BertForMaskedLM(BertConfig(vocab_size=20, is_decoder=is_decoder, **SIZES))
    if not is_decoder:
        assert wrap_denoiser(module, family="masked_lm", mask_token_id=4).family == "masked_lm"
        return
    with pytest.raises(ValueError, match="must see both sides of a token, but does not read .*: it is causal"):
        wrap_denoiser(module, family="masked_lm", mask_token_id=4)
