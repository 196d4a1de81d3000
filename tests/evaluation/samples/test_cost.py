"""What a sampler costs, against operations counted by hand."""

import resource
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from edlm.denoisers import FunctionDenoiser
from edlm.evaluation.samples import cost
from edlm.evaluation.samples.cost import measure_cost
from edlm.sampler import EnergySampler

LENGTH, VOCAB = 16, 5


def sampler(function, num_steps=1) -> EnergySampler:
    return EnergySampler(FunctionDenoiser(function, VOCAB, VOCAB), num_steps=num_steps, order="left_to_right")


def test_products_are_two_operations_an_entry():
    weights = torch.randn(VOCAB + 1, VOCAB)
    one_hot = sampler(lambda x_t, t: F.one_hot(x_t, VOCAB + 1).float() @ weights)
    found = measure_cost(one_hot, LENGTH, batch_size=1, seed=0)
    assert found.flops_per_sequence == 2 * LENGTH * (VOCAB + 1) * VOCAB


def test_attention_counts_on_a_cpu_too():
    table = torch.randn(VOCAB + 1, 8)

    def attend(x_t, t):
        states = table[x_t][:, None]
        return F.scaled_dot_product_attention(states, states, states)[:, 0, :, :VOCAB]

    found = measure_cost(sampler(attend), LENGTH, batch_size=1, seed=0)
    assert found.flops_per_sequence == 2 * 2 * LENGTH * LENGTH * 8  # scores, and the sum that they weigh


def test_flops_double_with_the_passes_but_for_equal_rows():
    weights = torch.randn(VOCAB + 1, VOCAB)

    def function(x_t, t):
        return F.one_hot(x_t, VOCAB + 1).float() @ weights

    one, four = (measure_cost(sampler(function, n), LENGTH, batch_size=1, seed=0).flops_per_sequence for n in (1, 4))
    assert four == 4 * one
    shared = measure_cost(sampler(function, 4), LENGTH, batch_size=64, seed=0).flops_per_sequence
    assert 2 * one < shared < 4 * one  # the first pass is of 64 equal rows


def test_memory_that_a_batch_takes_is_seen_or_said_to_be_unknown():
    size = 2**24  # 64 MiB of float32

    def hungry(x_t, t):
        return torch.zeros(*x_t.shape, VOCAB) + 0 * torch.ones(size).sum()

    found = measure_cost(sampler(hungry), LENGTH, batch_size=2, seed=0)
    if found.peak_memory_bytes is None:
        assert found.memory.startswith("not known")
    else:
        assert 0.9 * 4 * size < found.peak_memory_bytes < 3.5 * 4 * size and "resident" in found.memory


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_memory_is_in_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    assert cost._kilobytes("VmSize") == pytest.approx(pages * resource.getpagesize(), rel=0.005)


def test_a_system_that_does_not_tell_leaves_memory_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "_CLEAR", tmp_path / "no" / "such")
    found = measure_cost(sampler(lambda x_t, t: torch.zeros(*x_t.shape, VOCAB)), LENGTH, batch_size=2, seed=0)
    assert found.peak_memory_bytes is None and found.memory.startswith("not known: this system")
    assert found.flops_per_sequence == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_of_a_gpu_is_what_its_allocator_says():
    weights = torch.randn(VOCAB + 1, VOCAB, device="cuda")
    denoiser = FunctionDenoiser(lambda x_t, t: F.one_hot(x_t, VOCAB + 1).float() @ weights, VOCAB, VOCAB).to("cuda")
    found = measure_cost(EnergySampler(denoiser, num_steps=2, order="dilated"), LENGTH, batch_size=2, seed=0)
    assert found.peak_memory_bytes > 0 and "torch.cuda" in found.memory
