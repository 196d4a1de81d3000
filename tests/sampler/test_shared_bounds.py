"""Bounds of several samplers on shared denoiser passes, and what is estimated of them from a sample of the steps."""

import itertools

import pytest
import torch

from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
from edlm.diffusion.schedule import Cosine, Polynomial
from edlm.sampler.bounds import likelihood_bounds
from edlm.sampler.step import begin_steps
from tests.chance import assert_law, assert_mean
from tests.energies.heads import VOCAB_SIZE, disturbed_head, modernbert
from tests.sampler.brute_force import MASK, SEQUENCES, BruteForce, Options, World

WORLD = World()
X_0 = torch.tensor(SEQUENCES)
ORDERS = ("ancestral", "random", "dilated", "bisecting", "left_to_right", "confidence", "entropy_bounded(0.8)")
FIXED = ORDERS[:-2]  # those that do not wait for the marginals
GIVEN = torch.rand(27, 3, generator=torch.Generator().manual_seed(4)) < 0.35  # everything in two rows


def own_rows() -> CallableEnergy:
    """Judges the rows that decide something."""
    energy = CallableEnergy(
        lambda c, x, log_p: 0.9 * (c == 1).sum(-1) - 0.7 * ((x == MASK).sum(-1)[:, None] * (c[..., 0] == 2))
    )
    energy.needs_every_row = False
    return energy


def different(denoiser, **common) -> list[EnergySampler]:
    """Samplers that differ in all that samplers of shared passes may differ in; the first is the base."""
    energy, head = WORLD.energy(), WORLD.head()
    choices = [
        (None, {}),
        (energy, {"num_candidates": 3}),
        (energy, {"num_candidates": 5, "group_size": 1}),
        (energy, {"num_candidates": 2, "scope": "sequence"}),
        (own_rows(), {"num_candidates": 3, "scope": "sequence"}),
        (energy, {"num_candidates": 5, "window": (0.4, 1.0)}),
        (energy, {"num_candidates": 2, "weight_temperature": 0.5}),
        (own_rows(), {"num_candidates": 3}),
        (head, {"num_candidates": None}),
        (head, {"num_candidates": None, "window": (0.7, 1.0)}),
        (head, {"num_candidates": None, "group_size": 2}),
        (head, {"num_candidates": 3, "group_size": 2}),
    ]
    return [EnergySampler(denoiser, energy, **common, **options) for energy, options in choices]


# Shared passes


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("given", [None, GIVEN], ids=["nothing given", "given"])
def test_a_samplers_bound_is_its_own_whoever_shares_its_passes(order, num_steps, given):
    samplers = different(WORLD.denoiser(), order=order, num_steps=num_steps)
    options = {"given": given, "seeds": [7 * row % 20 for row in range(27)]}
    shared = likelihood_bounds(samplers, X_0, **options)
    for sampler, bound in zip(samplers, shared, strict=True):
        assert bound.dtype == torch.float64 and bound.shape == (27,)
        torch.testing.assert_close(bound, sampler.likelihood_bound(X_0, **options), rtol=0, atol=1e-10)
    if num_steps == 2 and order != "bisecting":  # or the above says little; there groups of two are whole steps
        apart = [(a - b).abs().max().item() for a, b in itertools.combinations(shared, 2)]
        assert min(apart) > 1e-3
    if given is not None:
        assert all((bound[given.all(1)] == 0).all() for bound in shared) and given.all(1).sum() == 2


@pytest.mark.parametrize("order", ORDERS[:-1])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_the_denoiser_is_run_once_a_step_whatever_the_number_of_samplers(order, num_steps):
    calls = []
    function = WORLD.denoiser().f
    denoiser = FunctionDenoiser(lambda x_t, t: calls.append((x_t, t)) or function(x_t, t), MASK, 3)
    samplers = different(denoiser, order=order, num_steps=num_steps)
    for subset in (samplers[:1], samplers[:4], samplers):
        calls.clear()
        likelihood_bounds(subset, X_0, range(27))
        assert [t.unique().tolist() for _, t in calls] == [[pytest.approx(1 - i / num_steps)] for i in range(num_steps)]
    calls.clear()
    likelihood_bounds(samplers, X_0, range(27), given=torch.ones(27, 3, dtype=torch.bool))
    assert not calls


