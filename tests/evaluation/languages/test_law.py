"""The exact law of a sampler with finitely many candidates, against loops over candidate tuples; and divergences."""

import itertools
import math

import pytest
import torch

from edlm.corpus.languages import Dyck, HiddenMarkov, MarkovChain
from edlm.evaluation.languages.exact import exact_denoiser, truth_energy
from edlm.evaluation.languages.law import all_sequences, exact_distance, exact_law, log_chosen
from edlm.sampler import EnergySampler
from tests.sampler.brute_force import SEQUENCES, BruteForce, Options, World

CHAIN = MarkovChain([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7], [0.5, 0.0, 0.5]], [0.5, 0.3, 0.2])
HIDDEN = HiddenMarkov([[0.9, 0.1], [0.3, 0.7]], [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [0.6, 0.4])
BRACKETS = Dyck(2, 3)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_law_of_the_chosen_candidate_sums_over_all_tuples(k):
    g = torch.Generator().manual_seed(k)
    log_p = torch.randn(2, 3, generator=g, dtype=torch.float64).log_softmax(1)
    log_w = 3 * torch.randn(2, 3, generator=g, dtype=torch.float64)
    log_w[1, 0] -= 1000  # as good as impossible, but not where all candidates are
    law = log_chosen(log_p, log_w, k).exp()
    for row in range(2):
        expected = torch.zeros(3, dtype=torch.float64)
        for drawn in itertools.product(range(3), repeat=k):
            drawn = torch.tensor(drawn)
            weights = log_w[row, drawn].softmax(0) * log_p[row, drawn].sum().exp()
            expected.index_add_(0, drawn, weights)
        torch.testing.assert_close(law[row], expected, rtol=1e-12, atol=1e-14)


def test_many_candidates_follow_the_weighted_law():
    log_p, log_w = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.0, 1.0, -2.0]])
    law = log_chosen(log_p, log_w, 10**7).exp()
    torch.testing.assert_close(law, (log_p + log_w).softmax(1).double(), rtol=1e-5, atol=1e-6)
    flipped = log_chosen(log_p, -log_w, 10**7).exp()
    assert (law - flipped).abs().max() > 0.3
    with pytest.raises(ValueError, match="weights must be finite"):
        log_chosen(log_p, torch.tensor([[0.0, -math.inf, 0.0]]), 2)


@pytest.mark.parametrize(
    "options",
    [
        Options(num_steps=2, num_candidates=2, order="dilated"),
        Options(num_steps=1, num_candidates=3, order="left_to_right"),
        Options(num_steps=2, num_candidates=4, order="left_to_right", group_size=1, weight_temperature=0.7),
        Options(num_steps=1, num_candidates=3, order="dilated", group_size=2),
        Options(num_steps=2, num_candidates=3, order="confidence", window=(0.5, 1.0)),
        Options(num_steps=2, num_candidates=3, order="dilated", temperature=0.6),
        Options(num_steps=1, num_candidates=2, order="left_to_right", group_size=1, top_k=2, top_p=0.9),
        Options(num_steps=2, num_candidates=1, order="dilated"),
        Options(num_steps=1, num_candidates=None, order="dilated"),
    ],
    ids=str,
)
def test_the_law_is_the_brute_force_one(options):
    world = World(3)
    energy = world.head() if options.num_candidates is None else world.energy()
    sampler = EnergySampler(world.denoiser(), energy, **options.sampler_options())
    expected = BruteForce(world, options).law()
    assert all_sequences(3, 3).tolist() == [list(x) for x in SEQUENCES]
    torch.testing.assert_close(exact_law(sampler, 3).exp(), expected, rtol=1e-6, atol=1e-9)


def sampler_of(language, **options) -> EnergySampler:
    options = {"num_steps": 2, "order": "dilated", "num_candidates": 1, **options}
    return EnergySampler(exact_denoiser(language), truth_energy(language), **options)


@pytest.mark.parametrize(("language", "length"), [(CHAIN, 5), (HIDDEN, 4), (BRACKETS, 6)])
def test_the_divergence_falls_with_more_candidates_and_more_steps(language, length):
    distances = [
        exact_distance(sampler_of(language, num_steps=1, num_candidates=k), language, length) for k in (1, 4, 64)
    ]
    divergences = [distance.kl_from_truth for distance in distances]
    assert divergences[0] > 1.5 * divergences[1] > 3 * divergences[2] > 0
    assert distances[0].total_variation > distances[1].total_variation > distances[2].total_variation
    base = exact_distance(sampler_of(language, num_steps=length, order="left_to_right"), language, length)
    assert base.kl_to_truth == pytest.approx(0, abs=1e-9) and base.kl_from_truth == pytest.approx(0, abs=1e-9)


