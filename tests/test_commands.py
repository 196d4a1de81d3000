"""The commands, end to end on tiny data: what each writes is what the library computes from the same settings."""

import contextlib
import io
import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from edlm import (
    AutoregressiveEnergy,
    EnergySampler,
    ResidualHead,
    SequenceEnergy,
    load_denoiser,
    load_energy,
    training,
    wrap_denoiser,
)
from edlm.cli import main
from edlm.corpus.blocks import load_blocks
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.energies.scalar_head import ScalarHead
from edlm.evaluation import estimate_bound
from edlm.evaluation.estimates.estimate import mean_of
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.languages.oracle import cells, measure_cells, measure_data
from edlm.evaluation.likelihood.speedup import time_ratio
from edlm.evaluation.samples.judge import load_judge
from edlm.evaluation.samples.ratios import MANY, SETTINGS
from edlm.evaluation.samples.text import distinct_n, texts_of, unigram_entropy
from edlm.evaluation.samples.text_measures import known_words
from edlm.sampler.bounds import likelihood_bounds

WORDS = "the cat sat on a mat and the dog ran to it".split()
STORIES = [" ".join(WORDS[(7 * i + 5 * j * (i % 3 + 1)) % 12] for j in range(4 + i % 7)) + f" {i}." for i in range(150)]
MODEL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
MODERNBERT = {**MODEL, "max_position_embeddings": 16, "global_attn_every_n_layers": 1}
LLAMA = {**MODEL, "num_key_value_heads": 2, "max_position_embeddings": 17}
TRAINER = {"num_steps": 6, "batch_size": 8, "log_every": 2, "warmup_steps": 1, "valid_every": 6, "valid_batches": 1}
EXACT = {"num_candidates": None}
LANGUAGE = ["--language.kind", "markov", "--language.vocab_size", "6", "--language.num_successors", "2"]


def edlm(*words, code: int = 0, **options) -> str:
    """Run a command; options become ``--key JSON`` (nested by dots). Returns what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*map(str, words), *_words(options)]) == code
    return printed.getvalue()


def _words(options: dict) -> list[str]:
    pairs = ((key.replace("__", "."), value) for key, value in options.items())
    return [
        word for key, value in pairs for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]


def train(what: str, corpus: Path, output_dir: Path, **options) -> None:
    trainer = {f"trainer__{key}": value for key, value in TRAINER.items()}
    edlm("train", what, corpus=str(corpus), trainer__output_dir=str(output_dir), **(trainer | options))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two corpora, a denoiser of each, and every kind of energy, all made by the commands."""
    path = tmp_path_factory.mktemp("runs")
    (path / "stories.txt").write_text("\n<|endoftext|>\n".join(STORIES))
    names = {"source": str(path / "stories.txt"), "output_dir": str(path / "text"), "tokenizer_kind": "character"}
    printed = edlm("prepare", "corpus", **names, valid_fraction=0.2, vocab_size=64, length=16)
    (path / "prepared.txt").write_text(printed)
    edlm("prepare", "corpus", *LANGUAGE, output_dir=str(path / "symbols"), num_train=64, num_valid=20, length=8, seed=3)
    for corpus in ("text", "symbols"):
        train("denoiser", path / corpus, path / f"{corpus}_denoiser", model=MODERNBERT)
        denoiser = {"denoiser": str(path / f"{corpus}_denoiser" / "final")}
        train("energy", path / corpus, path / f"{corpus}_head", **denoiser)
        unnormalized = {"kind": "scalar", "objective__group_sizes": [2], "objective__num_candidates": 8}
        train("energy", path / corpus, path / f"{corpus}_unnormalized", **unnormalized, **denoiser)
    train("energy", path / "text", path / "sequence", denoiser=str(path / "text_denoiser/final"), kind="nce")
    train("autoregressive", path / "text", path / "causal", model=LLAMA)
    return path


@pytest.fixture
def denoiser(runs):
    return load_denoiser(runs / "text_denoiser" / "final")


# Corpora


def test_prepare_corpus_splits_stories_and_counts_them(runs):
    corpus = PreparedCorpus.load(runs / "text")
    printed = (runs / "prepared.txt").read_text().splitlines()
    seen = set()
    for name, line in zip(("train", "valid"), printed, strict=True):
        blocks = getattr(corpus, name)
        stories = corpus.tokenizer.decode(blocks.tokens.flatten()).split("<|endoftext|>")[1:-1]  # the last may be cut
        assert set(stories) <= set(STORIES) and not seen & set(stories)
        seen |= set(stories)
        assert line.startswith(f"{name}: {blocks.num_documents} documents, {len(blocks.tokens)} blocks of 16 tokens, ")
        assert line.endswith(f"{blocks.characters_per_token:.2f} characters per token")
    assert len(seen) >= 148  # all but a last one in each split
    assert corpus.train.num_documents + corpus.valid.num_documents == 150


