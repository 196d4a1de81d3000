"""Results on disk: what was measured comes back, for the same denoiser, data, seed, energy and decisions only."""

import json
import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edlm.config import SamplerConfig
from edlm.energies import Energy, load_energy
from edlm.evaluation.experiment.grid import measure_bounds
from edlm.evaluation.experiment.measurement import Measurement, Setting
from edlm.evaluation.experiment.store import Results, curves_of
from edlm.evaluation.experiment.table import as_table
from tests.enumerable import SEQUENCES, random_denoiser

ROOT = Path(__file__).resolve().parents[3]
ROWS = SEQUENCES[[0, 5, 26, 13, 7]]
IDENTITY = {"denoiser": {"revision": "a1", "vocab_size": 3}, "data": "b2", "seed": 7}
TIMED = {"seconds_per_sequence": 0.75, "seconds_of_batches": (0.5, 0.75, 2.0), "timed_batch_size": 2}
TIMED |= {"denoiser_passes": 2, "energy_passes": 7.25, "num_samples": 6, "entropy_nats": 1.5, "entropy_stderr": 0.125}
TIMED |= {"distinct_2": 0.375, "judge_nats_per_token": 2.5, "judge_stderr": 0.0625}


@dataclass(frozen=True)
class Config:
    num_rows: int = 5


class Linear(Energy):
    """An energy that has weights."""

    def __init__(self, *weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, decision):
        return (decision.candidates * self.weights).sum(-1).detach().double()


def setting(name="ours", steps=2, order="random", energy=None, sampled_steps=None, **how) -> Setting:
    energy = Linear(0.9, -0.7, 0.4) if energy is None else energy
    how = {"num_candidates": 3} | how
    return Setting(name, energy, SamplerConfig(num_steps=steps, order=order, **how), sampled_steps)


def base(steps=2, order="random") -> Setting:
    return Setting("base", None, SamplerConfig(num_steps=steps, order=order))


def results(path, identity=IDENTITY) -> Results:
    return Results(path, Config(), identity)


def fill(found: Results, settings, rows=ROWS) -> dict[Setting, tuple[Measurement, torch.Tensor]]:
    """Measure and keep."""
    kept = {}
    for setting, measurement, bound in measure_bounds(random_denoiser(), settings, rows):
        kept[setting] = measurement, bound.nats_per_row / bound.tokens_per_row
        found.add(setting, *kept[setting])
    return kept


def strict(path):
    """Of a JSON file without the constants that JSON does not have."""
    return json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_what_is_written_comes_back(tmp_path):
    path, settings = tmp_path / "deep" / "result.json", [base(), setting(), base(1), setting("some", sampled_steps=1)]
    written = results(path)
    kept = fill(written, settings)
    timed = replace(kept[settings[1]][0], **TIMED)
    written.add(settings[1], timed)  # rows stay
    assert written.of(settings[1]) == timed
    again = results(path)
    for s, (measurement, rows) in kept.items():
        expected = timed if s is settings[1] else measurement
        assert written.of(s) == again.of(s) == expected
        assert hash(again.of(s)) == hash(expected)  # as immutable as it was
        for found in (written, again):
            assert torch.equal(found.rows_of(s), rows.float())
    assert again.of(setting("another")) is None and again.of(base(4)) is None
    # And on from there.
    more = fill(again, [base(4)])
    assert results(path).of(base(4)) == more[base(4)][0] and results(path).of(settings[1]) == timed


def test_the_file_says_what_was_measured_and_how(tmp_path):
    path = tmp_path / "result.json"
    kept = fill(results(path), [base(), setting()])
    found = strict(path)
    assert found["config"] == {"num_rows": 5} and found["identity"] == IDENTITY
    assert {"command", "revision", "versions", "machine"} <= set(found)
    assert [row.pop("energy") is None for row in found["settings"]] == [True, False]
    assert found["settings"] == json.loads(json.dumps([asdict(measurement) for measurement, _ in kept.values()]))
    rows = load_file(tmp_path / "result.rows.safetensors")
    assert set(rows) == {"base, random, 2 steps", "ours, random, 2 steps"}
    for measurement, of_rows in kept.values():
        assert torch.equal(rows[measurement.key], of_rows.float())
        assert rows[measurement.key].mean().item() == pytest.approx(measurement.bound_nats_per_token, rel=1e-6)


def test_without_a_path_all_is_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = results(None)
    kept = fill(found, [base(), setting()])
    found.conclude(ratios=[1.0])
    assert [found.of(s) for s in kept] == [measurement for measurement, _ in kept.values()]
    assert not [*tmp_path.iterdir()]