def test_a_divergence_by_hand_and_the_mass_that_is_ruled_out():
    """All at once from the marginals of two equal bits: the product law, half of it impossible."""
    twins = MarkovChain([[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5])
    distance = exact_distance(sampler_of(twins, num_steps=1), twins, 2)
    assert distance.kl_from_truth == pytest.approx(math.log(2))
    assert (distance.kl_to_truth, distance.invalid, distance.total_variation) == (math.inf, 0.5, 0.5)
    # Two candidates: impossible only if both are, and then by chance one of them is taken.
    distance = exact_distance(sampler_of(twins, num_steps=1, num_candidates=2), twins, 2)
    assert distance.invalid == pytest.approx(0.25)


def test_a_wrong_sign_drives_the_law_away():
    right = sampler_of(CHAIN, num_steps=1, num_candidates=16)
    wrong = EnergySampler(
        exact_denoiser(CHAIN), -1.0 * truth_energy(CHAIN), num_steps=1, num_candidates=16, order="dilated"
    )
    base = exact_distance(sampler_of(CHAIN, num_steps=1), CHAIN, 4).kl_from_truth
    assert exact_distance(right, CHAIN, 4).kl_from_truth < 0.5 * base
    assert exact_distance(wrong, CHAIN, 4).kl_from_truth > 2 * base


def test_the_law_of_blocks_is_that_of_their_steps():
    """This language's marginals do not depend on t: two blocks of one step are two steps from left to right."""
    options = {"order": "left_to_right", "num_candidates": 3}
    blocks = exact_law(sampler_of(CHAIN, num_steps=1, block_length=2, **options), 4)
    torch.testing.assert_close(blocks, exact_law(sampler_of(CHAIN, num_steps=2, **options), 4))
    assert blocks.exp().sum().item() == pytest.approx(1)


def test_samples_follow_the_exact_law():
    sampler = sampler_of(HIDDEN, num_candidates=2)
    law = exact_law(sampler, 3).exp()
    tokens = sampler.sample(20000, 3, generator=torch.Generator().manual_seed(1)).tokens
    counts = torch.bincount((tokens * torch.tensor([9, 3, 1])).sum(1), minlength=27)
    assert 0.5 * (counts / 20000 - law).abs().sum() < 0.025  # about 0.013 for a right one


@pytest.mark.parametrize("language", [CHAIN, BRACKETS])
def test_sampling_continues_uniformly_after_a_ruled_out_row(language):
    mask = language.mask_token_id
    dead = torch.tensor([[0, 2, mask, mask], [1, 2, mask, mask]]) if language is CHAIN else torch.tensor([[2, 4, 4, 4]])
    denoiser = exact_denoiser(language)
    flat = torch.full((4, language.vocab_size), -math.log(language.vocab_size), dtype=torch.float64)
    torch.testing.assert_close(denoiser.f(dead, None)[0], flat, check_dtype=False)
    energy = truth_energy(language)
    candidates = dead[:, None].repeat(1, 3, 1).masked_fill(dead[:, None] == mask, 1)
    energies = energy.f(candidates, dead, torch.zeros(len(dead), 3, dtype=torch.float64))
    assert energies[0].tolist() == [0, 0, 0]
    if language is CHAIN:  # the second row is possible: 1 -> 2, but then 2 -> 1 is not
        assert energies[1].tolist() == [1000, 1000, 1000]


def test_truth_energy_is_log_q_less_the_joint_of_what_is_filled():
    x = torch.tensor([[3, 1, 3]])
    candidates = torch.tensor([[[0, 1, 2], [1, 1, 0], [0, 1, 2]]])
    log_q = torch.tensor([[-1.0, -2.0, -3.0]], dtype=torch.float64)
    expected = log_q - (CHAIN.log_prob(candidates[0]) - CHAIN.log_prob(x))
    torch.testing.assert_close(truth_energy(CHAIN).f(candidates, x, log_q), expected)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"order": "random"}, "fixed order"),
        ({"num_candidates": 2, "scope": "sequence"}, "step scope"),
        ({"num_candidates": 2, "temperature": 0.5, "correct_proposal": True}, "correct_proposal"),
        ({"num_candidates": 2, "order": "entropy_bounded(0.3)"}, "rows whose steps are alike"),
    ],
)
def test_samplers_without_an_exact_law_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        exact_law(sampler_of(CHAIN, **options), 3)
    with pytest.raises(ValueError, match="65536 sequences"):
        exact_law(sampler_of(CHAIN), 11)
