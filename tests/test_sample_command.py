"""``edlm sample`` on the shipped model: it writes what generate and infill do."""

import json

import pytest
import torch

from edlm import EnergySampler, load_denoiser, load_energy
from edlm.cli import main
from tests.test_commands import edlm

STEPS = {"sampler__num_steps": 2, "num_samples": 2, "seed": 3}


@pytest.fixture(scope="module")
def sampler() -> EnergySampler:
    options = {"num_steps": 2, "num_candidates": None, "order": "dilated"}
    return EnergySampler(load_denoiser("tinystories"), load_energy("tinystories"), **options)


def records(**options) -> list[dict]:
    return [json.loads(line) for line in edlm("sample", format="jsonl", **STEPS, **options).splitlines()]


def test_blocks_go_on_beyond_the_trained_length(sampler):
    output = sampler.generate("Tom", 140, num_return_sequences=2, seed=3, block_length=50, eos_token_id=None)
    found = records(prompt="Tom", length=len(output.tokens[0]), block_length=50)
    assert [record["tokens"] for record in found] == [tokens.tolist() for tokens in output.tokens]
    assert [len(record["steps"]) for record in found] == [6, 6]
    assert len(output.tokens[0]) > sampler.denoiser.max_length


def test_gaps_and_a_proposal(sampler):
    text = "Tom had a <mask:3> dog."
    output = sampler.infill(text, num_return_sequences=2, seed=3, temperature=0.7, top_k=5)
    found = records(fill=text, sampler__temperature=0.7, sampler__top_k=5)
    assert [record["text"] for record in found] == output.text
    assert [record["tokens"] for record in found] == [tokens.tolist() for tokens in output.tokens]


def test_stream_shows_the_steps(capsys):
    printed = edlm("sample", prompt="Tom", length=12, stream=True, **STEPS)
    shown = capsys.readouterr().err
    assert "--- seed 3, step 0\nTom" in shown and "--- seed 3, step 1\nTom" in shown and "<|mask|>" in shown
    assert printed == edlm("sample", prompt="Tom", length=12, **STEPS) and "<|mask|>" not in printed


def test_a_base_sampler_draws_the_same(sampler):
    base = EnergySampler(sampler.denoiser, num_steps=2, order="dilated").sample(2, 10, seeds=[3, 4]).tokens
    found = records(length=10, energy="null")
    assert torch.equal(torch.tensor([record["tokens"] for record in found]), base)


def test_a_device_that_is_not_there_is_named(capsys):
    gone = "mps" if torch.cuda.is_available() else "cuda"
    assert main(["sample", f"--device={gone}"]) == 2
    assert f"device must be one that torch can use here, got '{gone}'" in capsys.readouterr().err
