"""Tempered and truncated proposals: the law and the bound of the very sampler, by enumeration."""

import math
from dataclasses import replace

import pytest
import torch

from edlm import AutoregressiveEnergy, CallableEnergy, EnergySampler
from edlm.corpus.languages import MarkovChain
from edlm.energies import OracleEnergy, WeightedSum
from edlm.sampler import Proposal
from tests.chance import assert_law, assert_mean
from tests.enumerable import random_causal_lm
from tests.sampler.brute_force import MASK, NOTHING, POWERS, SEQUENCES, BruteForce, Options, World, count
from tests.sampler.test_bound import DETERMINISTIC, draws
from tests.sampler.test_law import PROMPT, draw, sampler

WORLD = World()
SOFT = {"temperature": 0.7, "top_k": 2, "top_p": 0.8}
RIGHT = {**SOFT, "correct_proposal": True}
OPTIONS = [
    Options(num_candidates=1, order="left_to_right", **SOFT),
    Options(num_candidates=1, temperature=0.7),
    Options(num_candidates=1, temperature=1.6, top_p=0.8),
    Options(num_candidates=2, top_k=2),
    Options(num_candidates=2, order="dilated", **SOFT),
    Options(num_candidates=2, temperature=0.7, correct_proposal=True),
    Options(num_candidates=2, order="left_to_right", **RIGHT),
    Options(num_candidates=2, scope="sequence", order="left_to_right", **SOFT),
    Options(num_candidates=2, scope="sequence", **RIGHT),
    Options(num_candidates=2, scope="sequence", order="dilated", **RIGHT),
    Options(num_candidates=3, group_size=1, num_steps=1, order="confidence", **RIGHT),
    Options(num_candidates=3, order="ancestral", weight_temperature=0.5, temperature=0.7, correct_proposal=True),
    Options(num_candidates=2, window=(0.6, 1.0), order="confidence", **RIGHT),
    Options(num_candidates=None, order="dilated", **SOFT),
    Options(num_candidates=None, num_steps=1, order="left_to_right", **SOFT),
    Options(num_candidates=None, window=(0.6, 1.0), order="confidence", **SOFT),
    Options(num_candidates=None, temperature=1.5, order="dilated"),
]
CHAIN = MarkovChain([[0.5, 0.3, 0.2], [0.1, 0.05, 0.85], [0.7, 0.25, 0.05]], [0.2, 0.5, 0.3])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_law_is_that_of_the_enumerated_sampler(options, bulk_streams):
    law = BruteForce(WORLD, options).law()
    assert_law(count(draw(sampler(options)).tokens), law)
    plain = Options(**{**options.__dict__, "temperature": 1.0, "top_p": 1.0, "top_k": None, "correct_proposal": False})
    assert (law - BruteForce(WORLD, plain).law()).abs().sum() > 0.05  # the proposal has its say


@pytest.mark.parametrize("options", OPTIONS[4::3], ids=str)
def test_law_given_a_prompt(options, bulk_streams):
    assert_law(count(draw(sampler(options), PROMPT).tokens), BruteForce(WORLD, options, start=PROMPT).law())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bound_is_the_enumerated_one_and_infinite_outside_the_nucleus(options, bulk_streams):
    brute = BruteForce(WORLD, options)
    bound = torch.tensor([brute.bound(x) for x in SEQUENCES], dtype=torch.float64)
    estimates, finite = draws(sampler(options), 2000), torch.isfinite(bound)
    assert finite.any() or options.order == "random"  # where each sequence is ruled out in one of the orders
    if finite.any():
        assert_mean(estimates[:, finite], bound[finite])
    law = brute.law()
    excess = (bound + law.log())[finite]
    assert (excess > -1e-9).all() and (law[finite] > 0).all()
    latent = options.order not in DETERMINISTIC
    assert torch.isinf(estimates[:, ~finite]).any(0).all() if latent else torch.isinf(estimates[:, ~finite]).all()
    if not latent and options.num_candidates in (1, None):
        torch.testing.assert_close(estimates[0], -law.log(), rtol=0, atol=1e-6)
    if options.top_k == 2:
        assert (~finite).any()


