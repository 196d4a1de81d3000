"""The commands, end to end on tiny data: what each writes is what the library computes from the same settings."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edlm import AutoregressiveEnergy, EnergySampler, ResidualHead, SequenceEnergy, load_denoiser, load_energy
from edlm.cli import COMMANDS, main
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.corpus.text import load_blocks
from edlm.evaluation import estimate_bound, paired_gain
from edlm.evaluation.oracle_tables import cells, data_nats_per_token, measure_cells
from edlm.training.trainer import NonFiniteLossError

WORDS = "the cat sat on a mat and the dog ran to it".split()
STORIES = [" ".join(WORDS[(7 * i + 5 * j * (i % 3 + 1)) % 12] for j in range(4 + i % 7)) + f" {i}." for i in range(150)]
MODEL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
MODERNBERT = {**MODEL, "max_position_embeddings": 16, "global_attn_every_n_layers": 1}
LLAMA = {**MODEL, "num_key_value_heads": 2, "max_position_embeddings": 17}
TRAINER = {"num_steps": 6, "batch_size": 8, "log_every": 2, "warmup_steps": 1, "valid_every": 6, "valid_batches": 1}
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


def train(what: str, corpus: Path, output_dir: Path, *more, **options) -> tuple[str, list[dict]]:
    printed = edlm(
        "train",
        what,
        *more,
        corpus=str(corpus),
        trainer__output_dir=str(output_dir),
        **({f"trainer__{key}": value for key, value in TRAINER.items()} | options),
    )
    return printed, [json.loads(line) for line in (output_dir / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two corpora, a denoiser of each, and every kind of energy, all made by the commands."""
    path = tmp_path_factory.mktemp("runs")
    (path / "stories.txt").write_text("\n<|endoftext|>\n".join(STORIES))
    printed = edlm(
        "prepare",
        "corpus",
        output_dir=str(path / "text"),
        source=str(path / "stories.txt"),
        valid_fraction=0.2,
        tokenizer_kind="character",
        vocab_size=64,
        length=16,
    )
    (path / "prepared.txt").write_text(printed)
    edlm("prepare", "corpus", *LANGUAGE, output_dir=str(path / "symbols"), num_train=64, num_valid=20, length=8, seed=3)
    for corpus in ("text", "symbols"):
        train("denoiser", path / corpus, path / f"{corpus}_denoiser", model=MODERNBERT)
        denoiser = {"denoiser": str(path / f"{corpus}_denoiser" / "final")}
        train("energy", path / corpus, path / f"{corpus}_head", **denoiser)
        unnormalized = {"head__form": "unnormalized", "objective__loss": "ranking", "objective__group_sizes": [2]}
        train("energy", path / corpus, path / f"{corpus}_unnormalized", **unnormalized, **denoiser)
    sequence = {"kind": "sequence", "objective__loss": "binary", "objective__scope": "sequence"}
    train("energy", path / "text", path / "sequence", denoiser=str(path / "text_denoiser/final"), **sequence)
    train("autoregressive", path / "text", path / "causal", model=LLAMA)
    return path


@pytest.fixture
def denoiser(runs):
    return load_denoiser(runs / "text_denoiser" / "final")


# Corpora


def test_a_text_corpus_holds_the_stories_and_says_so(runs):
    corpus = PreparedCorpus.load(runs / "text")
    printed = (runs / "prepared.txt").read_text().splitlines()
    found = set()
    for name, line in zip(("train", "valid"), printed, strict=True):
        blocks = getattr(corpus, name)
        text = corpus.tokenizer.decode(blocks.tokens.flatten())
        stories = text.split("<|endoftext|>")[1:-1]  # the last may be cut
        assert set(stories) <= set(STORIES) and not found & set(stories)
        found |= set(stories)
        assert line.startswith(f"{name}: {blocks.num_documents} documents, {len(blocks.tokens)} blocks of 16 tokens, ")
        assert f"{blocks.num_dropped} of {blocks.num_tokens} tokens dropped" in line
        assert line.endswith(f"{blocks.characters_per_token:.2f} characters per token")
    assert len(found) >= 148  # all but a last one in each split
    assert corpus.train.num_documents + corpus.valid.num_documents == 150