def test_conclusions_stand_beside_the_settings(tmp_path):
    path = tmp_path / "result.json"
    found = results(path)
    kept = fill(found, [base()])
    found.conclude(ratios=[{"value": 0.5, "high": math.inf}])
    assert strict(path)["ratios"] == [{"value": 0.5, "high": None}]
    assert results(path).of(base()) == kept[base()][0]
    found.conclude(verdict="none")
    assert strict(path)["ratios"] == [{"value": 0.5, "high": None}] and strict(path)["verdict"] == "none"


@pytest.mark.parametrize("changed", [{"seed": 8}, {"data": "b3"}, {"denoiser": {"revision": "a2", "vocab_size": 3}}])
def test_results_of_another_denoiser_data_or_seed_are_refused(tmp_path, changed):
    path = tmp_path / "result.json"
    fill(results(path), [base()])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="result.json must hold results of the same denoiser, data and seed"):
        results(path, {**IDENTITY, **changed})
    assert path.read_bytes() == before
    path.write_text("{}")
    with pytest.raises(ValueError, match="got None: remove it, or write elsewhere"):
        results(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"energy": Linear(0.9, -0.7, 0.5)},
        {"num_candidates": 4},
        {"group_size": 1},
        {"scope": "sequence"},
        {"sampled_steps": 1},
        {"temperature": 0.9},
        {"top_p": 0.9999},
        {"top_k": 3},
    ],
    ids=str,
)
def test_an_energy_of_other_weights_or_other_decisions_was_not_measured(tmp_path, changed):
    path = tmp_path / "result.json"
    fill(results(path), [base(), setting()])
    found, other = results(path), setting(**changed)
    assert found.of(other) is None
    assert found.of(setting()) is not None and found.of(base()) is not None
    (measurement, rows) = fill(found, [base(), other])[other]
    again = results(path)
    assert again.of(other) == measurement and again.of(setting()) is None
    assert torch.equal(again.rows_of(other), rows.float())
    assert len(strict(path)["settings"]) == 2


def test_a_number_without_its_error_in_an_older_file_stays_so(tmp_path):
    path = tmp_path / "result.json"
    fill(results(path), [base()])
    content = strict(path)
    for name in ("perplexity_stderr", "window", "bound_direction", "made_by"):
        (content if name == "made_by" else content["settings"][0]).pop(name)
    path.write_text(json.dumps(content))
    found = results(path).of(base())
    assert found.perplexity_stderr is None and found.window == (0.0, 1.0)


def test_another_window_is_another_setting(tmp_path):
    path, early = tmp_path / "result.json", setting(window=(0.5, 1.0))
    fill(results(path), [base(), early])
    found = results(path)
    assert found.of(early).window == (0.5, 1.0) and found.of(setting()) is None
    assert found.of(replace(early, inner_draws=4)) is None  # a bound of another tightness


def test_what_is_measured_once_is_kept_for_the_same_maker_only(tmp_path):
    path, calls = tmp_path / "result.json", []

    def measure():
        calls.append(1)
        return {"value": len(calls)}

    found = results(path)
    assert found.once("extra", ["a", (1, 2)], measure) == found.once("extra", ["a", [1, 2]], measure) == {"value": 1}
    assert strict(path)["extra"] == {"value": 1} and strict(path)["made_by"] == {"extra": ["a", [1, 2]]}
    again = results(path)
    fill(again, [base()])
    assert again.once("extra", ["a", [1, 2]], measure) == {"value": 1}
    assert again.once("extra", ["b"], measure) == {"value": 2} == strict(path)["extra"]
    assert results(None).once("extra", ["b"], measure) == {"value": 3}


def test_a_base_is_no_method_of_its_name(tmp_path):
    found = results(tmp_path / "result.json")
    fill(found, [base()])
    assert found.of(setting("base", num_candidates=1)) is None


def test_numbers_that_are_not_finite_are_no_json_and_come_back_as_such(tmp_path):
    """One row has no standard error."""
    path = tmp_path / "result.json"
    kept = fill(results(path), [base(), setting()], ROWS[:1])
    assert math.isnan(kept[base()][0].bound_stderr) and math.isnan(kept[setting_of(kept)][0].gain_stderr)
    strict(path)
    for s, (measurement, _) in kept.items():
        found = results(path).of(s)
        assert math.isnan(found.bound_stderr)
        assert (found.gain_stderr is None) == (s.energy is None)
        assert math.isnan(found.perplexity_stderr)
        same = {"bound_stderr": 0.0, "gain_stderr": 0.0, "perplexity_stderr": 0.0}
        assert replace(found, **same) == replace(measurement, **same)
        assert as_table([found]).row_count == 1


def setting_of(kept) -> Setting:
    return next(s for s in kept if s.energy is not None)


