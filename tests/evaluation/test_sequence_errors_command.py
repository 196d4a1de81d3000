import json

from edlm.cli import main

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
