"""Markov and chain heads in the sampler: one law for draws and likelihood in every order, and the options that fit."""

import itertools
import math

import pytest
import torch

from edlm import EnergySampler, rerank_step
from edlm.diffusion.slots import Slots
from edlm.energies import ChainHead, MarkovHead, Step
from edlm.sampler import RerankLogits
from edlm.sampler.bounds import likelihood_bounds
from tests.chance import assert_law
from tests.energies.heads import MASK, disturbed_head, modernbert, ranked, step_on
from tests.energies.test_neighbour_heads import disturbed

HEADS = pytest.mark.parametrize("kind", [MarkovHead, ChainHead])
LENGTH = 4
SEQUENCES = torch.cartesian_prod(*[torch.arange(MASK)] * LENGTH)
FIXED = [
    {"order": "bisecting", "num_steps": 2},
    {"order": "dilated", "num_steps": 2},
    {"order": "left_to_right", "num_steps": 2},
    {"order": "left_to_right", "num_steps": 1, "temperature": 0.7, "top_k": 3},
    {"order": "confidence", "num_steps": 2},
    {"order": "confidence", "num_steps": 1, "block_length": 2},
    {"order": "bisecting", "num_steps": 2, "window": (0.0, 0.5)},
]


@pytest.fixture(scope="module")
def denoiser():
    return modernbert()


@pytest.fixture(scope="module")
def heads(denoiser):
    """Of a denoiser in double precision, so that nothing depends on the batch."""
    return {kind: disturbed(kind, denoiser.double(), num_likeliest=2) for kind in (MarkovHead, ChainHead)}


def all_nats(sampler, seed=0):
    return sampler.likelihood_bound(SEQUENCES, seeds=[seed] * len(SEQUENCES))


@HEADS
@pytest.mark.parametrize("options", FIXED, ids=str)
def test_draws_follow_the_likelihood(kind, options, heads, denoiser, bulk_streams):
    sampler = EnergySampler(denoiser, heads[kind], num_candidates=None, **options)
    nats = all_nats(sampler)
    law = (-nats).exp()
    assert sampler.bound_is_exact and abs(law.sum().item() - 1) < 1e-9
    assert (law - (-all_nats(EnergySampler(denoiser, **options))).exp()).abs().sum() > 0.05
    tokens = sampler.sample(8000, LENGTH, seeds=range(8000)).tokens
    assert_law(torch.bincount((tokens * torch.tensor([64, 16, 4, 1])).sum(1), minlength=256), law)


@HEADS
@pytest.mark.parametrize("order", ["random", "ancestral"])
def test_given_a_random_order_it_is_a_law_too(kind, order, heads, denoiser):
    sampler = EnergySampler(denoiser, heads[kind], num_steps=2, order=order, num_candidates=None)
    totals = [(-all_nats(sampler, seed)).exp().sum().item() for seed in range(4)]
    assert totals == pytest.approx([1] * 4, abs=1e-9) and not sampler.bound_is_exact


@HEADS
def test_one_step_is_the_head_s_law_and_its_order_does_not_matter(kind, heads, denoiser):
    """The reveal order ranks the slots; the head reads them from left to right."""
    x_t = torch.full((1, LENGTH), MASK)
    step = step_on(denoiser, x_t, ranked((2, 0, 3, 1)))
    expected = [-heads[kind].log_prob(step, row[[2, 0, 3, 1]]).item() for row in SEQUENCES[::17]]
    for order in ("random", "bisecting", "confidence", "left_to_right"):
        sampler = EnergySampler(denoiser, heads[kind], num_steps=1, order=order, num_candidates=None)
        assert all_nats(sampler)[::17].tolist() == pytest.approx(expected, abs=1e-9)


@HEADS
def test_rows_depend_on_their_own_seed_alone(kind, heads, denoiser):
    sampler = EnergySampler(denoiser, heads[kind], num_steps=2, order="left_to_right")
    assert sampler.num_candidates is None
    x_t = torch.tensor([[MASK] * 6, [1, MASK, MASK, 2, MASK, MASK], [0, 1, 2, 3, 3, MASK]])
    together = sampler.fill(x_t, seeds=[5, 6, 7]).tokens
    for row in range(3):
        assert torch.equal(sampler.fill(x_t[row : row + 1], seeds=[5 + row]).tokens[0], together[row])
    real = torch.ones_like(x_t).bool()
    real[1, 5:] = False
    padded = sampler.fill(x_t, attention_mask=real, seeds=[5, 6, 7]).tokens
    assert torch.equal(sampler.fill(x_t[1:2, :5], seeds=[6]).tokens[0], padded[1, :5])


@HEADS
def test_before_training_candidates_and_exact_decisions_are_the_base(kind, denoiser):
    head = kind.from_denoiser(denoiser, rank=2, num_likeliest=2).double()
    base = all_nats(EnergySampler(denoiser, num_steps=2))
    for options in ({}, {"num_candidates": 3}, {"num_candidates": 3, "group_size": 1}):
        torch.testing.assert_close(all_nats(EnergySampler(denoiser, head, num_steps=2, **options)), base)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(MarkovHead, {}), (MarkovHead, {"group_size": 2}), (ChainHead, {}), (ChainHead, {"scope": "sequence"})],
)
def test_with_more_candidates_the_bound_tends_to_that_of_exact_decisions(kind, options, heads, denoiser):
    """One step, so that all scopes judge the same tokens; under the head's own law. A flipped sign is far off."""
    common = {"num_steps": 1, "order": "left_to_right"}
    exact = all_nats(EnergySampler(denoiser, heads[kind], num_candidates=None, **common))

    def gap(energy, k: int) -> float:
        sampler = EnergySampler(denoiser, energy, num_candidates=k, **common, **options)
        nats = torch.stack([all_nats(sampler, seed) for seed in range(4)]).mean(0)
        return ((-exact).exp() * (nats - exact)).sum().item()

    assert abs(gap(heads[kind], 200)) < 0.5 * gap(heads[kind], 2) < 0.5 * gap(-heads[kind], 2)


