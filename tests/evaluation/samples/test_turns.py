"""Ratios of times, parts of a time, and the plain program that the package is compared with."""

import pytest
import torch
from torch.nn import functional as F

from edlm.evaluation.samples import s1
from edlm.evaluation.samples.plain import plain_samples
from edlm.evaluation.samples.shares import PARTS, Stopwatch, seconds_of_parts
from edlm.evaluation.samples.turns import ratio_of, time_in_turns
from edlm.sampler import EnergySampler


def ticking():
    """A clock that moves when it is told to."""
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    return (lambda: now[0]), wait


def test_settings_are_timed_in_turns_after_one_that_warms_up():
    clock, wait = ticking()
    ran = []
    costs = {"a": iter([9.0, 1.0, 2.0]), "b": iter([9.0, 3.0, 5.0])}
    settings = {name: (lambda name=name: (ran.append(name), wait(next(costs[name])))) for name in costs}
    assert time_in_turns(settings, 2, clock) == {"a": [1.0, 2.0], "b": [3.0, 5.0]} and ran == ["a", "b"] * 3


def test_a_ratio_is_of_the_same_turn_and_its_interval_covers_the_truth():
    drift = 1 + torch.rand(9).double()  # a machine that is slower at times
    exact = ratio_of((3 * drift).tolist(), drift.tolist())
    assert exact == pytest.approx((3.0, 3.0, 3.0))
    generator, covered = torch.Generator().manual_seed(0), 0
    for seed in range(200):
        noise = (0.2 * torch.randn(2, 15, generator=generator)).exp()
        value, low, high = ratio_of((3 * noise[0]).tolist(), noise[1].tolist(), seed)
        covered += low <= 3.0 <= high
        assert low <= value <= high
    assert covered / 200 > 0.88


def test_inner_parts_count_for_themselves():
    clock, wait = ticking()
    watch = Stopwatch(clock)
    with watch.part("energy"):
        wait(1.0)
        with watch.part("output layer"):
            wait(2.0)
        wait(4.0)
        with pytest.raises(KeyError), watch.part("trunk"):
            wait(8.0)
            raise KeyError
    wait(16.0)
    with watch.part("rest"):
        wait(32.0)
    assert dict(watch.seconds) == {"energy": 5.0, "output layer": 2.0, "trunk": 8.0, "rest": 48.0}


@pytest.fixture
def small(monkeypatch):
    for name, value in {"LENGTH": 2, "LAYERS": 2, "WIDTH": 16, "HEADS": 2, "SEPARATOR": 3, "VOCABULARY": 5}.items():
        monkeypatch.setattr(s1, name, value)


def test_parts_are_those_of_the_sampler_and_leave_it_as_it_was(small):
    denoiser = s1.random_denoiser(0)
    sampler = EnergySampler(denoiser, s1.random_energies(denoiser, 0)["head"], num_steps=1)
    before = sampler.sample(3, 2, seeds=range(3)).tokens
    parts = seconds_of_parts(sampler, 3, 2, 0)
    assert tuple(parts) == PARTS and min(parts.values()) > 0
    assert torch.equal(sampler.sample(3, 2, seeds=range(3)).tokens, before)
    assert not {"encode_tokens", "decode"} & vars(denoiser).keys() and "sample" not in vars(sampler.energy)


@torch.no_grad()
def test_the_plain_program_draws_from_the_causal_lm(small):
    """In one step of many candidates its law is nearly ``p_AR``, which is far from the denoiser's."""
    torch.manual_seed(0)
    denoiser, model = s1.random_denoiser(0), s1.random_causal_lm(0).model
    for weight in model.parameters():
        weight += 0.3 * torch.randn_like(weight)
    mask = denoiser.mask_token_id
    drawn = plain_samples(denoiser.network, model, (20_000, 2), (mask, 3), num_steps=1, k=64)
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    log_p = model(F.pad(pairs, (1, 0), value=3)[:, :-1]).logits.log_softmax(-1)
    truth = log_p.gather(-1, pairs[..., None]).sum((1, 2)).exp()
    found = torch.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=16) / len(drawn)
    base = denoiser.log_probs(torch.full((1, 2), mask)).exp()[0]
    independent = (base[0, :4, None] * base[1, :4]).flatten()
    truth = truth / truth.sum()  # the LM may write the mask, the denoiser not
    assert (found - truth).abs().sum() / 2 < 0.03 < 0.1 < (independent - truth).abs().sum() / 2
