"""Puzzles that samplers fill: against enumeration, the formula, and what the commands write."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from edlm.cli import main
from edlm.commands.language_picture import PictureConfig, picture
from edlm.commands.language_puzzles import PuzzleConfig, PuzzlesConfig, measured
from edlm.commands.languages import RerankerConfig
from edlm.corpus.list_tasks import Shuffling
from edlm.corpus.puzzles import LatinSquare, Sudoku
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.evaluation.languages.exact import exact_denoiser, truth_energy
from edlm.evaluation.languages.puzzles import (
    Puzzles,
    accuracy_under_parallelism,
    measure_puzzles,
    parallelism_scores,
)
from edlm.evaluation.plots.grids import FilledGrid, picture_of_grids
from edlm.sampler import EnergySampler

LANGUAGES = {
    "sudoku": (LanguageConfig("sudoku"), 16, 3),
    "latin": (LanguageConfig("latin"), 16, 5),
    "shuffling": (LanguageConfig("shuffling", num_items=4, vocab_size=6), 8, 4),
    "replacement": (LanguageConfig("replacement", num_items=4, vocab_size=6), 9, 5),
    "dyck": (LanguageConfig("dyck"), 8, 2),
}


@pytest.mark.parametrize("kind", LANGUAGES)
def test_prompts_never_change_and_one_token_a_pass_of_the_truth_is_valid(kind):
    config, length, num_given = LANGUAGES[kind]
    language = build_language(config)
    puzzles = Puzzles.draw(language, 40, length, num_given, seed=1)
    assert (puzzles.given.sum(1) == num_given).all() and puzzles.num_written == length - num_given
    assert torch.equal(puzzles.prompts == language.mask_token_id, ~puzzles.given)
    denoiser, energy = exact_denoiser(language), truth_energy(language)
    for sampler in (
        EnergySampler(denoiser, num_steps=2, order="random"),
        EnergySampler(denoiser, energy, num_candidates=4, num_steps=2, order="random"),
        EnergySampler(denoiser, num_steps=length, order="random"),
    ):
        filled = sampler.fill(puzzles.prompts, seeds=range(40)).tokens
        assert torch.equal(filled[puzzles.given], puzzles.solutions[puzzles.given])
        assert torch.equal(puzzles.solved(sampler, 0, batch_size=15), language.is_valid(filled))
    assert language.is_valid(filled).all()


def test_the_share_of_one_pass_is_the_enumerated_one():
    language = Sudoku()
    puzzles = Puzzles.draw(language, 1500, None, 5, seed=2)
    solved = puzzles.solved(EnergySampler(exact_denoiser(language), num_steps=1, order="random"), 0, 500)
    log_marginals = language.log_marginals(puzzles.prompts)
    cells = log_marginals[:, None].expand(-1, language.count(), -1, -1)
    of_grids = cells.gather(3, language.grids[None, :, :, None].expand(1500, -1, -1, -1)).sum((2, 3)).exp().sum(1)
    assert 0.05 < of_grids.mean() < 0.6
    assert abs(solved.double().mean() - of_grids.mean()) < 4 * math.sqrt(0.25 / 1500)


def test_bounds_are_of_written_tokens_and_reach_the_truth():
    language = LatinSquare()
    puzzles, denoiser = Puzzles.draw(language, 60, None, 4, seed=3), exact_denoiser(language)
    samplers = {
        ("base", steps): EnergySampler(denoiser, num_steps=steps, order="left_to_right") for steps in (1, 3, 12)
    }
    samplers["truth", 3] = EnergySampler(
        denoiser, truth_energy(language), num_candidates=16, num_steps=3, order="left_to_right"
    )
    cells = {(row["name"], row["num_steps"]): row for row, _ in measure_puzzles(puzzles, samplers, num_bound_rows=60)}
    assert cells["base", 12]["tokens_per_pass"] == 1 and cells["base", 12]["valid_rate"] == 1
    truth, bounds = puzzles.nats_per_token(), [cells["base", n]["bound_nats_per_token"] for n in (12, 3, 1)]
    assert math.isclose(bounds[0], truth.value, abs_tol=1e-9) and bounds == sorted(bounds)
    assert bounds[0] < cells["truth", 3]["bound_nats_per_token"] < bounds[1]
    assert cells["base", 3]["bound_direction"] == "exact" and cells["base", 3]["bound_n"] == 60
    prior = language.log_prob(puzzles.prompts) + math.log(language.count())
    assert math.isclose(truth.value, prior.mean().item() / 12, abs_tol=1e-9)


def test_accuracy_under_parallelism_is_the_formula():
    # 1 * 90 + (3 - 1) * (90 W(90) + 87 W(87)) / 2; the third point loses more than 5 points
    first, second = (y * math.exp(-3 * (1 - y / 95)) for y in (90, 87))
    points = [(6.0, 84.0), (1.0, 90.0), (3.0, 87.0)]
    assert math.isclose(accuracy_under_parallelism(points, 95.0), 90 + first + second)
    assert accuracy_under_parallelism([(2.0, 70.0), (4.0, 75.0)], 75.0) > 2 * 70 + 2 * 70 * math.exp(-3 / 15)
    assert accuracy_under_parallelism([(1.0, 0.0), (2.0, 0.0)], 0.0) == 0.0
    flat = [(1.0, 50.0), (2.0, 50.0), (8.0, 50.0)]
    assert math.isclose(accuracy_under_parallelism(flat, 50.0), 8 * 50)  # no loss: all of the area


def test_scores_weigh_all_methods_by_the_best_and_have_errors():
    g = torch.Generator().manual_seed(0)
    chance = torch.rand(400, generator=g)
    solved = {"good": {1.0: chance < 0.9, 4.0: chance < 0.88}, "poor": {1.0: chance < 0.5, 4.0: chance < 0.1}}
    scores = parallelism_scores(solved)
    shares = {name: {k: 100 * f.double().mean().item() for k, f in x.items()} for name, x in solved.items()}
    best = max(shares["good"].values())
    for name, score in scores.items():
        assert math.isclose(score.value, accuracy_under_parallelism([*shares[name].items()], best))
    alone = 100 * math.sqrt(0.25 / 400)  # one point only: the standard error of its share
    assert 0.8 * alone < scores["poor"].stderr < 1.2 * alone and scores["poor"].n == 400
    assert parallelism_scores({"all": {1.0: torch.ones(9).bool()}})["all"].stderr == 0


def test_the_command_measures_and_writes_the_same_numbers(tmp_path, capsys):
    language = LanguageConfig("shuffling", num_items=3, vocab_size=5)
    experiment = PuzzleConfig("lists", language, rerankers=(RerankerConfig("truth, k = 8", "truth", 8),))
    config = PuzzlesConfig((experiment,), num_samples=60, num_bound_rows=20, inner_draws=2, seed=4, batch_size=25)
    result = measured(experiment, config)
    assert [(row["name"], row["num_steps"]) for row in result["rows"]] == [
        (name, steps) for name in ("base", "truth, k = 8") for steps in (1, 2, 3)
    ]
    task, energy = Puzzles.draw(Shuffling(3, 5), 60, None, None, 4), truth_energy(Shuffling(3, 5))
    options = {"num_candidates": 8, "num_steps": 2, "order": "random"}
    solved = task.solved(EnergySampler(exact_denoiser(task.language), energy, **options), 4, 25)
    cell = result["rows"][4]
    assert cell["valid_rate"] == solved.double().mean().item() and cell["n"] == 60
    assert math.isclose(cell["valid_stderr"], math.sqrt(cell["valid_rate"] * (1 - cell["valid_rate"]) / 60))

    files = {"output": tmp_path / "puzzles.json", "markdown": tmp_path / "puzzles.md"}
    (tmp_path / "puzzles.yaml").write_text(json.dumps(asdict(config) | {k: str(path) for k, path in files.items()}))
    assert main(["languages", "puzzles", "--config", str(tmp_path / "puzzles.yaml")]) == 0
    assert json.loads(files["output"].read_text())["results"] == [result]
    table, printed = files["markdown"].read_text(), capsys.readouterr().out
    for row in result["rows"]:
        share = f"{100 * row['valid_rate']:.1f}% ± {100 * row['valid_stderr']:.1f}"
        assert share in table and share in printed
        assert f"{row['bound_nats_per_token']:.3f} ± {row['bound_stderr']:.3f}" in table
    assert f"{result['aup']['base']['value']:.0f} ± " in table and "3 tokens given, 3 written" in table


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Puzzles.draw(build_language(LanguageConfig("dyck")), 2, None, 0, 0), "length must be given: a Dyck"),
        (lambda: Puzzles.draw(Sudoku(), 2, None, 16, 0), r"num_given must be in 0\.\.15, got 16"),
        (lambda: picture(PictureConfig("x", "y", "z.svg", LanguageConfig("dyck"))), "language.kind must be 'sudoku'"),
    ],
)
def test_errors_say_the_rule(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call()


def test_a_picture_marks_given_new_and_contradicting_cells():
    given = torch.full((16,), 4)
    given[[0, 6]] = torch.tensor([2, 1])
    first = given.clone()
    first[[1, 10]] = torch.tensor([2, 0])  # as the given cell on its left
    last = first.clone()
    last[15] = 3
    svg = picture_of_grids(Sudoku(), [FilledGrid("a < b", "note", torch.stack([given, first, last]))])
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    cells = [rect.get("fill") for rect in root.iter(f"{space}rect") if rect.get("width") == "40"]
    grids = [cells[:16], cells[16:32], cells[32:]]
    wrong, new = "#fbdcd8", "#dcefe4"
    assert [[i for i, fill in enumerate(grid) if fill == wrong] for grid in grids] == [[], [0, 1], [0, 1]]
    assert [[i for i, fill in enumerate(grid) if fill == new] for grid in grids] == [[], [10], [15]]
    symbols = [t for t in root.iter(f"{space}text") if (t.text or "").isdigit()]
    assert [t.text for t in symbols] == ["3", "2", "3", "3", "2", "1", "3", "3", "2", "1", "4"]
    assert ["bold" in t.get("style") for t in symbols[2:6]] == [True, False, True, False]
    assert root[0].get("fill") == "#fdfdfb" and root[0].get("width") == root.get("width")  # paper of its own


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sudoku", "shuffling"])
def test_models_are_trained_on_puzzles_and_measured_by_commands(kind, tmp_path, capsys):
    corpus, denoiser, head = (str(tmp_path / name) for name in ("corpus", "denoiser", "head"))
    language = ["--language.kind", kind, "--language.vocab_size", "8", "--language.num_items", "3"]
    assert main(["prepare", "corpus", *language, "--num_train", "2000", "--output_dir", corpus]) == 0
    model = "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, "
    model += "max_position_embeddings: 16, global_attn_every_n_layers: 1}"
    run = ["--trainer.num_steps", "120", "--trainer.warmup_steps", "10", "--trainer.learning_rate", "5e-3"]
    trained = ["train", "denoiser", "--corpus", corpus, "--model", model, *run, "--trainer.output_dir", denoiser]
    assert main(trained) == 0
    energy = ["train", "energy", "--corpus", corpus, "--denoiser", f"{denoiser}/final", *run]
    assert main([*energy, "--objective.orders", "[random]", "--trainer.output_dir", head]) == 0
    output = tmp_path / "puzzles.json"
    experiment = {"name": kind, "denoiser": f"{denoiser}/final", "num_steps": [2, None]}
    experiment["language"] = {"kind": kind, "vocab_size": 8, "num_items": 3}
    experiment["rerankers"] = [{"name": "head", "energy": f"{head}/final", "num_candidates": None}]
    options = ["--experiments", json.dumps([experiment]), "--num_samples", "50", "--num_bound_rows", "50"]
    assert main(["languages", "puzzles", *options, "--output", str(output)]) == 0
    (result,) = json.loads(output.read_text())["results"]
    cells = {(row["name"], row["num_steps"]): row["bound_nats_per_token"] for row in result["rows"]}
    uniform = math.log(4 if kind == "sudoku" else 8)
    assert cells["head", 2] < cells["base", 2] < uniform + 0.05
    if kind == "sudoku":
        svg = tmp_path / "grid.svg"
        models = ["--denoiser", f"{denoiser}/final", "--energy", f"{head}/final", "--num_samples", "20"]
        assert main(["languages", "picture", *models, "--output", str(svg)]) == 0
        assert svg.read_text().count("after pass 2") == 2 and "of 20 grids valid" in capsys.readouterr().out


@pytest.mark.slow
def test_the_picture_is_that_of_the_shipped_models(tmp_path):
    """With the command of ``edlm/models/sudoku/README.md``."""
    models = ["--denoiser", "sudoku", "--energy", "sudoku", "--num_given", "4", "--seed", "9"]
    assert main(["languages", "picture", *models, "--output", str(tmp_path / "sudoku.svg")]) == 0
    shipped = Path(__file__).parents[3] / "docs" / "sudoku.svg"
    assert (tmp_path / "sudoku.svg").read_text() == shipped.read_text()
