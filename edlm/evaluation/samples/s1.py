"""Random models of the size S1: 6 layers, hidden size 256, GPT-2's vocabulary and a mask, 256 tokens."""

from __future__ import annotations

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, ModernBertConfig, ModernBertForMaskedLM

from edlm.denoisers.base import Denoiser
from edlm.denoisers.families.masked_lm import MaskedLMDenoiser
from edlm.energies.autoregressive import AutoregressiveEnergy
from edlm.energies.base import Energy
from edlm.energies.chain_head import ChainHead
from edlm.energies.markov_head import MarkovHead
from edlm.energies.residual_head import ResidualHead
from edlm.energies.sequence import SequenceEnergy

LENGTH, LAYERS, WIDTH, HEADS = 256, 6, 256, 4
SEPARATOR, VOCABULARY = 50256, 50258
LISTED = 1024  # tokens that a listed head corrects
_NOISE = 0.02


def random_denoiser(seed: int) -> MaskedLMDenoiser:
    """A ModernBERT; every layer sees all tokens."""
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), SEPARATOR)
    config = ModernBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=LENGTH + 2,
        global_attn_every_n_layers=1,
        pad_token_id=None,
        **special,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskedLMDenoiser(ModernBertForMaskedLM(config).eval(), mask_token_id=VOCABULARY - 1)


def random_causal_lm(seed: int) -> AutoregressiveEnergy:
    """A GPT-2 of the denoiser's layers, hidden size and vocabulary."""
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=LENGTH + 2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoregressiveEnergy(GPT2LMHeadModel(config).eval(), bos_token_id=SEPARATOR)


def random_energies(denoiser: Denoiser, seed: int) -> dict[str, Energy]:
    """Heads of each kind, and a `SequenceEnergy`, moved at random from where training would begin."""
    makers = {"Markov": MarkovHead, "chain": ChainHead, "head": ResidualHead, "NCE": SequenceEnergy}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        energies = {name: maker.from_denoiser(denoiser) for name, maker in makers.items()}
        energies["listed"] = ResidualHead.from_denoiser(denoiser, num_listed=LISTED)
        return {name: _moved(energy) for name, energy in energies.items()}


def _moved(energy: Energy) -> Energy:
    with torch.no_grad():
        for weight in nn.Module.parameters(energy):
            if weight.ndim > 1:
                weight += _NOISE * torch.randn_like(weight)
    return energy.eval()