def test_network_runs_once_a_step_whoever_reads_its_states():
    denoiser = modernbert()
    head, choice = disturbed_head(denoiser), disturbed_head(denoiser, form="unnormalized")
    common = {"order": "random", "num_steps": 2}
    samplers = [
        EnergySampler(denoiser, energy, **common, **options)
        for energy, options in [
            (None, {}),
            (head, {"num_candidates": None}),
            (head, {"num_candidates": None, "window": (0.0, 0.5)}),
            (choice, {"num_candidates": 3, "group_size": 2}),
        ]
    ]
    x_0 = torch.randint(VOCAB_SIZE, (5, 6), generator=torch.Generator().manual_seed(2))
    runs = []
    for layer in denoiser.network.model.layers:
        layer.register_forward_hook(lambda layer, *_: runs.append(layer))
    shared = likelihood_bounds(samplers, x_0, range(5))
    assert sorted(runs, key=[*denoiser.network.model.layers].index) == [
        layer for layer in denoiser.network.model.layers for _ in range(2)
    ]
    for sampler, bound in zip(samplers, shared, strict=True):
        torch.testing.assert_close(bound, sampler.likelihood_bound(x_0, seeds=range(5)), rtol=0, atol=1e-5)
    assert min((a - b).abs().max() for a, b in itertools.combinations(shared, 2)) > 0.01


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"order": "dilated"}, r"must have one order, got \['random', 'random', 'dilated'\]"),
        ({"schedule": "cosine"}, r"must have one schedule, got \[LogLinear\(\), LogLinear\(\), Cosine\(\)\]"),
        ({"schedule": Polynomial(3.0)}, r"must have one schedule, got .*Polynomial\(power=3.0\)\]"),
        ({"denoiser": WORLD.denoiser()}, "must have one denoiser, got several"),
    ],
)
def test_samplers_that_can_not_share_their_passes_are_refused(changed, rule):
    common = {"denoiser": WORLD.denoiser(), "order": "random", "num_steps": 2}
    samplers = [EnergySampler(**{**common, **changes}) for changes in ({}, {}, changed)]
    with pytest.raises(ValueError, match=rule):
        likelihood_bounds(samplers, X_0, range(27))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("given", [False, True])
def test_numbers_of_steps_share_the_passes_that_start_from_the_same_tokens(order, given):
    """Of 1, 2, 3 and 4 steps: time 1 is common to all, time 1/2 to two and four steps, in fixed orders."""
    ran = []
    function = WORLD.denoiser().f
    denoiser = FunctionDenoiser(lambda x_t, t: ran.append(x_t) or function(x_t, t), MASK, 3)
    samplers = [s for n in (4, 1, 3, 2) for s in different(denoiser, order=order, num_steps=n)[:6]]
    given_tokens = torch.zeros(27, 3, dtype=torch.bool)
    given_tokens[:, 1] = given
    shared = likelihood_bounds(samplers, X_0, range(27), given=given_tokens)
    together = len(ran)
    ran.clear()
    for sampler, bound in zip(samplers, shared, strict=True):
        own = sampler.likelihood_bound(X_0, seeds=range(27), given=given_tokens)
        torch.testing.assert_close(bound, own, rtol=0, atol=1e-10)
    if order in ("random", "left_to_right", "dilated"):
        assert together < len(ran) // 6


def test_equal_schedules_are_equal_however_they_are_given():
    denoiser, common = WORLD.denoiser(), {"order": "ancestral", "num_steps": 2}
    for schedules in (("polynomial", "polynomial", Polynomial(2.0)), ("cosine", Cosine())):
        bounds = likelihood_bounds(
            [EnergySampler(denoiser, schedule=schedule, **common) for schedule in schedules], X_0, range(27)
        )
        assert all(torch.equal(bound, bounds[0]) for bound in bounds)


