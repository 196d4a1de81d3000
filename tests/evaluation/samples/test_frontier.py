"""The frontier: a colder sampler is no better one, an oracle is; errors against the jackknife."""

import math
from dataclasses import replace

import pytest
import torch

from edlm.corpus.languages import HiddenMarkov
from edlm.denoisers import FunctionDenoiser
from edlm.energies import OracleEnergy
from edlm.evaluation.report.conclusions import placements
from edlm.evaluation.report.findings import judged_at_equal_entropy
from edlm.evaluation.samples.frontier import (
    COLDER,
    EQUAL,
    GAIN,
    HOTTER,
    OUTSIDE,
    FrontierPoint,
    place,
)
from edlm.evaluation.samples.text import unigram_entropy
from edlm.sampler import EnergySampler
from tests.chance import SIGMAS

N, LENGTH, TEMPERATURES = 400, 32, (0.6, 0.8, 0.9, 1.0, 1.1, 1.2)
LANGUAGE = HiddenMarkov.reference()


def sampled(temperature: float, energy=None, name="base", first=0) -> FrontierPoint:
    """Samples of the reference language by its exact marginals; its own law is the judge."""
    size = LANGUAGE.vocab_size
    denoiser = FunctionDenoiser(lambda x_t, t: LANGUAGE.log_marginals(x_t), size, size)
    how = {"num_steps": 2, "order": "random", "temperature": temperature}
    sampler = EnergySampler(denoiser, energy, num_candidates=None if energy else 1, **how)
    tokens = sampler.sample(N, LENGTH, seeds=range(first, first + N)).tokens
    nats = -LANGUAGE.log_prob(tokens)
    lengths = torch.full((N,), LENGTH)
    return FrontierPoint(name, "random", 2, temperature, unigram_entropy(tokens), nats, lengths)


@pytest.fixture(scope="module")
def base() -> list[FrontierPoint]:
    return [sampled(temperature) for temperature in TEMPERATURES]


def test_a_colder_sampler_pleases_the_judge_and_is_flagged(base):
    """The planted cheat: temperature 0.7, which is not among the base's."""
    usual = base[TEMPERATURES.index(1.0)]
    for first in (0, 10_000):  # the base's own seeds, and others
        cheat = sampled(0.7, name="cheat", first=first)
        gain = usual.judge_nats_per_token.value - cheat.judge_nats_per_token.value
        assert gain > 10 * usual.judge_nats_per_token.stderr  # a judge alone would praise it
        assert cheat.entropy_nats.value < usual.entropy_nats.value
        found = place(cheat, base)
        assert (found.verdict, found.description) == ("on", COLDER)
        assert abs(found.difference) <= 3 * found.stderr + found.interpolation


def test_a_hotter_sampler_is_not_worse(base):
    found = place(sampled(1.15, name="hot", first=5_000), base)
    assert (found.verdict, found.description) == ("on", HOTTER)


def test_a_better_sampler_is_recognised(base):
    """Exact decisions by the true law: the data's own, at two passes."""
    found = place(sampled(1.0, OracleEnergy(LANGUAGE), "oracle"), base)
    assert (found.verdict, found.description) == ("gain", GAIN)
    assert found.difference < -10 * found.stderr


def test_a_worse_sampler_is_worse(base):
    usual = base[TEMPERATURES.index(1.0)]
    noisy = replace(usual, name="noisy", nats=usual.nats + 32 * 0.2)
    found = place(noisy, base)
    assert found.verdict == "worse" and found.difference == pytest.approx(0.2)
    assert found.stderr == pytest.approx(0, abs=1e-9)


def test_the_base_lies_on_its_own_curve(base):
    for point in base:
        found = place(point, base)
        assert found.verdict == "on" and found.difference == pytest.approx(0, abs=1e-9)
    assert place(base[TEMPERATURES.index(1.0)], base).description == EQUAL


def test_nothing_is_extrapolated(base):
    for temperature in (0.3, 3.0):
        found = place(sampled(temperature, name="far"), base)
        assert (found.verdict, found.description, found.difference) == ("outside", OUTSIDE, None)
    assert place(base[0], base[:1]).verdict == "outside"  # one point is no curve
    assert place(base[0], [base[0], replace(base[0], temperature=2.0)]).verdict == "outside"  # nor are two equal ones


def test_a_point_off_by_chance_is_held_against_the_end(base):
    coldest = sampled(TEMPERATURES[0], name="same", first=20_000)
    shifted = replace(coldest, entropy=coldest.entropy - coldest.entropy_nats.value + base[0].entropy_nats.value - 1e-3)
    assert shifted.entropy_nats.value < base[0].entropy_nats.value
    assert place(shifted, base).verdict == "on"


