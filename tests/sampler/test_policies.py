"""All candidates impossible: raise, redraw, or keep masked, per row and recorded: method.md, section 5, item 10."""

import math
import pickle

import pytest
import torch

from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
from edlm.sampler.impossible import ImpossibleCandidates
from tests.chance import assert_law
from tests.sampler.brute_force import MASK, NOTHING, SEQUENCES, BruteForce, Options, World, count

ROWS = 60_000


def constrained() -> World:
    """A world in which energies forbid: equal neighbours at the start, and a 0 at the end."""
    world = World(seed=5)
    for a in range(4):
        for b in range(4):
            for c in range(4):
                if a == b != MASK or c == 0 or (b, c) == (1, 2):
                    world.scores[16 * a + 4 * b + c] = math.inf
    return world


WORLD = constrained()
UNIFORM = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 3), MASK, 3)


def run(options, rows=ROWS, start=NOTHING, energy=None, **changes):
    sampler = EnergySampler(WORLD.denoiser(), energy or WORLD.energy(), **options.sampler_options())
    return sampler.fill(torch.tensor([start]).repeat(rows, 1), **{"seeds": range(rows), **changes})


@pytest.mark.parametrize(
    "options",
    [
        Options(num_candidates=1, num_steps=1),
        Options(num_candidates=2, num_steps=1),
        Options(num_candidates=2, num_steps=2, scope="sequence"),
        Options(num_candidates=3, num_steps=1, scope="sequence"),
    ],
    ids=str,
)
def test_redraw_has_the_law_given_that_one_candidate_is_possible(options, bulk_streams):
    options = Options(**{**options.sampler_options(), "on_impossible": "redraw"})
    brute = BruteForce(WORLD, options)
    output = run(options)
    assert_law(count(output.tokens), brute.law())
    redraws = output.steps[0].redraws
    assert redraws.dtype == torch.int64 and redraws.min() == 0 and not any(step.kept.any() for step in output.steps)
    for step in output.steps:  # candidates drawn anew are judged anew
        assert torch.equal(step.judged, options.num_candidates * (1 + step.redraws))
    if options.num_steps == 1:  # geometric
        _, impossible = brute._chosen_law(NOTHING, 0, NOTHING, (0, 1, 2))
        law = torch.tensor([(1 - impossible) * impossible**r for r in range(6)], dtype=torch.float64)
        counts = torch.bincount(redraws.clamp(max=6), minlength=7)
        assert_law(counts, torch.cat([law, (1 - law.sum())[None]]))


@pytest.mark.parametrize(
    "options",
    [
        Options(num_candidates=1, order="left_to_right", num_steps=3),
        Options(num_candidates=2, order="left_to_right", num_steps=3),
        Options(num_candidates=2, order="dilated", num_steps=2),
        Options(num_candidates=2, order="confidence", num_steps=2),
        Options(num_candidates=3, order="left_to_right", num_steps=2, group_size=1),
        Options(num_candidates=2, order="left_to_right", num_steps=2, scope="sequence"),
        Options(num_candidates=2, order="ancestral", num_steps=1, group_size=2),
    ],
    ids=str,
)
def test_keep_leaves_masked_what_is_due_again(options, bulk_streams):
    options = Options(**{**options.sampler_options(), "on_impossible": "keep"})
    brute = BruteForce(WORLD, options)
    output = run(options)
    left = brute.left_masked()
    patterns = [*SEQUENCES, *sorted(left)]
    law = torch.tensor([*brute.law().tolist(), *(left[x] for x in sorted(left))], dtype=torch.float64)
    codes = (torch.tensor(patterns) * torch.tensor([16, 4, 1])).sum(1)
    counts = torch.bincount((output.tokens * torch.tensor([16, 4, 1])).sum(1), minlength=64)
    assert_law(counts[codes], law)
    assert counts.sum() == counts[codes].sum() and 0.003 < sum(left.values()) < 0.9
    # Recorded: a row is left masked only if it was kept at the last step.
    masked = output.tokens == MASK
    assert torch.equal(masked.any(1), output.steps[-1].kept)
    assert torch.equal(sum(step.num_revealed for step in output.steps), 3 - masked.sum(1))
    kept = output.steps[0].kept
    if options.group_size is None:
        assert (output.steps[0].num_revealed[kept] == 0).all()
        assert torch.equal(torch.isinf(output.steps[0].energies).all(1), kept)


