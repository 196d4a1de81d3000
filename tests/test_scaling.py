"""The page on scaling is what its script prints, and its formulas count what the networks have and do."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from weakref import finalize

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from edlm.denoisers import FunctionDenoiser
from edlm.diffusion.slots import Slots
from edlm.energies import ResidualHead
from edlm.energies.head_settings import HeadSettings
from edlm.sampler.proposal import draw_categorical

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "docs" / "scaling.py"


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", SCRIPT)
    sys.modules["scaling"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["scaling"]


def test_the_page_is_what_its_script_prints():
    printed = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True).stdout
    assert printed == (ROOT / "docs" / "scaling.md").read_text()
    assert printed.count("\n## ") == 6


def llama(shape, **settings):
    sizes = {"hidden_size": shape.width, "num_hidden_layers": shape.blocks, "num_attention_heads": shape.heads}
    sizes |= {"num_key_value_heads": shape.kv_heads, "intermediate_size": shape.inner, "vocab_size": shape.vocabulary}
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=shape.tied, **settings))


@pytest.mark.parametrize("name", ["LLADA", "SMALL", "LARGE"])
def test_parameters_are_those_of_the_networks(scaling, name):
    shape = getattr(scaling, name)
    with torch.device("meta"):
        network = llama(shape)
    assert sum(weight.numel() for weight in network.parameters()) == shape.parameters
    assert sum(weight.numel() for weight in network.model.layers[0].parameters()) == shape.of_block + 2 * shape.width


def test_parameters_of_the_head_are_those_of_a_residual_head(scaling):
    head = scaling.HEAD
    sizes = {"width": head.width, "num_heads": head.heads, "intermediate_size": head.inner}
    options = {"num_blocks": 1, "start": "cold", "hidden_size": head.width, "rope_theta": 1e4, "norm_eps": 1e-5}
    with torch.device("meta"):
        real = ResidualHead(HeadSettings(**sizes, **options))
    assert sum(weight.numel() for weight in real.parameters()) == head.parameters
    assert HeadSettings(**sizes, **options).num_heads == HeadSettings.fitting(llada(), options_of(head)).num_heads


def llada():
    """A denoiser of LLaDA's width."""
    denoiser = FunctionDenoiser(lambda x, t: torch.zeros(*x.shape, 3), 3, 3)
    type(denoiser).hidden_size
    return denoiser
