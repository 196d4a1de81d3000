"""``edlm evaluate`` on the shipped models: the numbers, the page, resuming, and what is refused."""

import csv
import html
import json
import math
import re
import shutil
from pathlib import Path

import pytest

import edlm
from edlm.cli import main, parse
from edlm.corpus.blocks import load_blocks
from edlm.denoisers.loading import SHIPPED
from edlm.evaluation import published_perplexity
from edlm.evaluation.experiment import run as run_module
from edlm.evaluation.experiment.config import STAGES
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import flat
from edlm.evaluation.samples.text import texts_of
from edlm.evaluation.samples.text_measures import repeated_ngram_rate, unknown_word_rate, words_of

VALID = SHIPPED / "tinystories" / "valid.safetensors"
HEAD = {"name": "head", "energy": "tinystories/head", "num_candidates": None}
BLIND = {"name": "blind", "energy": "tinystories/head_blind", "num_candidates": None, "group_size": 32}
COLD = {"name": "cold", "energy": None, "temperature": 0.7}
AR = {"name": "ar", "energy": "tinystories/autoregressive", "num_candidates": 2, "scope": "sequence"}
SMALL = {
    "methods": [HEAD, BLIND, COLD],
    "num_rows": 4,
    "num_steps": [2],
    "orders": ["bisecting"],
    "samples.judged": 4,
    "samples.timed_batches": 1,
    "samples.batch_size": 4,
    "frontier.temperatures": [0.8, 1.0],
    "continuous.num_rows": 4,
    "continuous.num_draws": 2,
}
JUDGED = {**SMALL, "measure": ["bounds", "samples", "judge", "frontier"]}
BARE = {**SMALL, "measure": ["bounds"]}
PROMISED = ("bound_nats_per_token", "bound_stderr", "seconds_per_sequence", "judge_nats_per_token", "entropy_nats")
PROMISED += ("distinct_2", "flops_per_sequence", "tokens_per_second", "repeated_4gram_rate", "examples")
FILES = {"results.json", "results.csv", "results.rows.safetensors", "results.store.safetensors", "report.html"}


def evaluate(output: Path, code: int = 0, **options) -> dict:
    words = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()]
    assert main(["evaluate", f"--output={output}", *words]) == code
    path = output if output.suffix == ".json" else output / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}


def named(result: dict) -> dict[str, dict]:
    return {setting["name"]: setting for setting in result["settings"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "deep" / "result"
    evaluate(folder, **SMALL)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "result"))


def test_folder_holds_numbers_pictures_and_a_page(made):
    assert {path.name for path in made.iterdir()} == FILES | {"bounds.svg", "frontier.svg", "energies.svg"}
    result = json.loads((made / "results.json").read_text())
    assert [*named(result)] == ["base", "head", "blind", "cold"]
    for setting in result["settings"]:
        assert set(PROMISED) <= set(setting) and len(setting["examples"]) == 4
    assert result["controls"] == ["blind"] and result["judge"]["is_energy_of"] == []
    assert [gain["name"] for gain in result["gains"]] == ["head"]
    assert len(result["frontier"]) == 2 + 2 + 2 + 1  # a method with a temperature of its own is one point
    assert {spread["name"] for spread in result["energy_spreads"]} == {"head", "blind"}
    assert {card["is_control"] for card in result["energies"].values()} == {False, True}
    assert all(len(setting["energy"]) == 16 for setting in result["settings"] if setting["energy"])
    assert result["verdict"] in html.unescape((made / "report.html").read_text())
    assert result["data"]["documents"] <= result["data"]["rows"]


def test_csv_and_results_hold_what_json_holds(made):
    result = json.loads((made / "results.json").read_text())
    rows = list(csv.DictReader((made / "results.csv").open(newline="")))
    for row, setting in zip(rows, result["settings"], strict=True):
        assert row == {name: "" if setting.get(name) is None else str(setting[name]) for name in row}
    assert [flat(row) for row in Results.load(made).rows] == result["settings"]


def test_frontier_point_at_the_temperature_of_a_setting_is_the_setting(made):
    result = json.loads((made / "results.json").read_text())
    settings = named(result)
    points = [p for p in result["frontier"] if p["temperature"] == settings[p["name"]]["temperature"]]
    assert {point["name"] for point in points} == set(settings)
    for point in points:
        for name in ("entropy_nats", "judge_nats_per_token", "judge_stderr", "distinct_2"):
            assert point[name] == settings[point["name"]][name]