def test_every_step_draws_its_own_candidates():
    """One token a step, all alike to the denoiser: only the streams distinguish the steps."""
    uniform, candidates_of_steps = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 3), MASK, 3), []
    energy = CallableEnergy(lambda c, x, log_p: candidates_of_steps.append(c) or torch.zeros_like(log_p))
    sampler = EnergySampler(uniform, energy, order="left_to_right", num_steps=3, num_candidates=4)
    sampler.likelihood_bound(X_0, seeds=range(27))
    drawn = [candidates[:, 1:, step] for step, candidates in enumerate(candidates_of_steps)]
    assert len(drawn) == 3
    for a, b in itertools.combinations(drawn, 2):
        assert 0.2 < (a == b).double().mean() < 0.5  # 1/3 of 81: farther out with chance 0.01, for these seeds not


def test_data_that_any_of_the_samplers_can_not_score_is_refused():
    denoiser, common = (
        WORLD.denoiser(),
        {"order": "left_to_right", "scope": "step", "num_steps": 2, "num_candidates": 2},
    )
    prefix = WORLD.energy()
    prefix.reads = "prefix"
    samplers = [EnergySampler(denoiser, energy, **common) for energy in (None, prefix)]
    given = torch.tensor([[False, False, True]])
    likelihood_bounds(samplers[:1], X_0[:1], [0], given=given)
    with pytest.raises(ValueError, match="sees a clean prefix only"):
        likelihood_bounds(samplers, X_0[:1], [0], given=given)


# Some of the steps


@pytest.fixture
def visited(monkeypatch) -> list[torch.Tensor]:
    """Steps of the rows at each pass."""
    steps = []

    def spy(samplers, plan, at, *others):
        steps.append(at.clone())
        return begin_steps(samplers, plan, at, *others)

    monkeypatch.setattr("edlm.sampler.bounds.begin_steps", spy)
    return steps