def test_a_corpus_of_a_language_is_the_languages_own(runs, tmp_path):
    corpus = PreparedCorpus.load(runs / "symbols")
    language = build_language(LanguageConfig(kind="markov", vocab_size=6, num_successors=2))
    assert corpus.tokenizer.mask_token_id == language.mask_token_id == 6 and len(corpus.tokenizer) == 7
    assert corpus.train.tokens.shape == (64, 8) and corpus.valid.tokens.shape == (20, 8)
    assert not set(map(tuple, corpus.train.tokens.tolist())) & set(map(tuple, corpus.valid.tokens[:1].tolist()))
    # 84 rows of 8 tokens: the mean is within five standard errors of the entropy; false alarm 6e-7.
    nats = -language.log_prob(torch.cat([corpus.train.tokens, corpus.valid.tokens]))
    assert abs(nats.mean() - language.entropy_nats(8)) < 5 * nats.std() / 84**0.5
    edlm("prepare", "corpus", *LANGUAGE, output_dir=str(tmp_path), num_train=64, num_valid=20, length=8, seed=3)
    assert torch.equal(PreparedCorpus.load(tmp_path).train.tokens, corpus.train.tokens)
    edlm("prepare", "corpus", *LANGUAGE, output_dir=str(tmp_path), num_train=64, num_valid=20, length=8, seed=4)
    assert not torch.equal(PreparedCorpus.load(tmp_path).train.tokens, corpus.train.tokens)


# Training


def test_training_a_denoiser_leaves_a_model_a_log_and_its_config(runs, denoiser):
    config = denoiser.network.config
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("modernbert", 16, 2)
    corpus = PreparedCorpus.load(runs / "text")
    assert denoiser.mask_token_id == corpus.tokenizer.mask_token_id
    assert denoiser.tokenizer.get_vocab() == corpus.tokenizer.get_vocab()
    log = [json.loads(line) for line in (runs / "text_denoiser" / "log.jsonl").read_text().splitlines()]
    assert [(line["split"], line["step"]) for line in log] == [("train", 2), ("train", 4), ("train", 6), ("valid", 6)]
    assert all(1 < line["loss"] < 10 and line["metrics"]["masked_nll_nats"] > 0 for line in log)
    assert "num_steps: 6" in (runs / "text_denoiser" / "config.yaml").read_text()


def test_the_energies_are_of_their_kind_belong_to_the_denoiser_and_have_learnt(runs, denoiser):
    kinds = {"text_head": ResidualHead, "text_unnormalized": ResidualHead, "sequence": SequenceEnergy}
    for name, kind in kinds.items():
        energy = load_energy(runs / name / "final")
        assert type(energy) is kind
        energy.check_denoiser(denoiser)
        with pytest.raises(ValueError, match="differs: revision"):
            energy.check_denoiser(load_denoiser(runs / "symbols_denoiser" / "final"))
        start = kind.from_denoiser(denoiser, **({"form": energy.shape.form} if kind is ResidualHead else {}))
        moved = [not torch.equal(a, b) for a, b in zip(energy.parameters(), start.parameters(), strict=True)]
        assert sum(moved) > len(moved) / 2
        log = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
        assert [line["split"] for line in log].count("valid") == 1 and all(math.isfinite(line["loss"]) for line in log)
        gain = "gain_nats_per_token" if name == "text_head" else "gain_nats_per_decision"
        assert all(list(line["metrics"]) == [gain] for line in log)
    assert load_energy(runs / "text_head" / "final").is_normalized
    assert not load_energy(runs / "text_unnormalized" / "final").is_normalized


