"""``edlm compare``: what differs, how surely, and what may not be compared."""

import csv
import html
import json
import math

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import t as student

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
        assert "{low:+.4f} to {high:+.4f}".format(**d) in printed and d["verdict"] in printed


def test_other_options_of_one_name_are_marked(tmp_path, compare):
    other = {"energy": "b", "num_candidates": None, "scope": "sequence", "window": [0.0, 0.5], "inner_draws": 4}
    rows = {CELL: torch.ones(3)}
    a, b = write(tmp_path / "a.json", rows), write(tmp_path / "b.json", rows, **other)
    (d,), printed = compare(a, b)
    assert {*d["differs"]} == {*other} and "Not the same" in printed
    (d,), printed = compare(b, b)
    assert d["differs"] == [] and "Not the same" not in printed


def test_unknown_values_are_neither_nan_nor_in_json(tmp_path, compare):
    """One text; bounds that are infinite in one and in both; texts too few for an interval."""

    def compared(a, b, **about):
        paths = [write(tmp_path / "a.json", {CELL: torch.tensor(a)})]
        paths.append(write(tmp_path / "b.json", {CELL: torch.tensor(b)}, **about))
        (d,), printed = compare(*paths, "--allow_other")
        assert "nan" not in printed and "inf" not in printed
        return d, printed

    d, printed = compared([3.0], [2.5])
    assert "over 1 held-out text, paired." in printed and "-0.5000" in printed
    assert (d["difference"], d["stderr"], d["low"], d["high"]) == (-0.5, None, None, None)
    assert d["verdict"] == "too few texts to tell"
    d, printed = compared([3.0, 2.0, 1.0], [math.inf, 2.0, 1.0])
    assert d["verdict"] == "worse" and "by up to ∞ nats per token" in printed and "+∞" in printed
    assert "Too few texts to tell a difference" in compared([math.inf, 2.0], [math.inf, 2.0])[1]
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
    assert (d["paired"], d["n"]) == (paired, len(theirs))
    assert d["difference"] == pytest.approx((theirs.mean() - ours.mean()).item(), abs=1e-5)
    unpaired = math.hypot(mean_of(ours).stderr, mean_of(theirs).stderr)
    assert (d["stderr"] == pytest.approx(unpaired, rel=1e-4)) == (not paired)
    half = student.ppf(0.975, len(theirs) - 1) * unpaired
    assert (d["high"] - d["difference"] == pytest.approx(half, rel=1e-4)) == (not paired)
    assert d["difference"] - d["low"] == pytest.approx(d["high"] - d["difference"])


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


def test_unpaired_intervals_hold_for_all_settings_at_once(tmp_path, compare):
    rows = {(name, "random", 4): torch.randn(30, generator=generator(i)) for i, name in enumerate("abcd")}
    records, _ = compare(write(tmp_path / "a.json", rows), write(tmp_path / "b.json", rows, seed=1), "--allow_other")
    halves = [d["high"] - d["difference"] for d in records]
    assert halves == pytest.approx([student.ppf(1 - 0.05 / 8, 29) * d["stderr"] for d in records], rel=1e-4)


def test_committed_result_is_equal_to_itself(compare):
    path = "docs/results/tinystories.json"
    records, printed = compare(path, path)
    assert "+0.0000 ± 0.0000" in printed and printed.startswith(
        f"No difference between {path} and {path}: no difference in {len(records)} of {len(records)} settings; over 204"
    )


STEPS = (1, 2, 4, 8, 16)


def shifted(tmp_path, *shifts, n=40, spread=0.01):
    """Two files of a method whose bounds differ by this much at each number of passes."""
    a = {("ours", "left_to_right", steps): torch.full((n,), 3.0) for steps in STEPS[: len(shifts)]}
    noise = spread * torch.linspace(-1, 1, n)
    b = {key: rows + shift + noise for (key, rows), shift in zip(a.items(), shifts, strict=True)}
    return write(tmp_path / "a.json", a), write(tmp_path / "b.json", b)


