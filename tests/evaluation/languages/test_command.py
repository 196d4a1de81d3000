"""``edlm languages errors``: rows of the samplers of a config, in tables, JSON and a plot."""

import json
import re

import pytest

from edlm.cli import main
from edlm.commands import language_errors, languages
from edlm.commands.language_errors import DistanceConfig, ErrorsConfig, ExperimentConfig, errors
from edlm.commands.languages import RerankerConfig
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.evaluation.languages.errors import ErrorRule, sequence_error_table
from edlm.evaluation.languages.exact import exact_denoiser, truth_energy
from edlm.evaluation.languages.law import exact_distance
from edlm.evaluation.plots.evaluation import plot_sequence_errors
from edlm.sampler import EnergySampler

CHAIN = LanguageConfig(vocab_size=4, num_successors=2)
HOW = {"num_samples": 30, "num_bound_rows": 10, "seed": 3, "batch_size": 20}

CONFIG = """
num_samples: 40
num_reference: 2000
num_bound_rows: 10
seed: 3
experiments:
  - name: chain
    language: {kind: markov, vocab_size: 4, num_successors: 2}
    lengths: [4, 6]
    num_steps: [2, 6]
    rerankers: [{name: "truth, k = 8", num_candidates: 8}]
distances:
  - language: {kind: markov, vocab_size: 4, num_successors: 2}
    length: 4
    num_steps: [2]
    num_candidates: [1, 16]
"""


def test_the_command_measures_and_reranking_by_the_truth_helps(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "errors.yaml").write_text(CONFIG)
    files = {"output": tmp_path / "errors.json", "plot": tmp_path / "errors.svg"}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert main(["languages", "errors", "--config", str(tmp_path / "errors.yaml"), *options]) == 0
    printed, result = capsys.readouterr().out, json.loads(files["output"].read_text())
    assert "chain" in printed and "wrong sequences" in printed
    ways = ("base", "truth, k = 8")
    assert [(row["name"], row["length"], row["num_steps"]) for row in result["rows"]] == [
        *(("data", length, None) for length in (4, 6)),
        *((name, 4, 2) for name in ways),
        *((name, 6, steps) for steps in (2, 6) for name in ways),
    ]
    cells = {(row["name"], row["num_steps"]): row for row in result["rows"] if row["length"] == 6}
    for number in ("nats_per_token", "kl_bound_nats_per_token"):
        assert cells["truth, k = 8", 2][number] < cells["base", 2][number]
    assert cells["base", 6]["denoiser_passes"] == 6 and cells["truth, k = 8", 2]["energy_passes"] == 16
    base, reranked = result["exact"]
    assert (base["num_candidates"], reranked["num_candidates"]) == (1, 16)
    assert 0 <= reranked["kl_to_truth"] < 0.5 * base["kl_to_truth"]
    picture = files["plot"].read_text()
    assert "denoiser passes" in picture and "6, truth, k = 8" in picture
    plot_sequence_errors(result["rows"], tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == picture


def test_rows_are_those_of_the_configured_samplers(monkeypatch):
    """Order, groups and seeds included; a trained denoiser and energy are read from their folders."""
    language, other = build_language(CHAIN), build_language(LanguageConfig(vocab_size=4, num_successors=3))
    denoiser, energy = exact_denoiser(other), truth_energy(other)
    monkeypatch.setattr(languages, "load_denoiser", {"a denoiser": denoiser}.__getitem__)
    monkeypatch.setattr(languages, "load_energy", {"an energy": energy}.__getitem__)
    rerankers = (RerankerConfig("ours", "an energy", 5, 1), RerankerConfig("truth", num_candidates=3))
    options = {"lengths": (4, 6), "num_steps": (2, 4), "order": "left_to_right", "rerankers": rerankers}
    experiment = ExperimentConfig("chain", CHAIN, denoiser="a denoiser", **options)
    rows = list(language_errors._error_rows(experiment, ErrorsConfig(num_reference=200, **HOW)))
    samplers = {}
    for steps in (2, 4):
        common = {"num_steps": steps, "order": "left_to_right"}
        samplers |= {
            ("base", steps): EnergySampler(denoiser, num_candidates=1, **common),
            ("ours", steps): EnergySampler(denoiser, energy, num_candidates=5, group_size=1, **common),
            ("truth", steps): EnergySampler(denoiser, truth_energy(language), num_candidates=3, **common),
        }
    rules = [ErrorRule.of(language, length, num_reference=200, seed=3) for length in (4, 6)]
    expected = list(sequence_error_table(rules, samplers, **HOW))
    assert len(rows) == 2 + 2 * 2 * 3
    assert [json.dumps(row) for row in rows] == [json.dumps(row) for row in expected]  # NaN is equal to itself


def test_exact_divergences_are_in_the_configured_order():
    language = build_language(CHAIN)
    config = DistanceConfig(CHAIN, length=4, num_steps=(2,), num_candidates=(3,), order="dilated")
    (row,) = language_errors._distance_rows(config)
    options = {"num_steps": 2, "num_candidates": 3, "order": "dilated"}
    sampler = EnergySampler(exact_denoiser(language), truth_energy(language), **options)
    expected = vars(exact_distance(sampler, language, 4))
    assert row == {"language": "markov", "length": 4, **options, **expected}


def test_each_number_is_printed_in_its_column_with_its_error(capsys, tmp_path):
    hard = LanguageConfig(vocab_size=4, num_successors=2, smoothing=0.0)
    experiment = ExperimentConfig("chain", hard, lengths=(6,), num_steps=(1,))
    distance = DistanceConfig(CHAIN, length=4, num_steps=(1,), num_candidates=(1,))
    path = tmp_path / "errors.json"
    errors(ErrorsConfig((experiment,), (distance,), num_reference=200, output=str(path), **HOW))
    result, printed = json.loads(path.read_text()), capsys.readouterr().out
    lines = [[cell.strip() for cell in re.split("[│┃]", line)][1:-1] for line in printed.splitlines() if "│" in line]
    for row, cells in zip([*result["rows"], *result["exact"]], lines, strict=True):
        if "kl_to_truth" in row:
            assert cells[-3:] == [f"{row[name]:.6f}" for name in ("kl_to_truth", "kl_from_truth", "invalid")]
            continue
        error = f"{row['error_rate']:.1%} [{row['error_low']:.1%}, {row['error_high']:.1%}]"
        kl = row["kl_bound_nats_per_token"]
        assert cells == [
            *("6", "" if row["name"] == "data" else "1", row["name"], error, f"{row['invalid_rate']:.1%}"),
            f"{row['nats_per_token']:.3f} ± {row['nats_stderr']:.3f}",
            "–" if kl is None else f"{kl:.4f} ± {row['kl_bound_stderr']:.4f}",
        ]


@pytest.mark.parametrize("num_samples", [1, 30])
def test_no_nan_is_printed(num_samples, capsys):
    """Where all sequences are ruled out, and of a single sample."""
    hard = LanguageConfig(kind="dyck") if num_samples > 1 else CHAIN
    experiment = ExperimentConfig("hard", hard, (32 if num_samples > 1 else 4,), num_steps=(1,), rerankers=())
    errors(ErrorsConfig((experiment,), num_samples=num_samples, num_reference=100, num_bound_rows=1))
    assert "nan" not in capsys.readouterr().out


def test_exact_decisions_by_the_truth_are_refused():
    with pytest.raises(ValueError, match="num_candidates"):
        RerankerConfig("x", num_candidates=None)