def test_prepare_corpus_samples_a_language_by_its_seed(runs, tmp_path):
    corpus = PreparedCorpus.load(runs / "symbols")
    language = build_language(LanguageConfig(kind="markov", vocab_size=6, num_successors=2))
    assert corpus.tokenizer.mask_token_id == language.mask_token_id == 6 and len(corpus.tokenizer) == 7
    assert corpus.train.tokens.shape == (64, 8) and corpus.valid.tokens.shape == (20, 8)
    # 84 rows of 8 tokens: the mean is within five standard errors of the entropy; false alarm 6e-7.
    nats = -language.log_prob(torch.cat([corpus.train.tokens, corpus.valid.tokens]))
    assert abs(nats.mean() - language.entropy_nats(8)) < 5 * nats.std() / 84**0.5
    for seed in (3, 4):
        options = {"output_dir": str(tmp_path), "num_train": 64, "num_valid": 20, "length": 8, "seed": seed}
        edlm("prepare", "corpus", *LANGUAGE, **options)
        assert torch.equal(PreparedCorpus.load(tmp_path).train.tokens, corpus.train.tokens) == (seed == 3)


# Training


def test_train_denoiser_writes_a_model_a_log_and_its_config(runs, denoiser):
    config = denoiser.network.config
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("modernbert", 16, 2)
    assert denoiser.tokenizer.get_vocab() == PreparedCorpus.load(runs / "text").tokenizer.get_vocab()
    log = [json.loads(line) for line in (runs / "text_denoiser" / "log.jsonl").read_text().splitlines()]
    assert [(line["split"], line["step"]) for line in log] == [("train", 2), ("train", 4), ("train", 6), ("valid", 6)]
    assert all(1 < line["loss"] < 10 and line["metrics"]["masked_nll_nats"] > 0 for line in log)
    assert "num_steps: 6" in (runs / "text_denoiser" / "config.yaml").read_text()


def test_training_with_bell_times_is_validated_by_the_same_bound(runs, tmp_path):
    train("denoiser", runs / "text", tmp_path, model=MODERNBERT, times="bell", trainer__learning_rate=1e-9)
    train("denoiser", runs / "text", tmp_path / "uniform", model=MODERNBERT, trainer__learning_rate=1e-9)
    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (tmp_path, tmp_path / "uniform")
    ]
    bell, uniform = ([line["loss"] for line in log] for log in logs)
    assert bell[-1] == pytest.approx(uniform[-1], rel=1e-6)  # of the weights that both began with
    assert all(a != pytest.approx(b, rel=1e-3) for a, b in zip(bell[:-1], uniform[:-1], strict=True))
    settings = {f"trainer__{key}": value for key, value in TRAINER.items()} | {"trainer__learning_rate": 1e-9}
    other = {"corpus": str(runs / "text"), "trainer__output_dir": str(tmp_path), "model": MODERNBERT}
    edlm("train", "denoiser", code=2, **settings, **other)


def test_a_denoiser_of_another_vocabulary_is_trained_further(runs, tmp_path):
    start = {"start_from": str(runs / "text_denoiser/final")}
    options = {"corpus": str(runs / "words"), "trainer__output_dir": str(tmp_path / "refused")}
    names = {"source": str(runs / "stories.txt"), "output_dir": str(runs / "words"), "valid_fraction": 0.2}
    edlm("prepare", "corpus", **names, vocab_size=270, length=16)
    edlm("train", "denoiser", code=2, **options, **start)
    edlm("train", "denoiser", code=2, **options, replace_vocabulary=True)
    train("denoiser", runs / "words", tmp_path, replace_vocabulary=True, trainer__learning_rate=1e-9, **start)
    new, old = load_denoiser(tmp_path / "final"), load_denoiser(runs / "text_denoiser/final")
    assert new.tokenizer.get_vocab() == PreparedCorpus.load(runs / "words").tokenizer.get_vocab()
    embeddings, before = (d.network.get_input_embeddings().weight for d in (new, old))
    for i in range(258, len(new.tokenizer)):  # pairs of bytes
        spelled = old.tokenizer(new.tokenizer.decode([i]), add_special_tokens=False)["input_ids"]
        assert len(spelled) > 1
        torch.testing.assert_close(embeddings[i], before[spelled].mean(0))
    torch.testing.assert_close(
        new.network.model.layers[0].attn.Wqkv.weight, old.network.model.layers[0].attn.Wqkv.weight
    )