def test_killed_run_is_resumed_and_nothing_is_measured_twice(made, tmp_path, monkeypatch, capsys):
    """Killed at the cost of the third setting: bounds and times are there, samples are not."""
    options = {**JUDGED, "measure": ["time", "cost", *JUDGED["measure"]]}
    folder, cost, calls = tmp_path / "result", run_module.measure_cost, []

    def killed(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cost(*args, **options)

    monkeypatch.setattr(run_module, "measure_cost", killed)
    partial = evaluate(folder, code=130, **options)
    assert "resume" in capsys.readouterr().err and "verdict" not in partial
    assert len(partial["settings"]) == 4 and not any("entropy_nats" in s for s in partial["settings"])
    timed = {name: setting["seconds_of_batches"] for name, setting in named(partial).items()}
    for path in folder.iterdir():  # what a kill leaves
        if path.name != "results.store.safetensors":
            path.unlink()
    monkeypatch.setattr(run_module, "draw_timed", lambda *args, **options: pytest.fail("timed again"))
    whole, expected = evaluate(folder, **options), json.loads((made / "results.json").read_text())
    assert len(calls) == 5 and {n: s["seconds_of_batches"] for n, s in named(whole).items()} == timed
    for name, setting in named(expected).items():
        for key in ("bound_nats_per_token", "gain_nats_per_token", "judge_nats_per_token", "entropy_nats"):
            assert named(whole)[name].get(key) == setting.get(key)
    assert whole["frontier"] == expected["frontier"] and (folder / "report.html").exists()
    again = evaluate(folder, **options)
    assert len(calls) == 5 and again["settings"] == whole["settings"]


def test_json_output_measures_no_report_unless_requested(tmp_path):
    options = {key: value for key, value in SMALL.items() if not key.startswith(("frontier", "continuous"))}
    result = evaluate(tmp_path / "a.json", **{**options, "methods": [HEAD]})
    assert {"seconds_per_sequence", "judge_nats_per_token"} <= set(named(result)["head"])
    assert "flops_per_sequence" not in named(result)["head"] and not {"continuous", "energy_spreads"} & set(result)
    assert result["frontier"] == [] and not [*tmp_path.glob("*.html")]
    more = {"measure": ["bounds", "cost"], "continuous.num_rows": 2}
    result = evaluate(tmp_path / "a.json", **options, **more)
    assert "flops_per_sequence" in named(result)["head"] and "entropy_nats" not in named(result)["head"]


def test_measure_is_resolved_in_one_place():
    def measured(*words) -> set[str]:
        return set(parse(["evaluate", *words])[1].measure)

    numbers = {"bounds", "time", "samples", "judge"}
    assert measured() == measured("--output=a.json") == measured("--output=a", "--report=false") == numbers
    assert measured("--output=a") == set(STAGES) - {"mauve"}
    assert measured("--output=a", "--samples.features=x") == set(STAGES)
    assert measured("--output=a.json", "--continuous.num_rows=2") == numbers | {"continuous"}
    assert measured("--output=a.json", "--continuous.num_rows=0") == numbers
    assert measured("--frontier.temperatures=[0.9]") == numbers | {"frontier"}
    assert measured("--output=a", "--samples.judged=0", "--samples.timed_batches=0", "--frontier.temperatures=[]") == {
        *("bounds", "cost", "continuous", "energies")
    }
    assert measured("--output=a", "--given=middle_third") == {"bounds"}


def test_quick_is_little_of_everything():
    config = parse(["evaluate", "--quick", "--output", "x"])[1]
    assert config.quick and parse(["evaluate", "--quick=false"])[1].quick is False
    quick = config.quickened()
    assert quick.num_rows <= 16 and len(quick.num_steps) == 2 and len(quick.orders) == 1
    assert quick.samples.judged <= 8 and quick.samples.timed_batches == 1 and quick.measure == config.measure
    few = parse(["evaluate", "--quick", "--num_rows=3", "--samples.judged=2"])[1].quickened()
    assert few.num_rows == 3 and few.samples.judged == 2


@pytest.mark.slow
def test_quick_fills_every_setting(tmp_path):
    assert main(["evaluate", "--quick", "--output", str(tmp_path)]) == 0
    settings = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert len(settings) == 8 and all(set(PROMISED) <= set(setting) for setting in settings)


def test_settings_that_are_not_requested_come_back_later(folder, monkeypatch):
    options = {**SMALL, "measure": [stage for stage in STAGES if stage not in ("mauve", "energies")]}
    before = json.loads((folder / "results.json").read_text())
    result = evaluate(folder, **{**options, "methods": [HEAD], "continuous.num_rows": 0})
    assert [*named(result)] == ["base", "head"] and "continuous" not in result
    page = (folder / "report.html").read_text()
    assert not any(f">{name}<" in page for name in ("blind", "cold")) and "In continuous time" not in page
    monkeypatch.setattr(run_module, "measure_bound", lambda *args: pytest.fail("measured again"))
    assert evaluate(folder, **options)["settings"] == before["settings"]


def test_judge_that_is_an_energy_is_refused_unless_allowed(tmp_path, capsys):
    options = {**JUDGED, "methods": [AR], "num_rows": 2, "samples.judged": 2}
    evaluate(tmp_path / "a", code=2, **options)
    assert "a judge must have no part" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()  # before anything is measured
    result = evaluate(tmp_path / "a", **options, **{"samples.allow_judge_as_energy": True})
    warning = "The judge (tinystories/autoregressive) is the energy of ar"
    assert result["judge"]["is_energy_of"] == ["ar"] and any(w.startswith(warning) for w in result["warnings"])
    two = [{**AR, "name": "two", "orders": ["random"]}, {**HEAD, "name": "two", "orders": ["bisecting"]}]
    options |= {"methods": two, "orders": ["random", "bisecting"]}
    for more in (
        {"samples.judged_methods": ["base"], "frontier.orders": ["random"]},
        {"frontier.methods": ["base"]},
    ):
        evaluate(tmp_path / "b", code=2, **options, **more)
        assert "which is the energy of two" in capsys.readouterr().err


def test_without_a_judge_its_numbers_are_absent(tmp_path):
    options = {**JUDGED, "methods": [HEAD], "samples.judge": "null"}
    result = evaluate(tmp_path / "other", **options)
    assert all("judge_nats_per_token" not in s and s["entropy_nats"] > 0 for s in result["settings"])
    assert result["judge"] is None and result["frontier"] == []


def test_data_is_text_too_and_a_corrupt_line_is_named(tmp_path, capsys):
    data = tmp_path / "held_out.jsonl"
    story = "Once upon a time, there was a little girl who had a red ball. She loved to play with it every day. "
    data.write_text("".join(json.dumps({"text": story * 12}) + "\n" for _ in range(3)))
    result = evaluate(tmp_path / "a", data=str(data), **{**BARE, "methods": [], "num_rows": 2})
    assert result["data"]["rows"] == 2 and result["data"]["length"] == 128
    assert result["verdict"] == "Nothing to recommend: no energy was measured against the base."
    data.write_text('{"text": "Once upon a time."}\n{"text": "There was\n')
    evaluate(tmp_path / "b", code=2, data=str(data))
    assert f"{data}:2" in capsys.readouterr().err


def test_published_formula_has_a_warning(tmp_path, capsys):
    weighed = {"name": "weighed", "energy": "tinystories/autoregressive", "num_candidates": 2}
    carry_over = {**AR, "name": "carry", "carry_over": True, "num_steps": [8]}
    options = {**BARE, "methods": [HEAD, weighed, carry_over], "num_rows": 3, "measure": ["bounds", "continuous"]}
    options |= {"continuous.num_rows": 2, "continuous.num_draws": 2}
    result = evaluate(tmp_path / "a", **options)
    (head,) = result["continuous"]["published"]  # the others are not measured in this table, or need draws
    assert head["name"] == "head" and re.search("not a bound.*1.469.*1.204", head["warning"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == result["verdict"] and "published formula" not in f"{result['warnings']}{printed}"
    options |= {"num_steps_of": {"bisecting": [8]}, "methods": [{**carry_over, "sampled_steps": 1}], "num_rows": 2}
    result = evaluate(tmp_path / "b", **options)
    (record,) = result["continuous"]["published"]
    energy = edlm.load_energy("tinystories/autoregressive", carry_over=True)
    x_0 = load_blocks(VALID).draw(2, seed=0).tokens
    expected = published_perplexity(edlm.load_denoiser("tinystories"), energy, x_0, normalized=True, num_draws=2)
    assert record["with_lower"]["nats_per_token"] == pytest.approx(expected.with_lower.value)
    assert named(result)["carry"]["carry_over"] and record["num_candidates"] == 0
    none = evaluate(tmp_path / "b", **options, **{"continuous.published": "none"})
    assert none["continuous"]["published"] == []


def test_infilling_is_the_middle_third_given_the_others(tmp_path):
    result = evaluate(tmp_path / "a.json", given="middle_third", **{**SMALL, "methods": [HEAD], "num_rows": 8})
    base, head = result["settings"]
    assert head["bound_nats_per_token"] < base["bound_nats_per_token"] and head["gain_nats_per_token"] > 0
    assert all(0 < s["tokens_recovered"] < 1 and s["spans_recovered"] == 0 and s["n"] == 8 for s in (base, head))


def test_texts_of_samples_are_compared_with_known_words(made, tmp_path, capsys):
    result = json.loads((made / "results.json").read_text())
    denoiser, head = edlm.load_denoiser("tinystories"), edlm.load_energy("tinystories/head")
    sampler = edlm.EnergySampler(denoiser, head, num_steps=2, num_candidates=None, order="bisecting")
    texts = texts_of(denoiser, sampler.sample(4, 128, seeds=range(4)).tokens)
    words = (VALID.parent / "words.txt").read_text().split()
    record, people = named(result)["head"], result["held_out_text"]
    assert record["unknown_word_rate"] == unknown_word_rate(texts, set(words)).value > 0
    assert record["unknown_text_rate"] > 0 and record["repeated_4gram_rate"] == repeated_ngram_rate(texts).value
    assert "mauve" not in record and record["texts_held_against"].startswith("4-grams of words, 7663 known words (")
    assert people["num_texts"] == 4 and people["unknown_word_rate"] < 0.01
    more = tmp_path / "more.txt"
    more.write_text("\n".join(words + words_of(" ".join(texts))))
    folder = Path(shutil.copytree(made, tmp_path / "result"))
    other = evaluate(folder, **SMALL, **{"samples.known_words": str(more)})  # measured anew
    assert named(other)["head"]["unknown_word_rate"] == 0
    evaluate(tmp_path / "b", code=2, **SMALL, **{"samples.known_words": str(tmp_path / "none.txt")})
    assert "none.txt" in capsys.readouterr().err and not (tmp_path / "b").exists()


WRONG = {
    "method": ({"samples.judged_methods": ["haed"]}, "methods of samples and frontier"),
    "order": ({"frontier.orders": ["random"]}, "orders of samples and frontier"),
    "steps": ({"frontier.num_steps": [3]}, "num_steps of samples and frontier"),
    "ratio": (
        {"time_ratios": [{"name": "head", "order": "bisecting", "than_order": "bisecting", "than_steps": 32}]},
        "time_ratios must compare",
    ),
}


@pytest.mark.parametrize(("more", "rule"), WRONG.values(), ids=WRONG)
def test_names_that_are_not_measured_are_refused(more, rule, tmp_path, capsys):
    evaluate(tmp_path / "a", code=2, **SMALL, **more)
    assert rule in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_outputs_that_cannot_be_resumed_are_refused(folder, tmp_path, capsys):
    (tmp_path / "a").write_text("1")
    assert main(["evaluate", f"--output={tmp_path / 'a'}"]) == 2
    assert "output must be a folder, or end in .json" in capsys.readouterr().err
    evaluate(folder, code=2, **SMALL, seed=1)
    assert "same denoiser, data and seed" in capsys.readouterr().err


def test_infinite_bounds_and_a_single_sample_end_in_a_report(tmp_path):
    cut = {"name": "cut", "energy": None, "top_k": 1}
    result = evaluate(tmp_path / "a", **{**JUDGED, "methods": [HEAD, cut], "samples.judged": 1})
    record = named(result)["cut"]
    assert record["bound_nats_per_token"] is None and record["num_samples"] == 1
    assert result["frontier"] == [] and "top-k 1" in (tmp_path / "a" / "report.html").read_text()
    assert Results.load(tmp_path / "a").rows[2]["bound_nats_per_token"].value == math.inf


def test_orders_and_frontier_follow_the_table(tmp_path):
    options = {**JUDGED, "methods": [], "orders": ["random", "bisecting"], "num_steps": [4]}
    result = evaluate(tmp_path / "a", **options, num_steps_of={"bisecting": [8]})
    assert {(p["order"], p["num_steps"]) for p in result["frontier"]} == {("bisecting", 8)}
    assert [(s["order"], s["num_steps"]) for s in result["settings"]] == [("random", 4), ("bisecting", 8)]


def test_wandb_gets_the_same_numbers(folder):
    pytest.importorskip("wandb")
    evaluate(folder, **SMALL, wandb="offline")
    (run,) = (folder / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
