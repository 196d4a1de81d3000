"""``edlm compare``: what differs, how surely, and what may not be compared."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from edlm.cli import main
from edlm.evaluation.estimates.bootstrap import simultaneous_intervals
from edlm.evaluation.estimates.estimate import mean_of

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


@pytest.fixture
def compare(tmp_path, capsys):
    """Runs the command on two files; gives its records, and what it printed."""

    def run(a, b, *options) -> tuple[list[dict], str]:
        output = tmp_path / "differences.json"
        assert main(["compare", str(a), str(b), "--output", str(output), *options]) == 0
        return json.loads(output.read_text(), parse_constant=pytest.fail)["differences"], capsys.readouterr().out

    return run


@pytest.fixture
def pair(tmp_path):
    """Two files with four settings in common, and what is in both: nats of each row, by setting."""
    g = generator(4)
    a = {("ours", "random", steps): 4 + torch.randn(50, generator=g) for steps in range(1, 6)}
    b = {key: rows - 0.1 + 0.05 * torch.randn(50, generator=g) for key, rows in a.items() if key[2] > 1}
    write(tmp_path / "a" / "results.json", a)
    other = {("new", "random", 4): torch.ones(50)}
    write(tmp_path / "b.json", other | b, denoiser={**DENOISER, "name": "renamed"})
    return tmp_path / "a", tmp_path / "b.json", a, b


def test_common_settings_are_paired_by_rows(pair, compare):
    a, b, nats_a, nats_b = pair
    records, printed = compare(a, b, "--seed", "3")
    assert [(d["name"], d["order"], d["num_steps"]) for d in records] == [*nats_b] and all(d["paired"] for d in records)
    series = torch.stack([rows.double() - nats_a[key].double() for key, rows in nats_b.items()])
    expected = simultaneous_intervals(series, generator=generator(3))  # which hold for all settings at once
    assert [tuple(d[field] for field in ("difference", "stderr", "n", "low", "high")) for d in records] == expected
    for d, (key, rows) in zip(records, nats_b.items(), strict=True):
        assert (d["a"], d["b"]) == pytest.approx((nats_a[key].mean().item(), rows.mean().item()), rel=1e-6)
        assert "{difference:+.4f} ± {stderr:.4f}".format(**d) in printed
        assert "{low:+.4f} to {high:+.4f}".format(**d) in printed


def test_other_options_of_one_name_are_marked(tmp_path, compare):
    other = {"energy": "b", "num_candidates": None, "scope": "sequence", "window": [0.0, 0.5], "inner_draws": 4}
    rows = {CELL: torch.ones(3)}
    a, b = write(tmp_path / "a.json", rows), write(tmp_path / "b.json", rows, **other)
    (d,), printed = compare(a, b)
    assert {*d["differs"]} == {*other} and "not the same" in printed
    (d,), printed = compare(b, b)
    assert d["differs"] == [] and "not the same" not in printed


def test_unknown_values_are_neither_nan_nor_in_json(tmp_path, compare):
    """One row; bounds that are infinite in one and in both; rows too few for an interval."""

    def compared(a, b, **about):
        paths = [write(tmp_path / "a.json", {CELL: torch.tensor(a)})]
        paths.append(write(tmp_path / "b.json", {CELL: torch.tensor(b)}, **about))
        (d,), printed = compare(*paths, "--allow_other")
        assert "nan" not in printed and "inf" not in printed
        return d, printed

    d, printed = compared([3.0], [2.5])
    assert "1 row," in printed and "-0.5000" in printed
    assert (d["difference"], d["stderr"], d["low"], d["high"]) == (-0.5, None, None, None)
    assert "+∞" in compared([3.0, 2.0, 1.0], [math.inf, 2.0, 1.0])[1]
    assert "∞" in compared([math.inf, 2.0], [math.inf, 2.0])[1]
    assert "-∞ to +∞" in compared([3.0, 2.0, 4.0], [2.5, 2.1, 3.0])[1]
    assert "unpaired" in compared([3.0], [2.5], seed=1)[1]


@pytest.mark.parametrize(
    ("changed", "paired"),
    [({"data": "e"}, False), ({"seed": 1}, False), ({"denoiser": {**DENOISER, "revision": "s"}}, True)],
    ids=str,
)
def test_other_data_or_denoisers_need_allow_other(pair, tmp_path, compare, capsys, changed, paired):
    a, _, nats_a, nats_b = pair
    ours, theirs = nats_a[CELL], nats_b[CELL][: 20 if "data" in changed else 50]
    other = write(tmp_path / "other.json", {CELL: theirs}, **changed)
    assert main(["compare", str(a), str(other)]) == 2
    error = capsys.readouterr().err
    assert f"got different {next(iter(changed))} in" in error and "set allow_other" in error
    (d,), _ = compare(a, other, "--allow_other")
    assert (d["paired"], d["low"] is None, d["high"] is None, d["n"]) == (paired, not paired, not paired, len(theirs))
    assert d["difference"] == pytest.approx((theirs.mean() - ours.mean()).item(), abs=1e-5)
    unpaired = math.hypot(mean_of(ours).stderr, mean_of(theirs).stderr)
    assert (d["stderr"] == pytest.approx(unpaired, rel=1e-4)) == (not paired)


def test_files_that_are_no_results_are_refused(pair, tmp_path, capsys):
    alone = write(tmp_path / "alone.json", {("other", "random", 4): torch.ones(50)})
    empty = write(tmp_path / "empty.json", {CELL: torch.ones(50)})
    empty.write_text("{}")
    for path, rule in (
        (tmp_path / "nowhere", "must be a folder or .json file"),
        (alone, "a setting in common"),
        (empty, "must hold identity and settings, got []"),
    ):
        assert main(["compare", str(pair[0]), str(path)]) == 2
        assert rule in capsys.readouterr().err


def test_committed_result_is_equal_to_itself(compare):
    _, printed = compare("docs/results/tinystories.json", "docs/results/tinystories.json")
    assert "+0.0000 ± 0.0000" in printed