def test_train_energy_writes_every_kind_for_its_denoiser(runs, denoiser):
    kinds = {"text_head": ResidualHead, "text_unnormalized": ScalarHead, "sequence": SequenceEnergy}
    for name, kind in kinds.items():
        energy = load_energy(runs / name / "final")
        assert type(energy) is kind
        energy.check_denoiser(denoiser)
        with pytest.raises(ValueError, match="revision"):
            energy.check_denoiser(load_denoiser(runs / "symbols_denoiser" / "final"))
        assert energy.trained_orders == (("random",) if name == "sequence" else ("bisecting",))
        start = kind.from_denoiser(denoiser)
        moved = [not torch.equal(a, b) for a, b in zip(energy.parameters(), start.parameters(), strict=True)]
        assert sum(moved) > len(moved) / 2
        log = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
        assert [line["split"] for line in log].count("valid") == 1 and all(math.isfinite(line["loss"]) for line in log)
        gain = "gain_nats_per_token" if name == "text_head" else "gain_nats_per_decision"
        assert all(list(line["metrics"]) == [gain] for line in log)
    assert load_energy(runs / "text_head" / "final").recommended == {"num_candidates": None, "order": "bisecting"}
    scalar = load_energy(runs / "text_unnormalized" / "final")
    assert scalar.recommended == {"num_candidates": 8, "group_size": 2, "order": "bisecting"}


def test_a_finished_run_describes_itself(runs):
    config = yaml.safe_load((runs / "sequence/config.yaml").read_text())
    assert (
        config["kind"] == "nce"
        and config["objective"]["loss"] == "binary"
        and config["corpus"] == str(runs / "text")
        and "torch" in config["versions"]
    )
    log = [json.loads(line) for line in (runs / "sequence/log.jsonl").read_text().splitlines()]
    gain = log[-1]["metrics"]["gain_nats_per_decision"]
    assert load_energy(runs / "sequence/final").trained_for.valid_gain_nats == gain
    assert f"`{gain}`" in (runs / "sequence/final/README.md").read_text()


def test_training_from_python_returns_what_it_saves(runs, tmp_path, capsys):
    corpus = PreparedCorpus.load(runs / "text")
    made = training.train_denoiser(corpus, output_dir=str(tmp_path / "d"), model="tiny", **{**TRAINER, "num_steps": 1})
    assert "trained parameters, " in capsys.readouterr().out
    assert made.network.config.hidden_size == 128 and made.identity == load_denoiser(tmp_path / "d/final").identity
    options = {"output_dir": str(tmp_path / "e"), **TRAINER, "learning_rate": 1e-12}
    energy = training.train_energy(made, corpus, kind="nce", **options)
    energy.check_denoiser(made)
    assert "no gain over the denoiser alone so far" in capsys.readouterr().err
    longer = training.train_energy(made, corpus, kind="nce", **{**options, "num_steps": 8})
    assert json.loads((tmp_path / "e/log.jsonl").read_text().splitlines()[-1])["step"] == 8
    assert type(longer) is SequenceEnergy
    with pytest.raises(ValueError, match="output_dir"):
        training.train_energy(made, corpus)
    with pytest.raises(ValueError, match="kind must be one of"):
        training.train_energy(made, corpus, kind="ncee", **options)


def test_train_autoregressive_writes_a_causal_lm_and_an_energy(runs, denoiser):
    energy = AutoregressiveEnergy.from_causal_lm(runs / "causal" / "final")
    bos = load_energy(str(runs / "causal/final/energy")).bos_token_id
    assert bos == energy.bos_token_id == denoiser.tokenizer.eos_token_id
    assert energy.model.config.model_type == "llama" and energy.model.config.vocab_size == len(denoiser.tokenizer)


def test_a_causal_lm_with_fewer_positions_than_a_block_is_refused(runs, tmp_path, capsys):
    options = {"corpus": str(runs / "text"), "trainer__output_dir": str(tmp_path)}
    edlm("train", "autoregressive", code=2, **options, model={**LLAMA, "max_position_embeddings": 15})
    assert "max_position_embeddings must be >= the corpus's block length 16, got 15" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["denoiser", "objective"])
def test_train_energy_does_not_resume_a_run_of_other_settings(runs, tmp_path, changed):
    """Else the old weights are saved as trained for the new settings."""
    output = tmp_path / "energy"
    denoiser = {"denoiser": str(runs / "text_denoiser/final")}
    train("energy", runs / "text", output, **denoiser)
    settings = {f"trainer__{key}": value for key, value in TRAINER.items()}
    other = {**denoiser, **settings, "objective__orders": ["left_to_right"]}
    if changed == "denoiser":
        train("denoiser", runs / "text", tmp_path / "other", model=MODERNBERT, trainer__seed=1)
        other = {**settings, "denoiser": str(tmp_path / "other/final")}
    before = (output / "final/model.safetensors").read_bytes()
    edlm("train", "energy", code=2, corpus=str(runs / "text"), trainer__output_dir=str(output), **other)
    assert (output / "final/model.safetensors").read_bytes() == before