def test_an_infinite_bound_is_no_json_and_comes_back_as_such(tmp_path):
    path = tmp_path / "result.json"
    ours = setting()
    measurement = fill(results(path), [ours])[ours][0]
    endless = replace(measurement, bound_nats_per_token=math.inf, bound_stderr=math.nan, perplexity=math.inf)
    results(path).add(ours, endless, torch.full((5,), math.inf))
    strict(path)
    found = results(path)
    assert found.of(ours).bound_nats_per_token == found.of(ours).perplexity == math.inf
    assert math.isnan(found.of(ours).bound_stderr) and torch.isposinf(found.rows_of(ours)).all()
    assert as_table([found.of(ours)]).row_count == 1


@pytest.mark.parametrize("at", ["rows", "json"])
def test_what_an_interrupt_leaves_behind_can_be_gone_on_with(tmp_path, monkeypatch, at):
    """Rows without their measurement do no harm; a measurement without its rows would be one."""
    path = tmp_path / "result.json"
    kept = fill(results(path), [base()])
    if at == "rows":
        monkeypatch.setattr("edlm.evaluation.experiment.store.save_file", _interrupted)
    else:
        monkeypatch.setattr("edlm.evaluation.experiment.store.write_result", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(results(path), [setting()])
    monkeypatch.undo()
    found = results(path)
    assert found.of(base()) == kept[base()][0] and torch.equal(found.rows_of(base()), kept[base()][1].float())
    assert found.of(setting()) is None
    fill(found, [setting()])
    assert results(path).of(setting()) is not None


def test_an_interrupt_at_the_very_first_can_be_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr("edlm.evaluation.experiment.store.save_file", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(results(tmp_path / "result.json"), [base()])
    monkeypatch.undo()
    assert results(tmp_path / "result.json").of(base()) is None


def _interrupted(*args, **more):
    raise KeyboardInterrupt


def test_curves_are_of_what_was_timed_by_method_and_order(tmp_path):
    """Settings in any order become curves of ascending steps; batches that one lacks have its median."""
    settings = [
        setting(steps=3),
        setting(steps=1),
        base(2),
        setting(steps=2),
        base(1),
        setting(steps=1, order="left_to_right"),
        setting("never", steps=1),
        setting(steps=2, order="left_to_right"),
    ]
    kept = fill(results(tmp_path / "result.json"), [*settings])
    seconds = {3: (3.0, 3.5), 1: (1.0, 1.5, 9.0), 2: (2.0, 2.5, 9.0, 9.0)}
    for path in (tmp_path / "result.json", None):
        found = results(path)
        for s, (measurement, rows) in kept.items():
            of_batches = None if s.name == "never" else seconds[s.sampler.num_steps]
            found.add(s, replace(measurement, seconds_of_batches=of_batches), rows)
        for again in (found, results(path)) if path else (found,):
            curves = {(curve.name, curve.order): curve for curve in curves_of(again, settings)}
            assert [*curves] == [("ours", "random"), ("base", "random"), ("ours", "left_to_right")]
            ours = curves["ours", "random"]
            assert ours.num_steps == (1, 2, 3)
            assert ours.seconds.tolist() == [[1.0, 1.5, 9.0, 1.5], [2.0, 2.5, 9.0, 9.0], [3.0, 3.5, 3.25, 3.25]]
            by_steps = [settings[1], settings[3], settings[0]]
            torch.testing.assert_close(ours.nats, torch.stack([kept[s][1] for s in by_steps]), rtol=1e-6, atol=0)
            assert curves["base", "random"].seconds.tolist() == [[1.0, 1.5, 9.0, 1.5], [2.0, 2.5, 9.0, 9.0]]
            assert curves["ours", "left_to_right"].num_steps == (1, 2)
    assert curves_of(found, [settings[6]]) == []


def test_the_committed_table_can_be_gone_on_with(tmp_path):
    """Its settings lack the fields that came later; what it measured stands."""
    for name in ("tinystories.json", "tinystories.rows.safetensors"):
        shutil.copy(ROOT / "docs" / "results" / name, tmp_path)
    stored = json.loads((tmp_path / "tinystories.json").read_text())
    found = results(tmp_path / "tinystories.json", stored["identity"])
    energy = load_energy("tinystories/head")
    for values in stored["settings"]:
        if values["name"] not in ("base", "head_exact") or values["order"] != "bisecting":
            continue
        ours = energy if values["name"] == "head_exact" else None
        how = {name: values[name] for name in ("num_candidates", "group_size", "scope", "order", "num_steps")}
        again = Setting(values["name"], ours, SamplerConfig(**how))
        assert found.of(again).bound_nats_per_token == values["bound_nats_per_token"]
        assert found.of(again).tokens_per_second is None and len(found.rows_of(again)) == values["n"]
