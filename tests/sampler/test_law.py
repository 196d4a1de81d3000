"""The law of the samples against the sum over all candidates and reveal sets: method.md, section 5, items 1 and 2."""

import itertools
import math

import pytest
import torch

from edlm import CallableEnergy, EnergySampler
from tests.chance import assert_law
from tests.sampler.brute_force import MASK, NOTHING, SEQUENCES, BruteForce, Options, World, count, write

WORLD = World()
ROWS = 100_000
OPTIONS = [
    Options(num_candidates=1),
    Options(num_candidates=2),
    Options(num_candidates=3, num_steps=1),
    Options(num_candidates=3, num_steps=3),
    Options(num_candidates=3, weight_temperature=0.5),
    Options(num_candidates=2, weight_temperature=3.0, order="left_to_right"),
    Options(num_candidates=2, group_size=1),
    Options(num_candidates=3, group_size=2, num_steps=1),
    Options(num_candidates=3, group_size=1, num_steps=1, order="dilated"),
    Options(num_candidates=2, scope="sequence"),
    Options(num_candidates=3, scope="sequence", order="left_to_right"),
    Options(num_candidates=3, scope="sequence", order="ancestral", num_steps=3),
    Options(num_candidates=2, order="ancestral"),
    Options(num_candidates=3, order="ancestral", schedule="cosine", num_steps=3),
    Options(num_candidates=2, order="ancestral", schedule="polynomial", group_size=1),
    Options(num_candidates=3, order="dilated", num_steps=2),
    Options(num_candidates=3, order="dilated", num_steps=4),
    Options(num_candidates=3, order="confidence"),
    Options(num_candidates=2, order="confidence", scope="sequence", num_steps=3),
    Options(num_candidates=2, order="confidence", group_size=1, num_steps=1),
    Options(num_candidates=3, order="entropy_bounded(0.7)", num_steps=3),
    Options(num_candidates=2, order="entropy_bounded(0.9)", num_steps=3, scope="sequence"),
    Options(num_candidates=2, order="confidence_threshold(0.5)", num_steps=3, group_size=1),
    Options(num_candidates=None, order="entropy_bounded(0.8)", num_steps=2),
    Options(num_candidates=3, window=(0.5, 1.0), num_steps=3),
    Options(num_candidates=3, window=(0.0, 0.5), num_steps=2, scope="sequence"),
    Options(num_candidates=None),
    Options(num_candidates=None, num_steps=1, order="left_to_right"),
    Options(num_candidates=None, order="ancestral", num_steps=3),
    Options(num_candidates=None, window=(0.6, 1.0), order="confidence"),
]
PROMPT = (MASK, 2, MASK)


def sampler(options, energy=None, **changes):
    if energy is None:
        energy = WORLD.head() if options.num_candidates is None else WORLD.energy()
    return EnergySampler(WORLD.denoiser(), energy, **{**options.sampler_options(), **changes})


def draw(sampler, start=NOTHING, rows=ROWS):
    return sampler.fill(torch.tensor([start]).repeat(rows, 1), seeds=range(rows))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_law_is_that_of_the_enumerated_sampler(options, bulk_streams):
    law = BruteForce(WORLD, options).law()
    assert_law(count(draw(sampler(options)).tokens), law)
    base = BruteForce(WORLD, options, base=True).law()
    if options.num_candidates != 1:
        assert (law - base).abs().sum() > 0.1  # the energy has its say


@pytest.mark.parametrize("options", OPTIONS[::4], ids=str)
def test_law_given_a_prompt(options, bulk_streams):
    tokens = draw(sampler(options), PROMPT, 50_000).tokens
    assert_law(count(tokens), BruteForce(WORLD, options, start=PROMPT).law())


@pytest.mark.parametrize("options", OPTIONS[1::6], ids=str)
def test_law_of_the_rows_own_streams(options):
    assert_law(count(draw(sampler(options), rows=4000).tokens), BruteForce(WORLD, options).law())


@pytest.mark.parametrize("options", OPTIONS[1:22:2], ids=str)
def test_item_1_a_constant_energy_gives_the_base_law(options, bulk_streams):
    constant = CallableEnergy(lambda candidates, x, log_p: torch.full_like(log_p, 7.25))
    output = draw(sampler(options, constant))
    assert_law(count(output.tokens), BruteForce(WORLD, options, base=True).law())
    if options.window == (0.0, 1.0):
        assert all(
            (step.ess - options.num_candidates).abs().max() < 1e-9 for step in output.steps if step.denoiser_calls
        )


