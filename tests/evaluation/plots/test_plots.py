"""Plots: complete, the same for the same content, and without a trace in matplotlib's state."""

import json
import re
import sys
from dataclasses import replace

import pytest
import torch

from edlm.cli import main
from edlm.evaluation.likelihood.speedup import Curve
from edlm.evaluation.plots.report import bounds_svg, energies_svg, inline
from edlm.evaluation.plots.table import plot_curves, plot_logs
from tests.evaluation.measured import row_of

matplotlib = pytest.importorskip("matplotlib")


def curves() -> list[Curve]:
    rows = torch.randn(2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = [("base", "random"), ("base", "dilated"), ("head_exact", "random"), ("head_exact", "dilated")]
    seconds = torch.tensor([[0.1, 0.2], [0.7, 0.9]]).double()
    return [Curve(*line, (4, 32), rows + 3 - 0.1 * i, seconds * (1 + i)) for i, line in enumerate(grid)]


def drawn(path, of=None) -> str:
    plot_curves(of or curves(), path, title="A title of its own")
    return path.read_text()


def words(svg: str) -> list[str]:
    return re.findall(r">([^<>\n]+)</text>", svg)


def test_curves_are_named_and_their_bars_and_styles_shared(tmp_path):
    svg = drawn(tmp_path / "a.svg")
    assert all(words(svg).count(f"{curve.name}, {curve.order}") == 1 for curve in curves())
    assert words(svg).count("4") == 4 and words(svg).count("32") == 4 and "A title of its own" in words(svg)
    lines = re.findall(r'style="fill: none;([^"]*)stroke: (#\w+); stroke-width: 1.4', svg)
    dashes, colours = zip(*lines[:4], strict=True)
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert dashes[0].strip() == dashes[2].strip() != dashes[1].strip() == dashes[3].strip()


def test_plot_does_not_depend_on_matplotlibs_state(tmp_path):
    plain = drawn(tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 31, "lines.linewidth": 9, "svg.hashsalt": "x", "svg.fonttype": "path"}):
        before, had_pyplot = matplotlib.rcParams.copy(), "matplotlib.pyplot" in sys.modules
        assert drawn(tmp_path / "b.svg") == plain != drawn(tmp_path / "c.svg", curves()[::-1])
        assert matplotlib.rcParams.copy() == before and ("matplotlib.pyplot" in sys.modules) == had_pyplot
    one = torch.ones(1, 1, dtype=torch.float64)  # without a bar
    assert "base, random" in drawn(tmp_path / "d.svg", [Curve("base", "random", (8,), one, one)])
    plot_curves(curves(), tmp_path / "a.png", title="t")
    assert int.from_bytes((tmp_path / "a.png").read_bytes()[16:20], "big") == 1800


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"edlm\[plots\]"):
        drawn(tmp_path / "a.svg")


@pytest.mark.parametrize(
    ("of", "name", "rule"),
    [
        (curves(), "a.pdf", "must end in .png or .svg"),
        ([], "a.svg", "methods, got 0"),
        ([replace(curves()[0], name=str(i)) for i in range(8)], "a.svg", "methods, got 8"),
        ([replace(curves()[0], order=str(i)) for i in range(7)], "a.svg", "orders, got 7"),
        (curves()[:1] * 2, "a.svg", "a name and an order of its own"),
    ],
)
def test_curves_that_cannot_be_drawn_are_refused(tmp_path, of, name, rule):
    with pytest.raises(ValueError, match=rule):
        plot_curves(of, tmp_path / name, title="t")
    assert not list(tmp_path.iterdir())


def test_logs_are_drawn_by_their_validation_losses(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    lines, errorbar = {}, Axes.errorbar
    monkeypatch.setattr(
        Axes,
        "errorbar",
        lambda self, x, y, *e, **kw: lines.update({kw["label"]: (x, y)}) or errorbar(self, x, y, *e, **kw),
    )
    for name, losses in {"head": [3.0, 2.5], "head_blind": [3.0, 2.9]}.items():
        records = [
            {"step": 2 * i + n, "split": s, "loss": x}
            for i, x in enumerate(losses)
            for n, s in enumerate(("train", "valid"))
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    logs = json.dumps([str(tmp_path / f"{name}.jsonl") for name in ("head", "head_blind")])
    assert main(["plot", "logs", "--logs", logs, "--output", str(tmp_path / "runs.svg")]) == 0
    assert lines == {"head": ([1, 3], [3.0, 2.5]), "head_blind": ([1, 3], [3.0, 2.9])}
    (tmp_path / "empty.jsonl").write_text('{"step": 1, "split": "train", "loss": 1.0}\n')
    with pytest.raises(ValueError, match="must hold validation losses"):
        plot_logs([tmp_path / "empty.jsonl"], tmp_path / "a.svg")


def test_report_plots_take_the_colours_of_the_page():
    rows = [row_of(name, num_steps=n, bound_nats_per_token=4.0 / n) for name in ("base", "ours") for n in (2, 4)]
    svg = bounds_svg([*rows, row_of("never", bound_nats_per_token=float("inf"))])
    assert "denoiser passes (log)" in words(svg) and words(svg).count("ours, bisecting") == 1
    assert "never, bisecting" not in words(svg) and bounds_svg([]) is None
    part = inline(svg, "a plot")
    assert "var(--line-1)" in part and "currentColor" in part and 'aria-label="a plot"' in part and "xmlns" not in part
    energies = energies_svg([("ours", "random", [-1.0, 0.0, 1.0]), ("never", "random", [])], ["base", "ours"])
    assert "ours, random" in words(energies) and energies_svg([], []) is None
