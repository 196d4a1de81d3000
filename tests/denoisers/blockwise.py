"""Small random denoisers that write in blocks, and one that sees both sides; of two architectures."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from edlm.denoisers import DecoderDenoiser, Vocabulary
from edlm.denoisers.families.dit import DiT, DiTShape
from edlm.denoisers.families.dit_denoiser import DiTDenoiser

VOCAB, MASK, BLOCK = 12, 11, 4
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
KINDS = ("decoder", "shifted decoder", "dit")


def blockwise(kind, block_size=BLOCK, max_length=None):
    """One of `KINDS`; ``block_size`` None sees both sides."""
    torch.manual_seed(5)
    traits = {"block_size": block_size, "max_length": max_length}
    if kind == "dit":
        denoiser = DiTDenoiser(DiT(DiTShape(VOCAB, 16, 3, 2, 8)), mask_token_id=MASK, **traits)
    else:
        network = Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCAB, intermediate_size=24, **SIZES))
        denoiser = DecoderDenoiser(network, Vocabulary(VOCAB, MASK), shift=kind.startswith("shifted"), **traits)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.normal_(std=0.4)
    return denoiser.eval()
