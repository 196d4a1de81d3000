"""``edlm evaluate`` into a folder, on the shipped models: the numbers, the page, and what stops it."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import edlm
from edlm.cli import main, parse
from edlm.corpus.text import load_blocks
from edlm.denoisers.loading import SHIPPED
from edlm.evaluation import continuous_nelbo, published_perplexity
from edlm.evaluation.experiment import grid
from edlm.evaluation.experiment import run as stages
from edlm.evaluation.likelihood import bounds as likelihood
from edlm.evaluation.report.html import number
from edlm.evaluation.report.wandb import summary_of
from edlm.evaluation.samples.text_errors import repeated_ngram_rate, unknown_word_rate, words_of
from edlm.evaluation.samples.texts import texts_of

VALID = SHIPPED / "tinystories" / "valid.safetensors"
HEAD = {"name": "head", "energy": "tinystories/head", "num_candidates": None}
BLIND = {"name": "blind", "energy": "tinystories/head_blind", "num_candidates": None, "group_size": 32}
COLD = {"name": "cold", "energy": None, "temperature": 0.7}
SMALL = {
    "methods": [HEAD, BLIND, COLD],
    "num_rows": 4,
    "num_steps": [2],
    "orders": ["bisecting"],
    "samples.judged": 4,
    "samples.timed_batches": 1,
    "samples.batch_size": 4,
    "frontier.temperatures": [0.8, 1.0],
}
PROMISED = ("name", "num_steps", "num_candidates", "group_size", "bound_nats_per_token", "bound_stderr")
PROMISED += ("seconds_per_sequence", "judge_nats_per_token", "entropy_nats", "distinct_2")


def evaluate(output: Path, code: int = 0, **options) -> dict:
    words = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()]
    assert main(["evaluate", f"--output={output}", *words]) == code
    path = output / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "deep" / "result"
    evaluate(folder, **SMALL)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "result"))


def test_the_folder_holds_numbers_pictures_and_a_page(made):
    names = {"results.json", "results.csv", "results.rows.safetensors", "results.samples.safetensors", "report.html"}
    assert {path.name for path in made.iterdir()} == names | {"bounds.svg", "frontier.svg", "energies.svg"}
    result = json.loads((made / "results.json").read_text())
    assert [setting["name"] for setting in result["settings"]] == ["base", "head", "blind", "cold"]
    for setting in result["settings"]:
        assert all(setting[name] is not None for name in PROMISED[4:]), setting
        assert setting["flops_per_sequence"] > 1e8 and setting["tokens_per_second"] > 0
        assert len(setting["examples"]) == 4
    assert result["controls"] == ["blind"] and result["judge"]["is_energy_of"] == []
    assert [gain["name"] for gain in result["gains"]] == ["head"]
    assert len(result["frontier"]) == 2 + 2 + 2 + 1  # what has a temperature of its own is one point
    assert {look["name"] for look in result["energies"]} == {"head", "blind"}
    assert result["verdict"] in (made / "report.html").read_text()


def test_csv_holds_what_json_holds(made):
    result = json.loads((made / "results.json").read_text())
    rows = list(csv.DictReader((made / "results.csv").open(newline="")))
    for row, setting in zip(rows, result["settings"], strict=True):
        assert row == {name: "" if setting[name] is None else str(setting[name]) for name in row}


def test_a_frontier_point_at_the_settings_own_temperature_is_the_setting(made):
    result = json.loads((made / "results.json").read_text())
    settings = {setting["name"]: setting for setting in result["settings"]}
    own = [point for point in result["frontier"] if point["temperature"] == settings[point["name"]]["temperature"]]
    assert {point["name"] for point in own} == set(settings)
    for point in own:
        for name in ("entropy_nats", "judge_nats_per_token", "judge_stderr", "distinct_2"):
            assert point[name] == settings[point["name"]][name]


def _again(*args, **more):
    raise AssertionError("this was measured before")


def test_nothing_is_measured_twice(folder, monkeypatch):
    before = json.loads((folder / "results.json").read_text())
    for place, name in ((grid, "estimate_bounds"), (stages, "draw_timed"), (stages, "measure_cost")):
        monkeypatch.setattr(place, name, _again)
    monkeypatch.setattr(stages.Evaluation, "_sample", _again)
    monkeypatch.setattr(stages, "in_continuous_time", _again)
    monkeypatch.setattr(stages.TextMeasures, "of_held_out", _again)
    (folder / "report.html").unlink()
    after = evaluate(folder, **SMALL)
    assert after["settings"] == before["settings"] and after["frontier"] == before["frontier"]
    assert (folder / "report.html").exists()


def test_an_interrupt_keeps_what_is_there_and_says_how_to_go_on(made, tmp_path, monkeypatch, capsys):
    calls, sample = [], stages.Evaluation._sample

    def interrupted(self, setting, number):
        calls.append(setting.key)
        if len(calls) > 5:  # four settings, and a point of the frontier
            raise KeyboardInterrupt
        return sample(self, setting, number)

    monkeypatch.setattr(stages.Evaluation, "_sample", interrupted)
    folder = tmp_path / "result"
    partial = evaluate(folder, code=130, **SMALL)
    said = f"edlm: interrupted: 4 of 4 settings are kept in {folder / 'results.json'}; the same command goes on from"
    assert said in capsys.readouterr().err
    assert len(partial["settings"]) == 4 and "verdict" not in partial
    calls.clear()
    monkeypatch.setattr(stages.Evaluation, "_sample", lambda *args: calls.append(1) or sample(*args))
    whole = evaluate(folder, **SMALL)
    expected = json.loads((made / "results.json").read_text())
    assert len(calls) == 2  # of three points at another temperature
    same = [name for name in expected["frontier"][0]]
    for found, wanted in zip(whole["frontier"], expected["frontier"], strict=True):
        assert {name: found[name] for name in same} == pytest.approx(wanted)


def test_an_interrupt_loses_a_batch_of_bounds_at_most(tmp_path, monkeypatch):
    how = {**SMALL, "samples.judged": 0, "samples.timed_batches": 0, "batch_size": 1, "continuous.num_rows": 0}
    how["methods"] = [HEAD, {**AR, "sampled_steps": 1, "inner_draws": 3}]
    expected, calls, measure = evaluate(tmp_path / "a", **how), [], likelihood.likelihood_bounds

    def counted(samplers, rows, seeds, **more):
        calls.append((len(samplers), seeds[0]))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return measure(samplers, rows, seeds, **more)

    monkeypatch.setattr(likelihood, "likelihood_bounds", counted)
    folder, stop = tmp_path / "b", 3
    evaluate(folder, code=130, **how)
    stop = 7  # rows 2 and 3 of base and head, then rows 0 and 1 of the causal LM
    assert [s["name"] for s in evaluate(folder, code=130, **how)["settings"]] == ["base", "head"]
    stop = None
    found = evaluate(folder, **how)
    head, ar = [(2, 0), (2, 1), (2, 2), (2, 2), (2, 3)], [(2, 0), (2, 1)]
    again = [(1, row) for row in range(4)]  # the base, for the gain's pairs
    assert calls == [*head, *ar, *again, *ar[1:], (2, 2), (2, 3)]
    ours, theirs = (load_file(tmp_path / name / "results.rows.safetensors") for name in "ab")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours) and len(ours) == 3
    for name in ("name", "bound_nats_per_token", "gain_nats_per_token", "gain_stderr"):
        assert [s[name] for s in found["settings"]] == [s[name] for s in expected["settings"]]
    assert not list(folder.glob("*unfinished*"))


AR = {"name": "ar", "energy": "tinystories/autoregressive", "num_candidates": 2, "scope": "sequence"}


def test_a_judge_that_is_an_energy_is_refused_unless_allowed(tmp_path, capsys):
    how = {**SMALL, "methods": [AR], "num_rows": 2, "samples.judged": 2, "samples.timed_batches": 0}
    evaluate(tmp_path / "a", code=2, **how)
    error = capsys.readouterr().err
    assert "a judge must have no part in the samples that it judges, got tinystories/autoregressive" in error
    assert "which is the energy of ar" in error and "samples.allow_judge_as_energy" in error
    assert not (tmp_path / "a" / "results.json").exists()  # before anything is measured
    result = evaluate(tmp_path / "a", **how, **{"samples.allow_judge_as_energy": True})
    assert result["judge"]["is_energy_of"] == ["ar"]
    warning = "The judge (tinystories/autoregressive) is the energy of ar"
    assert any(said.startswith(warning) for said in result["warnings"])
    assert warning in (tmp_path / "a" / "report.html").read_text()


def test_without_a_judge_its_numbers_are_null(folder):
    how = {**SMALL, "methods": [HEAD], "samples.judge": "null", "samples.timed_batches": 0}
    result = evaluate(folder.parent / "other", **how)
    assert all(s["judge_nats_per_token"] is None and s["entropy_nats"] is not None for s in result["settings"])
    assert result["judge"] is None and result["frontier"] == []


def test_a_corrupt_line_of_data_is_named(tmp_path, capsys):
    data = tmp_path / "held_out.jsonl"
    data.write_text('{"text": "Once upon a time."}\n{"text": "There was\n')
    evaluate(tmp_path / "a", code=2, data=str(data))
    assert f"{data}:2" in capsys.readouterr().err


def test_text_is_data_too(tmp_path):
    data = tmp_path / "held_out.jsonl"
    story = "Once upon a time, there was a little girl who had a red ball. She loved to play with it every day. "
    data.write_text("".join(json.dumps({"text": story * 12}) + "\n" for _ in range(3)))
    how = {**SMALL, "methods": [], "samples.judged": 0, "samples.timed_batches": 0, "num_rows": 2}
    result = evaluate(tmp_path / "a", data=str(data), **how)
    assert result["data"]["rows"] == 2 and result["data"]["length"] == 128
    assert result["verdict"].startswith("Nothing was measured beside the base")


def test_quick_is_a_flag_and_little_of_everything():
    config = parse(["evaluate", "--quick", "--output", "x"])[1]
    assert config.quick and parse(["evaluate", "--quick=false"])[1].quick is False
    quick = config.quickened()
    assert quick.num_rows <= 16 and len(quick.num_steps) == 2 and len(quick.orders) == 1
    assert quick.samples.judged <= 8 and quick.samples.timed_batches == 1 and quick.samples.judge == "auto"
    few = parse(["evaluate", "--quick", "--num_rows=3", "--samples.judged=2"])[1].quickened()
    assert few.num_rows == 3 and few.samples.judged == 2


@pytest.mark.slow
def test_quick_fills_every_setting(tmp_path):
    assert main(["evaluate", "--quick", "--output", str(tmp_path)]) == 0
    settings = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert len(settings) == 8 and all(s[name] is not None for s in settings for name in PROMISED[4:])


def test_wandb_gets_the_same_numbers(folder):
    pytest.importorskip("wandb")
    result = evaluate(folder, **SMALL, wandb="offline")
    (run,) = (folder / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
    numbers = summary_of(result)
    head = next(s for s in result["settings"] if s["name"] == "head")
    assert numbers["head/bisecting/2/bound_nats_per_token"] == head["bound_nats_per_token"]
    assert numbers["head/bisecting/2/gain_stderr"] == head["gain_stderr"] and numbers["verdict"] == result["verdict"]


BARE = {**SMALL, "samples.judged": 0, "samples.timed_batches": 0}
UNNORMALIZED = {"name": "weighed", "energy": "tinystories/head_unnormalized", "num_candidates": 2}


def test_the_published_formula_comes_with_its_warning_beside_the_bounds_of_the_base(tmp_path):
    how = {**BARE, "methods": [HEAD, UNNORMALIZED], "num_rows": 3, "continuous.num_rows": 2, "continuous.num_draws": 3}
    result = evaluate(tmp_path / "a", **how)
    (found,) = result["continuous"]["published"]  # the other needs draws, and is not asked for
    assert found["name"] == "head" and re.search("not a bound.*1.469.*1.204", result["warnings"][0])
    page = (tmp_path / "a" / "report.html").read_text()
    assert "1.204" in page and "no bound" in page
    denoiser, x_0 = edlm.load_denoiser("tinystories"), load_blocks(VALID).tokens[:2]
    for record, estimator in zip(result["continuous"]["nelbo"], ("times", "counts"), strict=True):
        expected = continuous_nelbo(denoiser, x_0, estimator=estimator, num_draws=3)
        assert record["nats_per_token"] == pytest.approx(expected.value) and record["n"] == 2
        assert record["direction"] == "upper bound of -log p" and record["stderr"] == pytest.approx(expected.stderr)
        assert number(record["nats_per_token"], 3) in page and number(record["perplexity_per_word"], 0) in page
    whole = evaluate(tmp_path / "a", **how, **{"continuous.published": "all"})
    found = whole["continuous"]["published"]
    assert [record["name"] for record in found] == ["head", "weighed"]
    flattered = [record["marginal"]["nats_per_token"] - record["with_lower"]["nats_per_token"] for record in found]
    name = "head" if flattered[0] > flattered[1] else "weighed"
    said = f"Here it puts {name} {max(flattered):.3f} nats per token below what it gives the base"
    assert said in whole["warnings"][0]
    assert found[1]["num_candidates"] == 16
    none = evaluate(tmp_path / "a", **how, **{"continuous.published": "none"})
    assert none["continuous"]["published"] == [] and not any("published formula" in said for said in none["warnings"])


def test_continuous_time_is_for_reports_or_where_it_is_asked_for(tmp_path):
    how = {**BARE, "methods": [], "num_rows": 2, "frontier.temperatures": "null"}
    path = tmp_path / "result.json"
    words = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in how.items()]
    assert main(["evaluate", f"--output={path}", *words]) == 0
    assert "continuous" not in json.loads(path.read_text())
    assert main(["evaluate", f"--output={path}", "--continuous.num_rows=1", *words]) == 0
    assert [record["n"] for record in json.loads(path.read_text())["continuous"]["nelbo"]] == [1, 1]


def test_units_have_errors_and_say_whether_they_are_exact(made):
    result = json.loads((made / "results.json").read_text())
    tokens_per_word = result["data"]["tokens_per_word"]
    assert 1.1 < tokens_per_word < 1.6
    for s in result["settings"]:
        nats, stderr = s["bound_nats_per_token"], s["bound_stderr"]
        assert s["bound_direction"] == "exact"  # bisecting; exact decisions
        assert s["perplexity_per_word"] == pytest.approx(math.exp(nats * tokens_per_word))
        assert s["perplexity_stderr"] == pytest.approx(math.exp(nats) * stderr)
        assert s["bits_per_char_stderr"] == pytest.approx(s["bits_per_char"] * stderr / nats)


def test_a_window_is_part_of_a_method(tmp_path):
    late = {**HEAD, "name": "late", "window": [0.0, 0.5]}
    never = {**HEAD, "name": "never", "window": [0.0, 0.0]}
    result = evaluate(tmp_path / "a", **{**BARE, "methods": [HEAD, late, never]})
    base, head, late, never = result["settings"]
    assert late["window"] == [0.0, 0.5] and head["window"] == [0.0, 1.0]
    assert never["bound_nats_per_token"] == pytest.approx(base["bound_nats_per_token"])
    assert head["bound_nats_per_token"] < late["bound_nats_per_token"] < base["bound_nats_per_token"]
    assert "exactly, times 0 to 0.5" in (tmp_path / "a" / "report.html").read_text()


def test_texts_of_samples_are_held_against_the_words_of_the_training_text(made, tmp_path, capsys):
    result = json.loads((made / "results.json").read_text())
    denoiser, head = edlm.load_denoiser("tinystories"), edlm.load_energy("tinystories/head")
    sampler = edlm.EnergySampler(denoiser, head, num_steps=2, num_candidates=None, order="bisecting")
    texts = texts_of(denoiser, sampler.sample(4, 128, seeds=range(4)).tokens)
    words = (VALID.parent / "words.txt").read_text().split()
    found = next(s for s in result["settings"] if s["name"] == "head")
    assert found["unknown_word_rate"] == unknown_word_rate(texts, set(words)).value > 0.01
    assert found["unknown_text_rate"] == 1 and found["repeated_4gram_rate"] == repeated_ngram_rate(texts).value
    assert found["mauve"] is None and found["texts_held_against"].startswith("4-grams of words, 7663 known words (")
    people = result["held_out_text"]
    assert people["num_texts"] == 4 and people["unknown_word_rate"] < 0.01
    assert number(found["unknown_word_rate"], 4) in (made / "report.html").read_text()
    own = tmp_path / "own.txt"
    own.write_text("\n".join(words + words_of(" ".join(texts))))
    folder = Path(shutil.copytree(made, tmp_path / "result"))
    other = evaluate(folder, **SMALL, **{"samples.known_words": str(own)})  # measured anew
    assert next(s for s in other["settings"] if s["name"] == "head")["unknown_word_rate"] == 0
    evaluate(tmp_path / "b", code=2, **SMALL, **{"samples.known_words": str(tmp_path / "none.txt")})
    assert "none.txt" in capsys.readouterr().err and not (tmp_path / "b" / "results.json").exists()


# What a changed config asks for is what is shown


def named(result: dict) -> dict[str, dict]:
    return {setting["name"]: setting for setting in result["settings"]}


def test_what_is_no_longer_asked_for_is_kept_apart_and_not_shown(folder, monkeypatch):
    before = named(json.loads((folder / "results.json").read_text()))
    result = evaluate(folder, **{**SMALL, "methods": [HEAD], "continuous.num_rows": 0})
    assert [setting["name"] for setting in result["settings"]] == ["base", "head"]
    assert [setting["name"] for setting in result["others"]] == ["blind", "cold"]
    assert "continuous" not in result and not any("published formula" in said for said in result["warnings"])
    page = (folder / "report.html").read_text()
    assert not any(f">{name}<" in page for name in ("blind", "cold")) and "In continuous time" not in page
    assert "blind" not in (folder / "results.csv").read_text()
    monkeypatch.setattr(grid, "estimate_bounds", _again)  # they come back
    assert named(evaluate(folder, **SMALL)) == before


def test_samples_of_another_number_judge_or_batch_are_measured_anew(folder, tmp_path):
    before = named(json.loads((folder / "results.json").read_text()))
    how = {**SMALL, "methods": [HEAD], "samples.judged_methods": ["head"], "frontier.methods": ["head"]}
    more = evaluate(folder, **{**how, "samples.judged": 5, "samples.batch_size": 2})
    head, base = named(more)["head"], named(more)["base"]
    assert head["num_samples"] == 5 and head["entropy_nats"] != before["head"]["entropy_nats"]
    assert head["timed_batch_size"] == head["cost_batch_size"] == 2 and len(head["seconds_of_batches"]) == 1
    assert base["num_samples"] is base["judge_nats_per_token"] is base["examples"] is base["mauve"] is None
    unjudged = evaluate(folder, **{**how, "samples.judge": "null"})
    assert named(unjudged)["head"]["judge_nats_per_token"] is None and named(unjudged)["head"]["num_samples"] == 4
    none = evaluate(folder, **{**how, "samples.judged": 0, "samples.judged_methods": "null"})
    assert named(none)["head"]["num_samples"] == 4  # no finished work is lost
    page = (folder / "report.html").read_text()
    assert "Every setting" in page and "<h2>Samples" not in page and "entropy, nats" not in page


def test_numbers_of_another_machine_or_revision_are_said_to_be_so(folder):
    path = folder / "results.json"
    content = json.loads(path.read_text())
    assert content["earlier"] == []
    content["revision"] = "abc1234"
    path.write_text(json.dumps(content))
    for _ in range(2):  # also of the call before the last
        result = evaluate(folder, **SMALL)
        assert [call["revision"] for call in result["earlier"]] == ["abc1234"]
        assert any("kept from earlier calls" in said and "abc1234" in said for said in result["warnings"])


# What is wrong is said before anything is measured


def test_a_judge_is_refused_for_a_frontier_and_for_one_of_two_energies_of_a_name(tmp_path, capsys):
    ar = {**AR, "name": "two", "orders": ["random"]}
    head = {**HEAD, "name": "two", "orders": ["bisecting"]}
    how = {**SMALL, "methods": [ar, head], "orders": ["random", "bisecting"], "samples.judged": 2}
    for more in (
        {"samples.judged_methods": ["base"], "frontier.orders": ["random"]},
        {"frontier.methods": ["base"]},
    ):
        evaluate(tmp_path / "a", code=2, **how, **more)
        assert "which is the energy of two: take another" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


WRONG = {
    "a method that is not there": ({"samples.judged_methods": ["haed"]}, "methods of samples and frontier must be"),
    "an order that is not there": ({"frontier.orders": ["random"]}, "orders of samples and frontier must be among"),
    "steps that are not there": ({"frontier.num_steps": [3]}, "num_steps of samples and frontier must be among"),
    "a ratio to what is not there": (
        {"time_ratios": [{"name": "head", "order": "bisecting", "than_order": "bisecting", "than_steps": 32}]},
        "time_ratios must compare what is measured",
    ),
}


@pytest.mark.parametrize(("more", "message"), WRONG.values(), ids=WRONG)
def test_what_is_asked_of_what_is_not_there_is_refused(more, message, tmp_path, capsys):
    evaluate(tmp_path / "a", code=2, **SMALL, **more)
    assert message in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "a").write_text("1")
    assert main(["evaluate", f"--output={tmp_path / 'a'}"]) == 2
    assert "output must be a folder, or end in .json" in capsys.readouterr().err


# Odd requests end in a report


def test_data_that_a_proposal_cuts_off_and_a_single_sample_do_not_stop_a_report(tmp_path):
    cut = {"name": "cut", "energy": None, "top_k": 1}
    how = {**SMALL, "methods": [HEAD, cut], "samples.judged": 1}
    result = evaluate(tmp_path / "a", **how)
    assert named(result)["cut"]["bound_nats_per_token"] is None and named(result)["cut"]["num_samples"] == 1
    assert result["frontier"] == [] and (tmp_path / "a" / "report.html").exists()
    assert "top-k 1" in (tmp_path / "a" / "report.html").read_text()


def test_the_frontier_is_at_steps_of_its_own_order(tmp_path):
    how = {**SMALL, "methods": [], "orders": ["random", "bisecting"], "num_steps": [4], "samples.timed_batches": 0}
    result = evaluate(tmp_path / "a", **how, num_steps_of={"bisecting": [8]})
    assert {(p["order"], p["num_steps"]) for p in result["frontier"]} == {("bisecting", 8)}


def test_a_carry_over_energy_is_normalized_by_construction(tmp_path):
    ar = {**AR, "carry_over": True, "orders": ["random"], "sampled_steps": 1}
    how = {**BARE, "methods": [ar], "orders": ["random"], "num_rows": 2, "continuous.num_draws": 2}
    result = evaluate(tmp_path / "a", **how)
    (found,) = result["continuous"]["published"]
    energy = edlm.load_energy("tinystories/autoregressive", carry_over=True)
    x_0 = load_blocks(VALID).tokens[:2]
    expected = published_perplexity(edlm.load_denoiser("tinystories"), energy, x_0, normalized=True, num_draws=2)
    assert found["with_lower"]["nats_per_token"] == pytest.approx(expected.with_lower.value)
    assert found["num_candidates"] == 0 and result["energies"][0]["normalized"]
    assert not any("log Z" in said for said in result["warnings"])
