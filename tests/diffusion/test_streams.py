"""Per-row randomness: what a row draws depends on its own seed and on nothing else."""

import pytest
import torch

from edlm.diffusion.streams import BatchStreams, RowStreams
from tests.chance import SIGMAS, assert_law

STREAMS = {
    "order": lambda s: s.order(),
    "values": lambda s: s.values(2),
    "values of each row's step": lambda s: s.values(torch.tensor([seed % 5 for seed in s.seeds])),
    "steps": lambda s: s.steps(),
}
each = pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)


def counts(*numbers):
    return torch.tensor(numbers)


@each
def test_a_row_depends_on_its_seed_only(stream):
    together = stream(RowStreams([7, 3, 2**61])).uniform(counts(2, 4, 3), 2)
    for seed, rows in ((7, slice(0, 2)), (3, slice(2, 6)), (2**61, slice(6, 9))):
        n = rows.stop - rows.start
        assert torch.equal(stream(RowStreams([seed])).uniform(counts(n), 2), together[rows])
        assert torch.equal(stream(RowStreams([1, seed, seed])).uniform(counts(9, n, 0), 2)[9:], together[rows])


@each
def test_the_first_repeat_does_not_depend_on_how_many_follow(stream):
    one, many = (stream(RowStreams([5, 6])).uniform(counts(3, 20), repeats) for repeats in (1, 7))
    assert torch.equal(one[:, 0], many[:, 0])
    assert torch.equal(many[:, :3], stream(RowStreams([5, 6])).uniform(counts(3, 20), 3))


@each
@pytest.mark.parametrize("chunks", [[[5], [4], [12]], [[1]] * 21, [[16], [5]]])
def test_chunked_draws_equal_whole_draws(stream, chunks):
    whole = stream(RowStreams([11])).uniform(counts(21))
    again = stream(RowStreams([11]))
    assert torch.equal(torch.cat([again.uniform(torch.tensor(chunk)) for chunk in chunks]), whole)


def test_rows_that_do_not_repeat_draw_once():
    several = torch.tensor([True, False, True])
    draws = RowStreams([5, 6, 7]).values(0)
    mixed = draws.uniform(counts(2, 3, 1), 4, several)
    all_repeat = RowStreams([5, 6, 7]).values(0).uniform(counts(2, 3, 1), 4)
    assert torch.equal(mixed[[0, 1, 5]], all_repeat[[0, 1, 5]])
    once = RowStreams([6]).values(0)
    assert torch.equal(mixed[2:5], once.uniform(counts(3)).expand(3, 4))
    # What comes next is what comes next in a row that never repeats.
    assert torch.equal(draws.uniform(counts(0, 2, 0)), once.uniform(counts(2)))


def test_purposes_steps_and_seeds_are_different_streams():
    streams = [RowStreams([seed]) for seed in range(20)]
    draws = [s.order().uniform(counts(1)).item() for s in streams]
    draws += [s.values(step).uniform(counts(1)).item() for s in streams for step in range(20)]
    draws += [s.steps().uniform(counts(1)).item() for s in streams]
    assert len(set(draws)) == len(draws) == 440


def test_values_start_anew_at_each_step():
    streams = RowStreams([4])
    first = streams.values(1).uniform(counts(3))
    streams.values(0).uniform(counts(50))
    assert torch.equal(streams.values(1).uniform(counts(3)), first)


def test_values_are_of_one_step_or_of_each_rows_own():
    streams, n = RowStreams([7, 3, 7, 7]), counts(2, 1, 3, 2)
    mixed = streams.values(torch.tensor([4, 0, 1, 4])).uniform(n, 5)
    of_step = {step: streams.values(step).uniform(n, 5).split(n.tolist()) for step in (0, 1, 4)}
    for part, row, step in zip(mixed.split(n.tolist()), range(4), (4, 0, 1, 4), strict=True):
        assert torch.equal(part, of_step[step][row])
    assert torch.equal(streams.values(torch.full((4,), 4)).uniform(n, 5), torch.cat(of_step[4]))
    assert not torch.equal(of_step[1][2], of_step[4][2])


def test_consecutive_seeds_are_uniform_and_uncorrelated():
    streams = RowStreams(range(4000))
    ones = torch.ones(4000, dtype=torch.long)
    columns = [streams.order().uniform(ones, 2), streams.values(0).uniform(ones, 2), streams.values(1).uniform(ones)]
    u = torch.cat([*columns, streams.steps().uniform(ones, 2)], 1)
    assert u.dtype == torch.float64 and u.min() >= 0 and u.max() < 1
    for column in u.T:
        assert_law(torch.bincount((column * 25).long(), minlength=25), torch.full((25,), 1 / 25, dtype=torch.float64))
    lagged = torch.cat([u[:-1], u[1:, :1]], 1)  # and the neighbouring row's order
    correlation = torch.corrcoef(lagged.T) - torch.eye(8, dtype=torch.float64)
    assert correlation.abs().max() < SIGMAS / 4000**0.5


