"""The commands, end to end on tiny data: what each writes is what the library computes from the same settings."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edlm import AutoregressiveEnergy, EnergySampler, ResidualHead, SequenceEnergy, load_denoiser, load_energy
from edlm.cli import main
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.corpus.text import load_blocks
from edlm.evaluation import estimate_bound, paired_gain
from edlm.evaluation.estimates.estimate import mean_of
from edlm.evaluation.experiment import run as stages
from edlm.evaluation.languages.oracle import cells, measure_cells, measure_data
from edlm.evaluation.likelihood.speedup import Curve, time_ratio
from edlm.evaluation.samples.diversity import distinct_n, unigram_entropy
from edlm.evaluation.samples.draw import TimedSamples
from edlm.evaluation.samples.judge import JudgedTexts
from edlm.evaluation.samples.text_errors import known_words
from edlm.evaluation.samples.texts import EMPTY_LINE
from edlm.sampler.bounds import likelihood_bounds
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


def evaluate(runs, output: Path, methods: list[dict], code: int = 0, **options) -> tuple[str, dict]:
    """Run the command on nine rows of the text; what it printed, and what it wrote by name, order and steps."""
    defaults = {
        "denoiser": str(runs / "text_denoiser/final"),
        "data": str(runs / "text" / "valid.safetensors"),
        "num_rows": 9,
        "num_steps": [2, 4],
        "orders": ["random", "dilated"],
        "seed": 5,
        "batch_size": 4,
        "samples__timed_batches": 0,
        "samples__judged": 0,
    }
    printed = edlm("evaluate", code=code, output=str(output), methods=methods, **{**defaults, **options})
    return printed, found_in(output) if output.exists() else {}


def found_in(output: Path) -> dict[tuple[str, str, int], dict]:
    rows = json.loads(output.read_text())["settings"]
    found = {(row["name"], row["order"], row["num_steps"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def exact_and_groups(runs) -> list[dict]:
    head, unnormalized = (str(runs / name / "final") for name in ("text_head", "text_unnormalized"))
    return [
        {"name": "exact", "energy": head, "num_candidates": None},
        {"name": "groups", "energy": unnormalized, "num_candidates": 3, "group_size": 2},
    ]


CLOSE = {"rel": 1e-4, "abs": 1e-5}


def test_evaluate_writes_the_bounds_that_the_library_computes(runs, denoiser, tmp_path):
    sequence = {"name": "paper", "energy": str(runs / "sequence/final"), "num_candidates": 2, "scope": "sequence"}
    methods, output = [*exact_and_groups(runs), sequence], tmp_path / "deep" / "result.json"
    printed, found = evaluate(runs, output, methods)
    result = json.loads(output.read_text())
    assert result["config"]["num_rows"] == 9 and result["config"]["methods"][1]["group_size"] == 2
    assert {"command", "revision", "versions", "machine", "identity"} <= set(result)
    blocks = load_blocks(runs / "text" / "valid.safetensors")
    rows, nats = blocks.tokens[:9], load_file(output.with_suffix(".rows.safetensors"))
    assert len(found) == len(nats) == 16
    assert all(row["n"] == 9 and row["seconds_per_sequence"] is None for row in found.values())
    for (name, order, steps), row in found.items():
        of_rows = nats[f"{name}, {order}, {steps} steps"]
        assert of_rows.shape == (9,)
        assert of_rows.mean().item() == pytest.approx(row["bound_nats_per_token"], rel=1e-5)
    for steps in (2, 4):
        for order in ("random", "dilated"):
            common = {"num_steps": steps, "order": order}
            base = estimate_bound(EnergySampler(denoiser, **common), rows, seed=5)
            for method in methods:
                how = {key: method[key] for key in method if key not in ("name", "energy")}
                bound = estimate_bound(
                    EnergySampler(denoiser, load_energy(method["energy"]), **common, **how), rows, seed=5
                )
                row, gain = found[method["name"], order, steps], paired_gain(base, bound)
                assert row["bound_nats_per_token"] == pytest.approx(bound.nats_per_token.value, **CLOSE)
                assert row["gain_nats_per_token"] == pytest.approx(gain.value, **CLOSE)
                assert row["gain_stderr"] == pytest.approx(gain.stderr, **CLOSE)
                per_char = row["bound_nats_per_token"] / blocks.characters_per_token / math.log(2)
                assert row["bits_per_char"] == pytest.approx(per_char)
            assert found["base", order, steps]["gain_nats_per_token"] is None
            assert found["base", order, steps]["bound_nats_per_token"] == pytest.approx(
                base.nats_per_token.value, rel=1e-5
            )
    assert "exact" in printed and "groups" in printed and "base" in printed


def test_evaluate_measures_some_methods_in_some_cells_on_some_of_the_steps(runs, denoiser, tmp_path):
    exact, groups = exact_and_groups(runs)
    methods = [
        exact | {"name": "at 4", "num_steps": [4]},
        groups | {"name": "sampled", "orders": ["random"], "sampled_steps": 2},
    ]
    causal = {"energy": str(runs / "causal/final/energy"), "num_candidates": 3, "scope": "sequence"}
    where = {"orders": ["dilated"], "num_steps": [2]}
    methods += [
        causal | where | {"name": name, "carry_over": carry_over}
        for name, carry_over in (("ar", False), ("coar", True))
    ]
    _, found = evaluate(runs, tmp_path / "result.json", methods)
    cells = [("random", 2), ("random", 4), ("dilated", 2), ("dilated", 4)]
    assert set(found) == {
        *(("base", *cell) for cell in cells),
        ("at 4", "random", 4),
        ("at 4", "dilated", 4),
        ("sampled", "random", 2),
        ("sampled", "random", 4),
        ("ar", "dilated", 2),
        ("coar", "dilated", 2),
    }
    rows, seeds = load_blocks(runs / "text" / "valid.safetensors").tokens[:9], range(5, 14)
    energy = load_energy(groups["energy"])
    for steps in (2, 4):
        row, common = found["sampled", "random", steps], {"order": "random", "num_steps": steps}
        samplers = (
            EnergySampler(denoiser, **common),
            EnergySampler(denoiser, energy, num_candidates=3, group_size=2, **common),
        )
        base, ours = likelihood_bounds(samplers, rows, seeds, sampled_steps=2)
        gain = (base - ours) / 16
        assert row["sampled_steps"] == (2 if steps == 4 else None)  # two of two are all
        assert row["gain_nats_per_token"] == pytest.approx(gain.mean().item(), **CLOSE)
        assert row["gain_stderr"] == pytest.approx(gain.std().item() / 3, **CLOSE)
        difference = found["base", "random", steps]["bound_nats_per_token"] - row["bound_nats_per_token"]
        assert difference == pytest.approx(gain.mean().item(), **CLOSE)
    for name, carry_over in (("ar", False), ("coar", True)):
        energy = load_energy(causal["energy"])
        energy.carry_over = carry_over
        sampler = EnergySampler(denoiser, energy, num_candidates=3, scope="sequence", order="dilated", num_steps=2)
        bound = sampler.likelihood_bound(rows, seeds=seeds) / 16
        assert found[name, "dilated", 2]["bound_nats_per_token"] == pytest.approx(bound.mean().item(), **CLOSE)
    assert (
        abs(found["ar", "dilated", 2]["gain_nats_per_token"] - found["coar", "dilated", 2]["gain_nats_per_token"])
        > 1e-3
    )


SAMPLED = {
    "samples__timed_batches": 1,
    "samples__batch_size": 2,
    "samples__judged": 4,
    "samples__judged_steps": [2],
    "samples__judged_methods": ["exact"],
}
JUDGED = ("num_samples", "entropy_nats", "entropy_stderr", "distinct_2", "judge_nats_per_token", "judge_stderr")


def test_evaluate_draws_samples_to_time_and_to_judge(runs, denoiser, tmp_path):
    output = tmp_path / "result.json"
    evaluate(runs, output, exact_and_groups(runs))
    before = found_in(output)
    _, found = evaluate(runs, output, exact_and_groups(runs), **SAMPLED)  # timed when the machine is idle
    assert len(found) == 12
    for (name, order, steps), row in found.items():
        judged = name == "exact" and steps == 2
        assert row["timed_batch_size"] == 2 and len(row["seconds_of_batches"]) == 1
        assert min(row["seconds_of_batches"]) > 0
        assert row["seconds_per_sequence"] == row["seconds_of_batches"][0]
        assert row["denoiser_passes"] == steps
        # Exact: 16 tokens; three candidates for each pair of them; the base asks nothing.
        assert row["energy_passes"] == {"base": 0, "exact": 16, "groups": 24}[name]
        assert [row[key] is None for key in JUDGED] == [not judged] * 4 + [True] * 2
        same = {key: row[key] for key in row if before[name, order, steps][key] is not None}
        assert same == {key: before[name, order, steps][key] for key in same}
    head = load_energy(runs / "text_head" / "final")
    for order in ("random", "dilated"):
        sampler = EnergySampler(denoiser, head, num_steps=2, num_candidates=None, order=order)
        tokens = sampler.sample(4, 16, seeds=range(5, 9)).tokens
        row, entropy = found["exact", order, 2], mean_of(unigram_entropy(tokens))
        assert row["num_samples"] == 4
        assert (row["entropy_nats"], row["entropy_stderr"]) == pytest.approx((entropy.value, entropy.stderr))
        assert row["distinct_2"] == pytest.approx(distinct_n(tokens, 2))


class OddJudge:
    """Finds a text as bad as it is long, and counts its words."""

    separator, identity = EMPTY_LINE, "odd"

    def __init__(self):
        self.scored = []

    def describe(self):
        return {"name": "odd"}

    def has_part_in(self, energy):
        return False

    def score(self, texts):
        self.scored.append(texts)
        lengths = torch.tensor([float(len(text)) for text in texts], dtype=torch.float64)
        return JudgedTexts(lengths, torch.tensor([1 + len(text.split()) for text in texts]))


def test_evaluate_has_judged_what_is_to_be_judged_however_many_are_timed(runs, denoiser, tmp_path, monkeypatch):
    judge, asked = OddJudge(), []
    monkeypatch.setattr("edlm.evaluation.experiment.run.load_judge", lambda name, denoiser: asked.append(name) or judge)
    few = SAMPLED | {"samples__timed_batches": 3, "samples__judged": 2, "samples__judged_methods": None}
    _, found = evaluate(
        runs, tmp_path / "result.json", exact_and_groups(runs), orders=["dilated"], samples__judge="wise", **few
    )
    assert asked == ["wise"] and len(judge.scored) == 3  # the base, too
    for name, texts in zip(("base", "exact", "groups"), judge.scored, strict=True):
        row = found[name, "dilated", 2]
        assert row["num_samples"] == len(texts) == 2 and len(row["seconds_of_batches"]) == 3
        loss = OddJudge().score(texts).nats_per_token
        assert (row["judge_nats_per_token"], row["judge_stderr"]) == pytest.approx((loss.value, loss.stderr))
        assert all(found[name, "dilated", 4][key] is None for key in JUDGED)
    tokens = EnergySampler(denoiser, num_steps=2, order="dilated").sample(2, 16, seeds=[5, 6]).tokens
    assert judge.scored[0] == [
        denoiser.tokenizer.decode(row).replace("<|endoftext|>", "\n\n").strip() for row in tokens
    ]
    for more in ({"samples__judged": 0}, {"samples__judged_methods": []}):  # none to be judged
        _, found = evaluate(
            runs,
            tmp_path / f"{more}.json",
            exact_and_groups(runs)[:1],
            num_steps=[2],
            orders=["dilated"],
            **{**few, **more},
        )
        assert len(found) == 2 and all(row[key] is None for row in found.values() for key in JUDGED)


def test_evaluate_can_judge_what_was_timed_before(runs, tmp_path, monkeypatch):
    output = tmp_path / "result.json"
    _, before = evaluate(runs, output, exact_and_groups(runs), **SAMPLED)
    monkeypatch.setattr("edlm.evaluation.experiment.run.load_judge", lambda name, denoiser: OddJudge())
    monkeypatch.setattr("edlm.evaluation.experiment.run.draw_timed", _again)
    more = SAMPLED | {"samples__judge": "wise", "samples__judged_methods": None, "samples__judged_orders": ["random"]}
    _, found = evaluate(runs, output, exact_and_groups(runs), **more)
    for (name, order, steps), row in found.items():
        judged = order == "random" and steps == 2
        assert (row["judge_nats_per_token"] is not None) == judged
        same = {key: value for key, value in before[name, order, steps].items() if value is not None}
        assert {key: row[key] for key in same} == same


def _again(*args, **more):
    raise AssertionError("this was measured before")


def test_evaluate_measures_nothing_twice(runs, tmp_path, monkeypatch):
    output = tmp_path / "result.json"
    _, found = evaluate(runs, output, exact_and_groups(runs), **SAMPLED)
    nats = output.with_suffix(".rows.safetensors").read_bytes()
    for name in ("edlm.evaluation.experiment.grid.estimate_bounds", "edlm.evaluation.experiment.run.draw_timed"):
        monkeypatch.setattr(name, _again)
    printed, again = evaluate(runs, output, exact_and_groups(runs), **SAMPLED)
    assert again == found and output.with_suffix(".rows.safetensors").read_bytes() == nats
    assert printed.count("exact") >= 4 and printed.count("base") >= 4
    # Nor for a part of the table, whose order is the config's.
    part = SAMPLED | {"samples__judged_methods": []}
    printed, again = evaluate(runs, output, exact_and_groups(runs)[1:], num_steps=[4, 2], **part)
    assert again == {key: row for key, row in found.items() if key[0] != "exact"}
    assert "groups" in printed and "exact" not in printed
    # What is new is measured, and its base along with it.
    monkeypatch.undo()
    drawn, draw_timed = [], stages.draw_timed
    monkeypatch.setattr(stages, "draw_timed", lambda *args, **how: drawn.append(1) or draw_timed(*args, **how))
    more = exact_and_groups(runs)[0] | {"name": "new", "orders": ["random"]}
    _, again = evaluate(runs, output, [*exact_and_groups(runs), more], **SAMPLED)
    assert len(drawn) == 2 and {key: again[key] for key in found} == found
    for steps in (2, 4):
        for key in ("bound_nats_per_token", "gain_nats_per_token", "gain_stderr", "energy_passes"):
            assert again["new", "random", steps][key] == pytest.approx(found["exact", "random", steps][key], **CLOSE)


@pytest.mark.parametrize(
    ("where", "times", "left"),
    [
        ("edlm.evaluation.experiment.grid.estimate_bounds", 1, (6, 0)),  # one of two orders
        ("edlm.evaluation.experiment.grid.estimate_bounds", 0, (0, 0)),
        ("edlm.evaluation.experiment.run.draw_timed", 5, (12, 5)),
    ],
)
def test_evaluate_goes_on_where_it_was_interrupted(runs, tmp_path, monkeypatch, where, times, left):
    _, expected = evaluate(runs, tmp_path / "whole.json", exact_and_groups(runs), **SAMPLED)
    module, name = where.rsplit(".", 1)
    calls, measure = [], getattr(sys.modules[module], name)

    def interrupted(*args, **how):
        calls.append(1)
        if len(calls) > times:
            raise KeyboardInterrupt
        return measure(*args, **how)

    monkeypatch.setattr(where, interrupted)
    output = tmp_path / "result.json"
    _, found = evaluate(runs, output, exact_and_groups(runs), code=130, **SAMPLED)
    timed = [row for row in found.values() if row["seconds_per_sequence"] is not None]
    assert (len(found), len(timed)) == left
    calls.clear()
    monkeypatch.setattr(where, lambda *args, **how: calls.append(1) or measure(*args, **how))
    _, found = evaluate(runs, output, exact_and_groups(runs), **SAMPLED)
    assert len(calls) == (2 if "bounds" in where else 12) - times
    assert set(found) == set(expected)
    clock = {"seconds_per_sequence", "seconds_of_batches", "tokens_per_second"}
    for key, row in expected.items():
        same = {name: value for name, value in row.items() if name not in clock}
        assert {name: found[key][name] for name in same} == same


def test_evaluate_holds_times_against_each_other_and_draws_them(runs, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    output, plot = tmp_path / "result.json", tmp_path / "curves.svg"
    ratio = {"name": "exact", "order": "dilated", "than": "base", "than_order": "random", "than_steps": 2}
    how = SAMPLED | {"time_ratios": [ratio], "plot": str(plot), "plotted": ["exact"]}
    printed, found = evaluate(runs, output, exact_and_groups(runs), **how)
    nats = load_file(output.with_suffix(".rows.safetensors"))

    def curve(name, order):
        keys = [f"{name}, {order}, {steps} steps" for steps in (2, 4)]
        seconds = [found[name, order, steps]["seconds_of_batches"][:1] for steps in (2, 4)]
        seconds = torch.tensor(seconds, dtype=torch.float64)
        return Curve(name, order, (2, 4), torch.stack([nats[key].double() for key in keys]), seconds)

    expected = time_ratio(
        curve("exact", "dilated"), curve("base", "random"), 2, generator=torch.Generator().manual_seed(5)
    )
    (written,) = json.loads(output.read_text())["time_ratios"]
    assert {key: written[key] for key in ratio} == ratio
    for key in ("value", "low", "high", "num_unreached"):
        value = getattr(expected, key)
        assert written[key] == (pytest.approx(value) if math.isfinite(value) else None)
    assert "exact (dilated) reaches the bound of base (random, 2 steps) in" in printed
    picture = plot.read_text()
    assert "exact, dilated" in picture and "exact, random" in picture and "base, random" not in picture
    assert "9 held-out blocks of 16 tokens" in picture
    # A method that was not timed can not be held against any.
    _, _ = evaluate(runs, tmp_path / "other.json", exact_and_groups(runs), code=2, time_ratios=[ratio])
    assert "time_ratios needs methods that were timed ([]), got ('exact', 'dilated')" in capsys.readouterr().err


def test_evaluate_refuses_results_of_other_data_and_methods_of_one_name(runs, tmp_path, capsys):
    output, methods = tmp_path / "result.json", exact_and_groups(runs)
    evaluate(runs, output, methods[:1], num_steps=[2], orders=["dilated"])
    before = output.read_bytes()
    for changed in ({"seed": 6}, {"num_rows": 8}):
        evaluate(runs, output, methods[:1], code=2, num_steps=[2], orders=["dilated"], **changed)
        assert "must hold results of the same denoiser, data and seed" in capsys.readouterr().err
    for name in ("exact", "base"):
        evaluate(runs, output, [methods[0], methods[1] | {"name": name}], code=2)
        assert f"told apart by name, order and steps, got '{name}, random, 2 steps' twice" in capsys.readouterr().err
    assert output.read_bytes() == before
    # They may share a name where they do not meet.
    apart = [method | {"name": "one", "num_steps": [steps]} for method, steps in zip(methods, (2, 4), strict=True)]
    _, found = evaluate(runs, tmp_path / "apart.json", apart, orders=["dilated"])
    assert [found["one", "dilated", steps]["num_candidates"] for steps in (2, 4)] == [None, 3]


def test_benchmark_truth_holds_energies_against_the_oracle(runs, tmp_path):
    names = {"head": "symbols_head", "groups": "symbols_unnormalized"}
    energies = [{"name": name, "energy": str(runs / folder / "final")} for name, folder in names.items()]
    energies[1] |= {"num_candidates": 4, "group_size": 2}
    edlm(
        "languages",
        "truth",
        *LANGUAGE,
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


def test_benchmark_speed_holds_every_way_against_the_base_of_the_same_passes_and_batch(runs, tmp_path, monkeypatch):
    asked, seconds = [], [1.0, 3.0, 5.0, 7.0, 11.0, 2.0, 3.0, 4.0, 5.0, 6.0]

    def draw(sampler, length, **how):
        asked.append((sampler.num_steps, sampler.num_candidates, sampler.group_size, length, how))
        return TimedSamples(torch.empty(0, length), (0.5, seconds[len(asked) - 1], 99.0), sampler.num_steps, 0.0)

    monkeypatch.setattr("edlm.evaluation.samples.speed.draw_timed", draw)
    names = {"denoiser": str(runs / "text_denoiser/final"), "energy": str(runs / "text_head/final")}
    output, how = tmp_path / "speed.json", {"num_steps": [3], "batch_sizes": [1, 4], "repeats": 2, "seed": 6}
    printed = edlm("benchmark", what="speed", output=str(output), **names, **how)
    rows = json.loads(output.read_text())["rows"]
    ways = [(1, None), (None, None), (4, None), (16, None), (16, 4)]
    assert asked == [
        (3, k, group_size, 16, {"batch_size": batch_size, "num_batches": 2, "seed": 6})
        for batch_size in (1, 4)
        for k, group_size in ways
    ]
    assert [row["batch_size"] for row in rows] == [1] * 5 + [4] * 5
    assert [row["seconds_per_sequence"] for row in rows] == seconds
    assert [row["ratio_to_base"] for row in rows] == [1.0, 3.0, 5.0, 7.0, 11.0, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert "11.00" in printed and "head, exact" in printed


def test_benchmark_oracle_writes_every_cell_and_the_data(tmp_path, monkeypatch):
    few = cells()[:3]
    monkeypatch.setattr("edlm.commands.languages.cells", lambda: few)
    printed = edlm("languages", "oracle", num_samples=3, seed=2, output=str(tmp_path / "oracle.json"))
    result = json.loads((tmp_path / "oracle.json").read_text())
    assert result["rows"] == [*measure_cells(few, 3, 2), measure_data(3, 2)]
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
    energies = {"head": str(runs / f"{corpus}_head/final"), "rival": str(runs / f"{corpus}_unnormalized/final")}
    names = {"denoiser": str(runs / f"{corpus}_denoiser/final"), "energies": energies}
    return edlm("export", **names, corpus=str(runs / corpus), output_dir=str(target), num_rows=num_rows)


def test_export_writes_a_float16_pair_that_still_belongs_together(runs, denoiser, tmp_path):
    export(runs, tmp_path)
    for folder in ("denoiser", "head", "rival"):
        weights = load_file(tmp_path / folder / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float16}
    pair = load_denoiser(tmp_path / "denoiser"), load_energy(tmp_path / "head")
    assert pair[1].is_normalized and not load_energy(tmp_path / "rival").is_normalized
    blocks = load_blocks(tmp_path / "valid.safetensors")
    valid = load_blocks(runs / "text" / "valid.safetensors").tokens[:5]
    assert torch.equal(blocks.tokens, valid)
    text = denoiser.tokenizer.decode(valid.flatten()).replace("<|endoftext|>", "")
    assert blocks.num_characters == len(text)
    separators = (valid == denoiser.tokenizer.eos_token_id).sum().item()
    assert (blocks.num_tokens, blocks.num_documents, blocks.num_dropped) == (5 * 16, separators, 0) and separators > 1
    stories = denoiser.tokenizer.decode(load_blocks(runs / "text" / "train.safetensors").tokens.flatten())
    words = (tmp_path / "words.txt").read_text().splitlines()
    assert words == sorted(known_words(stories.split("<|endoftext|>"))) and words
    options = {"num_steps": 2, "order": "dilated", "num_candidates": None}
    bound = estimate_bound(EnergySampler(*pair, **options), valid).nats_per_row
    own = estimate_bound(EnergySampler(denoiser, load_energy(runs / "text_head" / "final"), **options), valid)
    torch.testing.assert_close(bound, own.nats_per_row, rtol=0.01, atol=0)
    assert not torch.equal(bound, own.nats_per_row)


def test_export_works_without_separators(runs, tmp_path):
    export(runs, tmp_path, corpus="symbols")
    blocks = load_blocks(tmp_path / "valid.safetensors")
    assert blocks.tokens.shape == (5, 8) and (blocks.num_tokens, blocks.num_documents) == (40, 5)


def test_exported_words_are_those_of_the_training_text_alone(runs, denoiser, tmp_path, monkeypatch):
    corpus = PreparedCorpus.load(runs / "text")
    train = replace(corpus.train, tokens=corpus.train.tokens[3:5], num_tokens=32, num_dropped=0)
    few = replace(corpus, train=train)
    monkeypatch.setattr(PreparedCorpus, "load", lambda path: few)
    export(runs, tmp_path)
    text = denoiser.tokenizer.decode(few.train.tokens.flatten()).replace("<|endoftext|>", " ")
    words = (tmp_path / "words.txt").read_text().splitlines()
    assert words == sorted(known_words([text])) and len(words) < len(WORDS)
    assert torch.equal(load_blocks(tmp_path / "valid.safetensors").tokens, corpus.valid.tokens[:5])


def test_export_refuses_an_energy_of_another_denoiser_before_it_is_written(runs, tmp_path, capsys):
    names = {"denoiser": str(runs / "text_denoiser/final"), "corpus": str(runs / "text")}
    other = {"head": str(runs / "symbols_head/final")}
    edlm("export", code=2, **names, energies=other, output_dir=str(tmp_path / "new"))
    assert "this energy belongs to denoiser" in capsys.readouterr().err and not (tmp_path / "new").exists()


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
            ["languages", "truth"],
            {
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
        "fewer samples than none": (
            ["evaluate"],
            {**evaluate, "samples__judged": -1, "samples__batch_size": 16},
            "batch_size must be >= 1 and judged >= 0, got 16 and -1",
        ),
        "steps of no order": (
            ["evaluate"],
            {**evaluate, "orders": ["random"], "num_steps_of": {"dilated": [2]}},
            "num_steps_of must name some of the orders ['random'], got ['dilated']",
        ),
        "steps of confidence": (
            ["evaluate"],
            {**evaluate, "orders": ["confidence"], "methods": [{"name": "a", "energy": head, "sampled_steps": 2}]},
            "the confidence order depends on the marginals",
        ),
        "no such step": (
            ["evaluate"],
            {**evaluate, "methods": [{"name": "a", "energy": head, "sampled_steps": 0}]},
            "sampled_steps must be >= 1, got 0",
        ),
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


def test_info_says_what_a_denoiser_is(capsys):
    assert main(["info", "tinystories"]) == 0
    said = capsys.readouterr().out
    for line in ("family +masked_lm", r"mask id +1 \(<\|mask\|>\)", "vocabulary +2048 columns, 1 of them", "shift +no"):
        assert re.search(line, said), line
    assert re.search("time input +no", said) and "confirmed" in said


def test_info_says_what_an_energy_is_and_refuses_what_is_neither(capsys, tmp_path):
    assert main(["info", "tinystories/autoregressive"]) == 0
    said = capsys.readouterr().out
    assert "AutoregressiveEnergy" in said and "sequence, or step from left to right" in said
    (tmp_path / "config.json").write_text('{"model_type": "strange"}')
    assert main(["info", str(tmp_path)]) == 2
    assert "model_type 'strange'" in capsys.readouterr().err
