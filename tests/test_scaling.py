"""The page on scaling is what its script prints, and its formulas count what the networks have and do."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from weakref import finalize

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from edlm.energies import ResidualHead
from edlm.energies.head_settings import HeadOptions, HeadSettings
from edlm.energies.proposal import draw_categorical

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
    denoiser = SimpleNamespace(hidden_size=head.width, num_blocks=32)
    made = HeadSettings.fitting(denoiser, HeadOptions())
    assert (made.width, made.num_heads, made.intermediate_size, made.start) == (*sizes.values(), "cold")


def test_flops_are_those_that_torch_counts(scaling):
    shape = scaling.Transformer("tiny", 64, 3, 4, 2, 96, 200)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        llama(shape, attn_implementation="eager")(torch.zeros(2, 24, dtype=torch.long))
    assert counter.get_total_flops() == pytest.approx(shape.flops(48, 24, 48), rel=1e-3)


class Peak(TorchDispatchMode):
    """Most bytes that lived at once, of what operations made."""

    def __init__(self):
        super().__init__()
        self.bytes, self.most, self.alive = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.alive:
                self.alive.add(storage._cdata)
                self.bytes += storage.nbytes()
                finalize(storage, self.freed, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.bytes)
        return made

    def freed(self, key, size):
        self.alive.discard(key)
        self.bytes -= size


def test_drawing_needs_the_bytes_that_are_said_for_each_logit(scaling):
    n, vocabulary = 20, 5000
    uniforms = torch.rand(n, 3, dtype=torch.float64)
    with Peak() as peak:
        log_probs = torch.zeros(n, vocabulary)
        draw_categorical(log_probs, uniforms)
    assert peak.most / (n * vocabulary) == pytest.approx(scaling.DRAWING, rel=0.02)