@HEADS
def test_sums_with_a_residual_head_by_candidates(kind, heads, denoiser):
    """``E = (E_1 + E_2) / 2`` of two normalised heads; the weights of a decision are those of the parts."""
    residual = disturbed_head(denoiser, scale=0.2).double()
    mixed = 0.5 * heads[kind] + 0.5 * residual
    assert mixed.reads_hidden and not mixed.is_normalized and mixed.recommended["num_candidates"] == 8
    sampler = EnergySampler(denoiser, mixed, num_steps=2, order="bisecting", num_candidates=4)
    assert sampler.sample(3, LENGTH, seeds=[1, 2, 3]).tokens.max() < MASK
    with pytest.raises(ValueError, match="needs an energy that can be drawn from"):
        EnergySampler(denoiser, mixed, num_steps=2, num_candidates=None)


def test_samplers_of_all_kinds_share_their_passes(heads, denoiser):
    energies = [None, heads[MarkovHead], heads[ChainHead], disturbed_head(denoiser).double()]
    samplers = [EnergySampler(denoiser, energy, num_steps=2, order="confidence") for energy in energies]
    shared = likelihood_bounds(samplers, SEQUENCES[:9], range(9))
    for sampler, nats in zip(samplers, shared, strict=True):
        torch.testing.assert_close(sampler.likelihood_bound(SEQUENCES[:9], seeds=range(9)), nats)


@HEADS
def test_a_form_without_states_serves_another_loop(kind, denoiser):
    """`rerank_step` from log-probabilities alone writes the tokens of the sampler; the logits hook takes candidates."""
    head = disturbed(kind, denoiser, num_likeliest=2, reads_states=False)
    canvas = torch.tensor([[MASK, 2, MASK, MASK], [MASK] * 4])
    log_probs = denoiser.log_probs(canvas)
    expected = EnergySampler(denoiser, head, num_steps=1, order="left_to_right").fill(canvas, seeds=[3, 4]).tokens
    for of_loop in (denoiser, MASK) if head.denoiser_identity is None else (denoiser,):
        tokens, accepted = rerank_step(canvas, log_probs, None, head, of_loop, seeds=[3, 4])
        assert torch.equal(tokens, expected) and torch.equal(accepted, canvas == MASK)
    hook = RerankLogits(denoiser, head, num_candidates=16, seed=0)
    assert hook(canvas, log_probs).argmax(-1).shape == canvas.shape
    with pytest.raises(ValueError, match="reads hidden states"):
        rerank_step(canvas, log_probs, None, disturbed(kind, denoiser), denoiser, seeds=0)


@HEADS
def test_rows_outside_of_the_window_are_drawn_from_logits_alone(kind, denoiser):
    head = disturbed(kind, denoiser, num_likeliest=2, reads_states=False)
    canvas = torch.full((2, 4), MASK)
    options = {"t": torch.tensor([1.0, 0.2]), "window": (0.5, 1.0), "seeds": [3, 4]}
    tokens, _ = rerank_step(canvas, denoiser.log_probs(canvas), None, head, denoiser, **options)
    alone = rerank_step(canvas, denoiser.log_probs(canvas), None, None, denoiser, seeds=[3, 4])[0]
    assert torch.equal(tokens[1], alone[1])


@HEADS
def test_group_size_needs_candidates(kind, heads, denoiser):
    with pytest.raises(ValueError, match=f"group_size needs candidates with a {kind.__name__}.*got 2"):
        EnergySampler(denoiser, heads[kind], num_steps=2, num_candidates=None, group_size=2)


@HEADS
def test_the_trace_shows_the_law_that_each_token_was_drawn_from(kind, heads, denoiser):
    x_t = torch.full((1, LENGTH), MASK)
    step = Step(denoiser, x_t, torch.ones(1), denoiser.encode(x_t, keep_hidden=True), Slots.where(x_t == MASK))
    uniforms = torch.rand(LENGTH, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, (listed, shares) = heads[kind].sample(step, uniforms, num_likeliest=2)
    law = {tuple(row): math.exp(heads[kind].log_prob(step, torch.tensor(row)).item()) for row in SEQUENCES.tolist()}

    def probability(prefix: list[int]) -> float:
        rest = itertools.product(range(MASK), repeat=LENGTH - len(prefix))
        return sum(law[(*prefix, *after)] for after in rest)

    for j in range(LENGTH):
        before = tokens[:j].tolist()
        expected = [probability([*before, v]) / probability(before) for v in listed[j].tolist()]
        if kind is MarkovHead or all(token in listed[i] for i, token in enumerate(before)):
            assert shares[j].tolist() == pytest.approx(expected, abs=1e-9)
