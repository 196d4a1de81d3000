"""Reveal orders: sizes, laws and sequence of the reveal sets."""

import itertools

import pytest
import torch

from edlm.diffusion.adaptive import Confidence, EntropyBounded
from edlm.diffusion.orders import ORDERS
from edlm.diffusion.plan import named_order, plan_reveal
from edlm.diffusion.schedule import Cosine, LogLinear, Polynomial
from edlm.diffusion.streams import RowStreams

EQUAL_SIZE = ("random", "dilated", "left_to_right", "confidence")


def plan(masked, order, num_steps, schedule=None, streams=None):
    streams = streams or RowStreams(range(len(masked)))
    return plan_reveal(masked, order, num_steps, schedule or LogLinear(), streams.order())


def reveal_sets(masked, order, num_steps, confidence=None, **settings):
    """Run a plan to its end; the positions of each row and step, in decision order."""
    p = plan(masked, order, num_steps, **settings)
    assert p.num_steps == num_steps
    sets, masked = [[] for _ in masked], masked.clone()
    for i in range(num_steps):
        at = torch.full((len(masked),), i)
        slots = p.slots(at, masked, None if confidence is None else -confidence)
        assert slots.counts.tolist() == p.num_due(at, masked).tolist()
        assert (p.next_due(i, masked) == i) == (len(slots) > 0)
        for b, revealed in enumerate(sets):
            revealed.append(slots.positions[slots.rows == b].tolist())
        assert masked[slots.rows, slots.positions].all()
        masked[slots.rows, slots.positions] = False
    assert not masked.any()
    return sets


def all_masked(length, rows=1):
    return torch.ones(rows, length, dtype=torch.bool)


def ragged():
    """Rows of 7, 0, 1, 4, 12 and 5 masked positions of 12, scattered."""
    masked = torch.zeros(6, 12, dtype=torch.bool)
    for b, positions in enumerate([[0, 2, 3, 5, 8, 9, 11], [], [6], [1, 2, 3, 10], range(12), [0, 4, 6, 7, 11]]):
        masked[b, list(positions)] = True
    return masked


