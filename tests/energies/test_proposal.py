"""Categorical draws in float64, candidates, importance weights: method.md, section 5, items 10 and 11."""

import math

import pytest
import torch

from edlm import EnergySampler, FunctionDenoiser
from edlm.diffusion.slots import Slots
from edlm.energies.decision import Step
from edlm.energies.exact import draw_tokens
from edlm.energies.proposal import Proposal, draw_candidates, draw_categorical, make_decision
from edlm.sampler.reweighting import effective_sample_size, log_share_of_data, log_weights
from tests.chance import SIGMAS, assert_law


def zipf(vocab_size=50_000):
    return -(torch.arange(1, vocab_size + 1, dtype=torch.float64)).log()


def float32_draw(log_probs, uniforms):
    """What item 11 forbids."""
    cdf = log_probs.float().exp().cumsum(-1)
    return torch.searchsorted(cdf, uniforms.float() * cdf[:, -1:], right=True).clamp(max=log_probs.shape[1] - 1)


def probes(log_probs):
    """Uniforms a hundredth of a cell inside both ends of every cell of a law, and the tokens they stand for."""
    p = log_probs.softmax(-1)
    upper = p.cumsum(-1)
    uniforms = torch.cat([upper - 0.99 * p, upper - 0.01 * p])
    return uniforms[None], torch.arange(len(p)).repeat(2)[None]


def test_item_11_every_cell_of_a_zipf_law_is_hit():
    log_probs = zipf().log_softmax(-1)
    uniforms, tokens = probes(log_probs)
    assert torch.equal(draw_categorical(log_probs[None], uniforms), tokens)
    assert (float32_draw(log_probs[None], uniforms) != tokens).sum() > 1000  # so float32 would be seen


@pytest.mark.parametrize("rows", [1, 200])  # in one level, and in runs
def test_item_11_a_tail_beyond_single_precision_is_drawn(rows):
    law = torch.cat([torch.ones(1), torch.full((999,), 1e-9)]).double()
    middles = (law.cumsum(0) - law / 2) / law.sum()
    tail = torch.arange(100, 1000, 100)
    tokens = draw_categorical(law.float().log().expand(rows, -1), middles[tail][None, :3].expand(rows, -1))
    assert torch.equal(tokens, tail[:3].expand(rows, -1))


def test_item_11_a_thousand_steps_lose_no_entropy():
    """A joint float32 draw of "stay masked" and the token loses 1.3 nats here (arXiv:2409.02908)."""
    law = zipf().log_softmax(-1)
    denoiser = FunctionDenoiser(lambda x_t, t: law.expand(*x_t.shape, len(law)), len(law), len(law))
    tokens = EnergySampler(denoiser, num_steps=1000).sample(2, 600, seeds=[0, 1]).tokens
    surprise = -law[tokens.flatten()]
    entropy = torch.special.entr(law.exp()).sum()
    error = surprise.std() / len(surprise) ** 0.5
    assert error < 0.1 and (surprise.mean() - entropy).abs() < SIGMAS * error


