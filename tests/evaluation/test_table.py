"""The grid of samplers: each gain is over its own base, on the same rows and seeds; results are plain values."""

import json
from dataclasses import asdict

import pytest
import torch

from edlm.config import SamplerConfig
from edlm.energies import CallableEnergy
from edlm.evaluation.likelihood import estimate_bound, paired_gain
from edlm.evaluation.table import Setting, as_json, as_table, measure, seconds_per_sequence
from edlm.sampler import EnergySampler
from tests.enumerable import SEQUENCES, random_denoiser

ROWS = SEQUENCES[[0, 5, 26, 13, 7, 2, 21]]
ENERGY = CallableEnergy(lambda candidates, x, log_p: (candidates * torch.tensor([0.9, -0.7, 0.4])).sum(-1))


def settings() -> list[Setting]:
    """All bases first, so that the last one seen is the right one only by chance."""
    grid = [(order, steps) for order in ("random", "left_to_right") for steps in (1, 2)]
    bases = [Setting("base", None, SamplerConfig(num_steps=steps, order=order)) for order, steps in grid]
    more = {"num_candidates": 5, "group_size": 1}
    return bases + [
        Setting("ours", ENERGY, SamplerConfig(num_steps=steps, order=order, **more)) for order, steps in grid
    ]


def test_each_gain_is_over_the_base_of_the_same_steps_and_order():
    measured = measure(random_denoiser(), settings(), ROWS, seed=9, batch_size=3, repeats=0, characters_per_token=2.0)
    bounds = [estimate_bound(s.sampler.build(random_denoiser(), s.energy), ROWS, seed=9) for s in settings()]
    gains = [paired_gain(base, ours).nats_per_token for base, ours in zip(bounds[:4], bounds[4:], strict=True)]
    assert len({round(gain.value, 6) for gain in gains}) == 4
    for i, (m, bound) in enumerate(zip(measured, bounds, strict=True)):
        assert m.bound_nats_per_token == pytest.approx(bound.nats_per_token.value)
        assert m.bound_stderr == pytest.approx(bound.nats_per_token.stderr) and m.n == 7
        assert m.perplexity == pytest.approx(bound.perplexity)
        assert m.bits_per_char == pytest.approx(bound.nats_per_token.value / 2 / torch.tensor(2.0).log().item())
        expected = (None, None) if i < 4 else (gains[i - 4].value, gains[i - 4].stderr)
        assert (m.gain_nats_per_token, m.gain_stderr) == pytest.approx(expected)


def test_a_method_without_its_base_before_it_has_no_gain():
    base, ours = settings()[0], settings()[4]
    for order in ([ours], [ours, base], [settings()[1], ours]):
        found = {m.name: m for m in measure(random_denoiser(), order, ROWS, repeats=0)}
        assert found["ours"].gain_nats_per_token is None and found["ours"].gain_stderr is None


def test_every_measurement_is_told_as_soon_as_it_is_there_and_describes_its_sampler():
    told, order = [], [settings()[i] for i in (0, 4, 1)]

    def listening():
        for i, setting in enumerate(order):
            assert len(told) == i
            yield setting

    measured = measure(random_denoiser(), listening(), ROWS, repeats=0, on_measured=told.append)
    assert told == measured and len(told) == 3
    keys = (
        "name",
        "order",
        "num_steps",
        "num_candidates",
        "group_size",
        "scope",
        "seconds_per_sequence",
        "bits_per_char",
    )
    assert [tuple(asdict(m)[key] for key in keys) for m in measured] == [
        ("base", "random", 1, 1, None, "step", None, None),
        ("ours", "random", 1, 5, 1, "step", None, None),
        ("base", "random", 2, 1, None, "step", None, None),
    ]


def test_json_holds_plain_values_and_the_terminal_all_rows():
    measured = measure(random_denoiser(), [settings()[i] for i in (0, 4)], ROWS, repeats=1, timed_batch_size=2)
    plain = as_json(measured)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert all(type(value) in (str, int, float, type(None)) for row in plain for value in row.values())
    assert [row["timed_batch_size"] for row in plain] == [2, 2] and all(
        row["seconds_per_sequence"] > 0 for row in plain
    )
    table = as_table(measured)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert table.row_count == 2 and cells["k"] == ["1", "5"] and cells["groups"] == ["step", "1"]
    assert cells["gain"][0] == "" and cells["gain"][1].startswith(f"{plain[1]['gain_nats_per_token']:.3f} ±")
    assert cells["nats/token"][1].startswith(f"{plain[1]['bound_nats_per_token']:.3f} ±")


def test_the_seconds_are_the_least_of_the_batches_after_the_first(monkeypatch):
    """A clock that says how long each batch took: 1 (not counted), 4, 2 and 6 seconds for four sequences."""
    ticks, drawn = iter([0.0, 1.0, 10.0, 14.0, 20.0, 22.0, 30.0, 36.0]), []
    sampler = EnergySampler(random_denoiser(), num_steps=1)
    draw = sampler.sample

    def sample(num_samples, length, seeds):
        drawn.extend(seeds)
        return draw(num_samples, length, seeds=seeds)

    monkeypatch.setattr("edlm.evaluation.table.time.perf_counter", lambda: next(ticks))
    monkeypatch.setattr(sampler, "sample", sample)
    assert seconds_per_sequence(sampler, 3, 4, 3, seed=10) == 0.5
    assert drawn == list(range(10, 26))
    assert seconds_per_sequence(sampler, 3, 4, 0, seed=10) is None