def test_a_causal_lm_can_be_an_energy(runs, denoiser):
    energy = AutoregressiveEnergy.from_causal_lm(runs / "causal" / "final")
    assert load_energy(str(runs / "causal/final/energy")).bos_token_id == energy.bos_token_id
    config = energy.model.config
    assert config.model_type == "llama" and config.vocab_size == len(denoiser.tokenizer)
    assert energy.bos_token_id == denoiser.tokenizer.eos_token_id
    rows = load_blocks(runs / "text" / "valid.safetensors").tokens[:3]
    sampler = EnergySampler(denoiser, energy, num_steps=2, num_candidates=2, order="left_to_right")
    assert torch.isfinite(sampler.likelihood_bound(rows, seeds=range(3))).all()


@pytest.mark.parametrize("changed", ["denoiser", "objective"])
def test_a_finished_run_is_not_gone_on_with_for_another_denoiser_or_objective(runs, tmp_path, changed):
    """Else the old weights are saved as trained for the new one."""
    again = [str(tmp_path / name) for name in ("other", "energy")]
    denoiser = {"denoiser": str(runs / "text_denoiser/final")}
    train("energy", runs / "text", tmp_path / "energy", **denoiser)
    settings = {f"trainer__{key}": value for key, value in TRAINER.items()}
    other = {**denoiser, **settings, "objective__orders": ["left_to_right"]}
    if changed == "denoiser":
        train("denoiser", runs / "text", tmp_path / "other", model=MODERNBERT, trainer__seed=1)
        other = {**settings, "denoiser": again[0] + "/final"}
    before = load_file(f"{again[1]}/final/model.safetensors")
    code = main(["train", "energy", f"--corpus={runs / 'text'}", f"--trainer.output_dir={again[1]}", *_words(other)])
    after = load_file(f"{again[1]}/final/model.safetensors")
    assert code == 2 and all(torch.equal(before[name], after[name]) for name in before)


# Evaluation


def test_evaluate_writes_the_bounds_that_the_library_computes(runs, denoiser, tmp_path):
    head, unnormalized = (str(runs / name / "final") for name in ("text_head", "text_unnormalized"))
    methods = [
        {"name": "exact", "energy": head, "num_candidates": None},
        {"name": "groups", "energy": unnormalized, "num_candidates": 3, "group_size": 2},
        {"name": "paper", "energy": str(runs / "sequence" / "final"), "num_candidates": 2, "scope": "sequence"},
    ]
    data, output = runs / "text" / "valid.safetensors", tmp_path / "deep" / "result.json"
    printed = edlm(
        "evaluate",
        denoiser=str(runs / "text_denoiser/final"),
        data=str(data),
        num_rows=9,
        methods=methods,
        num_steps=[2, 4],
        orders=["random", "dilated"],
        seed=5,
        batch_size=4,
        timed_repeats=0,
        output=str(output),
    )
    result = json.loads(output.read_text())
    assert result["config"]["num_rows"] == 9 and result["config"]["methods"][1]["group_size"] == 2
    assert {"command", "revision", "versions", "machine"} <= set(result)
    rows, found = load_blocks(data).tokens[:9], {}
    for row in result["settings"]:
        found[row["name"], row["num_steps"], row["order"]] = row
        assert row["n"] == 9 and row["seconds_per_sequence"] is None
    assert len(found) == len(result["settings"]) == 16
    for steps in (2, 4):
        for order in ("random", "dilated"):
            common = {"num_steps": steps, "order": order}
            base = estimate_bound(EnergySampler(denoiser, **common), rows, seed=5)
            for method in methods:
                how = {key: method[key] for key in method if key not in ("name", "energy")}
                bound = estimate_bound(
                    EnergySampler(denoiser, load_energy(method["energy"]), **common, **how), rows, seed=5
                )
                row, gain = found[method["name"], steps, order], paired_gain(base, bound).nats_per_token
                close = {"rel": 1e-4, "abs": 1e-5}
                assert row["bound_nats_per_token"] == pytest.approx(bound.nats_per_token.value, **close)
                assert row["gain_nats_per_token"] == pytest.approx(gain.value, **close)
                assert row["gain_stderr"] == pytest.approx(gain.stderr, **close)
                per_char = row["bound_nats_per_token"] / load_blocks(data).characters_per_token / math.log(2)
                assert row["bits_per_char"] == pytest.approx(per_char)
            assert found["base", steps, order]["gain_nats_per_token"] is None
            assert found["base", steps, order]["bound_nats_per_token"] == pytest.approx(
                base.nats_per_token.value, rel=1e-5
            )
    assert "exact" in printed and "groups" in printed and "base" in printed