def test_train_denoiser_that_diverges_names_the_step(runs, tmp_path, capsys):
    """Weights that become infinite give logits that are NaN: a loss that is not finite."""
    options = {"model": MODERNBERT, "trainer__learning_rate": 1e30, "trainer__checkpoint_every": 1}
    trainer = {f"trainer__{key}": value for key, value in TRAINER.items()} | {"trainer__output_dir": str(tmp_path)}
    edlm("train", "denoiser", code=2, corpus=str(runs / "text"), **(trainer | options))
    said = capsys.readouterr().err
    assert re.search("at step 2; last good checkpoint: .*step_00000001", said) and "Traceback" not in said


# Evaluation


def evaluate(runs, output: Path, methods: list[dict], **options) -> tuple[str, dict[tuple[str, str, int], dict]]:
    """Run the command on five rows of the text; what it printed, and what it wrote by name, order and steps."""
    defaults = {
        "denoiser": str(runs / "text_denoiser/final"),
        "data": str(runs / "text" / "valid.safetensors"),
        "num_rows": 5,
        "num_steps": [2, 4],
        "orders": ["random", "dilated"],
        "seed": 5,
        "batch_size": 4,
        "samples__timed_batches": 0,
        "samples__judged": 0,
    }
    printed = edlm("evaluate", output=str(output), methods=methods, **{**defaults, **options})
    settings = json.loads(output.read_text())["settings"]
    rows = {(row["name"], row["order"], row["num_steps"]): row for row in settings}
    assert len(rows) == len(settings)
    return printed, rows


def exact_and_groups(runs) -> list[dict]:
    head, unnormalized = (str(runs / name / "final") for name in ("text_head", "text_unnormalized"))
    return [
        {"name": "exact", "energy": head, "num_candidates": None},
        {"name": "groups", "energy": unnormalized, "num_candidates": 3, "group_size": 2},
    ]


CLOSE = {"rel": 1e-4, "abs": 1e-5}


def test_evaluate_writes_the_bounds_and_gains_of_the_library(runs, denoiser, tmp_path):
    causal = {"energy": str(runs / "causal/final/energy"), "scope": "sequence", "num_candidates": 3}
    sampled = {"sampled_steps": 2, "orders": ["random"], "num_steps": [4]}
    methods = [
        *exact_and_groups(runs),
        causal | {"name": "carry over", "carry_over": True, "num_steps": [2], "orders": ["dilated"]},
        exact_and_groups(runs)[1] | {"name": "sampled"} | sampled,
    ]
    output = tmp_path / "deep" / "result.json"
    printed, rows = evaluate(runs, output, methods)
    names = {"base", "exact", "groups"}
    assert {key[0] for key in rows} == {*names, "carry over", "sampled"} and all(name in printed for name in names)
    assert len(rows) == 3 * 4 + 1 + 1
    held_out, seeds = load_blocks(runs / "text" / "valid.safetensors"), range(5, 10)
    blocks = held_out.draw(5, seed=5)
    nats = load_file(output.with_suffix(".rows.safetensors"))

    def sampler(method: dict, order: str, steps: int) -> EnergySampler:
        energy = load_energy(method["energy"])
        if "carry_over" in method:
            energy.carry_over = True
        options = {key: method[key] for key in ("num_candidates", "group_size", "scope") if key in method}
        return EnergySampler(denoiser, energy, num_steps=steps, order=order, **options)

    for (name, order, steps), row in rows.items():
        base = EnergySampler(denoiser, num_steps=steps, order=order)
        own = next((sampler(method, order, steps) for method in methods if method["name"] == name), base)
        options = {"sampled_steps": 2} if name == "sampled" else {}
        options |= {"inner_draws": [1, 16]} if name == "carry over" else {}
        pair = likelihood_bounds((base, own), blocks.tokens, seeds, **options)
        gain = (pair[0] - pair[1]) / 16
        if name != "sampled":
            bound = mean_of(pair[1] / 16, blocks.documents)
            assert row["bound_nats_per_token"] == pytest.approx(bound.value, **CLOSE)
            assert row["bound_stderr"] == pytest.approx(bound.stderr, **CLOSE)
            assert nats[f"{name}, {order}, {steps} steps"].mean().item() == pytest.approx(row["bound_nats_per_token"])
        if name == "base":
            assert row.get("gain_nats_per_token") is None
        else:
            gain = mean_of(gain, blocks.documents)
            assert row["gain_nats_per_token"] == pytest.approx(gain.value, **CLOSE)
            assert row["gain_stderr"] == pytest.approx(gain.stderr, **CLOSE)
        per_char = row["bound_nats_per_token"] / held_out.characters_per_token / math.log(2)
        assert row["bits_per_char"] == pytest.approx(per_char)
        assert row["n"] == len(blocks.documents.unique())


SAMPLED = {
    "samples__timed_batches": 1,
    "samples__batch_size": 2,
    "samples__judged": 4,
    "samples__judged_steps": [2],
    "samples__judged_methods": ["exact"],
}


