"""Plots: complete, the same for the same content, and without a trace in matplotlib's state."""

import json
import re
import sys

import pytest

from edlm.cli import main
from edlm.commands.plot_logs import line_of
from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.plots.drawing import Line
from edlm.evaluation.plots.evaluation import bounds_svg, energies_svg, inline, plot_bounds
from tests.evaluation.measured import row_of

matplotlib = pytest.importorskip("matplotlib")


def timed(name="base", order="random", steps=4, bound=3.0) -> Row:
    numbers = {"bound_nats_per_token": bound, "bound_stderr": 0.1, "seconds_per_sequence": 0.1 * steps}
    return row_of(name, order, steps, **numbers)


ROWS = [timed(n, o, steps) for n in ("base", "head_exact") for o in ("random", "dilated") for steps in (4, 32)]


def drawn(path, rows=ROWS) -> str:
    plot_bounds(rows, path, title="The title")
    return path.read_text()


def words(svg: str) -> list[str]:
    return re.findall(r">([^<>\n]+)</text>", svg)


def test_bounds_are_named_and_their_styles_shared(tmp_path):
    texts = words(svg := drawn(tmp_path / "a.svg", [*ROWS, timed("never", bound=float("inf"))]))
    assert all(texts.count(f"{row.name}, {row.order}") == 1 for row in ROWS) and "never, random" not in texts
    assert texts.count("4") == 4 and texts.count("32") == 4 and "The title" in texts
    lines = re.findall(r'style="fill: none;([^"]*)stroke: (#\w+); stroke-width: 1.4', svg)
    dashes, colours = zip(*lines[:4], strict=True)
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert dashes[0].strip() == dashes[2].strip() != dashes[1].strip() == dashes[3].strip()


def test_thresholds_of_an_order_are_one_line_over_mean_passes(tmp_path):
    found = {0.5: (31.25, 2.0), 9: (3.0, 3.0)}
    names = {g: f"entropy_bounded({g}) in blocks of 4" for g in found}
    numbers = {"passes_per_sequence": 0.0, "bound_nats_per_token": 0.0, "bound_stderr": 0.1}
    rows = [row_of("base", names[g], 99, **{**numbers, **dict(zip(numbers, found[g], strict=False))}) for g in found]
    texts = words(drawn(tmp_path / "a.svg", rows))
    assert texts.count("base, entropy_bounded in blocks of 4") == 1 and {"3", "31.2"} <= {*texts} and "99" not in texts


def test_plot_does_not_depend_on_matplotlibs_state(tmp_path):
    plain = drawn(tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 31, "lines.linewidth": 9, "svg.hashsalt": "x", "svg.fonttype": "path"}):
        before, had_pyplot = matplotlib.rcParams.copy(), "matplotlib.pyplot" in sys.modules
        assert drawn(tmp_path / "b.svg") == plain != drawn(tmp_path / "c.svg", ROWS[::-1])
        assert matplotlib.rcParams.copy() == before and ("matplotlib.pyplot" in sys.modules) == had_pyplot
    one = row_of("base", "random", 8, bound_nats_per_token=1.0, bound_stderr=None)  # without a bar
    assert "base, random" in drawn(tmp_path / "d.svg", [one])
    plot_bounds(ROWS, tmp_path / "a.png", title="t")
    assert int.from_bytes((tmp_path / "a.png").read_bytes()[16:20], "big") == 1800


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"edlm-rerank\[plots\]"):
        drawn(tmp_path / "a.svg")


@pytest.mark.parametrize(
    ("rows", "name", "rule"),
    [
        (ROWS, "a.pdf", "must end in .png or .svg"),
        ([], "a.svg", "got 0 and 0"),
        ([timed(str(i)) for i in range(8)], "a.svg", "7 names and 6 orders, got 8"),
        ([timed(order=str(i)) for i in range(7)], "a.svg", "got 1 and 7"),
    ],
)
def test_bounds_that_cannot_be_drawn_are_refused(tmp_path, rows, name, rule):
    with pytest.raises(ValueError, match=rule):
        drawn(tmp_path / name, rows)
    assert not list(tmp_path.iterdir())


def test_logs_are_drawn_by_their_validation_losses(tmp_path, capsys):
    logs = {"head": [3.0, 2.5], "head_blind": [3.0, 2.9], "empty": []}
    for name, losses in logs.items():
        splits = [{"split": "train", "step": 0, "loss": 4.0}]
        splits += [{"split": "valid", "step": step, "loss": loss} for step, loss in enumerate(losses)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in splits))
    head, blind, empty = (tmp_path / f"{name}.jsonl" for name in logs)
    assert line_of(blind) == Line("head_blind", "", [0, 1], [3.0, 2.9])
    output = ["--output", str(tmp_path / "runs.svg")]
    assert main(["plot", "logs", "--logs", json.dumps([str(head), str(blind)]), *output]) == 0
    assert {"head", "head_blind"} <= {*words((tmp_path / "runs.svg").read_text())}
    assert main(["plot", "logs", "--logs", json.dumps([str(empty)]), *output]) == 2
    assert "must hold validation losses" in capsys.readouterr().err


def test_report_plots_take_the_colours_of_the_page():
    rows = [row_of(name, num_steps=n, bound_nats_per_token=4.0 / n) for name in ("base", "ours") for n in (2, 4)]
    svg = bounds_svg(rows)
    assert "denoiser passes (log)" in words(svg) and words(svg).count("ours, bisecting") == 1 and bounds_svg([]) is None
    part = inline(svg, "a plot")
    assert "var(--line-1)" in part and "currentColor" in part and 'aria-label="a plot"' in part and "xmlns" not in part
    energies = energies_svg([("ours", "random", [-1.0, 0.0, 1.0]), ("never", "random", [])], ["base", "ours"])
    assert "ours, random" in words(energies) and energies_svg([], []) is None