def strata(num_steps: int, sampled: int) -> list[range]:
    edges = [num_steps * j // sampled for j in range(sampled + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize(("num_steps", "sampled"), [(7, 3), (4, 2), (5, 1), (6, 6), (11, 4)])
def test_each_row_visits_a_step_of_each_stratum_all_equally_often(num_steps, sampled, visited):
    sampler = EnergySampler(WORLD.denoiser(), order="left_to_right", num_steps=num_steps)
    rows = torch.zeros(3000, 3, dtype=torch.long)
    likelihood_bounds([sampler], rows, range(3000), sampled_steps=sampled)
    steps, among = torch.stack(visited, 1), strata(num_steps, sampled)
    assert steps.shape == (3000, sampled)
    cell, cells = torch.zeros(3000, dtype=torch.long), 1
    for j, stratum in enumerate(among):
        assert set(steps[:, j].tolist()) == set(stratum)
        cell = cell * len(stratum) + steps[:, j] - stratum.start
        cells *= len(stratum)
    # Together too: a row's steps in different strata know nothing of each other.
    assert_law(torch.bincount(cell, minlength=cells), torch.full((cells,), 1 / cells, dtype=torch.float64))


OF_EVERY_KIND = [
    Options(num_candidates=1, num_steps=3),
    Options(num_candidates=3, num_steps=2),
    Options(num_candidates=2, num_steps=3, group_size=1, order="ancestral"),
    Options(num_candidates=2, num_steps=3, order="ancestral", schedule="cosine", scope="sequence"),
    Options(num_candidates=3, num_steps=4, order="dilated", window=(0.2, 0.6)),
    Options(num_candidates=3, num_steps=3, order="left_to_right", weight_temperature=0.5),
    Options(num_candidates=None, num_steps=3),
]


@pytest.mark.parametrize("options", OF_EVERY_KIND, ids=str)
@pytest.mark.parametrize("sampled", [1, 2, None], ids=["1", "2", "all"])
def test_the_mean_over_seeds_is_the_enumerated_bound_and_the_full_bounds(options, sampled):
    energy = WORLD.head() if options.num_candidates is None else WORLD.energy()
    sampler = EnergySampler(WORLD.denoiser(), energy, **options.sampler_options())
    subset, count = [(0, 1, 2), (2, 2, 0), (1, 0, 0)], 400
    rows = torch.tensor(subset).repeat(count, 1)
    kwargs = {"seeds": range(len(rows)), "sampled_steps": options.num_steps if sampled is None else sampled}
    (estimate,) = likelihood_bounds([sampler], rows, **kwargs)
    full = sampler.likelihood_bound(rows, seeds=range(len(rows)))
    brute = BruteForce(WORLD, options)
    expected = torch.tensor([brute.bound(x_0) for x_0 in subset], dtype=torch.float64)
    assert_mean(estimate.view(count, 3), expected)
    assert_mean((estimate - full).view(count, 3), torch.zeros(3))
    if sampled is None or sampled == options.num_steps:
        torch.testing.assert_close(estimate, full, rtol=0, atol=1e-10)
    else:
        assert (estimate - full).std() > 0.3


@pytest.mark.parametrize("order", FIXED)
@pytest.mark.parametrize("given", [None, GIVEN], ids=["nothing given", "given"])
def test_all_steps_sampled_are_all_steps(order, given, visited):
    samplers = different(WORLD.denoiser(), order=order, num_steps=3)
    options = {"given": given, "seeds": range(5, 32)}
    every = likelihood_bounds(samplers, X_0, sampled_steps=3, **options)
    assert [at.unique().tolist() for at in visited] == [[0], [1], [2]]
    torch.testing.assert_close(every, likelihood_bounds(samplers, X_0, **options), rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", FIXED)
def test_a_rows_estimate_is_the_same_in_any_batch(order):
    samplers = different(WORLD.denoiser(), order=order, num_steps=4)
    seeds = [row * row for row in range(27)]
    together = torch.stack(likelihood_bounds(samplers, X_0, seeds, given=GIVEN, sampled_steps=2))
    for rows in ([3], [20, 4, 11, 0, 25], [*range(14, 27)]):
        apart = likelihood_bounds(samplers, X_0[rows], [seeds[row] for row in rows], given=GIVEN[rows], sampled_steps=2)
        torch.testing.assert_close(torch.stack(apart), together[:, rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", FIXED)
@pytest.mark.parametrize("sampled", [1, 2])
def test_samplers_visit_the_same_steps_so_that_differences_cancel(order, sampled):
    nothing = CallableEnergy(lambda candidates, x, log_p: torch.zeros_like(log_p))
    denoiser, common = WORLD.denoiser(), {"order": order, "num_steps": 3}
    base, one, several, groups, ours, twin = (
        EnergySampler(denoiser, energy, **common, **options)
        for energy, options in [
            (None, {}),
            (nothing, {"num_candidates": 1}),
            (nothing, {"num_candidates": 4}),
            (nothing, {"num_candidates": 3, "group_size": 1}),
            (WORLD.energy(), {"num_candidates": 3}),
            (WORLD.energy(), {"num_candidates": 3}),
        ]
    )
    options = {"seeds": range(27), "sampled_steps": sampled}
    bounds = likelihood_bounds([base, one, several, groups, ours, twin], X_0, **options)
    assert torch.equal(bounds[1], bounds[0]) and torch.equal(bounds[4], bounds[5])
    for bound in bounds[2:4]:
        torch.testing.assert_close(bound, bounds[0], rtol=0, atol=1e-12)
    assert (bounds[4] - bounds[0]).abs().max() > 0.1
    # And so do samplers that are run one after the other.
    assert torch.equal(likelihood_bounds([ours], X_0, **options)[0], bounds[4])


@pytest.mark.parametrize(
    ("order", "sampled", "rule"),
    [
        ("random", 0, r"sampled_steps must lie in 1\.\.3, the steps of all blocks, got 0"),
        ("random", 4, r"sampled_steps must lie in 1\.\.3, the steps of all blocks, got 4"),
        ("confidence", 3, "an order that looks at the marginals must be run step by step"),
    ],
)
def test_steps_that_can_not_be_sampled(order, sampled, rule):
    sampler = EnergySampler(WORLD.denoiser(), order=order, num_steps=3)
    with pytest.raises(ValueError, match=rule):
        likelihood_bounds([sampler], X_0, range(27), sampled_steps=sampled)
