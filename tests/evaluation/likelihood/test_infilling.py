import math

import pytest
import torch

from edlm import EnergySampler, FunctionDenoiser
from edlm.evaluation import estimate_bound
from edlm.evaluation.likelihood.bounds import estimate_bounds
from edlm.evaluation.likelihood.infilling import measure_infilling, middle_third


def knowing(truth: torch.Tensor, p: float) -> FunctionDenoiser:
    """Gives the true token of four at a position probability p, whatever the rest."""

    def f(x_t, t):
        log_probs = torch.full((*x_t.shape, 4), math.log((1 - p) / 3))
        return log_probs.scatter(2, truth[: len(x_t), :, None], math.log(p))

    return FunctionDenoiser(f, mask_token_id=4, vocab_size=4)


@pytest.fixture
def x_0() -> torch.Tensor:
    return torch.arange(9).remainder(4).expand(400, 9).contiguous()


def test_bound_gain_and_recovery_are_those_of_the_span(x_0):
    samplers = {
        "guessing": EnergySampler(knowing(x_0, 0.25), num_steps=2, order="dilated"),
        "knowing": EnergySampler(knowing(x_0, 0.8), num_steps=2, order="dilated"),
    }
    guessing, knows = (measure_infilling({name: s}, x_0, batch_size=64)[0] for name, s in samplers.items())
    assert guessing.gain is None and knows.name == "knowing" and knows.bound.n == 400
    assert guessing.bound.value == pytest.approx(math.log(4)) and knows.bound.value == pytest.approx(-math.log(0.8))
    # Three tokens of nine are masked: a span is recovered with probability 0.8^3.
    assert knows.spans.value == pytest.approx(0.512, abs=4 * math.sqrt(0.25 / 400))
    assert knows.tokens.value == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 1200))
    assert guessing.spans.value == pytest.approx(1 / 64, abs=0.03)


def test_gains_are_paired_over_the_first(x_0):
    denoiser = knowing(x_0, 0.6)
    samplers = {k: EnergySampler(denoiser, num_steps=steps, order="random") for k, steps in (("a", 2), ("b", 2))}
    first, second = measure_infilling(samplers, x_0[:8])
    assert second.gain == (0.0, 0.0, 8)
    record = second.as_record()
    assert record["n"] == 8 and record["gain_nats_per_token"] == 0 and first.as_record()["gain_stderr"] is None


def test_what_is_given_is_not_counted(x_0):
    gap = middle_third(x_0)
    assert gap[0].tolist() == [False] * 3 + [True] * 3 + [False] * 3
    sampler = EnergySampler(knowing(x_0, 0.5), num_steps=3, order="dilated")
    of_gap = estimate_bounds([sampler], x_0[:4], given=~gap[:4])[0]
    assert of_gap.length == 3 and of_gap.nats_per_token.value == pytest.approx(math.log(2))
    assert estimate_bound(sampler, x_0[:4]).length == 9
    ragged = gap[:4].clone()
    ragged[0, 0] = True
    with pytest.raises(ValueError, match=r"as many tokens to predict in each row, got \[3, 4\]"):
        estimate_bounds([sampler], x_0[:4], given=~ragged)
