"""The record of what an energy gains: which steps are chosen, for which sampler, and how it is kept."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch

from edlm.energies import load_energy
from edlm.energies.card import TrainedFor
from edlm.energies.gains import ALWAYS, NEVER, SettingGain, gaining_steps, gaining_window
from tests.energies.heads import disturbed_head, modernbert


def gains(*means, noise=1.0, rows=200, seed=0):
    drawn = torch.randn(rows, len(means), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tensor(means).double() + noise * drawn


def setting(order="bisecting", num_steps=4, block_length=None, window=(0.5, 1.0), length=128):
    return SettingGain(order, num_steps, block_length, length, 99, 0.1, 0.01, window, 0.2, 0.02)


def by_hand(table):
    """The rule in plain Python."""
    rows, numbers = table.tolist(), range(table.shape[1] + 1)

    def mean_and_error(values):
        mean = sum(values) / len(values)
        return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))

    best = max(numbers, key=lambda n: sum(sum(row[:n]) for row in rows))
    for number in numbers:
        mean, error = mean_and_error([sum(row[:best]) - sum(row[:number]) for row in rows])
        if mean <= error:
            return number


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("means", [(0.3, 0.1, 0.0, -0.1, 0.05), (-0.1, 0.2, 0.15, -0.3), (0.05,) * 6], ids=str)
def test_steps_are_those_of_the_one_standard_error_rule(means, seed):
    table = gains(*means, rows=60, seed=seed)
    assert gaining_steps(table) == by_hand(table)


@pytest.mark.parametrize(
    ("means", "expected"),
    [((9, 0, 0, 0), 1), ((9, 0, 9, 0), 3), ((9, -20, 5, 5), 1), ((-9, 20, 0), 2), ((-1, -1, -1), 0), ((2, 2, 2), 3)],
)
def test_clear_gains_are_found_and_seldom_more(means, expected):
    found = [gaining_steps(gains(*means, noise=0.3, seed=seed)) for seed in range(20)]
    assert found.count(expected) >= 10 and min(found) == expected


def test_an_even_gain_too_small_at_each_step_is_seen_as_a_whole():
    """Half a standard error at each of 32 steps, nearly three in all."""
    numbers = [gaining_steps(gains(*[0.05] * 32, rows=100, seed=seed)) for seed in range(20)]
    assert sum(number >= 16 for number in numbers) >= 16


def test_many_steps_are_judged_in_32_parts():
    assert gaining_steps(gains(*[1.0] * 240, *[-1.0] * 760)) == 1000 * 8 // 32
    assert gaining_steps(gains(*[1.0] * 1000)) == 1000


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 16, 32])
def test_a_window_holds_the_times_of_its_steps_alone(num_steps):
    for number in {0, 1, num_steps // 3, num_steps - 1, num_steps}:
        table = torch.full((3, num_steps), -1.0).double()
        table[:, :number] = 1.0
        low, high = SettingGain.of(table, "random", None, 8).window
        assert [i for i in range(num_steps) if low < 1 - i / num_steps <= high] == [*range(number)]


def test_numbers_of_a_record_are_means_and_errors():
    table = gains(5.0, -1.0, noise=1.0, rows=50)
    record = SettingGain.of(table, "random", 4, 8)
    assert (record.gain, record.window_gain) == (table.sum(1).mean().item(), table[:, 0].mean().item())
    assert record.stderr == pytest.approx(table.sum(1).std().item() / 50**0.5, rel=1e-12)
    assert record.window_stderr == pytest.approx(table[:, 0].std().item() / 50**0.5, rel=1e-12)
    assert record.window == (0.75, 1.0) and (record.num_rows, record.num_steps, record.length) == (50, 2, 8)
    assert str(record).startswith("random, 2 passes in blocks of 4: 4.") and "at times 0.75 to 1" in str(record)
    assert str(SettingGain.of(-table.abs(), "random", None, 8)).endswith("left out")


@pytest.mark.parametrize(
    ("asked", "num_steps", "block_length"),
    [
        (("bisecting", 4, None), 4, None),
        (("bisecting", 1, None), 4, None),
        (("bisecting", 11, None), 8, None),
        (("bisecting", 12, None), 16, None),  # a ratio of 4/3 rather than 3/2
        (("bisecting", 500, None), 16, None),
        (("bisecting", 2, 32), 2, 32),
        (("bisecting", 3, 32), 16, None),  # 10.7 tokens a pass: 4/3 of 8, 2/3 of 16
        (("bisecting", 8, 128), 8, None),
        (("bisecting", 4, 64), 8, None),  # 16 tokens a pass, and no setting of these blocks
    ],
)
def test_the_nearest_tokens_a_pass_decide(asked, num_steps, block_length):
    known = [(4, None), (8, None), (16, None), (2, 32)]
    records = [setting("bisecting", n, b, (i / 10, 0.9)) for i, (n, b) in enumerate(known)]
    records.append(setting("random", 4, None, NEVER))
    assert gaining_window(records, *asked) == (known.index((num_steps, block_length)) / 10, 0.9)


def test_an_order_that_was_not_measured_has_all_times():
    records = [setting("confidence", window=NEVER), setting("entropy_bounded(0.1)", window=NEVER)]
    for order in ("bisecting", "entropy_bounded(0.5)", "entropy_bounded"):
        assert gaining_window(records, order, 4, None) == ALWAYS
    assert gaining_window([], "bisecting", 4, None) == ALWAYS
    assert gaining_window(records, "entropy_bounded(0.1)", 4, None) == NEVER


def test_a_record_is_saved_with_the_energy_and_shown(tmp_path):
    head = disturbed_head(modernbert())
    records = (setting(), setting("random", 8, 32, NEVER))
    head.trained_for = TrainedFor(("bisecting", "random"), (4, 8), (None,), gains=records)
    head.save_pretrained(tmp_path, dtype=torch.float16)
    again = load_energy(tmp_path)
    assert again.trained_for == head.trained_for and again.trained_for.gains[0].window == (0.5, 1.0)
    assert again.gaining_window("random", 8, 32) == NEVER and again.gaining_window("dilated", 8, 32) == ALWAYS
    card = (tmp_path / "README.md").read_text()
    assert "| bisecting | 4 | none | 0.1000 ± 0.0100 | 0.5 to 1 | 0.2000 ± 0.0200 |" in card
    assert "| random | 8 | 32 | 0.1000 ± 0.0100 | left out | 0.2000 ± 0.0200 |" in card


def test_energies_saved_before_there_were_records_are_always_used(tmp_path):
    head = disturbed_head(modernbert())
    head.trained_for = TrainedFor(("bisecting",), (4,), (None,))
    head.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "energy.json").read_text())
    assert described["trained_for"].pop("gains") == [] and "## Gain" not in (tmp_path / "README.md").read_text()
    (tmp_path / "energy.json").write_text(json.dumps(described))
    assert load_energy(tmp_path).trained_for == head.trained_for
    assert load_energy(tmp_path).gaining_window("bisecting", 4, None) == ALWAYS


def test_a_later_run_keeps_its_own_record():
    first, later = (TrainedFor((order,), (2,), (None,), gains=(setting(order),)) for order in ("random", "dilated"))
    assert later.after(first).gains == later.gains
    assert TrainedFor.from_json(json.loads(json.dumps(asdict(later)))) == later
    assert replace(later, gains=()) != later