@pytest.mark.parametrize("order", EQUAL_SIZE)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 12, 17])
def test_equal_size_orders_reveal_floor_n_i_over_t(order, num_steps):
    masked = ragged()
    confidence = torch.rand(masked.shape) if order == "confidence" else None
    for n, row, sets in zip(
        masked.sum(1).tolist(), masked, reveal_sets(masked, order, num_steps, confidence), strict=True
    ):
        expected = [n * (i + 1) // num_steps - n * i // num_steps for i in range(num_steps)]
        assert [len(s) for s in sets] == expected
        assert sorted(itertools.chain(*sets)) == row.nonzero()[:, 0].tolist()


@pytest.mark.parametrize("order", ["ancestral", *EQUAL_SIZE])
def test_a_row_does_not_depend_on_the_others(order):
    masked = ragged()
    confidence = torch.rand(masked.shape, generator=torch.Generator().manual_seed(0)) if order == "confidence" else None
    together = reveal_sets(masked, order, 4, confidence, streams=RowStreams([3, 1, 4, 1, 5, 9]))
    for b, seed in enumerate([3, 1, 4, 1, 5, 9]):
        own = None if confidence is None else confidence[b : b + 1]
        assert reveal_sets(masked[b : b + 1], order, 4, own, streams=RowStreams([seed])) == [together[b]]


def row(*masked):
    return torch.tensor([masked]).bool()


@pytest.mark.parametrize(
    ("order", "masked", "num_steps", "expected"),
    [
        ("left_to_right", all_masked(4), 4, [[0], [1], [2], [3]]),
        ("left_to_right", row(0, 1, 1, 0, 1, 1, 1), 3, [[1], [2, 4], [5, 6]]),
        ("dilated", row(0, 1, 1, 0, 1, 1, 0, 1, 1), 2, [[1, 4, 7], [2, 5, 8]]),  # classes of masked positions
        ("dilated", all_masked(5), 2, [[0, 2], [1, 3, 4]]),  # left to right in a step of two classes
        ("dilated", all_masked(7), 3, [[0, 3], [2, 6], [1, 4, 5]]),
        ("dilated", all_masked(3), 8, [[], [], [0], [], [], [2], [], [1]]),  # more steps than positions
        ("bisecting", row(0, 1, 1, 0, 1, 1, 0, 1, 1), 3, [[1, 7], [4], [2, 5, 8]]),
        ("bisecting", row(1, 0, 0, 0, 0, 0, 0, 0, 1), 3, [[0], [], [8]]),
    ],
)
def test_reveal_sets_by_hand(order, masked, num_steps, expected):
    assert reveal_sets(masked, order, num_steps) == [expected]


@pytest.mark.parametrize(
    ("num_steps", "classes"),
    [(1, [0]), (2, [0, 1]), (4, [0, 2, 1, 3]), (8, [0, 4, 2, 6, 1, 5, 3, 7]), (3, [0, 2, 1]), (6, [0, 4, 2, 1, 5, 3])],
)
@pytest.mark.parametrize("multiple", [1, 3])
def test_dilated_steps_are_residue_classes_in_bit_reversed_sequence(num_steps, classes, multiple):
    length = num_steps * multiple
    expected = [list(range(c, length, num_steps)) for c in classes]
    assert reveal_sets(all_masked(length), "dilated", num_steps) == [expected]


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_bisecting_is_dilated_for_powers_of_two(num_steps):
    masked = all_masked(16)
    assert reveal_sets(masked, "bisecting", num_steps) == reveal_sets(masked, "dilated", num_steps)


@pytest.mark.parametrize(
    ("num_steps", "classes"),
    [
        (3, [[0], [2], [1, 3]]),
        (5, [[0], [4], [2, 6], [1, 5], [3, 7]]),
        (6, [[0], [4], [2], [6], [1, 5], [3, 7]]),
        (7, [[0], [4], [2], [6], [1], [5], [3, 7]]),
    ],
)
@pytest.mark.parametrize("length", [8, 24, 13])
def test_bisecting_takes_single_classes_first_and_pairs_of_them_later(num_steps, classes, length):
    modulus = 4 if num_steps == 3 else 8
    expected = [[i for i in range(length) if i % modulus in residues] for residues in classes]
    assert reveal_sets(all_masked(length), "bisecting", num_steps) == [expected]


def test_ancestral_reveals_a_uniform_at_the_very_end():
    class Largest:
        def uniform(self, counts, repeats=1):
            return torch.full((int(counts.sum()), repeats), 1 - 2**-53, dtype=torch.float64)

    for schedule in (LogLinear(), Cosine(), Polynomial()):
        p = plan_reveal(all_masked(2), "ancestral", 7, schedule, Largest())
        assert p.steps.tolist() == [[6, 6]]


def test_confidence_takes_the_highest_first_ties_to_the_lowest_position():
    masked = torch.tensor([[1, 1, 0, 1, 1, 1]]).bool()
    confidence = torch.tensor([[-2.0, -1.0, -0.1, -1.0, -3.0, -1.0]])
    assert reveal_sets(masked, "confidence", 2, confidence) == [[[1, 3], [5, 0, 4]]]
    tied = torch.zeros(1, 40)
    assert reveal_sets(all_masked(40), "confidence", 1, tied) == [[list(range(40))]]


def test_scores_are_asked_of_orders_by_marginals_only():
    masked = all_masked(3)
    with pytest.raises(ValueError, match="scores are needed by an order that looks at the marginals, and by no other"):
        plan(masked, "random", 3).slots(torch.tensor([0]), masked, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="scores are needed by an order that looks at the marginals, and by no other"):
        plan(masked, "confidence", 3).slots(torch.tensor([0]), masked)
    with pytest.raises(ValueError, match="must be run step by step"):
        plan(masked, "confidence", 3).teacher_forced(masked.long(), torch.tensor([1]), 9)


@pytest.mark.parametrize("order", ["ancestral", "random", "dilated", "left_to_right"])
def test_what_is_kept_masked_is_due_again(order):
    masked = all_masked(6)
    p = plan(masked, order, 3)
    at, before = torch.arange(3)[:, None], [int((p.steps < i).sum()) for i in range(4)]
    first = p.slots(at[0], masked).positions.tolist()
    assert len(first) == before[1]
    again = p.slots(at[1], masked)  # nothing of step 0 was written
    assert again.positions.tolist() == p.ranking[0, : before[2]].tolist()
    assert again.positions.tolist()[: len(first)] == first
    assert p.num_due(at[2], masked).item() == 6 == len(p.slots(at[2], masked))
    assert [p.next_due(i, masked) for i in range(4)] == [p.steps.min(), 1, 2, 3]
    part = masked.clone()
    part[0, again.positions[1:]] = False  # all but the first of them
    assert p.slots(at[2], part).positions.tolist() == [p.ranking[0, 0].item(), *p.ranking[0, before[2] :].tolist()]


@pytest.mark.parametrize("num_steps", [1, 3, 8, 40])
@pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Polynomial(3.0)], ids=["linear", "cosine", "cubic"])
def test_ancestral_steps_are_those_at_which_uniforms_fall_below_alpha(schedule, num_steps):
    masked = all_masked(9, rows=20)
    p, key = plan(masked, "ancestral", num_steps, schedule), RowStreams(range(20)).order().uniform(masked.sum(1))
    s = 1 - torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps
    expected = (key >= schedule.alpha(s)).sum(1).clamp(max=num_steps - 1).view(20, 9)
    assert torch.equal(p.steps, expected)


