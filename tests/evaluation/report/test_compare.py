"""Two results in pairs: what differs, how surely, and what may not be compared."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from edlm.cli import main
from edlm.commands.compare import differences
from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.estimates.estimate import mean_of
from edlm.evaluation.experiment.results import Results

DENOISER = {"name": "a", "revision": "r", "vocab_size": 3}
CELL = ("ours", "random", 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write(path, rows: dict, denoiser=DENOISER, data="d", seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = [{"name": name, "order": order, "num_steps": steps, **options} for name, order, steps in rows]
    identity = {"denoiser": denoiser, "data": data, "seed": seed}
    path.write_text(json.dumps({"identity": identity, "settings": settings}))
    tables = {f"{key[0]}, {key[1]}, {key[2]} steps": values.float().clone() for key, values in rows.items()}
    save_file(tables, path.with_suffix(".rows.safetensors"))
    return path


def compared(a, b, **options):
    return differences(Results.load(a), Results.load(b), **{"generator": generator(), "allow_other": False, **options})


@pytest.fixture
def pair(tmp_path):
    rows = 4 + torch.randn(50, generator=generator(1))
    ours = rows - 0.2 + 0.05 * torch.randn(50, generator=generator(2))
    write(tmp_path / "a" / "results.json", {CELL: rows, ("ours", "random", 8): rows})
    write(tmp_path / "b.json", {("new", "random", 4): rows, CELL: ours}, denoiser={**DENOISER, "name": "renamed"})
    return tmp_path / "a", tmp_path / "b.json", rows, ours


def test_common_settings_are_paired_by_rows(pair, tmp_path, capsys):
    a, b, rows, ours = pair
    (d,) = compared(a, b)
    expected = mean_of((ours - rows).double())
    assert (d["name"], d["order"], d["num_steps"], d["n"], d["paired"]) == (*CELL, 50, True)
    assert (d["difference"], d["stderr"]) == pytest.approx(expected[:2], rel=1e-3)
    assert main(["compare", str(a), str(b), "--output", str(tmp_path / "c.json")]) == 0
    printed = capsys.readouterr().out
    assert (
        "{difference:+.4f} ± {stderr:.4f}".format(**d) in printed and "{low:+.4f} to {high:+.4f}".format(**d) in printed
    )
    assert json.loads((tmp_path / "c.json").read_text())["differences"] == [d]


def test_intervals_hold_for_all_settings_at_once(tmp_path):
    g = generator(4)
    a = {("ours", "random", steps): 4 + torch.randn(40, generator=g) for steps in range(1, 7)}
    b = {key: rows - 0.1 + 0.05 * torch.randn(40, generator=g) for key, rows in a.items()}
    found = compared(*(write(tmp_path / f"{name}.json", rows) for name, rows in (("a", a), ("b", b))))
    series = torch.stack([b[key].double() - a[key].double() for key in a])
    expected = simultaneous_intervals(series, generator=generator())
    assert [(d["difference"], d["stderr"], d["low"], d["high"], d["n"]) for d in found] == [
        (e.value, e.stderr, e.low, e.high, e.n) for e in expected
    ]


OTHER = {"energy": "b {}", "num_candidates": None, "scope": "sequence", "window": [0.0, 0.5], "inner_draws": 4}


@pytest.mark.parametrize("name", OTHER)
def test_other_options_of_one_name_are_marked(tmp_path, capsys, name):
    rows = {CELL: torch.ones(3)}
    a, b = write(tmp_path / "a.json", rows), write(tmp_path / "b.json", rows, **{name: OTHER[name]})
    assert [d["differs"] for d in compared(a, b)] == [[name]]
    assert main(["compare", str(a), str(b)]) == 0
    printed = capsys.readouterr().out
    assert "not the same" in printed and name in printed
    assert main(["compare", str(b), str(b)]) == 0
    assert "not the same" not in capsys.readouterr().out


def test_unknown_values_are_neither_nan_nor_in_json(tmp_path, capsys):
    """One row; bounds that are infinite in one and in both; rows too few for an interval."""

    def printed(a, b, **about):
        paths = [write(tmp_path / "a.json", {CELL: torch.tensor(a)})]
        paths.append(write(tmp_path / "b.json", {CELL: torch.tensor(b)}, **about))
        assert main(["compare", *map(str, paths), "--allow_other", "--output", str(tmp_path / "c.json")]) == 0
        out = capsys.readouterr().out
        assert "nan" not in out and "inf" not in out
        return out

    assert "1 row," in printed([3.0], [2.5]) and "-0.5000" in printed([3.0], [2.5])
    (d,) = json.loads((tmp_path / "c.json").read_text(), parse_constant=pytest.fail)["differences"]
    assert (d["difference"], d["stderr"], d["low"], d["high"]) == (-0.5, None, None, None)
    assert "+∞" in printed([3.0, 2.0, 1.0], [math.inf, 2.0, 1.0])
    assert "∞" in printed([math.inf, 2.0], [math.inf, 2.0])
    assert "-∞ to +∞" in printed([3.0, 2.0, 4.0], [2.5, 2.1, 3.0])
    assert "unpaired" in printed([3.0], [2.5], seed=1)


@pytest.mark.parametrize(
    ("changed", "paired"),
    [({"data": "e"}, False), ({"seed": 1}, False), ({"denoiser": {**DENOISER, "revision": "s"}}, True)],
    ids=str,
)
def test_other_data_or_denoisers_need_allow_other(pair, tmp_path, capsys, changed, paired):
    a, _, rows, ours = pair
    other = write(tmp_path / "other.json", {CELL: ours[:20]} if "data" in changed else {CELL: ours}, **changed)
    assert main(["compare", str(a), str(other)]) == 2
    error = capsys.readouterr().err
    assert f"got different {next(iter(changed))} in" in error and "set allow_other" in error
    (d,) = compared(a, other, allow_other=True)
    theirs = ours[:20] if "data" in changed else ours
    assert (d["paired"], d["low"] is None, d["high"] is None, d["n"]) == (paired, not paired, not paired, len(theirs))
    assert d["difference"] == pytest.approx((theirs.mean() - rows.mean()).item(), abs=1e-5)
    unpaired = math.hypot(mean_of(rows).stderr, mean_of(theirs).stderr)
    assert (d["stderr"] == pytest.approx(unpaired, rel=1e-4)) == (not paired)


def test_files_that_are_no_results_are_refused(pair, tmp_path, capsys):
    a, *_ = pair
    alone = write(tmp_path / "alone.json", {("other", "random", 4): torch.ones(50)})
    for path, rule in ((tmp_path / "nowhere", "must be a folder or .json file"), (alone, "a setting in common")):
        assert main(["compare", str(a), str(path)]) == 2
        assert rule in capsys.readouterr().err
    alone.write_text("{}")
    assert main(["compare", str(a), str(alone)]) == 2
    assert "must hold identity and settings, got []" in capsys.readouterr().err


def test_committed_result_is_equal_to_itself(capsys):
    assert main(["compare", "docs/results/tinystories.json", "docs/results/tinystories.json"]) == 0
    assert "+0.0000 ± 0.0000" in capsys.readouterr().out