def test_uniforms_are_finer_than_float32():
    u = RowStreams([0]).values(0).uniform(counts(1000))[:, 0]
    assert (u != u.float().double()).sum() > 900


def test_seeds_must_not_be_negative():
    with pytest.raises(ValueError, match="seeds must be >= 0, got -2"):
        RowStreams([3, -2])
    assert len(RowStreams(torch.tensor([3, 1]))) == 2


def test_blocks_have_streams_of_their_own_and_the_first_is_the_plain_one():
    plain, others = RowStreams([7, 0]), [RowStreams([7, 0], [block, block + 1]) for block in range(4)]
    for stream in (RowStreams.order, lambda s: s.values(1)):
        first, *later = (stream(s).uniform(counts(3, 3)) for s in others)
        assert torch.equal(stream(plain).uniform(counts(3, 0)), first[:3])
        drawn = torch.cat([first, *later])
        assert len(drawn.unique()) == len(drawn) == 24
    orders = plain.order(4).uniform(counts(3, 3, 3, 3, 0, 0, 0, 0)).view(4, 3)
    assert torch.equal(orders, torch.stack([s.order().uniform(counts(3, 0))[:, 0] for s in others]))
    of_rows = plain.values(1, torch.tensor([2, 3]))
    assert torch.equal(of_rows.uniform(counts(3, 3)), others[2].values(1).uniform(counts(3, 3)))


# Rows of a batch


DRAWS = {
    "places": lambda streams: streams.places()[:, None],
    "order": lambda streams: (
        streams.order().uniform(torch.full((len(streams),), streams.length)).view(len(streams), -1)
    ),
    "values": lambda streams: streams.values(2, 3).flatten(1),
    "groups": lambda streams: streams.groups(5),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_row_of_a_batch_draws_the_same_in_any_part_of_it(draw):
    whole = draw(BatchStreams((4, 0, 9), 20, 7))
    for rows in (range(0, 6), range(6, 20), range(19, 20)):
        assert torch.equal(draw(BatchStreams((4, 0, 9), 20, 7, rows)), whole[rows.start : rows.stop])
    assert len(set(whole.flatten().tolist())) == whole.numel()
    assert not torch.equal(draw(BatchStreams((4, 1, 9), 20, 7)), whole)


@pytest.mark.parametrize("size", [1, 2, 6, 64, 100, 210])
def test_places_of_a_batch_and_of_its_parts_are_spread_evenly(size):
    places = BatchStreams((size,), size, 1).places()
    torch.testing.assert_close(places.sort().values.diff(), torch.full((size - 1,), 1 / size).double())
    assert 0 <= places.min() and places.max() < 1
    for first in range(size - 15):  # 16 rows: gaps of three lengths, the largest not far from the mean
        part = places[first : first + 16].sort().values
        assert torch.cat([part, part[:1] + 1]).diff().max() < 2 / 16 + 1 / size


@pytest.mark.parametrize("series", [1, 2, 6, 8, 11])
def test_common_numbers_of_a_series_see_all_of_a_mixture(series):
    keys = [(seed, number) for seed in range(20) for number in range(series)]
    many = [BatchStreams(key, 4, 3, range(1, 3), series).of_length(5) for key in keys]
    common = torch.stack([streams.common(3) for streams in many]).view(20, series, 3)
    assert torch.equal(common, torch.stack([streams.common(3) for streams in many]).view(20, series, 3))
    assert ((0 <= common) & (common < 1)).all()
    for size in range(1, series + 1):
        numbers = torch.nn.functional.one_hot((common * size).long(), size).sum(1)
        assert numbers.min() >= series // size and numbers.max() <= -(-series // size)
    assert series < 6 or len({tuple(x) for x in common.movedim(2, 1).flatten(0, 1).tolist()}) > 50  # in any sequence


def test_what_a_batch_draws_is_uniform_and_independent():
    """Each in quarters; places, and pairs of different uses and neighbouring rows. False alarm: 4e-9."""

    def quarters(x: torch.Tensor) -> torch.Tensor:
        return (4 * x).long()

    many = [BatchStreams((3, i), 2, 2) for i in range(4000)]
    drawn = {name: quarters(torch.stack([draw(streams) for streams in many])) for name, draw in DRAWS.items()}
    common = quarters(torch.stack([streams.common(3) for streams in many]))
    pairs = [(drawn["values"][:, 0, 0], drawn["values"][:, 1, 0]), (drawn["values"][:, 0, 4], drawn["groups"][:, 0, 4])]
    pairs += [(drawn["places"][:, 1, 0], common[:, 0]), (drawn["order"][:, 1, 1], drawn["values"][:, 1, 1])]
    for left, right in pairs:
        assert_law(torch.bincount(4 * left + right, minlength=16), torch.full((16,), 1 / 16, dtype=torch.float64))