@pytest.mark.parametrize("scope", ["step", "sequence"])
def test_corrected_weights_target_p_theta_and_others_the_proposal(scope, bulk_streams):
    """One step and 64 candidates: ``p_theta exp(-E)`` against ``q' exp(-E)``, and the reverse."""
    rows, options = 40_000, {"num_steps": 1, "num_candidates": 64, "scope": scope, "temperature": 1.8}
    of_tokens = CallableEnergy(lambda candidates, x, log_p: WORLD.scores[(candidates * POWERS).sum(-1)])
    p = BruteForce(WORLD, Options(num_steps=1), base=True).law()
    q = BruteForce(WORLD, Options(num_steps=1, temperature=1.8), base=True).law()
    w = torch.tensor([math.exp(-WORLD.scores[16 * a + 4 * b + c]) for a, b, c in SEQUENCES], dtype=torch.float64)
    targets = {True: p * w / (p * w).sum(), False: q * w / (q * w).sum()}
    for correct in (True, False):
        drawn = draw(EnergySampler(WORLD.denoiser(), of_tokens, correct_proposal=correct, **options), rows=rows).tokens
        law = count(drawn) / rows
        near, far = ((law - targets[which]).abs().sum() / 2 for which in (correct, not correct))
        assert near < 0.06 < 0.12 < far


def test_shares_of_the_proposal():
    """What holds ``log q'`` itself is right as it is."""
    oracle, plain = OracleEnergy(CHAIN), WORLD.energy()
    assert (oracle.proposal_share, plain.proposal_share, WORLD.head().proposal_share) == (1, 0, 0)
    assert AutoregressiveEnergy(random_causal_lm(), bos_token_id=0).proposal_share == 1
    assert WeightedSum([(0.25, oracle), (0.5, oracle), (3.0, plain)]).proposal_share == 0.75
    s = EnergySampler(WORLD.denoiser(), oracle, num_steps=2, num_candidates=4, order="random", **SOFT)
    assert torch.equal(draw(s, rows=300).tokens, draw(replace(s, correct_proposal=True), rows=300).tokens)


@pytest.mark.parametrize("form", [{}, {"scope": "sequence"}, {"group_size": 1}, {"num_candidates": None}], ids=str)
def test_the_default_proposal_is_no_proposal(form):
    options = Options(**{"num_candidates": 3, **form})
    plain = draw(sampler(options), rows=50).tokens
    if options.num_candidates is not None:  # nothing to correct
        assert torch.equal(draw(sampler(options, correct_proposal=True), rows=50).tokens, plain)
    log_probs = torch.randn(4, 5).log_softmax(-1)
    assert Proposal()(log_probs) is log_probs
    assert not torch.equal(draw(sampler(options, temperature=0.5), rows=50).tokens, plain)


def test_one_token_left_is_greedy_and_ties_go_to_the_lowest():
    greedy = draw(sampler(Options(top_k=1)), rows=30).tokens
    assert torch.equal(draw(sampler(Options(top_p=1e-9)), rows=30).tokens, greedy)
    equal = torch.full((2, 5), 0.2, dtype=torch.float64).log()
    assert Proposal(top_k=2)(equal).exp().tolist() == [[0.5, 0.5, 0, 0, 0]] * 2
    for row in Proposal(top_p=0.5)(equal).exp().tolist():
        assert row == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])
    impossible = torch.tensor([[-math.inf, 0.3, 0.7]]).log_softmax(-1)
    for proposal in (Proposal(temperature=100.0), Proposal(top_k=3), Proposal(top_p=0.999)):
        q = proposal(impossible).exp()
        assert q[0, 0] == 0 and q.sum().item() == pytest.approx(1)
    assert Proposal(top_k=50)(equal).exp().sum(-1).tolist() == pytest.approx([1, 1])


def test_the_nucleus_is_the_least_that_holds_its_mass():
    log_probs = torch.tensor([[0.1, 0.5, 0.15, 0.25]], dtype=torch.float64).log()
    for top_p, kept in ((0.4, [1]), (0.5, [1]), (0.51, [1, 3]), (0.76, [1, 2, 3]), (0.95, [0, 1, 2, 3])):
        assert Proposal(top_p=top_p)(log_probs)[0].isfinite().nonzero()[:, 0].tolist() == kept
    # top_k comes first: of the two left, the larger holds two thirds.
    assert Proposal(top_p=0.6, top_k=2)(log_probs)[0].isfinite().nonzero()[:, 0].tolist() == [1]


def test_the_brute_force_knows_a_tempered_token_by_hand():
    options = Options(num_steps=1, num_candidates=1, **SOFT)
    p = WORLD.marginals((MASK, 0, 1), 1.0)[0]
    q = [x ** (1 / 0.7) for x in p]
    first, second = sorted(range(3), key=lambda v: -q[v])[:2]
    share = q[first] / (q[first] + q[second])
    expected = [1.0, 0.0] if share >= 0.8 else [share, 1 - share]
    law = BruteForce(WORLD, options, start=(MASK, 0, 1)).law()
    assert [law[SEQUENCES.index((v, 0, 1))].item() for v in (first, second)] == pytest.approx(expected, rel=1e-6)
    assert NOTHING == (MASK,) * 3