@pytest.mark.parametrize(
    ("shifts", "spread", "said"),
    [
        (
            (0.0, -0.5, -0.25, 0.0),
            0.01,
            "{b} is better than {a}: better in 2 of 4 settings (ours at 2 to 4 passes in left to right order), "
            "by up to 0.5000 [0.4",
        ),
        ((0.5, 0.25), 0.01, "{b} is worse than {a}: worse in 2 of 2 settings (ours at 1 to 2 passes in left"),
        (
            (0.5, -0.25),
            0.01,
            "{b} is better here and worse there than {a}: better in 1 of 2 settings (ours at 2 passes",
        ),
        ((0.0,), 0.01, "No difference between {b} and {a}: no difference in 1 of 1 setting; over 40 held-out texts"),
        ((0.0,), 5.0, "Too few texts to tell a difference between {b} and {a}: too few texts to tell in 1 of 1"),
        ((0.1, 0.0), 5.0, "Too few texts to tell"),
    ],
)
def test_first_line_is_the_verdict(tmp_path, compare, shifts, spread, said):
    a, b = shifted(tmp_path, *shifts, spread=spread)
    records, printed = compare(a, b)
    assert printed.startswith(said.format(a=a, b=b))
    assert printed.splitlines()[0].endswith("; over 40 held-out texts, paired.")
    words = {1: "worse", -1: "better", 0: "no difference"}
    expected = [words[(shift > 0) - (shift < 0)] if spread < 1 else "too few texts to tell" for shift in shifts]
    assert [d["verdict"] for d in records] == expected


def test_verdict_has_the_interval_of_the_greatest_difference(tmp_path, compare):
    for shifts, word in (((-0.1, -0.5, -0.25), "better"), ((0.1, 0.5, 0.25), "worse")):
        records, printed = compare(*shifted(tmp_path, *shifts))
        low, high = sorted(abs(records[1][end]) for end in ("low", "high"))
        assert f"by up to {abs(records[1]['difference']):.4f} [{low:.4f}, {high:.4f}] nats per token" in printed
        assert f"{word} in 3 of 3 settings" in printed


def test_methods_of_one_result_alone_are_named(tmp_path, compare):
    base = {("base", "random", 4): torch.ones(9)}
    a = write(tmp_path / "a.json", base | {("ours", "random", 4): torch.ones(9)})
    b = write(tmp_path / "b.json", base | {("new", "random", steps): torch.ones(9) for steps in (2, 4)})
    assert compare(a, b)[1].splitlines()[0].endswith(" Not compared, since in one alone: ours (a), new (b).")
    assert "Not compared" not in compare(b, b)[1]


def test_output_is_what_its_suffix_names(tmp_path, capsys):
    a, b = map(str, shifted(tmp_path, -0.5, 0.0))
    outputs = {suffix: tmp_path / "new" / f"x.{suffix}" for suffix in ("json", "md", "csv", "html")}
    for output in outputs.values():
        assert main(["compare", a, b, "--output", str(output)]) == 0
    verdict = capsys.readouterr().out.splitlines()[0]
    texts = {suffix: output.read_text() for suffix, output in outputs.items()}
    result = json.loads(texts["json"])
    assert (result["a"], result["b"], result["verdict"]) == (a, b, verdict)
    rows = list(csv.DictReader(texts["csv"].splitlines()))
    assert [row["verdict"] for row in rows] == ["better", "no difference"]
    assert [float(row["difference"]) for row in rows] == [d["difference"] for d in result["differences"]]
    assert texts["md"].startswith(f"{verdict}\n\n") and texts["md"].count("\n| ours | left_to_right | ") == 2
    page = html.unescape(texts["html"])
    assert f'<h1 id="verdict">{verdict}</h1>' in page and page.count(">better</td>") == 1 and "<script" not in page
    for name in ("x.txt", "x", "x.jsonl"):
        assert main(["compare", a, "nowhere", "--output", name]) == 2
        assert f"output must end in .json, .md, .csv or .html, got '{name}'" in capsys.readouterr().err
