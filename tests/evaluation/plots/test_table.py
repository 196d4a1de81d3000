"""The picture: written, the same for the same curves, complete, and without a trace in matplotlib's state."""

import importlib.util
import json
import re
import sys
from dataclasses import replace

import pytest
import torch

from edlm.cli import main
from edlm.evaluation.likelihood.speedup import Curve
from edlm.evaluation.plots.table import plot_curves, plot_logs

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is an extra")


def curves() -> list[Curve]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 30, dtype=torch.float64, generator=generator)
    grid = [("base", "random"), ("base", "dilated"), ("head_exact", "random"), ("head_exact", "dilated")]
    return [
        Curve(name, order, (4, 32), rows + 3 - 0.1 * i, torch.tensor([[0.1, 0.2], [0.7, 0.9]]).double() * (1 + i))
        for i, (name, order) in enumerate(grid)
    ]


def drawn(path, of=None, **options) -> str:
    plot_curves(of or curves(), path, **{"title": "Bound against time", **options})
    return path.read_text()


@needs_matplotlib
def test_the_svg_says_all_in_words(tmp_path):
    svg = drawn(tmp_path / "a.svg", title="A title of its own")
    texts = re.findall(r">([^<>\n]+)</text>", svg)
    for curve in curves():
        assert texts.count(f"{curve.name}, {curve.order}") == 1
    assert texts.count("4") == 4 and texts.count("32") == 4
    assert "A title of its own" in texts
    assert any("seconds per sequence" in text for text in texts)
    assert any("nats per token (low = good)" in text for text in texts)


@needs_matplotlib
def test_the_same_curves_give_the_same_bytes(tmp_path):
    first, second, other = (tmp_path / name for name in ("a.svg", "b.svg", "c.svg"))
    drawn(first), drawn(second), drawn(other, curves()[::-1])
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    assert b"<dc:date>" not in first.read_bytes()


@needs_matplotlib
def test_a_png_is_twice_as_wide_as_it_is_shown(tmp_path):
    plot_curves(curves(), tmp_path / "a.png", title="t")
    data = (tmp_path / "a.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(data[16:20], "big") == 1800


@needs_matplotlib
def test_matplotlib_is_left_as_it_was_and_the_users_style_stays_out(tmp_path):
    import matplotlib

    plain = drawn(tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 31, "lines.linewidth": 9, "svg.hashsalt": "x", "svg.fonttype": "path"}):
        before, had_pyplot = matplotlib.rcParams.copy(), "matplotlib.pyplot" in sys.modules
        assert drawn(tmp_path / "b.svg") == plain
        assert matplotlib.rcParams.copy() == before and ("matplotlib.pyplot" in sys.modules) == had_pyplot


@needs_matplotlib
def test_methods_share_a_colour_and_orders_a_line(tmp_path):
    """All lines are in the svg as a path with its colour and its dashes."""
    svg = drawn(tmp_path / "a.svg")
    lines = re.findall(r'style="fill: none;([^"]*)stroke: (#\w+); stroke-width: 1.4', svg)
    in_axes = [(dashes.strip(), colour) for dashes, colour in lines][:4]
    assert in_axes[0][1] == in_axes[1][1] != in_axes[2][1] == in_axes[3][1]
    assert in_axes[0][0] == in_axes[2][0] != in_axes[1][0] == in_axes[3][0]


@needs_matplotlib
def test_numbers_of_curves_that_coincide_do_not(tmp_path):
    twins = [curves()[0], replace(curves()[0], name="twin")]
    places = re.findall(r'x="([\d.]+)" y="([\d.]+)"[^>]*>32</text>', drawn(tmp_path / "a.svg", twins))
    first, second = ([float(x) for x in place] for place in places)
    assert abs(first[0] - second[0]) > 9 or abs(first[1] - second[1]) > 6  # points, the size of a number


@needs_matplotlib
def test_one_setting_of_one_row_is_drawn_without_a_bar(tmp_path):
    one = torch.ones(1, 1, dtype=torch.float64)
    assert "base, random" in drawn(tmp_path / "a.svg", [Curve("base", "random", (8,), one, one)])


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "edlm\[plots\]"'):
        plot_curves(curves(), tmp_path / "a.svg", title="t")
    assert not (tmp_path / "a.svg").exists()


@pytest.mark.parametrize(
    ("of", "name", "message"),
    [
        (curves(), "a.pdf", r"must end in .png or .svg, got 'a.pdf'"),
        (curves(), "a", r"must end in .png or .svg, got 'a'"),
        ([], "a.svg", "1 to 7 methods to tell them apart, got 0"),
        ([replace(curves()[0], name=str(i)) for i in range(8)], "a.svg", "1 to 7 methods to tell them apart, got 8"),
        ([replace(curves()[0], order=str(i)) for i in range(7)], "a.svg", "1 to 6 orders to tell them apart, got 7"),
        (curves()[:1] * 2, "a.svg", "a name and an order of its own, got .*'base', 'random'"),
    ],
)
def test_a_plot_says_what_it_needs(tmp_path, of, name, message):
    with pytest.raises(ValueError, match=message):
        plot_curves(of, tmp_path / name, title="t")
    assert not list(tmp_path.iterdir())


def logs(folder, **losses: list[float]) -> list[str]:
    """Files as training leaves them: a line a train step, and one each second step for validation."""
    for name, values in losses.items():
        lines = []
        for i, loss in enumerate(values, 1):
            lines.append({"step": 2 * i - 1, "split": "train", "loss": 100.0})
            lines.append({"step": 2 * i, "split": "valid", "loss": loss})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [str(folder / f"{name}.jsonl") for name in losses]


@needs_matplotlib
def test_the_command_draws_the_validation_losses_of_each_log(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn_lines, plot = {}, Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda self, x, y, **how: drawn_lines.update({how["label"]: (x, y)}) or plot(self, x, y, **how)
    )
    files = logs(tmp_path, head=[3.0, 2.5, 2.25], head_blind=[3.0, 2.9])
    output = tmp_path / "runs.svg"
    assert main(["plot", "logs", "--logs", json.dumps(files), "--output", str(output)]) == 0
    assert drawn_lines == {"head": ((2, 4, 6), (3.0, 2.5, 2.25)), "head_blind": ((2, 4), (3.0, 2.9))}
    texts = re.findall(r">([^<>\n]+)</text>", output.read_text())
    assert texts.count("head") == texts.count("head_blind") == 1


@needs_matplotlib
def test_a_log_without_validation_is_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text('{"step": 1, "split": "train", "loss": 1.0}\n')
    with pytest.raises(ValueError, match="must hold validation losses, got none in .*empty.jsonl"):
        plot_logs([tmp_path / "empty.jsonl"], tmp_path / "a.svg")
