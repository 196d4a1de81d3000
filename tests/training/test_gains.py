"""Gains measured after training, against sums over all sequences and against the bounds of the very samplers."""

import pytest
import torch

from edlm import EnergySampler
from edlm.corpus.blocks import TokenBlocks
from edlm.training import gains as module
from edlm.training.gains import independent_rows, measure_gains
from edlm.training.objectives import EnergyObjectiveConfig
from tests.energies.heads import MASK, disturbed_head, modernbert
from tests.sampler.brute_force import SEQUENCES, BruteForce, Options, World

WORLD = World()


def blocks(tokens, documents=None):
    documents = None if documents is None else torch.as_tensor(documents)
    return TokenBlocks(torch.as_tensor(tokens), 1, torch.as_tensor(tokens).numel(), 0, 0, documents)


def mixture(**changes):
    return EnergyObjectiveConfig(**changes).of_kind("head")


def rows_of(number, length=8):
    return torch.randint(MASK, (number, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("order", ["left_to_right", "dilated", "confidence", "entropy_bounded(0.8)"])
def test_gains_of_all_sequences_are_those_of_the_enumerated_laws(order):
    """Each sequence once: the mean of ``log q - log p_theta`` over them."""
    config = mixture(orders=(order,), num_steps=(1, 2, 3))
    found = measure_gains(WORLD.head(), WORLD.denoiser(), config, blocks(SEQUENCES), batch_size=10)
    assert [gain.num_steps for gain in found] == [1, 2, 3]
    for gain in found:
        options = Options(num_candidates=None, order=order, num_steps=gain.num_steps)
        laws = [BruteForce(WORLD, options, base=base).law() for base in (False, True)]
        values = (laws[0].log() - laws[1].log()) / 3
        assert gain.gain == pytest.approx(values.mean().item(), abs=1e-6)
        assert gain.stderr == pytest.approx(values.std().item() / 27**0.5, abs=1e-6)
        used = BruteForce(WORLD, Options(**{**options.sampler_options(), "window": gain.window})).law()
        values = (used.log() - laws[1].log()) / 3  # the sampler that the record makes
        assert gain.window_gain == pytest.approx(values.mean().item(), abs=1e-6)


@pytest.mark.parametrize("block_length", [None, 4])
def test_gains_are_the_differences_of_the_samplers_bounds(block_length):
    denoiser = modernbert()
    head, x_0 = disturbed_head(denoiser), rows_of(16)
    config = mixture(orders=("random", "bisecting"), num_steps=(2, 3), block_lengths=(block_length,))
    for gain in measure_gains(head, denoiser, config, blocks(x_0), batch_size=16):
        drawn = independent_rows(blocks(x_0), 16)
        options = {"num_steps": gain.num_steps, "order": gain.order, "block_length": block_length, "window": (0, 1)}
        bounds = [EnergySampler(denoiser, e, **options).likelihood_bound(drawn, seeds=range(16)) for e in (None, head)]
        assert gain.gain == pytest.approx((bounds[0] - bounds[1]).mean().item() / 8, abs=1e-5)
        assert (gain.block_length, gain.length, gain.num_rows) == (block_length, 8, 16)


def test_sampled_steps_estimate_the_gain_of_each_step(monkeypatch):
    """One step of four for each row, drawn; the mean over many rows against all steps of the same rows."""
    denoiser = modernbert()
    head, x_0 = disturbed_head(denoiser), rows_of(16).repeat(60, 1)
    (setting,) = module._settings(denoiser, head, mixture(num_steps=(4,), orders=("dilated",)), torch.ones(1, 8).bool())
    whole = setting.gains(x_0[:16], 0)
    monkeypatch.setattr(module, "SAMPLED_STEPS", 1)
    assert (setting.sampled_steps, setting.passes) == (1, 1)
    some = setting.gains(x_0, 0)
    assert ((some != 0).sum(1) == 1).all()
    errors = some.std(0) / len(x_0) ** 0.5
    assert ((some.mean(0) - whole.mean(0)).abs() < 4 * errors).all()


def test_rows_are_of_different_documents_or_stretches():
    tokens = torch.arange(40)[:, None].expand(40, 4)
    many = independent_rows(blocks(tokens, torch.arange(40) // 2), 99)[:, 0]
    assert len(many) == 20 and len({*(many // 2).tolist()}) == 20 and many.tolist() != sorted(many.tolist())
    book = independent_rows(blocks(tokens, [0] * 40), 99)[:, 0]
    assert len(book) == 32 and len({*(book * 32 // 40).tolist()}) == 32
    assert sorted(independent_rows(blocks(tokens), 99)[:, 0].tolist()) == [*range(40)]
    assert (
        independent_rows(blocks(tokens), 5).shape == (5, 4) and independent_rows(blocks(tokens), 5).dtype == torch.int64
    )


def test_too_few_rows_say_nothing():
    denoiser = modernbert()
    options = (disturbed_head(denoiser), denoiser, mixture(num_steps=(2,)))
    assert measure_gains(*options, blocks(rows_of(15)), batch_size=4) == ()
    assert len(measure_gains(*options, blocks(rows_of(16)), batch_size=4)) == 1


def test_a_gain_at_one_step_alone_is_found():
    """A head that knows the law where everything is masked, and is worse than the denoiser afterwards."""
    world = World()
    start = 16 * 3 + 4 * 3 + 3
    truth = BruteForce(world, Options(num_candidates=None, order="left_to_right", num_steps=3)).law()
    drawn = torch.multinomial(truth, 400, replacement=True, generator=torch.Generator().manual_seed(0))
    data = torch.tensor(SEQUENCES)[drawn]
    others = torch.arange(64) != start
    world.delta[others] = (
        1.5 * torch.randn(int(others.sum()), 64, 3, generator=torch.Generator().manual_seed(5)).double()
    )
    config = mixture(orders=("left_to_right",), num_steps=(3,))
    (gain,) = measure_gains(world.head(), world.denoiser(), config, blocks(data), batch_size=400)
    assert gain.window == (1 - 0.5 / 3, 1.0) and gain.gain < 0 < gain.window_gain - 2 * gain.window_stderr