def made(name, entropy, loss, seed, n=60) -> FrontierPoint:
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(20, 40, (n,), generator=g)
    noise = torch.randn(n, generator=g, dtype=torch.float64)
    entropies = entropy + 0.05 * noise + 0.02 * torch.randn(n, generator=g, dtype=torch.float64)
    return FrontierPoint(name, "random", 2, 1.0, entropies, tokens * (loss + 0.3 * noise), tokens)


def without(point: FrontierPoint, i: int) -> FrontierPoint:
    keep = torch.arange(len(point.nats)) != i
    return replace(point, entropy=point.entropy[keep], nats=point.nats[keep], num_tokens=point.num_tokens[keep])


def test_the_error_is_the_jackknifes_over_seeds():
    curve = [made("base", 4.0, 3.0, 1), made("base", 4.4, 3.7, 2), made("base", 4.9, 5.0, 3)]
    point = made("ours", 4.6, 3.9, 4)
    found = place(point, curve)
    n = len(point.nats)
    left_out = torch.tensor(
        [place(without(point, i), [without(p, i) for p in curve]).difference for i in range(n)], dtype=torch.float64
    )
    jackknife = ((n - 1) / n * (left_out - left_out.mean()).square().sum()).sqrt().item()
    assert found.stderr == pytest.approx(jackknife, rel=0.05)
    a, b = curve[1:]
    rise = b.judge_nats_per_token.value - a.judge_nats_per_token.value
    slope = rise / (b.entropy_nats.value - a.entropy_nats.value)
    line = a.judge_nats_per_token.value + slope * (point.entropy_nats.value - a.entropy_nats.value)
    assert found.difference == pytest.approx(point.judge_nats_per_token.value - line)


def test_a_bend_of_the_curve_is_no_gain():
    """Below the line, but on the parabola that the base's points lie on."""

    def on(entropy, name="base", n=50):
        spread = torch.linspace(-1e-4, 1e-4, n, dtype=torch.float64)
        lengths = torch.full((n,), 10)
        return FrontierPoint(name, "random", 2, 1.0, entropy + spread, 10 * (entropy**2 + 0 * spread), lengths)

    curve = [on(1.0), on(2.0), on(3.0)]
    found = place(on(2.5, "ours"), curve)
    assert found.difference == pytest.approx(2.5**2 - (4 + 9) / 2)
    assert found.interpolation == pytest.approx(0.25, rel=1e-3) and found.verdict == "on"
    assert place(replace(on(2.5, "ours"), nats=torch.full((50,), 58.0)), curve).verdict == "gain"


def exact(name, entropy, loss, noise=0.0, temperature=1.0) -> FrontierPoint:
    """Ten tokens each; nats scatter about the loss, entropies hardly."""
    noise = torch.as_tensor(noise, dtype=torch.float64).expand(6)
    entropies = entropy + 1e-6 * torch.arange(6).double()
    return FrontierPoint(name, "random", 2, temperature, entropies, 10 * (loss + noise), torch.full((6,), 10))


NOISE = torch.tensor([0.4, -0.1, -0.5, 0.3, 0.2, -0.3], dtype=torch.float64)


def test_error_against_an_exact_curve_is_that_of_the_points_loss():
    point = exact("ours", 4.5, 3.0, NOISE)
    found = place(point, [exact("base", 4.0, 3.0), exact("base", 5.0, 3.0)])
    assert found.stderr == pytest.approx(point.judge_nats_per_token.stderr, rel=1e-9)
    assert found.stderr == pytest.approx((NOISE.std() / 6**0.5).item(), rel=1e-9)


def test_a_bend_the_other_way_is_no_loss():
    """Above the line, but on the parabola; more than that is worse."""
    curve = [exact("base", entropy, -(entropy**2) + 20) for entropy in (1.0, 2.0, 3.0)]
    assert place(exact("ours", 2.5, 20 - 2.5**2 - 0.01), curve).verdict == "on"
    assert place(exact("ours", 2.5, 20 - 2.5**2 + 0.02), curve).verdict == "worse"


def test_beyond_the_ends_a_bend_makes_no_verdict_easier():
    curve = [replace(exact("base", float(h), h**2), entropy=h + NOISE) for h in (1, 2, 3)]
    found = place(replace(exact("ours", 3.2, 10.5), entropy=3.2 + NOISE), curve)
    assert found.interpolation == pytest.approx(1.0 * 1.2 * 0.2, rel=1e-6)


