"""The Python examples of docs/integrations.md run as they stand."""

import re
from pathlib import Path

import pytest
import torch

import edlm
from tests.energies.heads import modernbert
from tests.test_readme import hub, tokenizer_of  # noqa: F401

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
likes = edlm.CallableEnergy(lambda candidates, x, log_p: -2.0 * (candidates == 7).sum(-1))


def run(block: str, **names) -> dict:
    """The names that a block leaves."""
    exec(block, names := {"edlm": edlm, "torch": torch, **names})  # noqa: S102
    return names


def test_the_page_is_short_and_has_these_examples():
    lines = PAGE.read_text().splitlines()
    assert len(lines) <= 100 and max(map(len, lines)) <= 120
    assert len(BLOCKS) == 3


def test_one_step():
    made = run(BLOCKS[0])
    assert made["denoiser"].mask_token_id not in made["canvas"]
    assert made["accepted"].tolist() == [[i % 4 == 3 for i in range(16)]] * 2


def test_transformers(hub):  # noqa: F811
    made = run(BLOCKS[1])
    assert made["sequences"].shape == (2, 19) and torch.equal(made["sequences"][:, :3], made["prompts"])
    assert made["denoiser"].mask_token_id not in made["sequences"]


def test_diffusers():
    pytest.importorskip("diffusers", reason="diffusers is not installed: the extra integrations")
    network = modernbert(vocab_size=12, max_position_embeddings=32).network
    tokenizer = tokenizer_of(12, {"mask": 11, "eos": 9, "pad": 8})
    made = run(BLOCKS[2], likes=likes, network=network, tokenizer=tokenizer)
    assert len(made["output"].texts) == 1