@pytest.mark.parametrize("scope", ["step", "sequence"])
def test_item_2_the_law_tends_to_p_theta_exp_minus_e_over_z(scope, bulk_streams):
    brute = BruteForce(WORLD, Options(num_steps=1, num_candidates=2, scope=scope))
    _, p, w = brute._candidates(NOTHING, 0, NOTHING, (0, 1, 2))
    p, w = torch.tensor(p), torch.tensor(w)
    z = (p * w).sum()
    target, flipped = p * w / z, (p / w) / (p / w).sum()

    def distance(law):
        return 0.5 * (law - target).abs().sum().item()

    enumerated = [
        distance(BruteForce(WORLD, Options(num_steps=1, num_candidates=k, scope=scope)).law()) for k in (1, 2, 3)
    ]
    k, rows = 64, 40_000
    # By Jensen P_k(x) >= target(x) k Z / (w(x) + (k - 1) Z), which bounds the distance of P_k from the target.
    bias = (target * (1 - k * z / (w + (k - 1) * z)).clamp(min=0)).sum().item()
    # Mean of the empirical distance, and McDiarmid's bound on its excess.
    noise = 0.5 * math.sqrt(27 / rows) + math.sqrt(math.log(1e9) / (2 * rows))
    law = count(draw(sampler(Options(num_steps=1, num_candidates=k, scope=scope)), rows=rows).tokens) / rows
    assert distance(law) < bias + noise < enumerated[2] < enumerated[1] < enumerated[0] < distance(flipped)
    assert bias + noise < 0.1


def test_the_brute_force_knows_the_base_by_hand():
    """One sequence of one order, multiplied out."""
    options = Options(num_steps=3, order="left_to_right")
    x = (2, 0, 1)
    p = [
        WORLD.marginals((3, 3, 3), 1.0)[0, 2],
        WORLD.marginals((2, 3, 3), 2 / 3)[1, 0],
        WORLD.marginals((2, 0, 3), 1 / 3)[2, 1],
    ]
    assert BruteForce(WORLD, options).law()[SEQUENCES.index(x)].item() == pytest.approx(math.prod(p), rel=1e-6)


def test_the_brute_force_knows_a_pair_by_hand():
    """Two candidates of one token, multiplied out."""
    options = Options(num_steps=1, num_candidates=2)
    brute = BruteForce(WORLD, options, start=(3, 0, 1))
    p = WORLD.marginals((3, 0, 1), 1.0)[0]
    w = [math.exp(-WORLD.energy_of((v, 0, 1), (3, 0, 1), math.log(p[v]))) for v in range(3)]
    expected = sum(2 * p[0] * p[v] * w[0] / (w[0] + w[v]) for v in range(3))
    assert brute.law()[SEQUENCES.index((0, 0, 1))].item() == pytest.approx(expected, rel=1e-9)


# Rounds: tokens of one are independent given the rounds before

ROUNDS_WORLD = World(seed=4)
#  Rounds of the positions of one step, left to right: ceil(3 / size) rounds, each takes every so many-th.
ROUNDS = {1: [(0,), (1,), (2,)], 2: [(0, 2), (1,)], 3: [(0, 1, 2)], 7: [(0, 1, 2)]}


def rounds_sampler(size: int | None, **changes) -> EnergySampler:
    options = {"num_steps": 1, "order": "left_to_right", "num_candidates": None, "group_size": size, **changes}
    return EnergySampler(ROUNDS_WORLD.denoiser(), ROUNDS_WORLD.head(), **options)


def law_of_rounds(size: int) -> dict[tuple[int, ...], float]:
    """By hand: the head's law of each token given what the rounds before it wrote."""
    laws = {}
    for x in SEQUENCES:
        partial, p = NOTHING, 1.0
        for positions in ROUNDS[size]:
            for position in positions:
                p *= ROUNDS_WORLD.conditional(NOTHING, 1.0, partial, position)[x[position]]
            partial = write(partial, positions, tuple(x[position] for position in positions))
        laws[x] = p
    return laws


@pytest.mark.parametrize("size", ROUNDS)
def test_the_bound_is_the_exact_law_of_the_rounds(size):
    expected = law_of_rounds(size)
    assert sum(expected.values()) == pytest.approx(1)
    nats = rounds_sampler(size).likelihood_bound(torch.tensor(SEQUENCES), seeds=range(27))
    assert nats.tolist() == pytest.approx([-math.log(expected[x]) for x in SEQUENCES])


@pytest.mark.parametrize("size", ROUNDS)
def test_samples_follow_the_law_of_the_rounds(size, bulk_streams):
    drawn = rounds_sampler(size).fill(torch.tensor([NOTHING]).repeat(60_000, 1), seeds=range(60_000))
    assert_law(count(drawn.tokens), torch.tensor([law_of_rounds(size)[x] for x in SEQUENCES]))


def test_sizes_of_rounds_differ_where_tokens_depend_on_each_other():
    laws = [torch.tensor(list(law_of_rounds(size).values())) for size in (1, 2, 3)]
    for one, other in itertools.combinations(laws, 2):
        assert (one - other).abs().sum() > 0.05


def test_no_group_size_means_rounds_of_one():
    x_0 = torch.tensor(SEQUENCES)
    options = {"num_steps": 2, "order": "random"}
    one, none = (rounds_sampler(size, **options).likelihood_bound(x_0, seeds=range(27)) for size in (1, None))
    assert torch.equal(one, none)