def test_what_the_seeds_share_cancels_in_what_is_colder_too():
    base = [exact("base", h, h - 1, NOISE, t) for h, t in ((4.0, 0.7), (4.5, 1.0), (5.0, 1.2))]
    assert place(exact("ours", 4.3, 3.3, NOISE), base).description == COLDER
    assert place(exact("ours", 4.7, 3.7, NOISE), base).description == HOTTER
    assert place(exact("ours", 4.3, 3.3, NOISE.flip(0)), base).description == EQUAL  # now it may be chance
    usual_last = [*base[:1], base[2], base[1]]
    assert place(exact("ours", 4.3, 3.3, NOISE), usual_last).description == COLDER


def test_colder_and_dearer_is_neither_colder_nor_hotter():
    base = [exact("base", h, 8 - h, temperature=t) for h, t in ((4.0, 0.7), (4.5, 1.0), (5.0, 1.2))]
    for h in (4.2, 4.8):
        assert place(exact("ours", h, 8 - h, 1e-9 * NOISE), base).description == EQUAL


def test_the_bend_is_the_greatest_beside_the_segment():
    """Points of a cubic: the second divided differences of 1, 2, 3 and of 2, 3, 4 are 6 and 9."""

    def on(entropy, name="base"):
        lengths = torch.full((50,), 10)
        entropies = entropy + torch.linspace(-1e-4, 1e-4, 50, dtype=torch.float64)
        return FrontierPoint(name, "random", 2, 1.0, entropies, 10 * torch.full((50,), entropy**3).double(), lengths)

    curve = [on(float(entropy)) for entropy in (1, 2, 3, 4)]
    for entropy, bend in ((1.5, 6), (2.5, 9), (3.5, 9)):
        assert place(on(entropy, "ours"), curve).interpolation == pytest.approx(bend / 4, rel=1e-3)
    assert place(on(1.5, "ours"), curve[:2]).interpolation == 0  # two points show no bend


def test_sets_of_other_sizes_are_not_compared():
    with pytest.raises(ValueError, match=r"the same number of samples, at least 2, got \[59, 60\]"):
        place(without(made("a", 4, 3, 1), 0), [made("base", 4, 3, 1), made("base", 5, 4, 2)])
    with pytest.raises(ValueError, match=r"at least 2, got \[1\]"):
        place(made("a", 4, 3, 1, 1), [made("base", 4, 3, 1, 1), made("base", 5, 4, 2, 1)])
    assert math.isfinite(place(made("a", 4.5, 3, 1), [made("base", 4, 3, 1), made("base", 5, 4, 2)]).stderr)


@pytest.mark.parametrize(("n", "sigmas"), [(2, 1.0), (2, 3.0), (8, 3.0)])
def test_false_alarms_are_as_rare_at_any_number_of_samples(n, sigmas):
    """With the error taken as known, 17 % at n = 2 and 1.9 % at n = 8 were, instead of 0.27 %."""
    g, trials, called = torch.Generator().manual_seed(n), 1500, 0
    lengths = torch.full((n,), 10)
    for _ in range(trials):
        entropy, loss = torch.randn(2, 3, n, generator=g, dtype=torch.float64)
        entropy = torch.tensor([[1.0], [5.0], [2.6]]) + 0.01 * entropy
        nats = 10 * (2 * entropy + 0.3 * loss)
        low, high, point = (
            FrontierPoint("p", "random", 2, 1.0, e, nat, lengths) for e, nat in zip(entropy, nats, strict=True)
        )
        called += place(point, [low, high], sigmas=sigmas).verdict in ("gain", "worse")
    chance = math.erfc(sigmas / math.sqrt(2))
    assert abs(called / trials - chance) < SIGMAS * math.sqrt(chance * (1 - chance) / trials)


def test_the_report_does_not_call_the_cheat_a_gain(base):
    """The planted cheat and an oracle side by side, as a report says it."""
    points = [*base, sampled(0.7, name="cheat", first=10_000), sampled(1.0, OracleEnergy(LANGUAGE), "oracle")]
    placed = placements(points, sigmas=3.0)
    cheat, oracle = placed[-2:]
    assert cheat["verdict"] == "on" and cheat["said"] == COLDER and oracle["verdict"] == "gain"
    of_cheat, of_oracle = judged_at_equal_entropy(placed)
    assert "equal entropy: colder, not better (" in of_cheat and "equal entropy: better (" in of_oracle
