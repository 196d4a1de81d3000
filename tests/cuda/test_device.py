"""A CUDA device against the CPU; ``EDLM_TEST_DEVICE=cpu pytest -m cuda`` rehearses it without one."""

import dataclasses
import os
import warnings

import pytest
import torch

from edlm import EnergySampler, RerankLogits, load_denoiser, load_energy, rerank_step
from edlm.corpus.blocks import load_blocks
from edlm.denoisers.loading import SHIPPED
from edlm.integrations.passes import run_pass
from tests.chance import assert_law
from tests.sampler.brute_force import NOTHING, BruteForce, Options, World, count

DEVICE = os.environ.get("EDLM_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]

METHODS = {
    "base": (None, {"order": "bisecting"}),
    "base by confidence": (None, {"order": "confidence"}),
    "head, exact": ("tinystories/head", {"num_candidates": None}),
    "head, rounds of 4": ("tinystories/head", {"num_candidates": None, "group_size": 4}),
    "head, k = 16": ("tinystories/head", {"num_candidates": 16}),
    "causal LM, left to right": ("tinystories/autoregressive", {"num_candidates": 4, "order": "left_to_right"}),
    "causal LM, sequences": ("tinystories/autoregressive", {"num_candidates": 4, "scope": "sequence"}),
}
ROWS, STEPS, NEAR = 16, 4, 1e-4  # NEAR: nats per token


def samplers(name: str, dtype: torch.dtype = torch.float32) -> list[EnergySampler]:
    """The sampler of a method on the CPU, in float32, and on the device."""
    energy, options = METHODS[name]
    made = []
    for device, kind in (("cpu", torch.float32), (DEVICE, dtype)):
        denoiser = load_denoiser("tinystories", device=device).to(kind)
        made.append(EnergySampler(denoiser, energy and load_energy(energy).to(device), num_steps=STEPS, **options))
    return made


def held_out() -> torch.Tensor:
    return load_blocks(SHIPPED / "tinystories/valid.safetensors").tokens[:ROWS]


@pytest.mark.parametrize("name", METHODS)
def test_seeds_give_the_tokens_of_the_cpu_in_nearly_all_rows(name):
    """A row differs where a uniform lies within rounding of a border between two tokens, or two weights are equal."""
    host, device = (s.sample(ROWS, 128, seeds=range(ROWS)).tokens.cpu() for s in samplers(name))
    assert (host == device).all(1).float().mean() >= 0.8


@pytest.mark.parametrize("name", ["tinystories/head", "tinystories/autoregressive"])
def test_one_step_of_another_loop_writes_the_tokens_of_the_cpu(name):
    """Rows are padded on the left; a generator of the CPU draws the seeds."""
    written = []
    for device in ("cpu", DEVICE):
        denoiser, energy = load_denoiser("tinystories", device=device), load_energy(name).to(device)
        canvas = held_out()[:, :24].clone().to(device)
        real = torch.arange(24, device=device) >= torch.arange(ROWS, device=device)[:, None] % 4
        canvas[:, 12:] = denoiser.mask_token_id
        logits, hidden = run_pass(denoiser, canvas, canvas == denoiser.mask_token_id, real, energy.reads_hidden)
        options = {"attention_mask": real, "generator": torch.Generator().manual_seed(0)}
        tokens, accepted = rerank_step(canvas, logits, hidden, energy, denoiser, **options)
        assert accepted.sum() == ROWS * 12 and tokens.device == canvas.device
        loop = RerankLogits(denoiser, load_energy("tinystories/autoregressive").to(device), 4, seed=0)
        chosen = loop(canvas, logits).argmax(-1)
        written.append(torch.cat([tokens, torch.where(accepted, chosen, canvas)], 1).cpu())
    assert (written[0] == written[1]).all(1).float().mean() >= 0.8


@pytest.mark.parametrize("name", METHODS)
def test_bounds_are_those_of_the_cpu(name):
    host, device = (
        -s.likelihood_bound(held_out().to(d), seeds=range(ROWS)).cpu() / 128
        for s, d in zip(samplers(name), ("cpu", DEVICE), strict=True)
    )
    near = (host - device).abs() <= NEAR
    assert near.float().mean() >= (1.0 if METHODS[name][1].get("num_candidates", 1) in (1, None) else 0.8)
    assert (host - device).abs().max() <= 0.1, "a row with another candidate is still a draw of the same bound"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_denoiser_works_with_a_float32_head(dtype):
    host, device = samplers("head, exact", dtype)
    assert next(device.energy.parameters()).dtype == torch.float32
    rows = {"seeds": range(ROWS)}
    full, half = host.likelihood_bound(held_out(), **rows), device.likelihood_bound(held_out().to(DEVICE), **rows)
    assert half.mean().item() / 128 == pytest.approx(full.mean().item() / 128, abs=0.05)
    assert (device.sample(2, 128, seeds=range(2)).tokens != device.denoiser.mask_token_id).all()


@pytest.mark.parametrize("scope", ["step", "sequence"])
def test_the_law_is_that_of_enumeration(scope):
    world, options = World(), Options(num_steps=2, num_candidates=2, scope=scope)
    sampler = EnergySampler(world.denoiser(DEVICE), world.energy(DEVICE), **options.sampler_options())
    tokens = sampler.fill(torch.tensor([NOTHING], device=DEVICE).repeat(20_000, 1), seeds=range(20_000)).tokens
    assert_law(count(tokens.cpu()), BruteForce(world, options).law())


@pytest.mark.skipif(DEVICE != "cuda", reason="counts CUDA's warnings")
@pytest.mark.parametrize(("name", "most"), [("base", 24), ("head, k = 16", 60)])
def test_a_step_waits_for_the_device_no_more_often_than_documented(name, most):
    counts = []
    for steps in (4, 8):
        sampler = dataclasses.replace(samplers(name)[1], num_steps=steps)
        sampler.sample(4, 128, seeds=range(4))  # warms up
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                sampler.sample(4, 128, seeds=range(4))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(warning.message) for warning in caught))
    assert (counts[1] - counts[0]) / 4 <= most