def test_raise_is_about_the_rows_that_fail_only():
    options = {"num_candidates": 2, "num_steps": 2, "order": "left_to_right"}
    energy = CallableEnergy(lambda c, x, log_p: torch.where((x[:, 2] == 0)[:, None], math.inf, 0.0).expand_as(log_p))
    x_t = torch.tensor([[MASK, MASK, 1], [MASK, MASK, 0], [1, 2, 0]])  # the last has nothing to decide
    with pytest.raises(ImpossibleCandidates, match=r"at t = 1 in rows \[1\], after 0 redraws"):
        EnergySampler(WORLD.denoiser(), energy, **options).fill(x_t, seeds=[0, 1, 2])


@pytest.mark.parametrize("options", [{"num_candidates": 2}, {"num_particles": 3, "num_candidates": 2}], ids=str)
@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
def test_the_error_names_the_step_and_the_row_of_the_user(options, batch_size):
    """Rows are written in turn, in blocks of 4 tokens and 1; one cannot go on with two of the 4."""
    dead = CallableEnergy(
        lambda c, x, log_p: torch.where(((x[:, 0] == 1) & ((x == MASK).sum(1) == 3))[:, None], math.inf, 0.0 * log_p)
    )
    sampler = EnergySampler(UNIFORM, dead, num_steps=4, order="left_to_right", block_length=4, **options)
    with pytest.raises(ImpossibleCandidates, match=r"at t = 0\.5 in rows \[4\][,;]") as caught:
        sampler.generate([[0], [0, 0, 0], [2], [2], [1], [0]], 5, seed=0, eos_token_id=2, batch_size=batch_size)
    again = pickle.loads(pickle.dumps(caught.value))  # as between processes
    assert str(again) == str(caught.value) and again.rows == [4]


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_rows_are_named_as_the_user_counts_them_also_in_parts(batch_size):
    rare = CallableEnergy(lambda c, x, log_p: torch.where((c[..., 0] == 0), math.inf, 0.0 * log_p))
    options = {"num_steps": 1, "num_candidates": 3}
    redrawn = EnergySampler(UNIFORM, rare, on_impossible="redraw", **options).sample(99, 3, seeds=range(1, 100))
    impossible = redrawn.steps[0].redraws.nonzero()[:, 0].tolist()
    assert impossible[0] >= 3 and len(impossible) > 1  # else this test says nothing
    with pytest.raises(ImpossibleCandidates) as caught:
        EnergySampler(UNIFORM, rare, **options).sample(99, 3, seeds=range(1, 100), batch_size=batch_size)
    assert caught.value.rows == (impossible if batch_size is None else impossible[:1])


def test_redraws_run_out():
    seen = []

    def never(c, x, log_p):
        seen.append(c)
        return torch.where(torch.arange(2)[:, None] == 0, math.inf, 0.0).expand_as(log_p)

    options = {"num_candidates": 3, "num_steps": 1, "on_impossible": "redraw"}
    with pytest.raises(ImpossibleCandidates, match=r"all 3 candidates .* in rows \[0\], after 100 redraws"):
        EnergySampler(UNIFORM, CallableEnergy(never), **options).sample(2, 3, seeds=[0, 1])
    assert len(seen) == 101
    assert all(torch.equal(c[1], seen[0][1]) for c in seen)  # the possible row is left alone
    assert len({tuple(c[0].flatten().tolist()) for c in seen}) > 90


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("policy", ["redraw", "keep"])
@pytest.mark.parametrize("scope", ["step", "sequence"])
def test_policies_are_per_row(policy, k, scope):
    options = Options(num_candidates=k, num_steps=2, order="left_to_right", on_impossible=policy, scope=scope)
    rows = 40
    output = run(options, rows=rows)
    hit = torch.stack([step.kept | (step.redraws > 0) for step in output.steps]).any(0)
    assert hit.any() and not hit.all()  # else this test says nothing
    for b in range(rows):
        alone = run(options, rows=1, seeds=[b])
        assert torch.equal(alone.tokens[0], output.tokens[b])
        for mine, theirs in zip(alone.steps, output.steps, strict=True):
            assert torch.equal(mine.kept[0], theirs.kept[b]) and torch.equal(mine.redraws[0], theirs.redraws[b])
            assert torch.equal(mine.judged[0], theirs.judged[b])
            assert torch.equal(mine.energies[0], theirs.energies[b])


def test_a_row_that_reveals_nothing_can_not_be_impossible():
    """Alone, row 1 decides only at the last step; next to row 0 it must, too."""

    def energy(c, x, log_p):
        e = torch.zeros_like(log_p)
        if (x[0] == MASK).sum() > 1:  # all steps but the last
            e[1:] = math.inf
        return e

    options = {"num_candidates": 2, "num_steps": 3, "order": "left_to_right", "scope": "sequence"}
    EnergySampler(WORLD.denoiser(), CallableEnergy(energy), **options).fill(
        torch.tensor([NOTHING, (0, 1, MASK)]), seeds=[0, 1]
    )
