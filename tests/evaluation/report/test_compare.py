"""Two results in pairs: what differs, how surely, and what may not be compared."""

import json
import math
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from edlm.cli import main
from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.estimates.estimate import mean_of
from edlm.evaluation.report.compare import StoredResult, differences

DENOISER = {"name": "a", "revision": "r", "vocab_size": 3}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write(path, rows: dict, denoiser=DENOISER, data="d", seed=0, **sampler):
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = [{"name": name, "order": order, "num_steps": steps, **sampler} for name, order, steps in rows]
    identity = {"denoiser": denoiser, "data": data, "seed": seed}
    path.write_text(json.dumps({"identity": identity, "settings": settings}))
    tables = {f"{key[0]}, {key[1]}, {key[2]} steps": values.float().clone() for key, values in rows.items()}
    save_file(tables, path.with_suffix(".rows.safetensors"))
    return path


@pytest.fixture
def pair(tmp_path):
    g = torch.Generator().manual_seed(1)
    rows = 4 + torch.randn(50, generator=g)
    ours = rows - 0.2 + 0.05 * torch.randn(50, generator=g)
    cell, other = ("base", "random", 4), ("base", "random", 8)
    write(tmp_path / "a" / "results.json", {cell: rows, other: rows})
    write(tmp_path / "b.json", {("new", "random", 4): rows, cell: ours}, denoiser={**DENOISER, "name": "renamed"})
    return tmp_path / "a", tmp_path / "b.json", rows, ours


def test_settings_of_both_are_paired_by_rows(pair, tmp_path, capsys):
    a, b, rows, ours = pair
    (found,) = differences(StoredResult.load(a), StoredResult.load(b), generator=generator())
    expected = mean_of((ours - rows).double())
    assert (found.name, found.order, found.num_steps, found.n, found.paired) == ("base", "random", 4, 50, True)
    assert found.difference == pytest.approx(expected.value, rel=1e-4)
    assert found.stderr == pytest.approx(expected.stderr, rel=1e-3)
    assert main(["compare", str(a), str(b), "--output", str(tmp_path / "c.json")]) == 0
    printed = capsys.readouterr().out
    assert f"{found.difference:+.4f} ± {found.stderr:.4f}" in printed
    assert f"{found.low:+.4f} to {found.high:+.4f}" in printed
    assert json.loads((tmp_path / "c.json").read_text())["differences"] == [asdict(found)]


def test_intervals_hold_for_all_settings_at_once(tmp_path):
    g = generator(4)
    a = {("ours", "random", steps): 4 + torch.randn(40, generator=g) for steps in range(1, 7)}
    b = {key: rows - 0.1 + 0.05 * torch.randn(40, generator=g) for key, rows in a.items()}
    one, other = (write(tmp_path / name / "results.json", rows) for name, rows in (("a", a), ("b", b)))
    one, other = StoredResult.load(one), StoredResult.load(other)
    found = differences(one, other, generator=generator(7))
    series = torch.stack([other.rows_of(key) - one.rows_of(key) for key in a])
    expected = simultaneous_intervals(series, generator=generator(7))
    assert [(d.difference, d.stderr, d.low, d.high, d.n) for d in found] == [
        (e.value, e.stderr, e.low, e.high, e.n) for e in expected
    ]
    (alone,) = simultaneous_intervals(series[:1], generator=generator(7))
    assert found[0].low < alone.low < alone.high < found[0].high < 0


def test_what_cannot_be_known_is_null_in_json(tmp_path):
    one = write(tmp_path / "one.json", {("base", "random", 4): torch.ones(1)})
    assert main(["compare", str(one), str(one), "--output", str(tmp_path / "c.json")]) == 0
    (found,) = json.loads((tmp_path / "c.json").read_text(), parse_constant=pytest.fail)["differences"]
    assert (found["difference"], found["stderr"], found["low"], found["high"]) == (0, None, None, None)


OTHER = {
    "energy": "b {}",
    "num_candidates": None,
    "group_size": 2,
    "scope": "sequence",
    "window": [0.0, 0.5],
    "temperature": 0.9,
    "top_p": 0.5,
    "top_k": 3,
    "inner_draws": 4,
    "sampled_steps": 2,
}


@pytest.mark.parametrize("name", OTHER)
def test_samplers_of_one_name_that_are_two_are_marked(tmp_path, capsys, name):
    rows = {("ours", "random", 4): torch.ones(3)}
    a, b = write(tmp_path / "a.json", rows), write(tmp_path / "b.json", rows, **{name: OTHER[name]})
    assert main(["compare", str(a), str(b), "--output", str(tmp_path / "c.json")]) == 0
    (found,) = json.loads((tmp_path / "c.json").read_text())["differences"]
    assert found["differs"] == [name]
    printed = capsys.readouterr().out
    assert "not the same" in printed and name in printed
    assert main(["compare", str(b), str(b)]) == 0
    assert "not the same" not in capsys.readouterr().out