def test_benchmark_truth_holds_energies_against_the_oracle(runs, tmp_path):
    names = {"head": "symbols_head", "groups": "symbols_unnormalized"}
    energies = [{"name": name, "energy": str(runs / folder / "final")} for name, folder in names.items()]
    energies[1] |= {"num_candidates": 4, "group_size": 2}
    edlm(
        "benchmark",
        *LANGUAGE,
        what="truth",
        denoiser=str(runs / "symbols_denoiser/final"),
        corpus=str(runs / "symbols"),
        energies=energies,
        num_steps=[2, 4],
        num_samples=12,
        output=str(tmp_path / "truth.json"),
    )
    result = json.loads((tmp_path / "truth.json").read_text())
    assert [(row["name"], row["num_steps"]) for row in result["rows"]] == [
        (name, steps) for steps in (2, 4) for name in ("base", "oracle", "head", "groups")
    ]
    language = build_language(LanguageConfig(kind="markov", vocab_size=6, num_successors=2))
    rows = PreparedCorpus.load(runs / "symbols").valid.tokens[:12]
    for row in result["rows"]:
        assert row["n"] == 12 and row["order"] == "random"
        if row["name"] == "oracle":
            assert row["bound_nats_per_token"] == pytest.approx(-language.log_prob(rows).mean().item() / 8)
        share = {"base": 0, "oracle": 1}.get(row["name"])
        assert share is None or row["share"] == pytest.approx(share)
    denoiser = load_denoiser(runs / "symbols_denoiser" / "final")
    for row in result["rows"]:
        if row["name"] in names:
            energy = load_energy(runs / names[row["name"]] / "final")
            how = {"num_candidates": 4, "group_size": 2} if row["name"] == "groups" else {"num_candidates": None}
            sampler = EnergySampler(denoiser, energy, num_steps=row["num_steps"], order="random", **how)
            assert row["bound_nats_per_token"] == pytest.approx(estimate_bound(sampler, rows).nats_per_token.value)


def test_benchmark_oracle_writes_every_cell_and_the_data(tmp_path, monkeypatch):
    few = cells()[:3]
    monkeypatch.setattr("edlm.evaluation.oracle_tables.cells", lambda: few)
    printed = edlm("benchmark", what="oracle", num_samples=3, seed=2, output=str(tmp_path / "oracle.json"))
    result = json.loads((tmp_path / "oracle.json").read_text())
    assert result["rows"] == [*measure_cells(3, 2), {"table": "data", "published": 2.289, **data_nats_per_token(3, 2)}]
    assert result["config"]["num_samples"] == 3
    lines = printed.splitlines()
    assert len(lines) == 4 and all(
        f"published {cell.published}" in line for cell, line in zip(few, lines, strict=False)
    )
    worst = max(abs(row["deviations"]) for row in result["rows"][:-1])
    assert lines[-1].endswith(f"furthest cell: {worst:.1f} combined standard errors of 3")


# Sampling


def sampled(runs, *more, **options) -> str:
    names = {"denoiser": str(runs / "text_denoiser/final"), "energy": str(runs / "text_head/final")}
    return edlm("sample", *more, **(names | options))


