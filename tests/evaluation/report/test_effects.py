"""Effects: gains over the base of the same cell, and time relative to the base in any order."""

import math

import pytest
import torch

from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.report.effects import effects_of
from tests.evaluation.measured import results_of, row_of

N = 40


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def measured(name, order, steps, bound, seconds=(), **options):
    """A row and the nats of its texts, whose noise is that of the passes."""
    notes = {"seconds_of_batches": list(seconds)} if seconds else {}
    noise = 0.1 * torch.randn(N, generator=generator(steps), dtype=torch.float64)
    return row_of(name, order, steps, **notes, **options), bound + noise - noise.mean()


def test_gains_are_over_the_base_of_the_cell_and_hold_at_once():
    pairs = [measured("base", order, steps, 4.0 - steps) for order in ("random", "dilated") for steps in (1, 2)]
    pairs += [measured("ours", "dilated", 2, 1.5), measured("blind", "random", 1, 3.1)]
    pairs += [measured("ours", "bisecting", 2, 1.0), measured("cold", "dilated", 2, 1.0, energy=None, top_k=2)]
    pairs[4][1][:] += 0.3 * torch.randn(N, generator=generator(9))
    found = effects_of(results_of(pairs, ["blind"]), seed=3)
    series = torch.stack([pairs[3][1] - pairs[4][1], pairs[0][1] - pairs[5][1]])
    expected = simultaneous_intervals(series, generator=generator(3))
    assert [(e["name"], e["order"], e["num_steps"], e["is_control"]) for e in found] == [
        ("ours", "dilated", 2, False),
        ("blind", "random", 1, True),
    ]
    for effect, interval in zip(found, expected, strict=True):
        assert {field: effect[field] for field in interval._fields} == pytest.approx(interval._asdict())
        assert effect["time"] is None


def test_better_base_is_another_order_in_as_many_passes():
    bases = [("base", "random", 2, 4.0), ("base", "dilated", 2, 3.0), ("base", "dilated", 4, 1.0)]
    methods = [("ours", "random", 2, 3.2), ("fine", "random", 2, 2.9), ("bad", "dilated", 2, 3.5)]
    pairs = [measured(*cell) for cell in bases + methods]
    assert [e["better_base"] for e in effects_of(results_of(pairs), seed=0)] == ["dilated", None, None]
    blocks = [
        measured(name, "random in blocks of 2", 2, y, passes_per_sequence=4.0)
        for name, y in (("base", 5), ("ours", 4.5))
    ]
    found = effects_of(results_of([*pairs, *blocks]), seed=0)
    assert [e["better_base"] for e in found] == [
        "dilated",
        None,
        None,
        "dilated",
    ]  # two steps of two blocks are four passes


def test_time_is_relative_to_the_base_in_any_order():
    """The base reaches 3.0 nats, half of the way from 4.0 to 2.0, at 4 passes and in 4 seconds, where it is linear."""
    slow = [measured("base", "random", steps, 9.0, [10.0] * 3) for steps in (2, 8)]
    base = [measured("base", "dilated", steps, bound, [float(steps)] * 3) for steps, bound in ((2, 4.0), (8, 2.0))]
    ours = [measured("ours", "random", 2, 3.0, [1.0, 2.0]), measured("ours", "random", 8, 1.0, [3.0, 3.0])]
    first, beyond = [e["time"] for e in effects_of(results_of([*slow, *base, *ours]), seed=0)]
    assert (
        first["passes"] == pytest.approx(4.0) and first["share"] == pytest.approx(1.5 / 4.0) and first["batches"] == 2
    )
    assert first["low"] == pytest.approx(1.0 / 4.0, rel=0.1) and first["high"] == pytest.approx(2.0 / 4.0, rel=0.1)
    assert (beyond["passes"], beyond["share"], beyond["low"]) == (math.inf, 0.0, 0.0)
    assert effects_of(results_of([*slow, *base]), seed=0) == []