def test_a_field_that_an_older_file_lacks_has_its_default(tmp_path):
    rows = {("ours", "random", 4): torch.ones(3)}
    usual = {"energy": None, "num_candidates": 1, "scope": "step", "window": [0.0, 1.0], "temperature": 1.0}
    usual |= {"top_p": 1.0, "top_k": None, "group_size": None, "inner_draws": 1, "sampled_steps": None}
    old, new = write(tmp_path / "a.json", rows), write(tmp_path / "b.json", rows, **usual)
    (found,) = differences(StoredResult.load(old), StoredResult.load(new), generator=generator())
    assert found.differs == []


def test_what_cannot_be_known_is_no_nan_in_print(tmp_path, capsys):
    """One row; bounds that are infinite in one and in both; rows too few for an interval."""

    def printed(a, b):
        cell = ("ours", "random", 4)
        paths = [write(tmp_path / f"{n}.json", {cell: torch.tensor(x)}) for n, x in (("a", a), ("b", b))]
        assert main(["compare", *map(str, paths)]) == 0
        out = capsys.readouterr().out
        assert "nan" not in out and "inf" not in out
        return out

    assert "1 row," in printed([3.0], [2.5]) and "-0.5000" in printed([3.0], [2.5])
    assert "+∞" in printed([3.0, 2.0, 1.0], [math.inf, 2.0, 1.0])
    assert "∞" in printed([math.inf, 2.0], [math.inf, 2.0])
    assert "-∞ to +∞" in printed([3.0, 2.0, 4.0], [2.5, 2.1, 3.0])
    alone = write(tmp_path / "c.json", {("ours", "random", 4): torch.ones(1)}, seed=1)
    assert main(["compare", str(tmp_path / "a.json"), str(alone), "--allow_other"]) == 0
    assert "nan" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "paired"),
    [({"data": "e"}, False), ({"seed": 1}, False), ({"denoiser": {**DENOISER, "revision": "s"}}, True)],
    ids=str,
)
def test_other_data_or_denoisers_are_refused_unless_allowed(pair, tmp_path, capsys, changed, paired):
    a, _, rows, ours = pair
    other = write(tmp_path / "other.json", {("base", "random", 4): ours}, **changed)
    assert main(["compare", str(a), str(other)]) == 2
    error = capsys.readouterr().err
    assert f"got different {next(iter(changed))} in" in error and "set allow_other" in error
    assert main(["compare", str(a), str(other), "--allow_other"]) == 0
    assert ("paired by rows" if paired else "unpaired") in capsys.readouterr().out
    a, other = StoredResult.load(a), StoredResult.load(other)
    (found,) = differences(a, other, allow_other=True, generator=generator())
    errors = mean_of(rows).stderr, mean_of(ours).stderr
    assert found.paired == paired
    assert found.difference == pytest.approx((ours.mean() - rows.mean()).item(), abs=1e-5) and found.n == 50
    assert (found.low is None, found.high is None) == (not paired, not paired)
    assert (found.stderr == pytest.approx((errors[0] ** 2 + errors[1] ** 2) ** 0.5, rel=1e-4)) == (not paired)


def test_rows_of_other_data_may_be_fewer(pair, tmp_path):
    a, _, rows, ours = pair
    few = write(tmp_path / "few.json", {("base", "random", 4): ours[:20]}, data="e")
    results = StoredResult.load(a), StoredResult.load(few)
    for one, other, sign in ((*results, 1), (*results[::-1], -1)):
        (found,) = differences(one, other, allow_other=True, generator=generator())
        assert found.n == 20 and found.difference == pytest.approx(sign * (ours[:20].mean() - rows.mean()).item(), 1e-4)


def test_what_is_no_result_is_named(pair, tmp_path, capsys):
    a, *_ = pair
    assert main(["compare", str(a), str(tmp_path / "nowhere")]) == 2
    assert "a result must be a folder or .json file of edlm evaluate, got no" in capsys.readouterr().err
    alone = write(tmp_path / "alone.json", {("other", "random", 4): torch.ones(50)})
    assert main(["compare", str(a), str(alone)]) == 2
    assert "must have a setting in common" in capsys.readouterr().err
    (tmp_path / "alone.json").write_text("{}")
    assert main(["compare", str(a), str(alone)]) == 2
    assert "a result must hold identity and settings, got []" in capsys.readouterr().err


def test_a_committed_result_is_equal_to_itself(capsys):
    assert main(["compare", "docs/results/tinystories.json", "docs/results/tinystories.json"]) == 0
    assert "+0.0000 ± 0.0000" in capsys.readouterr().out