def test_sample_writes_text_with_its_seed_the_same_in_any_batch(runs, denoiser, tmp_path):
    options = {"num_samples": 3, "length": 12, "sampler__num_steps": 3}
    printed = sampled(runs, seed=4, **options)
    head = load_energy(runs / "text_head" / "final")
    sampler = EnergySampler(denoiser, head, num_steps=3, num_candidates=None, order="dilated")
    tokens = sampler.fill(torch.full((3, 12), denoiser.mask_token_id), seeds=range(4, 7)).tokens
    expected = [denoiser.tokenizer.decode(row).replace("<|endoftext|>", "\n\n").strip() for row in tokens]
    assert printed == "".join(f"--- seed {4 + i}\n{text}\n\n" for i, text in enumerate(expected))
    assert sampled(runs, seed=4, batch_size=2, **options) == printed
    assert sampled(runs, seed=5, **options) != printed
    assert sampled(runs, seed=4, output=str(tmp_path / "out.txt"), **options) == ""
    assert (tmp_path / "out.txt").read_text() == printed
    base = sampled(runs, seed=4, **{**options, "energy": "null"})
    tokens = EnergySampler(denoiser, num_steps=3, order="dilated").sample(3, 12, seeds=range(4, 7)).tokens
    assert (
        base.splitlines()[1]
        == denoiser.tokenizer.decode(tokens[0]).replace("<|endoftext|>", "\n\n").strip().split("\n")[0]
    )


def test_sample_writes_jsonl_with_the_diagnostics_of_every_step(runs):
    options = {"format": "jsonl", "num_samples": 2, "length": 10, "sampler__num_steps": 3, "seed": 7}
    lines = sampled(runs, sampler__num_candidates=4, sampler__group_size=2, prompt="the cat", **options).splitlines()
    for i, line in enumerate(lines):
        record = json.loads(line)
        assert list(record) == ["seed", "text", "tokens", "steps"] and record["seed"] == 7 + i
        assert len(record["tokens"]) == 10 and record["text"].startswith("the cat")
        assert [step["step"] for step in record["steps"]] == [0, 1, 2]
        assert [step["t"] for step in record["steps"]] == pytest.approx([1, 2 / 3, 1 / 3])
        assert sum(step["num_revealed"] for step in record["steps"]) == 2  # a separator and seven letters are given
        deciding = [step for step in record["steps"] if step["num_revealed"]]
        assert all(step["denoiser_calls"] == 1 and len(step["energies"][0]) == 4 for step in deciding)
        assert all(1 <= ess <= 4 for step in deciding for ess in step["ess"])
    assert len(lines) == 2
    shown = json.loads(sampled(runs, **options).splitlines()[0])  # exact decisions: no groups, no energies
    assert sum(step["num_revealed"] for step in shown["steps"]) == 10


def test_a_prompt_stays_and_a_text_is_filled_at_its_masks_only(runs):
    assert all(
        text.startswith("the cat sat") for text in _texts(sampled(runs, prompt="the cat sat", num_samples=3, length=16))
    )
    fill = "the <|mask|><|mask|>t sat<|mask|>"
    for text in _texts(sampled(runs, fill=fill, num_samples=3)):
        assert text.startswith("the ") and "t sat" in text and "<|mask|>" not in text
    tokens = json.loads(sampled(runs, fill=fill, num_samples=1, format="jsonl"))["tokens"]
    tokenizer = load_denoiser(runs / "text_denoiser" / "final").tokenizer
    given = tokenizer(fill, add_special_tokens=False)["input_ids"]
    assert len(tokens) == len(given) == 12
    kept = [a == b for a, b in zip(tokens, given, strict=True)]
    assert kept == [token != tokenizer.mask_token_id for token in given]


def _texts(printed: str) -> list[str]:
    return [part.split("\n", 1)[1].rstrip("\n") for part in printed.split("--- seed ")[1:]]


def test_symbols_of_a_language_can_be_a_prompt_and_a_fill(runs):
    names = {"denoiser": str(runs / "symbols_denoiser/final"), "energy": str(runs / "symbols_head/final")}
    shown = edlm("sample", **names, prompt="3 1 4", num_samples=2, length=8, format="jsonl")
    assert [json.loads(line)["tokens"][:3] for line in shown.splitlines()] == [[3, 1, 4]] * 2
    shown = json.loads(edlm("sample", **names, fill="2 <|mask|> 5", num_samples=1, format="jsonl"))["tokens"]
    assert len(shown) == 3 and (shown[0], shown[2]) == (2, 5)


# Export


