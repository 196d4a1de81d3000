"""Slots on ragged rows: what is selected, joined, grouped, written and padded."""

import pytest
import torch

from edlm.diffusion.slots import Slots

RANKING = torch.tensor([[4, 1, 0, 3, 2], [0, 1, 2, 3, 4], [2, 3, 0, 1, 4]])
CHOSEN = torch.tensor([[1, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 0, 1, 0, 0]]).bool()


def slots():
    return Slots.from_ranked(RANKING, CHOSEN)  # row 0: 4, 1, 0, 2; row 1: none; row 2: 2, 0


def as_lists(s: Slots) -> list[list[int]]:
    """Positions of each row in decision order, after a look at the class's promises."""
    assert s.rows.tolist() == sorted(s.rows.tolist())
    rows = [s.positions[s.rows == b][s.ranks[s.rows == b].argsort()].tolist() for b in range(s.batch_size)]
    for b, row in enumerate(rows):
        assert s.ranks[s.rows == b].sort().values.tolist() == list(range(len(row)))
    assert s.counts.tolist() == [len(row) for row in rows]
    return rows


def test_slots_are_left_to_right_or_ranked():
    assert as_lists(Slots.where(CHOSEN)) == [[0, 1, 2, 4], [], [0, 2]]
    assert as_lists(slots()) == [[4, 1, 0, 2], [], [2, 0]]
    assert len(slots()) == 6


def test_no_slots_at_all():
    empty = Slots.where(torch.zeros(2, 3, dtype=torch.bool))
    assert len(empty) == 0 and as_lists(empty) == [[], []] and empty.groups(1) == [] == empty.groups(None)
    assert as_lists(empty.followed_by(empty)) == [[], []]
    assert as_lists(empty.select(torch.zeros(0, dtype=torch.bool))) == [[], []]
    assert empty.sum_rows(torch.zeros(0)).tolist() == [0, 0]
    assert empty.dense().valid.shape == (0, 0)


def test_select_ranks_anew():
    s = slots()
    assert as_lists(s.select(s.rows == 2)) == [[], [], [2, 0]]
    assert as_lists(s.select(s.ranks >= 1)) == [[1, 0, 2], [], [0]]
    assert as_lists(s.select(s.ranks != 1)) == [[4, 0, 2], [], [2]]


def test_part_keeps_the_ranks():
    part = slots().part(torch.tensor([1, 3, 5]))
    assert (part.rows.tolist(), part.positions.tolist(), part.ranks.tolist()) == ([0, 0, 2], [1, 2, 0], [1, 3, 1])
    assert part.batch_size == 3


def test_followed_by_ranks_the_others_after():
    others = Slots.where(torch.tensor([[0, 0, 0, 1, 0], [0, 1, 0, 1, 0], [1, 1, 0, 0, 0]]).bool())
    assert as_lists(slots().followed_by(others)) == [[4, 1, 0, 2, 3], [1, 3], [2, 0, 0, 1]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [[[4], [], [2]], [[1], [], [0]], [[0], [], []], [[2], [], []]]),
        (2, [[[4, 1], [], [2, 0]], [[0, 2], [], []]]),
        (3, [[[4, 1, 0], [], [2, 0]], [[2], [], []]]),
        (4, [[[4, 1, 0, 2], [], [2, 0]]]),
        (None, [[[4, 1, 0, 2], [], [2, 0]]]),
    ],
)
def test_groups_are_consecutive_chunks_of_each_row(size, expected):
    assert [as_lists(group) for group in slots().groups(size)] == expected


def test_gather_write_and_sum_know_their_rows():
    s = slots()
    x = torch.arange(15).view(3, 5)
    before = x.clone()
    assert s.gather(x).tolist() == [4, 1, 0, 2, 12, 10]
    assert s.gather(torch.stack([x, -x], -1)).tolist()[0] == [4, -4]
    written = s.write(x, 100 + torch.arange(6))
    assert written.tolist() == [[102, 101, 103, 3, 100], [5, 6, 7, 8, 9], [105, 11, 104, 13, 14]]
    assert torch.equal(x, before)
    values = torch.tensor([1.0, 2, 4, 8, 16, 32])
    assert s.sum_rows(values).tolist() == [15, 0, 48]
    assert s.sum_rows(torch.stack([values, -values], 1)).tolist() == [[15, -15], [0, 0], [48, -48]]


@pytest.mark.parametrize(
    ("active", "positions"),
    [
        (None, [[4, 1, 0, 2], [2, 0, 0, 0]]),
        ([0, 1, 2], [[4, 1, 0, 2], [0, 0, 0, 0], [2, 0, 0, 0]]),
        ([0], [[4, 1, 0, 2]]),
    ],
)
def test_dense_pads_rows(active, positions):
    dense = slots().dense(None if active is None else torch.tensor(active))
    assert dense.active.tolist() == ([0, 2] if active is None else active)
    assert dense.positions.tolist() == positions
    assert dense.valid.sum(1).tolist() == [[4, 0, 2][row] for row in dense.active]
    assert not (~dense.valid[:, :-1] & dense.valid[:, 1:]).any()  # padding is on the right


def test_dense_by_position():
    dense, far = slots().dense(), torch.iinfo(torch.int64).max
    assert dense.counts.tolist() == [4, 2]
    ranks = torch.tensor([[0, 1, 2, 3], [0, 1, 7, 7]])
    assert dense.at_positions(ranks, 5).tolist() == [[2, 1, 3, far, 0], [1, far, 0, far, far]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [[[4], [], [2]], [[1], [], [0]], [[0], [], []], [[2], [], []]]),
        (2, [[[4, 0], [], [2, 0]], [[1, 2], [], []]]),
        (3, [[[4, 0], [], [2, 0]], [[1, 2], [], []]]),
        (4, [[[4, 1, 0, 2], [], [2, 0]]]),
    ],
)
def test_rounds_take_ranks_that_are_far_apart(size, expected):
    everything = slots()
    parts = [everything.part(index) for index in everything.rounds(size)]
    assert [[part.positions[part.rows == row].tolist() for row in range(3)] for part in parts] == expected
    table = everything.dense().rounds(size)
    for r, part in enumerate(parts):
        slots_of_round = zip(part.rows.tolist(), part.ranks.tolist(), strict=True)
        assert (table == r).nonzero().tolist() == [[[0, 2].index(row), rank] for row, rank in slots_of_round]
    assert (table == 4).equal(~everything.dense().valid)  # no round is as large as the width