def test_evaluate_times_every_method_and_judges_the_requested_ones(runs, denoiser, tmp_path):
    judge = str(runs / "causal/final/energy")
    _, rows = evaluate(runs, tmp_path / "result.json", exact_and_groups(runs), samples__judge=judge, **SAMPLED)
    assert len(rows) == 12
    for (name, _, steps), row in rows.items():
        assert row["timed_batch_size"] == 2 and row["denoiser_passes"] == steps
        assert row["seconds_per_sequence"] == row["seconds_of_batches"][0] > 0 and len(row["seconds_of_batches"]) == 1
        # Exact: 16 tokens; three candidates for each pair of them; the base asks nothing.
        assert row["energy_passes"] == {"base": 0, "exact": 16, "groups": 24}[name]
        judged = name == "exact" and steps == 2
        assert all((row.get(key) is not None) == judged for key in ("entropy_nats", "judge_nats_per_token"))
    head = load_energy(runs / "text_head" / "final")
    for order in ("random", "dilated"):
        sampler = EnergySampler(denoiser, head, num_steps=2, num_candidates=None, order=order)
        tokens = sampler.sample(4, 16, seeds=range(5, 9)).tokens
        row, entropy = rows["exact", order, 2], mean_of(unigram_entropy(tokens))
        assert row["num_samples"] == 4 and row["distinct_2"] == pytest.approx(distinct_n(tokens, 2))
        assert (row["entropy_nats"], row["entropy_stderr"]) == pytest.approx((entropy.value, entropy.stderr))
        scorer = load_judge(judge, denoiser)
        loss = scorer.score(texts_of(denoiser, tokens, scorer.separator)).nats_per_token
        assert (row["judge_nats_per_token"], row["judge_stderr"]) == pytest.approx((loss.value, loss.stderr))


def test_evaluate_compares_times_at_equal_bound_and_plots_them(runs, tmp_path):
    pytest.importorskip("matplotlib")
    output, plot = tmp_path / "result.json", tmp_path / "curves.svg"
    ratio = {"name": "exact", "order": "dilated", "than": "base", "than_order": "random", "than_steps": 2}
    options = SAMPLED | {"time_ratios": [ratio], "plot": str(plot), "plotted": ["exact"]}
    printed, _ = evaluate(runs, output, exact_and_groups(runs), **options)
    curves = {(curve.name, curve.order): curve for curve in Results.load(output).curves()}
    pair, generator = (curves["exact", "dilated"], curves["base", "random"]), torch.Generator().manual_seed(5)
    expected = time_ratio(*pair, 2, generator=generator)
    (written,) = json.loads(output.read_text())["time_ratios"]
    assert {key: written[key] for key in ratio} == ratio
    for key in ("value", "low", "high", "num_unreached"):
        value = getattr(expected, key)
        assert written[key] == (pytest.approx(value) if math.isfinite(value) else None)
    assert "exact (dilated) reaches the bound of base (random, 2 steps) in" in printed
    picture = plot.read_text()
    assert "exact, dilated" in picture and "exact, random" in picture and "base, random" not in picture


def test_languages_truth_compares_energies_with_the_oracle(runs, tmp_path):
    names = {"head": "symbols_head", "groups": "symbols_unnormalized"}
    options = {"head": EXACT, "groups": {"num_candidates": 4, "group_size": 2}}
    energies = [{"name": name, "energy": str(runs / names[name] / "final"), **options[name]} for name in names]
    folders = {"denoiser": str(runs / "symbols_denoiser/final"), "corpus": str(runs / "symbols")}
    where = {"num_steps": [2, 4], "num_samples": 12, "output": str(tmp_path / "truth.json")}
    edlm("languages", "truth", *LANGUAGE, **folders, energies=energies, **where)
    rows = json.loads((tmp_path / "truth.json").read_text())["rows"]
    cases = [(name, steps) for steps in (2, 4) for name in ("base", "oracle", "head", "groups")]
    assert [(row["name"], row["num_steps"]) for row in rows] == cases
    x_0, denoiser = PreparedCorpus.load(runs / "symbols").valid.tokens[:12], load_denoiser(folders["denoiser"])
    entropy = -build_language(LanguageConfig(kind="markov", vocab_size=6, num_successors=2)).log_prob(x_0).mean() / 8
    for row in rows:
        name, steps, bound = (row[key] for key in ("name", "num_steps", "bound_nats_per_token"))
        if name in ("base", "oracle"):
            assert row["share"] == pytest.approx(float(name == "oracle"))
        if name == "oracle":
            assert bound == pytest.approx(entropy.item())
        elif name != "base":
            energy = load_energy(runs / names[name] / "final")
            sampler = EnergySampler(denoiser, energy, num_steps=steps, order="random", **options[name])
            assert bound == pytest.approx(estimate_bound(sampler, x_0).nats_per_token.value)


