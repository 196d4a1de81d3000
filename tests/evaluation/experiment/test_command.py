"""The command around an evaluation: what a result is of, what is printed, drawn and written."""

import csv
import json
from dataclasses import replace

import pytest
import torch

from edlm.commands import evaluate as command
from edlm.corpus.text import load_blocks
from edlm.denoisers.loading import SHIPPED
from edlm.evaluation.experiment.plan import EvaluateConfig, FrontierConfig, SamplesConfig
from edlm.evaluation.experiment.store import curves_of
from edlm.evaluation.report.conclusions import conclusions
from edlm.evaluation.samples.texts import tokens_per_word
from edlm.training.checkpoints import fingerprint
from tests.evaluation.report.test_conclusions import ALL, curve, evaluation, setting

VALID = SHIPPED / "tinystories" / "valid.safetensors"
BARE = {"num_rows": 3, "num_steps": (2,), "orders": ("bisecting",), "methods": (), "seed": 4}


def test_a_result_is_of_the_rows_that_are_used_and_in_their_units(tmp_path):
    found, blocks = command.prepare(EvaluateConfig(output=str(tmp_path / "a"), **BARE)), load_blocks(VALID)
    x_0 = blocks.tokens[:3]
    assert torch.equal(found.x_0, x_0) and [s.key for s in found.settings] == ["base, bisecting, 2 steps"]
    identity = found.results.identity
    assert (identity["data"], identity["seed"]) == (fingerprint(x_0), 4) and identity["denoiser"]["vocab_size"] == 2048
    assert found.units.characters_per_token == blocks.characters_per_token > 1
    words = tokens_per_word(found.denoiser, x_0)
    assert found.units.tokens_per_word == words != tokens_per_word(found.denoiser, blocks.tokens)


@pytest.mark.parametrize(
    ("output", "temperatures", "kept"),
    [
        ("folder", None, "folder/results.samples.safetensors"),
        ("a.json", None, None),
        ("a.json", (0.9,), "a.samples.safetensors"),
        (None, (0.9,), None),
    ],
)
def test_judged_samples_are_kept_beside_the_numbers_of_a_frontier(tmp_path, output, temperatures, kept):
    output = output and str(tmp_path / output)
    config = EvaluateConfig(output=output, frontier=FrontierConfig(temperatures=temperatures), **BARE)
    assert command.prepare(config).points.path == (kept and tmp_path / kept)


def test_energies_are_looked_at_for_reports_with_the_tables_seed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "look_at_energies", lambda *args, **how: asked.append((args[1:], how)) or ["look"])
    done = evaluation(settings=ALL[:1])
    assert command._energies(done) == []
    for size, rows in ((4, 4), (99, 16)):
        done.config = replace(done.config, output=str(tmp_path), samples=SamplesConfig(batch_size=size))
        assert command._energies(done) == ["look"]
        assert asked.pop() == (([ALL[0]], 3), {"num_rows": rows, "seed": 5})


def test_an_interrupt_says_how_much_is_kept(tmp_path, capsys):
    done = evaluation(tmp_path / "a.json", settings=ALL[:2])
    done.settings.append(setting("base", None, 2, "random"))  # not measured yet
    for output, said in ((str(tmp_path / "a.json"), "2 of 3 settings are kept in"), (None, "without --output nothing")):
        done.config = replace(done.config, output=output)
        command._say_how_to_go_on(done)
        assert f"edlm: interrupted: {said}" in capsys.readouterr().err


def concluded(path=None, points=(), **how):
    done = evaluation(path, **how)
    done.results.conclude(**conclusions(done, points))
    return done


def test_the_verdict_and_every_warning_are_printed_and_ratios_go_along_with_the_table(tmp_path, capsys):
    done = concluded(output=str(tmp_path / "none.json"), markdown=str(tmp_path / "table.md"))
    done.results._conclusions["time_ratios"] = [
        {"name": "ours", "order": "dilated", "than": "base", "than_order": "random", "than_steps": 2}
        | {"value": 0.5, "low": 0.25, "high": float("inf")}
    ]
    command._show(done)
    printed = capsys.readouterr().out
    said = "ours (dilated) reaches the bound of base (random, 2 steps) in 0.500 [0.250, inf] of its time"
    assert said in printed.splitlines() and done.results.conclusions["verdict"] in printed.splitlines()
    warnings = done.results.conclusions["warnings"]
    assert len(warnings) == 1 and all(f"warning: {warning}" in printed.splitlines() for warning in warnings)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 2 + len(ALL) + 2 and lines[-1] == f"- {said}"


def test_the_methods_and_orders_that_are_asked_for_are_drawn(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(command, "plot_curves", lambda curves, path, *, title: drawn.append((curves, path, title)))
    for plotted, orders in ((None, None), (("ours",), None), (None, ("dilated",)), (("ours", "base"), ("dilated",))):
        done = concluded(plot="a.svg", plotted=plotted, plotted_orders=orders)
        command._show(done)
        ((curves, path, title),) = drawn
        drawn.clear()
        expected = [(c.name, c.order) for c in curves_of(done.results, ALL)]
        shown = [(n, o) for n, o in expected if n in (plotted or [n]) and o in (orders or [o])]
        assert [(c.name, c.order) for c in curves] == shown and path == "a.svg"
        assert title == "7 held-out blocks of 3 tokens"


def test_every_cell_of_a_frontier_has_a_picture_and_the_table_holds_what_was_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    points = [*curve("left_to_right", 2, 0.0), *curve("dilated", 2, 1.0), *curve("dilated", 3, 0.5)]
    drawn = []
    monkeypatch.setattr(command, "frontier_svg", lambda some, names: drawn.append(some) or f"<svg>{len(drawn)}</svg>")
    written = []
    monkeypatch.setattr(command, "write_report", lambda result, pictures, path: written.append((result, pictures)))
    folder = tmp_path / "result"
    done = concluded(folder / "results.json", points, output=str(folder))
    done.settings = done.results.settings = ALL[:4]  # asked for this time; the rest was measured before
    done.results.conclude()
    command._write_folder(done, points, [])
    assert drawn == [points[:3], points[3:6], points[6:]]
    names = {name: folder / f"{name}.svg" for name in ("frontier", "frontier_2", "frontier_3")}
    assert all(f">{i}</svg>" in path.read_text() for i, path in enumerate(names.values(), 1))
    ((result, pictures),) = written
    assert set(names) <= set(pictures) and result == json.loads((folder / "results.json").read_text())
    rows = list(csv.DictReader((folder / "results.csv").open(newline="")))
    assert [(row["name"], row["order"], int(row["num_steps"])) for row in rows] == [
        (s["name"], s["order"], s["num_steps"]) for s in result["settings"]
    ]
    assert len(rows) == 4 and len(result["others"]) == len(ALL) - 4