@pytest.mark.parametrize("order", [*ORDERS, "confidence"])
def test_a_plan_does_not_grow_with_its_steps(order):
    """2 ** 31 - 1 of them, of which at most 7 reveal something."""
    masked, many = ragged()[:1], 2**31 - 1
    p, at, visited = plan(masked, order, many), 0, []
    confidence = torch.zeros(masked.shape) if order == "confidence" else None
    while (at := p.next_due(at, masked)) < many:
        slots = p.slots(torch.tensor([at]), masked, confidence)
        masked = masked.index_put((slots.rows, slots.positions), torch.tensor(False))
        visited.append((at, len(slots)))
        at += 1
    assert not masked.any() and all(number > 0 for _, number in visited) and len(visited) <= 7
    assert visited[-1][0] >= 2**29


@pytest.mark.parametrize("order", ["ancestral", "random", "dilated", "left_to_right"])
def test_teacher_forced_masks_what_a_run_leaves_masked(order):
    masked = ragged()
    x_0 = torch.arange(72).view(6, 12) % 9
    sets = reveal_sets(masked, order, 4)
    p = plan(masked, order, 4)
    for step in range(4):
        expected = masked.clone()
        for b, revealed in enumerate(sets):
            expected[b, list(itertools.chain(*revealed[:step]))] = False
        assert torch.equal(p.teacher_forced(x_0, torch.full((6,), step), 9), x_0.masked_fill(expected, 9))
    steps = torch.tensor([0, 1, 2, 3, 2, 1])  # each row at its own step
    slots = p.slots(steps, p.teacher_forced(x_0, steps, 9) == 9)
    for b, i in enumerate(steps.tolist()):
        assert slots.positions[slots.rows == b].tolist() == sets[b][i]


def test_orders_by_name():
    assert [named_order(name) for name in ORDERS] == [*ORDERS.values()]
    assert named_order("entropy_bounded(0.25)") == EntropyBounded(0.25) and named_order("confidence") == Confidence()
    for name, rule in (
        ("entropy_bounded(-1)", "the threshold must be >= 0 nats, got -1.0 in order 'entropy_bounded"),
        ("confidence_threshold(1.5)", r"must be a probability in \(0, 1\], got 1.5 in order 'confidence_threshold"),
        ("confidence(0.5)", "confidence takes no threshold, got 0.5"),
        ("entropy_bounded(x)", "could not convert string to float: 'x' in order"),
        ("entropy_bounded(0.1", "order must be one of"),
        ("random(2)", "order must be one of"),
    ):
        with pytest.raises(ValueError, match=rule):
            named_order(name)
    with pytest.raises(ValueError, match="order must be one of .*'dilated'.*, got 'rightmost'"):
        plan(all_masked(2), "rightmost", 2)