def test_benchmark_gives_ratios_to_the_base_of_equal_passes_and_batch(runs, tmp_path):
    names = {"denoiser": str(runs / "text_denoiser/final"), "energy": str(runs / "text_head/final")}
    names["causal_lm"] = str(runs / "causal/final/energy")
    output, options = tmp_path / "speed.json", {"num_steps": [3], "batch_sizes": [1, 4], "repeats": 1}
    printed = edlm("benchmark", device="cpu", output=str(output), **names, **options)
    rows = json.loads(output.read_text())["rows"]
    assert [row["batch_size"] for row in rows] == [1] * 8 + [4] * 8 and "causal LM, k = 4, left to right" in printed
    for row, base in zip(rows, [rows[0]] * 8 + [rows[8]] * 8, strict=True):
        assert 0 < row["share_of_matmul_rate"] < 1
        assert row["ratio_to_base"] == pytest.approx(row["seconds_per_sequence"] / base["seconds_per_sequence"])
        assert row["tokens_per_second"] == pytest.approx(16 / row["seconds_per_sequence"])


def test_benchmark_s1_compares_with_the_base_and_a_plain_program(runs, tmp_path, monkeypatch):
    for name, value in {"LENGTH": 8, "LAYERS": 2, "WIDTH": 16, "HEADS": 2, "SEPARATOR": 5, "VOCABULARY": 12}.items():
        monkeypatch.setattr(f"edlm.evaluation.samples.s1.{name}", value)
    names = {"denoiser": str(runs / "text_denoiser/final"), "energy": str(runs / "text_head/final")}
    names["causal_lm"] = str(runs / "causal/final/energy")
    output, options = tmp_path / "costs.json", {"batch_sizes": [1, 2], "repeats": 2, "preset": "s1"}
    printed = edlm("benchmark", device="cpu", output=str(output), **names, **options)
    rows, page = json.loads(output.read_text())["rows"], output.with_suffix(".md").read_text()
    for model in ("S1", names["denoiser"]):
        mine = [row for row in rows if row["model"] == model]
        ratios, shares = [row for row in mine if "ratio" in row], [row for row in mine if "floor" in row]
        number = len(SETTINGS)
        assert [row["batch_size"] for row in ratios] == [1] * number + [2] * number + [1] * 8 + [4] * 8
        assert all(0 < row["low"] <= row["ratio"] <= row["high"] for row in ratios)
        assert {row["ratio"] for row in ratios if row["setting"] == row["versus"]} == {1.0}
        plain = [row for row in ratios if row["setting"] == "plain program, k = 16"]
        assert [row["versus"] for row in plain] == ["LM, k = 16, sequences"] * 2
        assert [row["setting"] for row in mine if "k = 256" in row["setting"]] == [*MANY]
        assert all(min(row["seconds_per_step"].values()) >= 0 < row["floor"] for row in shares)
        assert all(row["seconds_per_step"]["trunk"] > 0 for row in shares)
        assert {row["setting"] for row in shares if not row["seconds_per_step"]["energy"]} == {"base"}
    assert "plain program, k = 16" in printed and page.count("| S1 | chain head |") == 3


def test_languages_oracle_writes_every_cell_and_the_data(tmp_path, monkeypatch):
    few = cells()[:3]
    monkeypatch.setattr("edlm.commands.languages.cells", lambda: few)
    printed = edlm("languages", "oracle", num_samples=3, seed=2, output=str(tmp_path / "oracle.json")).splitlines()
    rows = json.loads((tmp_path / "oracle.json").read_text())["rows"]
    assert rows == [*measure_cells(few, 3, 2), measure_data(3, 2)]
    assert all(f"published {cell.published}" in line for cell, line in zip(few, printed[:3], strict=True))
    worst = max(abs(row["deviations"]) for row in rows[:-1])
    assert printed[3].endswith(f"furthest cell: {worst:.1f} combined standard errors of 3")


# Sampling


def sampled(runs, **options) -> str:
    names = {"denoiser": str(runs / "text_denoiser/final"), "energy": str(runs / "text_head/final")}
    return edlm("sample", **({"sampler__num_steps": 3} | names | options))


def records(runs, **options) -> list[dict]:
    return [json.loads(line) for line in sampled(runs, format="jsonl", **options).splitlines()]