def export(runs, target: Path, corpus: str = "text", num_rows: int = 5) -> str:
    names = {"denoiser": str(runs / f"{corpus}_denoiser/final"), "energy": str(runs / f"{corpus}_head/final")}
    return edlm("export", **names, corpus=str(runs / corpus), output_dir=str(target), num_rows=num_rows)


def test_export_writes_a_float16_pair_that_still_belongs_together(runs, denoiser, tmp_path):
    export(runs, tmp_path)
    for folder in ("denoiser", "head"):
        weights = load_file(tmp_path / folder / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float16}
    pair = load_denoiser(tmp_path / "denoiser"), load_energy(tmp_path / "head")
    blocks = load_blocks(tmp_path / "valid.safetensors")
    valid = load_blocks(runs / "text" / "valid.safetensors").tokens[:5]
    assert torch.equal(blocks.tokens, valid)
    text = denoiser.tokenizer.decode(valid.flatten()).replace("<|endoftext|>", "")
    assert blocks.num_characters == len(text)
    options = {"num_steps": 2, "order": "dilated", "num_candidates": None}
    bound = estimate_bound(EnergySampler(*pair, **options), valid).nats_per_row
    own = estimate_bound(EnergySampler(denoiser, load_energy(runs / "text_head" / "final"), **options), valid)
    torch.testing.assert_close(bound, own.nats_per_row, rtol=0.01, atol=0)
    assert not torch.equal(bound, own.nats_per_row)


def test_export_works_without_separators(runs, tmp_path):
    export(runs, tmp_path, corpus="symbols")
    assert load_blocks(tmp_path / "valid.safetensors").tokens.shape == (5, 8)


# Mistakes