def test_each_row_draws_from_its_own_law():
    log_probs = torch.tensor([[0.5, 0.3, 0.2], [0.05, 0.15, 0.8]], dtype=torch.float64).log()
    uniforms = torch.rand(2, 50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = draw_categorical(log_probs, uniforms)
    assert drawn.shape == (2, 50_000) and drawn.dtype == torch.int64
    for row, law in zip(drawn, log_probs.exp(), strict=True):
        assert_law(torch.bincount(row, minlength=3), law)
    assert torch.equal(draw_categorical(log_probs[1:], uniforms[1:]), drawn[1:])


@pytest.mark.parametrize("shift", [300.0, -300.0, 1e4])
def test_item_10_a_constant_on_the_logits_changes_nothing(shift):
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uniforms = torch.rand(4, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(draw_categorical(logits + shift, uniforms), draw_categorical(logits, uniforms))


@pytest.mark.parametrize("run", [1, 2, 3, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_levels_draw_the_tokens_of_one(run, dtype, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 13, generator=generator, dtype=torch.float64).to(dtype)
    logits[0, 3:9] = -torch.inf
    uniforms = torch.rand(4, 500, generator=generator, dtype=torch.float64)
    uniforms[:, :3] = torch.tensor([0.0, 1e-300, 1 - 2**-53])
    one_level = draw_categorical(logits, uniforms)
    monkeypatch.setattr("edlm.energies.proposal._runs_pay", lambda *sizes: True)
    monkeypatch.setattr("edlm.energies.proposal._RUN", run)
    assert torch.equal(draw_categorical(logits, uniforms), one_level)


@pytest.mark.parametrize("in_runs", [True, False])
def test_item_10_impossible_tokens_are_never_drawn_at_the_edges_either(in_runs, monkeypatch):
    monkeypatch.setattr("edlm.energies.proposal._runs_pay", lambda *sizes: in_runs)
    monkeypatch.setattr("edlm.energies.proposal._RUN", 2)
    edges = torch.tensor([[0.0, 5e-324, 1e-300, 0.5, 1 - 2**-53]], dtype=torch.float64)
    inf = torch.inf
    for logits, possible in (
        ([-inf, 0.0, -inf], {1}),
        ([-inf, 0.0, -inf, 1.0, -inf], {1, 3}),
        ([0.0, -inf], {0}),
        ([-inf, -inf, -50.0], {2}),
    ):
        for dtype in (torch.float32, torch.float64):
            drawn = draw_categorical(torch.tensor([logits], dtype=dtype), edges)[0].tolist()
            assert set(drawn) == possible


@pytest.mark.parametrize("entries", [1, 8, 2**22])
def test_parts_of_the_slots_are_drawn_as_all_at_once(entries, monkeypatch):
    monkeypatch.setattr("edlm.memory._ENTRIES_OF_CPU", entries)
    table = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = FunctionDenoiser(lambda x_t, t: table[: len(x_t)], 4, 4)
    x_t = torch.full((3, 5), 4)
    slots = Slots.where(torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) < 0.7)
    step = Step(denoiser, x_t, torch.ones(3), denoiser.encode(x_t, torch.rand(3)), slots)
    uniforms = torch.rand(len(slots), 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    proposal, law = Proposal(temperature=0.5, top_k=3), slots.gather(table).log_softmax(-1)
    draws = draw_candidates(step, slots, proposal, uniforms)
    assert torch.equal(draws.tokens, draw_categorical(proposal(law), uniforms))
    torch.testing.assert_close(draws.log_p, law.gather(1, draws.tokens))
    torch.testing.assert_close(draws.log_q, proposal(law).gather(1, draws.tokens))
    tokens, (likeliest, shares) = draw_tokens(step, slots, proposal, uniforms[:, :1], 2)
    assert torch.equal(tokens, draws.tokens[:, 0])
    torch.testing.assert_close(shares, proposal(law).exp().gather(1, likeliest))


def test_make_decision_fills_the_slots_and_sums_their_log_probs():
    mask = 9
    x_partial = torch.tensor([[mask, 7, mask, mask], [1, 2, 3, 4], [mask, mask, 5, mask]])
    chosen = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]]).bool()
    slots = Slots.from_ranked(torch.tensor([[2, 1, 0, 3], [0, 1, 2, 3], [0, 3, 2, 1]]), chosen)
    assert slots.positions.tolist() == [2, 0, 3, 1]
    tokens = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 1, 0], [0, 2, 2]])
    log_probs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = x_partial.clone()
    decision = make_decision(Step(None, x_partial, None, None, slots), slots, x_partial, log_probs, tokens)
    assert decision.num_candidates == 3
    assert decision.candidates.tolist() == [
        [[2, 7, 0, mask], [0, 7, 1, mask], [1, 7, 2, mask]],
        [[1, 2, 3, 4]] * 3,
        [[mask, 0, 5, 1], [mask, 2, 5, 1], [mask, 2, 5, 0]],
    ]
    p = log_probs
    expected = torch.stack([p[0, [0, 1, 2]] + p[1, [2, 0, 1]], torch.zeros(3), p[2, [1, 1, 0]] + p[3, [0, 2, 2]]])
    assert decision.log_proposal.dtype == torch.float64
    torch.testing.assert_close(decision.log_proposal, expected, check_dtype=False)
    assert torch.equal(x_partial, before)


# Importance weights, against plain arithmetic

INF = math.inf


def table(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_low_energy_is_plausible():
    assert log_weights(torch.tensor([1.0, -2.0, INF])).tolist() == [-1.0, 2.0, -INF]
    assert log_weights(torch.tensor([1.0, -2.0, INF]), 0.5).tolist() == [-2.0, 4.0, -INF]
    assert log_weights(torch.tensor([1.0], dtype=torch.float16)).dtype == torch.float64


@pytest.mark.parametrize("bad", [math.nan, -INF])
def test_energies_must_be_finite_or_plus_infinity(bad):
    with pytest.raises(ValueError, match=rf"an energy must be finite or \+inf, got {bad}"):
        log_weights(table([0.0, bad]))


def test_effective_sample_size_is_that_of_the_definition():
    w = table([1.0, 1, 1, 1], [1, 0, 0, 0], [3, 1, 0, 0], [0.2, 0.4, 0.1, 0.9])
    expected = [4.0, 1.0, 16 / 10, 1.6**2 / (0.04 + 0.16 + 0.01 + 0.81)]
    assert effective_sample_size(w.log()).tolist() == pytest.approx(expected)
    assert effective_sample_size(w.log() + table([900.0], [-900.0], [0], [1e4])).tolist() == pytest.approx(expected)


def test_share_of_several_draws_is_the_log_mean_over_circular_windows():
    w = table([1.0, 0.2, 0.5, 0.3, 0.1, 0.7], [0.0, 0.4, 0.0, 0.0, 0.9, 0.1], [0.0, 0.0, 0.5, 0.3, 0.1, 0.7])
    for k, num_data in ((3, 2), (4, 2), (2, 1), (5, 2), (6, 1)):
        expected = []
        for row in w.tolist():
            data, others = row[:num_data], row[num_data:]
            windows = [[others[(o + j) % len(others)] for j in range(k - 1)] for o in range(len(others))]
            shares = [k * d / (d + sum(window)) if d else 0.0 for d in data for window in windows]
            mean = sum(shares) / len(shares)
            expected.append(math.log(mean) if mean else -INF)
        assert log_share_of_data(w.log(), k, num_data).tolist() == pytest.approx(expected, abs=1e-12)


def test_share_of_data_is_log_k_plus_log_softmax():
    w = table([1.0, 1, 1], [0.7, 0.2, 0.05], [0, 1, 2], [5, 0, 0], [0, 0, 0])
    expected = [0.0, math.log(3 * 0.7 / 0.95), -INF, math.log(3), -INF]
    assert log_share_of_data(w.log()).tolist() == pytest.approx(expected, abs=1e-12)
    assert log_share_of_data(w.log()[:4] - 1e5).tolist() == pytest.approx(expected[:4], abs=1e-9)
