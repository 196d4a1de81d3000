import json
import re

import pytest

from edlm.cli import main
from edlm.commands import languages as sequence_errors
from edlm.commands.languages import DistanceConfig, ExperimentConfig, RerankerConfig, SequenceErrorsConfig, run
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.evaluation.languages.errors import ErrorRule, sequence_error_table
from edlm.evaluation.languages.exact import exact_denoiser, truth_energy
from edlm.evaluation.languages.law import exact_distance
from edlm.sampler import EnergySampler

CHAIN = LanguageConfig(vocab_size=4, num_successors=2)
HOW = {"num_samples": 30, "num_bound_rows": 10, "seed": 3, "batch_size": 20}

CONFIG = """# edlm errors --config x
num_samples: 40
num_reference: 2000
num_bound_rows: 10
seed: 3
experiments:
  - name: chain
    language: {kind: markov, vocab_size: 4, num_successors: 2}
    lengths: [6]
    num_steps: [2, 6]
    rerankers: [{name: "truth, k = 8", num_candidates: 8}]
distances:
  - language: {kind: markov, vocab_size: 4, num_successors: 2}
    length: 4
    num_steps: [2]
    num_candidates: [1, 16]
"""


def test_the_command_measures_what_it_is_asked_and_reranking_by_the_truth_helps(tmp_path, capsys):
    (tmp_path / "errors.yaml").write_text(CONFIG)
    files = {"output": tmp_path / "errors.json", "plot": tmp_path / "errors.svg"}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert main(["errors", "--config", str(tmp_path / "errors.yaml"), *options]) == 0
    result = json.loads(files["output"].read_text())
    assert "chain" in capsys.readouterr().out and files["plot"].stat().st_size > 1000
    cells = {(row["name"], row["num_steps"]): row for row in result["rows"] if row["name"] != "data"}
    assert set(cells) == {(name, steps) for name in ("base", "truth, k = 8") for steps in (2, 6)}
    assert cells["truth, k = 8", 2]["nats_per_token"] < cells["base", 2]["nats_per_token"]
    assert cells["truth, k = 8", 2]["kl_bound_nats_per_token"] < cells["base", 2]["kl_bound_nats_per_token"]
    assert cells["base", 6]["denoiser_passes"] == 6 and cells["truth, k = 8", 2]["energy_passes"] == 16
    base, reranked = result["exact"]
    assert (base["num_candidates"], reranked["num_candidates"]) == (1, 16)
    assert 0 <= reranked["kl_to_truth"] < 0.5 * base["kl_to_truth"]


@pytest.mark.parametrize("trained", [False, True])
def test_rows_are_those_of_the_samplers_that_are_asked_for(trained, monkeypatch):
    """Order, groups and seeds included; a trained denoiser and energy are read from their folders."""
    language, other = build_language(CHAIN), build_language(LanguageConfig(vocab_size=4, num_successors=3))
    folders = {"a denoiser": exact_denoiser(other), "an energy": truth_energy(other)}
    monkeypatch.setattr(sequence_errors, "load_denoiser", folders.__getitem__)
    monkeypatch.setattr(sequence_errors, "load_energy", folders.__getitem__)
    reranker = RerankerConfig("ours", "an energy" if trained else "truth", num_candidates=5, group_size=1)
    how = {"lengths": (4, 6), "num_steps": (2, 4), "order": "left_to_right", "rerankers": (reranker,)}
    experiment = ExperimentConfig("chain", CHAIN, denoiser="a denoiser" if trained else None, **how)
    found = list(sequence_errors._measure(experiment, SequenceErrorsConfig(num_reference=200, **HOW)))
    denoiser, energy = (
        (exact_denoiser(other), truth_energy(other))
        if trained
        else (
            exact_denoiser(language),
            truth_energy(language),
        )
    )
    order = {"order": "left_to_right"}
    samplers = {
        "base": lambda steps: EnergySampler(denoiser, num_steps=steps, **order),
        "ours": lambda steps: EnergySampler(denoiser, energy, num_steps=steps, num_candidates=5, group_size=1, **order),
    }
    rules = [ErrorRule.of(language, length, num_reference=200, seed=3) for length in (4, 6)]
    expected = list(sequence_error_table(rules, samplers, (2, 4), **HOW))
    assert len(found) == 2 + 2 * 2 * 2
    assert [json.dumps(row) for row in found] == [json.dumps(row) for row in expected]  # NaN is equal to itself


def test_exact_divergences_are_in_the_order_that_is_asked_for():
    language = build_language(CHAIN)
    config = DistanceConfig(CHAIN, length=4, num_steps=(2,), num_candidates=(3,), order="dilated")
    (found,) = sequence_errors._exact(config)
    how = {"num_steps": 2, "num_candidates": 3}
    expected, other = (
        exact_distance(EnergySampler(exact_denoiser(language), truth_energy(language), order=order, **how), language, 4)
        for order in ("dilated", "left_to_right")
    )
    assert {name: found[name] for name in vars(expected)} == vars(expected)
    assert expected.kl_from_truth != other.kl_from_truth and found["order"] == "dilated"


def test_each_number_is_printed_in_its_column_with_its_own_error(capsys, tmp_path):
    hard = LanguageConfig(vocab_size=4, num_successors=2, smoothing=0.0)
    experiment = ExperimentConfig("chain", hard, lengths=(6,), num_steps=(1,))
    distance = DistanceConfig(CHAIN, length=4, num_steps=(1,), num_candidates=(1,))
    path = tmp_path / "errors.json"
    run(SequenceErrorsConfig((experiment,), (distance,), num_reference=200, output=str(path), **HOW))
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
            "" if kl is None else f"{kl:.4f} ± {row['kl_bound_stderr']:.4f}",
        ]
    base = next(row for row in result["rows"] if row["name"] == "base")
    (exact,) = result["exact"]
    assert 0 < base["invalid_rate"] and exact["kl_to_truth"] != exact["kl_from_truth"]