def test_sample_writes_texts_of_its_seeds_in_any_batch(runs, denoiser, tmp_path):
    options = {"num_samples": 3, "length": 12, "sampler__order": "dilated"}
    printed = sampled(runs, seed=4, **options)
    sampler = EnergySampler(denoiser, load_energy(runs / "text_head/final"), num_steps=3, order="dilated", **EXACT)
    tokens = sampler.sample(3, 12, seeds=range(4, 7)).tokens
    texts = [denoiser.tokenizer.decode(row).replace("<|endoftext|>", "\n\n").strip() for row in tokens]
    assert printed == "".join(f"--- seed {4 + i}\n{text}\n\n" for i, text in enumerate(texts))
    assert sampled(runs, seed=4, batch_size=2, **options) == printed
    assert sampled(runs, seed=4, output=str(tmp_path / "out.txt"), **options) == ""
    assert (tmp_path / "out.txt").read_text() == printed
    base = EnergySampler(denoiser, num_steps=3, order="dilated").sample(3, 12, seeds=range(4, 7)).tokens
    assert [row["tokens"] for row in records(runs, seed=4, energy="null", **options)] == base.tolist()


def test_sample_writes_jsonl_with_diagnostics_of_every_step(runs):
    k_of_groups = {"sampler__num_candidates": 4, "sampler__group_size": 2}
    lines = records(runs, prompt="the cat", num_samples=2, length=10, seed=7, **k_of_groups)
    assert [record["seed"] for record in lines] == [7, 8]
    for record in lines:
        assert list(record) == ["seed", "text", "tokens", "marginals", "steps"]
        assert len(record["tokens"]) == 10 and record["text"].startswith("the cat")
        assert [step["step"] for step in record["steps"]] == [0, 1, 2]
        assert [step["t"] for step in record["steps"]] == pytest.approx([1, 2 / 3, 1 / 3])
        assert sum(step["num_revealed"] for step in record["steps"]) == 2  # a separator and seven letters are given
        deciding = [step for step in record["steps"] if step["num_revealed"]]
        assert all(step["denoiser_calls"] == 1 and len(step["energies"][0]) == 4 for step in deciding)
        assert all(1 <= ess <= 4 for step in deciding for ess in step["ess"])


def test_sample_fills_masks_and_continues_prompts_as_the_library(runs, denoiser):
    sampler = EnergySampler(denoiser, load_energy(runs / "text_head/final"), num_steps=3, order="dilated", **EXACT)
    same = {"num_samples": 2, "seed": 3, "sampler__order": "dilated"}
    text = "the <mask:2>t sat<mask>"
    output = sampler.infill(text, num_return_sequences=2, seed=3, temperature=0.7, top_k=5)
    rows = records(runs, fill=text, sampler__temperature=0.7, sampler__top_k=5, **same)
    assert [row["tokens"] for row in rows] == [tokens.tolist() for tokens in output.tokens]
    assert [row["text"] for row in rows] == output.text
    output = sampler.generate("the", 20, num_return_sequences=2, seed=3, block_length=5, eos_token_id=None)
    rows = records(runs, prompt="the", length=len(output.tokens[0]), sampler__block_length=5, **same)
    assert len(output.tokens[0]) > denoiser.max_length  # block after block, beyond the trained length
    assert [row["tokens"] for row in rows] == [tokens.tolist() for tokens in output.tokens]


def test_sample_continues_and_fills_symbols_of_a_language(runs):
    names = {"denoiser": str(runs / "symbols_denoiser/final"), "energy": str(runs / "symbols_head/final")}
    rows = records(runs, **names, prompt="3 1 4", num_samples=2, length=8)
    assert [row["tokens"][:3] for row in rows] == [[3, 1, 4]] * 2
    (row,) = records(runs, **names, fill="2 <|mask|> 5", num_samples=1)
    assert len(row["tokens"]) == 3 and (row["tokens"][0], row["tokens"][2]) == (2, 5)


def test_sample_streams_the_steps_to_the_standard_error(runs, capsys):
    options = {"prompt": "the", "length": 12, "num_samples": 2, "seed": 3}
    printed = sampled(runs, stream=True, **options)
    streamed = capsys.readouterr().err
    assert "--- seed 3, step 0\nthe" in streamed and "--- seed 3, step 1\nthe" in streamed and "<|mask|>" in streamed
    assert printed == sampled(runs, **options) and "<|mask|>" not in printed


# Export


def export(runs, target: Path, corpus: str = "text", num_rows: int = 5) -> str:
    energies = {"head": str(runs / f"{corpus}_head/final"), "rival": str(runs / f"{corpus}_unnormalized/final")}
    names = {"denoiser": str(runs / f"{corpus}_denoiser/final"), "energies": energies}
    return edlm("export", **names, corpus=str(runs / corpus), output_dir=str(target), num_rows=num_rows)


