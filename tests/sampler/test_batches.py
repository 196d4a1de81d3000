"""Rows, seeds and batches: method.md, section 5, items 1, 3 and 7."""

import pytest
import torch

from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
from edlm.sampler.one_step import rerank_step
from tests.sampler.brute_force import MASK, World

LENGTH = 4
POWERS = torch.tensor([64, 16, 4, 1])
TABLE = torch.randn(256, LENGTH, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
SCORES = 2 * torch.randn(256, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
X_T = torch.tensor(
    [[3, 3, 3, 3], [0, 3, 2, 3], [3, 1, 3, 3], [2, 2, 1, 0], [3, 3, 3, 3], [1, 3, 3, 0], [3, 0, 0, 2], [3, 3, 3, 3]]
)
SEEDS = [3, 1, 4, 15, 92, 65, 35, 3]
ORDERS = ("ancestral", "random", "dilated", "bisecting", "left_to_right", "confidence", "entropy_bounded(0.8)")
FORMS = [{}, {"scope": "sequence"}, {"group_size": 1}, {"group_size": 2}]


def denoiser(calls=None):
    """Records the rows of each pass, before equal ones are run once."""

    def f(x_t, t):
        return TABLE[(x_t * POWERS).sum(1)] * (0.5 + t.double())[:, None, None]

    class Recorded(FunctionDenoiser):
        def encode(self, x_t, *args, rows, **options):
            if calls is not None:
                calls.append(x_t[rows].clone())
            return super().encode(x_t, *args, rows=rows, **options)

    return Recorded(f, MASK, 3)


def energy(calls=None):
    def f(candidates, x_partial, log_proposal):
        if calls is not None:
            calls.append(candidates.clone())
        return SCORES[(candidates * POWERS).sum(-1)] + 0.3 * log_proposal

    return CallableEnergy(f)


def make(energy_=None, calls=None, **options):
    return EnergySampler(denoiser(calls), energy_, **{"num_steps": 3, **options})


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def same_steps(left, right, rows=slice(None)):
    for a, b in zip(left.steps, right.steps, strict=True):
        assert a.step == b.step and a.t == b.t
        for name in ("num_revealed", "redraws", "kept", "judged"):
            assert torch.equal(getattr(a, name), getattr(b, name)[rows])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("form", [*FORMS, {"num_candidates": 1}], ids=str)
def test_item_3_a_row_is_the_same_in_any_batch(order, form):
    s = make(energy(), order=order, **{"num_candidates": 3, **form})
    together = s.fill(X_T, seeds=SEEDS)
    assert torch.equal(together.tokens[0] == together.tokens[-1], torch.ones(LENGTH, dtype=torch.bool))
    assert len(together.tokens.unique(dim=0)) > 2
    for b, seed in enumerate(SEEDS):
        alone = s.fill(X_T[b : b + 1], seeds=[seed])
        assert torch.equal(alone.tokens, together.tokens[b : b + 1])
        same_steps(alone, together, slice(b, b + 1))
    shuffled = torch.tensor([5, 0, 3, 7, 2])
    again = s.fill(X_T[shuffled], seeds=[SEEDS[b] for b in shuffled])
    assert torch.equal(again.tokens, together.tokens[shuffled])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_item_3_a_rows_bound_is_the_same_in_any_batch(order, form):
    s = make(energy(), order=order, num_candidates=3, **form)
    x_0 = torch.where(X_T == MASK, torch.tensor([2, 0, 1, 1]), X_T)
    given = X_T != MASK
    together = s.likelihood_bound(x_0, given=given, seeds=SEEDS)
    alone = [s.likelihood_bound(x_0[b : b + 1], given=given[b : b + 1], seeds=[seed]) for b, seed in enumerate(SEEDS)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-12)
    assert together[3] == 0


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_batch_size_changes_no_token(form, batch_size):
    s = make(energy(), num_candidates=3, **form)
    whole, parts = (s.sample(8, 4, seeds=SEEDS, batch_size=size) for size in (None, batch_size))
    assert torch.equal(whole.tokens, parts.tokens) and whole.seeds == parts.seeds == tuple(SEEDS)
    same_steps(whole, parts)
    for a, b in zip(whole.steps, parts.steps, strict=True):
        assert torch.equal(a.ess, b.ess) and torch.equal(a.energies, b.energies)
    drawn = [s.sample(8, 4, generator=seeded(7), batch_size=size).tokens for size in (None, batch_size)]
    assert torch.equal(*drawn)


def test_generator_draws_one_seed_a_row():
    s = make(energy(), num_candidates=2)
    first, second = (s.sample(5, 4, generator=seeded(1)) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens) and first.seeds == second.seeds
    assert len(set(first.seeds)) == 5
    assert s.sample(5, 4, generator=seeded(2)).seeds != first.seeds
    again = s.sample(2, 4, seeds=first.seeds[3:])
    assert torch.equal(again.tokens, first.tokens[3:])
    state = torch.get_rng_state()
    s.fill(X_T, generator=seeded(1))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    torch.manual_seed(5)
    unnamed = s.sample(5, 4)
    torch.manual_seed(5)
    assert s.sample(5, 4).seeds == unnamed.seeds != s.sample(5, 4).seeds


@pytest.mark.parametrize("order", ORDERS)
def test_item_1_one_candidate_or_no_energy_is_the_base_sampler(order):
    rows = torch.full((40, 4), MASK)
    rows[::3, 1] = 2
    base = make(None, order=order).fill(rows, seeds=range(40)).tokens
    assert len(base.unique(dim=0)) > 10

    def is_base(energy_, **options):
        return torch.equal(make(energy_, order=order, **options).fill(rows, seeds=range(40)).tokens, base)

    for form in FORMS:
        assert is_base(energy(), num_candidates=1, **form)
        assert is_base(None, num_candidates=1, **form) and is_base(None, num_candidates=4, **form)
    assert is_base(None, num_candidates=None)
    assert not is_base(energy(), num_candidates=4)


@pytest.mark.parametrize("order", ["ancestral", "random"])
def test_equal_seeds_pair_orders(order):
    def masks(energy_, **options):
        """What is masked at each step: rows due, seen by the denoiser, put at their places by their count."""
        calls = []
        make(energy_, calls, order=order, num_steps=4, **options).fill(torch.full((30, 4), MASK), seeds=range(30))
        return [call == MASK for call in calls]

    base = masks(None)
    for options in ({"num_candidates": 1}, {"num_candidates": 3}, {"num_candidates": 2, "group_size": 1}):
        for result, expected in zip(masks(energy(), **options), base, strict=True):
            assert torch.equal(result, expected)
    other = CallableEnergy(lambda c, x, log_p: (c == 1).sum(-1))
    for result, expected in zip(masks(other, num_candidates=5, weight_temperature=0.1), base, strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("order", ORDERS[:-1])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_item_7_given_tokens_stay_and_a_step_writes_part_of_one_candidate(order, form):
    seen, candidates = [], []
    s = make(energy(candidates), seen, order=order, num_candidates=3, num_steps=2, **form)
    x_t = torch.full((12, 4), MASK)
    x_t[::2, 1], x_t[::3, 3] = 0, 1
    before = x_t.clone()
    output = s.fill(x_t, seeds=range(12))
    assert torch.equal(x_t, before)
    assert torch.equal(output.tokens[before != MASK], before[before != MASK])
    assert not (output.tokens == MASK).any()
    assert torch.equal(sum(step.num_revealed for step in output.steps), (before == MASK).sum(1))
    if form.get("group_size") is None and order != "ancestral":  # each step: one call, all rows due
        states = [*seen, output.tokens]
        assert len(seen) == len(candidates) == 2
        for x, filled, after in zip(seen, candidates, states[1:], strict=True):
            written = (x == MASK) & (after != MASK)
            agrees = (filled == after[:, None]) | ~written[:, None]
            assert agrees.all(2).any(1).all()
            assert torch.equal(after[~written], x[~written]) and written.any(1).all()


def test_one_energy_call_a_group_and_one_denoiser_pass_a_step():
    seen, judged = [], []
    make(energy(judged), seen, num_candidates=2, num_steps=1, group_size=2).sample(3, LENGTH, seeds=range(3))
    assert (len(seen), len(judged)) == (1, 2)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_one_candidate_is_judged_only_to_be_ruled_out(form):
    judged = []
    with pytest.warns(UserWarning, match="CallableEnergy is not run: num_candidates=1 leaves no choice"):
        one = make(energy(judged), num_candidates=1, **form)
    one.likelihood_bound(X_T.clamp(max=2), seeds=SEEDS)
    texts = one.generate([[0]] * 3, 3, seed=0, eos_token_id=None)
    logits = one.denoiser.f(X_T, torch.ones(8))
    hooked, _ = rerank_step(X_T, logits, None, one.energy, MASK, num_candidates=1, seeds=SEEDS)
    assert not judged and not one.energy_is_used and not any(step.judged.any() for step in texts.steps)
    assert torch.equal(hooked, rerank_step(X_T, logits, None, None, MASK, seeds=SEEDS)[0])
    never = CallableEnergy(lambda candidates, x, log_p: torch.full_like(log_p, torch.inf))
    base = make(None, **form).fill(X_T, seeds=SEEDS).tokens
    assert torch.equal(make(never, num_candidates=1, **form).fill(X_T, seeds=SEEDS).tokens, base)
    particles = [] if "scope" in form else [{"num_particles": 2}]
    for options in ({"on_impossible": "redraw"}, {"on_impossible": "keep"}, *particles):
        make(energy(judged), num_candidates=1, **options, **form).fill(X_T, seeds=SEEDS)
        assert judged
        judged.clear()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_nothing_masked_calls_nothing(form):
    seen, judged = [], []
    x_t = torch.tensor([[0, 1, 2, 0], [1, 1, 1, 1]])
    output = make(energy(judged), seen, num_candidates=3, **form).fill(x_t, seeds=[0, 1])
    assert torch.equal(output.tokens, x_t) and not seen and not judged
    assert [step.denoiser_calls for step in output.steps] == [0] * 3
    assert [step.num_revealed.tolist() for step in output.steps] == [[0, 0]] * 3


@pytest.mark.parametrize("order", ORDERS[:-1])
def test_the_denoiser_sees_the_rows_that_are_due_only(order):
    seen = []
    x_t = torch.full((6, 4), MASK)
    x_t[1] = 0
    x_t[2, :3] = torch.tensor([0, 1, 2])  # one token, due at the last step of an equal-size order
    x_t[3:, 0] = torch.arange(3)
    output = make(energy(), seen, order=order, num_steps=4, num_candidates=2).fill(x_t, seeds=range(6))
    due = [int((step.num_revealed > 0).sum()) for step in output.steps]
    assert [len(call) for call in seen] == [n for n in due if n]
    assert [step.denoiser_calls for step in output.steps] == [int(n > 0) for n in due]
    if order != "ancestral":
        assert due == ([5, 4, 4, 1] if order == "bisecting" else [1, 4, 4, 5])  # a single token is of the first class


def test_diagnostics_of_a_step():
    output = make(energy(), num_candidates=3, num_steps=2, order="random").fill(X_T, seeds=SEEDS)
    first = output.steps[0]
    assert (first.step, first.t, first.denoiser_calls) == (0, 1.0, 1)
    n = (X_T == MASK).sum(1)
    assert torch.equal(first.num_revealed, n // 2)
    assert first.energies.shape == (8, 3) and first.ess.shape == (8,)
    w = (-first.energies).exp()
    torch.testing.assert_close(first.ess, w.sum(1) ** 2 / (w**2).sum(1))
    idle = first.num_revealed == 0
    assert idle.sum() == 2 and (first.energies[idle] == 0).all() and (first.ess[idle] == 3).all()
    assert first.energies[~idle].std(1).max() > 0 and not first.kept.any() and not first.redraws.any()

    grouped = make(energy(), num_candidates=3, num_steps=2, order="random", group_size=1).fill(X_T, seeds=SEEDS)
    grouped = grouped.steps[1]
    assert grouped.energies.shape == (8, 2, 3) and grouped.ess.shape == (8, 2)
    assert (grouped.energies[grouped.num_revealed < 2, 1] == 0).all()


@pytest.mark.parametrize("order", ["random", "dilated", "left_to_right", "confidence"])
def test_judged_counts_candidates_of_rows_and_steps_with_energy(order):
    """Of rows of 4 masks each step writes one of 1, 1, 2; of the rows of 3, 2, 1 and no masks others."""
    revealed = torch.tensor([[1, 1, 2], [0, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 2], [0, 1, 1], [0, 0, 1], [1, 1, 2]])

    def judged(energy_, **options):
        steps = make(energy_, order=order, **options).fill(X_T, seeds=SEEDS).steps
        return torch.stack([step.judged for step in steps], 1)

    due = (revealed > 0).long()
    assert torch.equal(judged(energy(), num_candidates=5), 5 * due)
    assert torch.equal(judged(energy(), num_candidates=1, on_impossible="redraw"), due)
    assert torch.equal(judged(energy(), num_candidates=5, scope="sequence"), 5 * due)
    assert torch.equal(judged(energy(), num_candidates=5, group_size=1), 5 * revealed)
    assert torch.equal(judged(energy(), num_candidates=5, group_size=2), 5 * due)
    late = torch.tensor([0, 1, 1])  # t = 1, 2/3, 1/3
    assert torch.equal(judged(energy(), num_candidates=5, group_size=1, window=(0.0, 0.7)), 5 * revealed * late)
    assert not judged(energy(), num_candidates=1).any()  # nothing depends on it
    for options in ({}, {"num_candidates": 5}, {"num_candidates": None}, {"num_candidates": 5, "group_size": 1}):
        assert not judged(None, **options).any()


def test_judged_counts_the_tokens_of_exact_decisions():
    world = World()
    x_t = torch.tensor([[3, 3, 3], [3, 1, 3], [0, 3, 2], [1, 2, 0]])
    options = {"num_steps": 2, "num_candidates": None, "order": "random"}
    for window, expected in (
        ((0.0, 1.0), [[1, 2], [1, 1], [0, 1], [0, 0]]),
        ((0.0, 0.5), [[0, 2], [0, 1], [0, 1], [0, 0]]),
    ):
        sampler = EnergySampler(world.denoiser(), world.head(), window=window, **options)
        result = [step.judged for step in sampler.fill(x_t, seeds=range(4)).steps]
        assert torch.stack(result, 1).tolist() == expected