def mistakes(runs: Path) -> dict[str, tuple[list[str], dict, str]]:
    text, head = str(runs / "text_denoiser/final"), str(runs / "text_head/final")
    unnormalized, symbols = str(runs / "text_unnormalized/final"), str(runs / "symbols_denoiser/final")
    new = {
        "corpus": str(runs / "text"),
        "denoiser": text,
        "trainer__output_dir": str(runs / "never"),
        "trainer__num_steps": 1,
    }
    sample = {"denoiser": text, "energy": head, "length": 16, "num_samples": 1}
    evaluate = {"denoiser": text, "data": str(runs / "text/valid.safetensors"), "num_rows": 2}
    train_energy, prepare = ["train", "energy"], ["prepare", "corpus", "--output_dir", str(runs / "never")]
    return {
        "no source": (prepare, {}, "exactly one of source and language must be given, got none"),
        "both sources": ([*prepare, *LANGUAGE], {"source": str(runs / "stories.txt")}, "got both"),
        "missing source": (prepare, {"source": str(runs / "no.txt")}, "source must be an existing file"),
        "no corpus": (train_energy, {**new, "corpus": str(runs)}, "made by `edlm prepare corpus`"),
        "no energy": (["sample"], {**sample, "energy": str(runs)}, "an energy folder must hold energy.json"),
        "no denoiser": (["sample"], {**sample, "denoiser": str(runs / "nowhere")}, "nowhere"),
        "no data": (["evaluate"], {**evaluate, "data": str(runs / "no.safetensors")}, "no.safetensors"),
        "other denoiser": (["sample"], {**sample, "denoiser": symbols}, "the one given differs: revision"),
        "exact, unnormalized": (["sample"], {**sample, "energy": unnormalized}, "needs an energy that is normalised"),
        "groups, sequence": (
            ["sample"],
            {**sample, "sampler__scope": "sequence", "sampler__group_size": 2, "sampler__num_candidates": 2},
            "group_size needs scope='step'",
        ),
        "no steps": (["sample"], {**sample, "sampler__num_steps": 0}, "num_steps must be >= 1, got 0"),
        "prompt and fill": (["sample"], {**sample, "prompt": "a", "fill": "<|mask|>"}, "not both"),
        "long prompt": (
            ["sample"],
            {**sample, "prompt": "the cat sat on it"},
            "length must be above the prompt's 18 tokens, got 16",
        ),
        "no mask": (["sample"], {**sample, "fill": "the cat"}, "fill must hold <|mask|>"),
        "likelihood, unnormalized": (
            train_energy,
            {**new, "head__form": "unnormalized"},
            "'likelihood' needs a normalized head",
        ),
        "likelihood, sequence": (
            train_energy,
            {**new, "kind": "sequence", "objective__scope": "sequence"},
            "'likelihood' needs a normalized head",
        ),
        "sequence at step scope": (
            train_energy,
            {**new, "kind": "sequence", "objective__loss": "binary"},
            "needs another objective.scope than 'step'",
        ),
        "head at sequence scope": (
            train_energy,
            {**new, "objective__scope": "sequence"},
            "needs another objective.scope",
        ),
        "too many blocks": (train_energy, {**new, "head__num_blocks": 2}, "num_blocks must lie in 1..1, got 2"),
        "warm with sizes": (train_energy, {**new, "head__width": 8}, "start='cold'"),
        "unknown key": (train_energy, {**new, "head__widht": 8}, "did you mean 'head.width'?"),
        "no separator": (
            ["train", "autoregressive"],
            {"corpus": str(runs / "symbols"), "trainer__output_dir": str(runs / "never")},
            "must have a bos or an eos token",
        ),
        "truth without corpus": (["benchmark"], {"what": "truth", "denoiser": text}, "'truth' needs corpus"),
        "evaluate, other denoiser": (
            ["evaluate"],
            {**evaluate, "methods": [{"name": "a", "energy": str(runs / "symbols_head/final")}]},
            "differs: revision",
        ),
        "resume off": (
            train_energy,
            {**new, "trainer__output_dir": str(runs / "text_head"), "trainer__resume": False},
            "output_dir must hold no checkpoint",
        ),
        "truth of another language": (
            ["benchmark"],
            {
                "what": "truth",
                "denoiser": symbols,
                "corpus": str(runs / "symbols"),
                "language__vocab_size": 9,
                "num_steps": [2],
            },
            "mask",
        ),
        "corpus of another tokenizer": (train_energy, {**new, "corpus": str(runs / "symbols")}, "tokenizer"),
        "groups of none": (
            train_energy,
            {**new, "objective__loss": "ranking", "objective__group_sizes": [0]},
            "group_sizes",
        ),
        "heads that do not fit": (
            train_energy,
            {**new, "head__start": "cold", "head__width": 10, "head__num_heads": 3},
            "num_heads",
        ),
        "too many cold blocks": (
            train_energy,
            {**new, "head__start": "cold", "head__num_blocks": 4},
            "num_blocks must",
        ),
        "blind, unnormalized": (
            train_energy,
            {**new, "head__form": "unnormalized", "head__blind": True, "objective__loss": "ranking"},
            "blind",
        ),
        "no rows": (["evaluate"], {**evaluate, "num_rows": 0, "methods": [{"name": "a", "energy": head}]}, "num_rows"),
    }


@pytest.mark.parametrize("name", mistakes(Path()))
def test_a_users_mistake_is_one_line_and_exit_code_2(runs, capsys, monkeypatch, name):
    words, options, said = mistakes(runs)[name]
    monkeypatch.delenv("EDLM_DEBUG", raising=False)
    assert edlm(*words, code=2, **options).count("Traceback") == 0
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edlm: error: ")]
    assert len(error) == 1 and said in error[0], error
    assert not (runs / "never" / "final").exists()


def test_a_run_that_diverges_says_at_which_step(runs, tmp_path):
    """Weights that become infinite give logits that are NaN: a loss that is not finite, not a user's mistake."""
    with pytest.raises(NonFiniteLossError, match="at step 2; last good checkpoint: .*step_00000001"):
        train(
            "denoiser",
            runs / "text",
            tmp_path,
            model=MODERNBERT,
            trainer__learning_rate=1e30,
            trainer__checkpoint_every=1,
        )


def test_every_command_is_run_above():
    source = Path(__file__).read_text()
    for name in COMMANDS:
        words = name.split()
        called = ['"' + '", "'.join(words) + '"', f'train("{words[-1]}"', f'["{words[0]}"']
        assert name == "demo" or any(call in source for call in called), name