def test_export_writes_float16_copies_that_fit_each_other(runs, denoiser, tmp_path):
    export(runs, tmp_path)
    for folder in ("denoiser", "head", "rival"):
        weights = load_file(tmp_path / folder / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float16}
    pair = load_denoiser(tmp_path / "denoiser"), load_energy(tmp_path / "head")
    blocks, corpus = load_blocks(tmp_path / "valid.safetensors"), PreparedCorpus.load(runs / "text")
    drawn = torch.randperm(len(corpus.valid.tokens), generator=torch.Generator().manual_seed(0))[:5]
    valid = corpus.valid.tokens[drawn]
    assert torch.equal(blocks.tokens, valid) and torch.equal(blocks.documents, corpus.valid.documents[drawn])
    stories = denoiser.tokenizer.decode(corpus.train.tokens.flatten()).split("<|endoftext|>")
    assert (tmp_path / "words.txt").read_text().split("\n")[:-1] == sorted(known_words(stories))
    bound = EnergySampler(*pair, num_steps=2, **EXACT).likelihood_bound(valid, seeds=range(5))
    head = load_energy(runs / "text_head/final")
    unrounded = EnergySampler(denoiser, head, num_steps=2, **EXACT).likelihood_bound(valid, seeds=range(5))
    torch.testing.assert_close(bound, unrounded, rtol=0.01, atol=0)
    assert not torch.equal(bound, unrounded)


def test_export_works_for_a_language_without_separators(runs, tmp_path):
    export(runs, tmp_path, corpus="symbols")
    blocks = load_blocks(tmp_path / "valid.safetensors")
    assert blocks.tokens.shape == (5, 8) and blocks.num_tokens == 40 and blocks.documents is None


def test_export_refuses_another_denoisers_energy_before_writing(runs, tmp_path, capsys):
    names = {"denoiser": str(runs / "text_denoiser/final"), "corpus": str(runs / "text")}
    other = {"head": str(runs / "symbols_head/final")}
    edlm("export", code=2, **names, energies=other, output_dir=str(tmp_path / "new"))
    assert "belongs to denoiser" in capsys.readouterr().err and not (tmp_path / "new").exists()


# Mistakes


MISTAKES = {
    "no source": ("prepare corpus", {"output_dir": "never"}, "exactly one of source and language"),
    "no corpus": ("train energy", {"corpus": "storys.txt", "denoiser": "tinystories"}, "existing file or folder"),
    "no energy": ("sample", {"energy": "text"}, "energy.json"),
    "other denoiser": ("sample", {"energy": "text_head/final", "denoiser": "tinystories"}, "differs"),
    "no steps": ("sample", {"energy": "null", "sampler__num_steps": 0}, "num_steps must be >= 1, got 0"),
    "no mask": ("sample", {"energy": "null", "fill": "the cat"}, "texts must hold <mask>"),
    "no device": ("sample", {"energy": "null", "device": "mps"}, "device"),
    "no likelihood": (
        "train energy",
        {"corpus": "text", "denoiser": "tinystories", "kind": "nce", "objective__loss": "likelihood"},
        "loss",
    ),
    "no rows": ("evaluate", {"num_rows": 0}, "num_rows must be >= 1, got 0"),
    "two of a name": ("evaluate", {"methods": [{"name": "base", "energy": None}], "num_rows": 1}, "twice"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(runs, capsys, monkeypatch, name):
    command, options, rule = MISTAKES[name]
    monkeypatch.chdir(runs)
    monkeypatch.delenv("EDLM_DEBUG", raising=False)
    output = {"trainer__output_dir": "never"} if command.startswith("train") else {}
    edlm(*command.split(), code=2, **output, **options)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edlm: error: ")]
    assert len(errors) == 1 and rule in errors[0], errors
    assert not (runs / "never" / "final").exists()


# Info


def test_info_describes_a_denoiser_and_an_energy(capsys, tmp_path):
    lines = edlm("info", "tinystories")
    patterns = "family +masked_lm", r"mask id +1 \(<\|mask\|>\)", "vocabulary +8192 columns", "shift +no", "confirmed"
    assert all(re.search(pattern, lines) for pattern in patterns), lines
    assert "AutoregressiveEnergy" in edlm("info", "tinystories/autoregressive")
    (tmp_path / "config.json").write_text('{"model_type": "strange"}')
    edlm("info", str(tmp_path), code=2)
    assert "model_type 'strange'" in capsys.readouterr().err


def test_a_module_without_states_gets_a_markov_head(runs, tmp_path, capsys):
    corpus = PreparedCorpus.load(runs / "text")
    size = len(corpus.tokenizer)
    module = torch.nn.Sequential(torch.nn.Embedding(size + 1, 4), torch.nn.Linear(4, size))
    options = {"family": "x0_prediction", "vocab_size": size, "time_conditioned": False}
    denoiser = wrap_denoiser(module, corpus.tokenizer, **options)
    options = {"output_dir": str(tmp_path / "m"), **TRAINER, "neighbours": {"reads_states": False}}
    head = training.train_energy(denoiser, corpus, "markov", **options)
    assert not head.reads_hidden and "gain" in capsys.readouterr().out
    with pytest.raises(ValueError, match="LogitsDenoiser keeps no hidden states, which heads read"):
        training.train_energy(denoiser, corpus, "markov", **{**options, "neighbours": {}})
