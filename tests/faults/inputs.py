"""The cases: every kind of input that edlm reads, damaged by hand and by seeds."""

# ruff: noqa: E501  (lists of cases)

import gzip
import json
import lzma
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from tests.faults import damage
from tests.faults.cases import Case, Damage
from tests.faults.world import CORPUS, EVALUATE, GENERATE, MODELS, SAMPLE, SCORE, TRAIN, TRAIN_OPTIONS

BOMB = 2**33  # bytes that a small compressed file expands to: more than a process may take


def words_of(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SAMPLED = (*SAMPLE, "--output", "out.txt")
GENERATED = ("generate", *GENERATE, "--output", "out.jsonl")
SCORED = (*SCORE, "--output", "out.jsonl")
PREPARED = ("prepare", "corpus", *CORPUS, "--output_dir", "out")
EVALUATED = (*EVALUATE, "--energy", "head", "--output", "out")
TRAINED = (*TRAIN, "--trainer.num_steps", "1", "--trainer.output_dir", "out")
RESUMED = (*TRAIN, "--trainer.num_steps", "3", "--trainer.output_dir", "run")
COMPARED = words_of("compare --a a --b b --output out.json")
RERANKED = words_of("rerank --data candidates.jsonl --energy causal:lm --output out.jsonl")
CHOSEN = ("choose", *MODELS, "--data", "gaps.jsonl", "--output", "out.jsonl")
AUDITED = words_of("audit --sampler base --num_samples 100 --output out.json")
TRAINED_ENERGY = ("train", "energy", "--denoiser", "denoiser", "--trainer.num_steps", "1", *TRAIN_OPTIONS)
TRAINED_ENERGY += ("--corpus", "corpus", "--trainer.output_dir", "out")


def command_lines() -> Iterator[Case]:
    """Wrong keys, values, types and sizes."""
    for words, output, wrong in (
        (SAMPLED, "out.txt", SAMPLE_WORDS),
        (GENERATED, "out.jsonl", GENERATE_WORDS),
        (SCORED, "out.jsonl", SCORE_WORDS),
        (RERANKED, "out.jsonl", RERANK_WORDS),
        (CHOSEN, "out.jsonl", CHOOSE_WORDS),
        (AUDITED, "out.json", AUDIT_WORDS),
        (EVALUATED, "out", EVALUATE_WORDS),
        (PREPARED, "out", CORPUS_WORDS),
        (TRAINED, "out", TRAIN_WORDS),
        (COMPARED, "out.json", COMPARE_WORDS),
    ):
        for more in wrong:
            key, *values = more.split(" ", 1)
            last = key.rpartition(".")[2].lstrip("-")
            given = (*words, key, *("" if value == "''" else value for value in values))
            name = f"{' '.join(words[:2] if words[0] in ('prepare', 'train') else words[:1])} {more}"
            yield Case("command lines", name, given, (last, *values), output=output)
    for key, value, named in (
        ("energy", "head", "causal LM ('causal:PATH')"),
        ("energy", "causal:missing", "'missing'"),
        ("energy", "causal:denoiser", "denoiser must hold a causal LM"),
        ("energy", "package:missing", "missing"),
        ("energy", "causal:", "model must be a name"),
        ("energy", "text:", "model must be a name"),
    ):
        yield Case(
            "command lines", f"rerank --{key} {value}", (*RERANKED, f"--{key}", value), (named,), output="out.jsonl"
        )
    for key, value, named in (
        ("prompt", "\udcff", "valid Unicode"),
        ("fill", "<mask:99999999999>", "99999999999"),
        ("sampler.num_candidates", "1000000000", "memory"),
    ):
        yield Case(
            "command lines", f"sample --{key} {value!r}", (*SAMPLED, f"--{key}", value), (named,), output="out.txt"
        )
    for text, named in WHOLE_LINES.items():
        yield Case("command lines", text, words_of(text), (named,), output="out")


NUMBERS = ("0", "-1", "1.5", "nan", "null", "x", "[]", "{a: 1}", "1e999", "''")
HUGE = ("1000000000", "1000000000000", "1" + "0" * 30)
SAMPLE_WORDS = [
    *(f"--num_samples {value}" for value in NUMBERS),
    *(f"--batch_size {value}" for value in NUMBERS),
    *(f"--length {value}" for value in (*NUMBERS, *HUGE) if value != "null"),  # the default length
    *(f"--max_new_tokens {value}" for value in (*HUGE, "0", "-5", "x")),
    *(f"--seed {value}" for value in ("-1", "x", "1.5", "nan")),
    *(f"--sampler.block_length {value}" for value in ("0", "-1", "x")),
    *(f"--sampler.num_steps {value}" for value in NUMBERS),
    *(f"--sampler.temperature {value}" for value in ("0", "-1", "nan", "x", "inf", "[]")),
    *(f"--sampler.top_p {value}" for value in ("0", "-1", "nan", "2", "x")),
    *(f"--sampler.top_k {value}" for value in ("0", "-1", "1.5", "nan", "x")),
    *(f"--sampler.num_candidates {value}" for value in ("0", "-1", "x", HUGE[2])),
    *(f"--sampler.window {value}" for value in ("[0]", "[1,0]", "[nan,1]", "x", "[0,1,2]")),
    *(f"--sampler.order {value}" for value in ("x", "1", "[]", "bisectin")),
    *(f"--device {value}" for value in ("x", "cuda:99", "gpu", "meta", "1.5")),
    *(f"--denoiser {value}" for value in ("missing", "/missing", "prompts.txt", "corpus", "/", "''", "/dev/null", "lm")),
    *(f"--energy {value}" for value in ("missing", "/missing", "prompts.txt", "denoiser")),
    *(f"--output {value}" for value in ("denoiser", "/", "prompts.txt/x", "''")),
    *(f"--format {value}" for value in ("html", "1", "[]")),
    "--sampler x", "--sampler 3", "--sampler.x 1", "--num_sample 3", "--x", "x", "--config", "--config missing.yaml",
    "--config denoiser", "--trace denoiser", "--fill none", "--fill <mask:0>",
    "--fill <mask:99999999999999999999>", "--fill <mask:x>",
]  # fmt: skip
GENERATE_WORDS = [
    *(f"--num_samples {value}" for value in (*NUMBERS, "1" + "0" * 20)),
    *(f"--rows_per_item {value}" for value in NUMBERS),
    *(f"--batch_size {value}" for value in NUMBERS),
    *(f"--num_threads {value}" for value in ("0", "-1", "x", *HUGE)),
    *(f"--length {value}" for value in HUGE),
    *(f"--max_new_tokens {value}" for value in (*HUGE, "-1")),
    *(f"--sampler.block_length {value}" for value in ("-1", "x")),
    *(f"--seed {value}" for value in ("-1", "x", "nan")),
    *(f"--output {value}" for value in ("x.csv", "denoiser", "/", "prompts.txt/x.jsonl", "x")),
    *(f"--prompts {value}" for value in ("missing.txt", "denoiser", "stories.csv", "missing.jsonl", "/", "x")),
    "--device x", "--sampler.schedule x", "--prompt x",
]  # fmt: skip
SCORE_WORDS = [
    *(f"--batch_size {value}" for value in NUMBERS),
    *(f"--num_draws {value}" for value in NUMBERS),
    *(f"--inner_draws {value}" for value in NUMBERS),
    *(f"--data {value}" for value in ("missing.txt", "/missing", "denoiser", "head", "lm/config.json", "/dev/null")),
    *(f"--text_field {value}" for value in ("missing", "''")),
    *(f"--output {value}" for value in ("denoiser", "''")),
    "--split train", "--seed -1", "--sampler.block_length 0",
]  # fmt: skip
RERANK_WORDS = [
    *(f"--temperature {value}" for value in ("0", "-1", "nan", "x", "inf")),
    *(f"--batch_size {value}" for value in ("0", "-1", "x", "1.5")),
    *(f"--energy {value}" for value in ("missing", "x.gguf", "null")),
    *(f"--data {value}" for value in ("missing.jsonl", "denoiser")),
    "--mode x", "--output denoiser", "--seed x",
]  # fmt: skip
CHOOSE_WORDS = [
    *(f"--batch_size {value}" for value in NUMBERS),
    *(f"--num_draws {value}" for value in NUMBERS),
    *(f"--inner_draws {value}" for value in NUMBERS),
    *(f"--data {value}" for value in ("missing.jsonl", "denoiser", "prompts.txt")),
    *(f"--output {value}" for value in ("denoiser", "''")),
    "--text <mask>", "--mask ''", "--seed -1", "--seed x", "--options 3", "--energy missing",
]  # fmt: skip
AUDIT_WORDS = [
    *(f"--num_samples {value}" for value in (*NUMBERS, "99")),
    *(f"--batch_size {value}" for value in NUMBERS),
    *(f"--length {value}" for value in (*NUMBERS, *HUGE)),
    *(f"--sampler {value}" for value in ("x", "''", ":", "os:", "missing:x", "os:missing", "os:sep")),
    "--seed x", "--seed -1", "--output denoiser", "--language.kind x", "--language.vocab_size 0", "--language 3",
]  # fmt: skip
EVALUATE_WORDS = [
    *(f"--num_rows {value}" for value in NUMBERS),
    *(f"--num_steps {value}" for value in ("[0]", "[-1]", "[]", "[x]", "x", "[1.5]", "[nan]", "null")),
    *(f"--orders {value}" for value in ("[x]", "[]", "x", "[1]")),
    *(f"--measure {value}" for value in ("[x]", "[]", "x", "[1]")),
    *(f"--batch_size {value}" for value in NUMBERS),
    *(f"--max_minutes {value}" for value in ("0", "-1", "nan", "x")),
    *(f"--samples.{key} {value}" for key in ("timed_batches", "judged", "batch_size") for value in ("-1", "x", "nan")),
    *(f"--data {value}" for value in ("missing", "missing.safetensors", "denoiser", "denoiser/model.safetensors")),
    *(f"--methods {value}" for value in ("[{name: x, energy: head, order: 3}]", "[1]", "x")),
    *(f"--num_steps_of {value}" for value in ("{x: [1]}", "{random: 1}", "[1]", "{bisecting: [1]}")),
    *(f"--output {value}" for value in ("prompts.txt", "''", "prompts.txt/x")),
    *(f"--plot {value}" for value in ("x.gif", "denoiser")),
    "--given x", "--device x", "--length 0", "--length 1000000000000", "--energy missing", "--markdown denoiser",
]  # fmt: skip
CORPUS_WORDS = [
    *(f"--length {value}" for value in (*NUMBERS[:4], "x", *HUGE)),
    *(f"--vocab_size {value}" for value in ("0", "-1", "3", "x", "1.5")),
    *(f"--valid_fraction {value}" for value in ("0", "1", "-1", "nan", "x", "2")),
    *(f"--num_cuts {value}" for value in (*NUMBERS[:4], "x", "99999999999")),
    *(f"--source {value}" for value in ("missing.txt", "denoiser/missing", "head", "lm/model.safetensors", "''", "[]", "/dev/null")),
    *(f"--valid_source {value}" for value in ("missing.txt", "[]", "head")),
    *(f"--output_dir {value}" for value in ("prompts.txt", "''", "prompts.txt/x", "/dev/null")),
    *(f"--tokenizer {value}" for value in ("missing", "prompts.txt", "/missing")),
    "--tokenizer_kind x", "--text_field ''", "--split train", "--denoiser missing", "--language.kind x",
]  # fmt: skip
TRAIN_WORDS = [
    *(f"--trainer.num_steps {value}" for value in ("0", "-1", "1.5", "x", "nan")),
    *(f"--trainer.batch_size {value}" for value in ("0", "-1", "1.5", "x", "nan", *HUGE[1:])),
    *(f"--trainer.gradient_accumulation {value}" for value in ("0", "-1", "x", *HUGE[1:])),
    *(f"--trainer.learning_rate {value}" for value in ("0", "-1", "nan", "x", "inf")),
    *(f"--trainer.max_grad_norm {value}" for value in ("0", "-1", "nan", "x")),
    *(f"--trainer.betas {value}" for value in ("[0]", "[1,1]", "[nan,0]", "x", "[0,0,0]")),
    *(f"--trainer.ema_decay {value}" for value in ("1", "-1", "nan", "x")),
    *(f"--trainer.seed {value}" for value in ("-1", "x", "1.5")),
    *(f"--trainer.max_minutes {value}" for value in ("0", "-1", "nan", "x")),
    *(f"--trainer.{name} 0" for name in ("log_every", "valid_every", "valid_batches", "checkpoint_every", "keep_checkpoints")),
    *(f"--trainer.weight_decay {value}" for value in ("-1", "nan", "x")),
    *(f"--trainer.output_dir {value}" for value in ("prompts.txt", "''", "prompts.txt/x", "/dev/null")),
    *(f"--corpus {value}" for value in ("missing", "head", "/missing", "prompts.csv", "''")),
    *(f"--start_from {value}" for value in ("missing", "head", "lm", "corpus")),
    "--trainer.x 1", "--trainer x", "--trainer.mixed_precision fp16", "--schedule x", "--model tiny", "--model.x 3",
]  # fmt: skip
COMPARE_WORDS = [
    "--seed x",
    "--seed -1",
    "--a missing",
    "--b missing",
    "--a prompts.txt",
    "--b denoiser",
    "--allow_other x",
]
COMPARE_WORDS += ["--output denoiser", "--output ''", "--x 1"]
WHOLE_LINES = {
    "train x": "train x",
    "x": "'x'",
    "--x": "--x",
    "generate": "output",
    "compare a": "b",
    "compare": "a, b",
    "info": "path",
    "info missing": "missing",
    "info prompts.txt": "prompts.txt",
    "info corpus": "corpus",
    "info /": "/",
    "plot logs --logs [missing.jsonl] --output out.svg": "missing.jsonl",
    "plot logs --logs [] --output out.svg": "logs",
    "plot logs --logs [denoiser] --output out.svg": "denoiser",
    "plot logs --logs [prompts.txt] --output out.svg": "prompts.txt",
    "plot logs --logs [stories.jsonl] --output out.svg": "stories.jsonl",
    "plot logs --logs [run/log.jsonl] --output out.gif": "out.gif",
    "export --denoiser denoiser --energies.head missing --corpus corpus --output_dir out": "missing",
    "export --denoiser denoiser --energies.../up head --corpus corpus --output_dir out": "../up",
    "export --denoiser missing --energies.head head --corpus corpus --output_dir out": "missing",
    "demo --num_rows 0": "num_rows",
    "demo --num_rows x": "num_rows",
    "demo --num_stories 0": "num_stories",
    "languages oracle --num_samples 0": "num_samples",
    "languages errors --num_samples -1": "num_samples",
    "languages truth --corpus missing --denoiser denoiser": "mask token",
    "benchmark --denoiser missing": "missing",
    "benchmark --num_steps [0]": "num_steps",
    "rerank": "data",
    "choose": "text or data",
    "choose <mask>": "options",
    "choose x --options a b": "<mask>",
    "audit": "sampler",
    "train all": "stages",
    "train all --config missing.yaml": "missing.yaml",
    "train all --config prompts.txt": "prompts.txt",
}


def configs() -> Iterator[Case]:
    """YAML that is broken, of other types, with unknown keys, or with tags that would make objects."""
    words = ("generate", "--config", "generate.yaml", "--output", "out.jsonl")
    good = "denoiser: denoiser\nenergy: head\nnum_samples: 5\nlength: 8\n"
    texts = {
        "broken": "denoiser: [denoiser\n",
        "tabs": "denoiser:\n\t- x\n",
        "list": "- denoiser\n- head\n",
        "number": "3\n",
        "text": "denoiser\n",
        "object": f"{good}seed: !!python/object/apply:os.system ['touch pwned']\n",
        "name": f"{good}seed: !!python/name:os.system\n",
        "module": f"{good}seed: !!python/module:os\n",
        "tag": f"{good}seed: !mine 3\n",
        "unknown": f"{good}lenght: 8\n",
        "nested_unknown": f"{good}sampler: {{num_step: 3}}\n",
        "not_a_mapping": f"{good}sampler: [3]\n",
        "mapping": f"{good}seed: {{a: 1}}\n",
        "key_twice": f"{good}seed: 1\nseed: x\n",
        "key_of_list": f"{good}? [a, b]\n: 3\n",
        "number_as_key": f"{good}3: 3\n",
        "null_key": f"{good}null: 3\n",
        "nan": f"{good}seed: .nan\n",
        "infinite": f"{good}num_samples: .inf\n",
        "date": f"{good}num_samples: 2020-01-01\n",
        "binary": f"{good}num_samples: !!binary aGVsbG8=\n",
        "set": f"{good}num_samples: !!set {{1, 2}}\n",
        "huge": f"{good}max_new_tokens: {10**9}\n",
        "negative": f"{good}num_samples: -3\n",
        "documents": f"{good}---\nseed: 3\n",
        "loop": f"{good}seed: &a [*a]\n",
        "no_anchor": f"{good}seed: *a\n",
        "deep": f"{good}seed: {'[' * 3000}\n",
        "bomb": good + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12)
        ) + "seed: *a11\n",
        "config": f"{good}config: other.yaml\n",
        "itself": f"{good}config: generate.yaml\n",
        "long": f"{good}seed: {'9' * 5000}\n",
    }  # fmt: skip
    named = (
        "generate.yaml",
        "seed",
        "lenght",
        "num_step",
        "sampler",
        "num_samples",
        "max_new_tokens",
        "config",
        "None",
        "3",
    )
    for name, text in texts.items():
        yield _case("configs", name, words, "generate.yaml", lambda _, text=text: text.encode(), "out.jsonl", named)
    for name, change in damage.of_bytes(good.encode(), 1):
        if not name.startswith("cut"):
            yield _case("configs", name, words, "generate.yaml", change, "out.jsonl")
    for name, text in {"broken": "stages: [", "list": "- 3", "unknown": "x: 3", "stage": "stages: {a: 3}"}.items():
        whole = ("train", "all", "--config", "generate.yaml", "--output", "out")
        change = lambda _, text=text: text.encode()  # noqa: E731
        yield _case("configs", f"train_all_{name}", whole, "generate.yaml", change, "out", (*named, "x", "stages"))


def _case(
    kind: str,
    name: str,
    words: tuple[str, ...],
    path: str,
    change: damage.Change,
    output: str,
    named: tuple[str, ...] = (),
) -> Case:
    """A case whose file is rewritten; its line must name that, or its folder."""
    touched = (path.partition("/")[0],)
    names = named or (path, *([os.path.dirname(path)] if "/" in path else []))
    return Case(kind, f"{path}_{name}", words, names, damage.rewritten(path, change), touched, output)


def token_files(world: Path) -> Iterator[Case]:
    """Blocks of tokens: damaged, or of another vocabulary, or that are no blocks."""
    kind = "token files"
    for path, words, output in (
        ("corpus/train.safetensors", TRAINED, "out"),
        ("corpus/valid.safetensors", EVALUATED, "out"),
        ("corpus/valid.safetensors", TRAINED_ENERGY, "out"),
    ):
        content, command = (world / path).read_bytes(), words[0] if words[0] == "evaluate" else words[1]
        both = [*damage.of_bytes(content, 2), *damage.of_safetensors(content, 3, 8)]
        for name, change in both:
            yield _case(kind, f"{command}_{name}", words, path, change, output)
        for name, change in _blocks(content):
            yield _case(
                kind,
                f"{command}_{name}",
                words,
                path,
                change,
                output,
                (path, "blocks", "vocabulary", "characters_per_token=0"),
            )
    path = "corpus/tokenizer/tokenizer.json"
    content = (world / path).read_bytes()
    for name, change in [*damage.of_bytes(content, 4), *damage.of_json(content, 5, 10)]:
        yield _case(kind, name, TRAINED, path, change, "out", ("corpus", "tokenizer"))


def _blocks(content: bytes) -> Iterator[tuple[str, damage.Change]]:
    """Other tokens, counts and documents."""

    def written(content: bytes, arrays: Any = None, **changed: str | None) -> bytes:
        path = Path("/tmp") / f"blocks_{os.getpid()}.safetensors"
        path.write_bytes(content)
        with safe_open(path, "pt") as file:
            metadata = {**file.metadata(), **changed}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        arrays = arrays(tensors) if arrays else tensors
        save_file(arrays, path, metadata={name: value for name, value in metadata.items() if value is not None})
        content = path.read_bytes()
        path.unlink()
        return content

    def tokens(change: Any) -> Any:
        return lambda x: {**x, "tokens": change(x["tokens"].int()).contiguous()}

    def put(value: int) -> Any:
        def change(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[1, 3] = value
            return x

        return change

    changes = {
        "mask": tokens(put(1)),
        "outside": tokens(put(60_000)),
        "negative": tokens(put(-1)),
        "far_outside": tokens(put(2**31 - 1)),
        "far_outside_int64": lambda x: {**x, "tokens": put(2**62)(x["tokens"].long())},
        "floats": lambda x: {**x, "tokens": x["tokens"].float() + 0.25},
        "nan": lambda x: {**x, "tokens": x["tokens"].float() * float("nan")},
        "bools": lambda x: {**x, "tokens": x["tokens"].bool()},
        "flat": tokens(torch.flatten),
        "cube": tokens(lambda x: x[None]),
        "no_rows": tokens(lambda x: x[:0]),
        "no_columns": tokens(lambda x: x[:, :0]),
        "fewer_rows": tokens(lambda x: x[1:]),
        "no_tokens": lambda x: {name: y for name, y in x.items() if name != "tokens"} | {"other": x["tokens"]},
        "documents_short": lambda x: {**x, "documents": torch.zeros(len(x["tokens"]) - 1, dtype=torch.int32)},
        "documents_negative": lambda x: {**x, "documents": torch.full((len(x["tokens"]),), -9, dtype=torch.int32)},
        "documents_floats": lambda x: {**x, "documents": torch.full((len(x["tokens"]),), 0.5)},
        "more": lambda x: {**x, "more": x["tokens"].float()},
    }
    for name, change in changes.items():
        yield name, lambda x, change=change: written(x, change)
    for name, metadata in {
        "format": {"format": "other"},
        "no_format": {"format": None},
        "vocabulary": {"vocabulary": "0123456789abcdef"},
        "counts_text": {"num_tokens": "many"},
        "counts_negative": {"num_dropped": "-5"},
        "counts_wrong": {"num_tokens": "3"},
        "counts_gone": {"num_tokens": None},
        "no_characters": {"num_characters": "0"},
        "negative_characters": {"num_characters": "-7"},
        "no_documents": {"num_documents": "-1"},
        "unknown": {"more": "3"},
    }.items():
        yield name, lambda x, metadata=metadata: written(x, **metadata)


def models(world: Path) -> Iterator[Case]:
    """Folders of denoisers, energies and causal LMs."""
    uses = {
        "denoiser": (SAMPLED, "out.txt", ["config.json", "tokenizer.json"], ["model.safetensors"]),
        "head": (SAMPLED, "out.txt", ["energy.json"], ["model.safetensors"]),
        "causal": ((*SAMPLED, "--energy", "causal"), "out.txt", ["energy.json"], ["model.safetensors"]),
        "lm": (RERANKED, "out.jsonl", ["config.json", "tokenizer.json"], ["model.safetensors"]),
        "sharded": ((*SAMPLED, "--denoiser", "sharded"), "out.txt", ["model.safetensors.index.json"], []),
    }
    for number, (folder, (words, output, jsons, weights)) in enumerate(uses.items()):
        kind = "energies" if folder in ("head", "causal") else "denoisers"
        for file in jsons:
            path, content = f"{folder}/{file}", (world / folder / file).read_bytes()
            for name, change in [*damage.of_bytes(content, number), *_needed(file, content, number)]:
                yield _case(kind, name, words, path, change, output)
        for file in weights:
            path, content = f"{folder}/{file}", (world / folder / file).read_bytes()
            changes = [*damage.of_bytes(content, number), *damage.of_safetensors(content, number, 8)]
            for name, change in [*changes, *_weights(world / path)]:
                yield _case(kind, name, words, path, change, output)
        for name, change in _folders(folder):
            yield Case(kind, f"{folder}_{name}", words, (folder,), change, (folder,), output)
    for name, change in _indices(world):
        words, path = (*SAMPLED, "--denoiser", "sharded"), "sharded/model.safetensors.index.json"
        yield _case("denoisers", f"index_{name}", words, path, change, "out.txt", ("sharded",))
    words = (*SAMPLED, "--denoiser", "pickled")
    for name, change in [*damage.of_bytes((world / "pickled/pytorch_model.bin").read_bytes(), 6), *_pickles()]:
        yield _case("denoisers", name, words, "pickled/pytorch_model.bin", change, "out.txt")


def _needed(file: str, content: bytes, seed: int) -> Iterator[tuple[str, damage.Change]]:
    """Changed values: of all keys of edlm's own files; of others' the keys that have no default."""
    if file == "config.json":
        content_of = json.loads(content)
        needed = {name: content_of[name] for name in content_of if name in _NEEDED}
        for name in needed:
            for value in ("x", -1, 0, None, [], {"a": 1}, 10**9, float("nan"), 1.5, "../x"):
                change = lambda x, name=name, value=value: json.dumps(json.loads(x) | {name: value}).encode()  # noqa: E731
                yield f"{name}={value}", change
        for value in ([], 3, None, {}):
            yield f"is_{value}", lambda _, value=value: json.dumps(value).encode()
    else:
        yield from damage.of_json(content, seed, 14)


_NEEDED = {"model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "n_embd", "n_head"}


def _weights(path: Path) -> Iterator[tuple[str, damage.Change]]:
    weights = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    first, last = sorted(weights)[0], sorted(weights)[-1]
    changes = {
        "nan": {name: x * float("nan") for name, x in weights.items()},
        "one_nan": {**weights, first: _spoilt(weights[first], float("nan"))},
        "one_infinity": {**weights, last: _spoilt(weights[last], float("inf"))},
        "missing": {name: x for name, x in weights.items() if name != first},
        "extra": {**weights, "extra.weight": torch.ones(3)},
        "longer": {**weights, first: torch.cat([weights[first]] * 2)},
        "transposed": {**weights, last: weights[last].reshape(1, -1).contiguous()},
        "integers": {**weights, first: weights[first].long()},
        "none": {},
        "complex": {**weights, first: weights[first].to(torch.complex64)},
    }
    for name, changed in changes.items():
        yield name, lambda _, changed=changed: save(changed, metadata=metadata)


def _spoilt(weight: torch.Tensor, value: float) -> torch.Tensor:
    weight = weight.clone()
    weight.view(-1)[0] = value
    return weight


def _folders(name: str) -> Iterator[tuple[str, Damage]]:
    def without(suffix: str) -> Damage:
        def damage_folder(folder: Path) -> None:
            for file in (folder / name).glob(f"*{suffix}"):
                file.unlink()

        return damage_folder

    def in_place(what: str) -> Damage:
        def damage_folder(folder: Path) -> None:
            target = next((folder / name).glob(f"*{what}"))
            target.unlink()
            target.mkdir()

        return damage_folder

    def is_file(folder: Path) -> None:
        shutil.rmtree(folder / name)
        (folder / name).write_text("a model")

    yield "no_weights", without(".safetensors")
    yield "no_json", without(".json")
    yield "folder_for_weights", in_place(".safetensors")
    yield "folder_for_json", in_place(".json")
    yield "is_file", is_file
    yield "is_empty", lambda folder: [without("")(folder)]


def _indices(world: Path) -> Iterator[tuple[str, damage.Change]]:
    """Shards outside of the folder, and none."""
    index = json.loads((world / "sharded/model.safetensors.index.json").read_bytes())
    tensors, first = [*index["weight_map"]], next(iter(index["weight_map"].values()))
    for value in (
        "../denoiser/model.safetensors",
        str(world / "denoiser/model.safetensors"),
        "missing.safetensors",
        "",
        ".",
    ):
        yield (
            f"to_{value.replace('/', '_')}",
            lambda _, v=value: json.dumps({"weight_map": {t: v for t in tensors}}).encode(),
        )
    for value in ({}, [], None, 3, {tensors[0]: 3}, {tensors[0]: None}, {"other": first}, {tensors[0]: [first]}):
        yield f"map_{str(value)[:20]}", lambda _, v=value: json.dumps({**index, "weight_map": v}).encode()
    yield "one", lambda _: json.dumps({"weight_map": dict.fromkeys(tensors, first)}).encode()


class Payload:
    """Runs a command when it is unpickled by a reader that lets it."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch pwned",)


def _pickles() -> Iterator[tuple[str, damage.Change]]:
    def saved(content: Any, **options: Any) -> bytes:
        path = Path("/tmp") / f"pickle_{os.getpid()}.bin"
        torch.save(content, path, **options)
        content = path.read_bytes()
        path.unlink()
        return content

    yield "payload", lambda _: saved({"x": Payload()})
    yield "payload_old", lambda _: saved({"x": Payload()}, _use_new_zipfile_serialization=False)
    yield "payload_plain", lambda _: pickle.dumps({"x": Payload()})
    yield "list", lambda _: saved([torch.ones(2)])
    yield "tensor", lambda _: saved(torch.ones(2))
    yield "empty_dictionary", lambda _: saved({})
    yield "texts", lambda _: saved({"a": "b"})
    yield "deep", lambda _: b"\x80\x02" + b"]" * 100_000 + b"."


def checkpoints(world: Path) -> Iterator[Case]:
    """Of training runs, which are to be resumed."""
    kind, folder, output = "checkpoints", "run/checkpoints/step_00000002", "run"
    for file in sorted(path.name for path in (world / folder).iterdir()):
        path, content = f"{folder}/{file}", (world / folder / file).read_bytes()
        changes = [*damage.of_bytes(content, 7)]
        if file.endswith(".json"):
            changes += [*damage.of_json(content, 8, 14)]
        elif file.endswith(".safetensors"):
            changes += [*damage.of_safetensors(content, 9, 6), *_weights(world / path)]
        else:
            changes += _pickles()
        for name, change in changes:
            yield _case(kind, name, RESUMED, path, change, output)
        remove = lambda folder, path=path: (folder / path).unlink()  # noqa: E731
        yield Case(kind, f"{file}_gone", RESUMED, (folder,), remove, ("run",), output)
    for name, change in damage.of_bytes((world / "run/log.jsonl").read_bytes(), 10):
        yield _case(kind, name, RESUMED, "run/log.jsonl", change, output)


def results(world: Path) -> Iterator[Case]:
    """Of an evaluation, which are compared, or measured further."""
    kind = "results"
    content = (world / "a/results.json").read_bytes()
    for name, change in [
        *damage.of_bytes(content, 11),
        *damage.of_json(content, 12, 60, ("versions", "machine", "config")),
    ]:
        yield _case(kind, name, COMPARED, "a/results.json", change, "out.json")
    content = (world / "a/results.rows.safetensors").read_bytes()
    changes = [
        *damage.of_bytes(content, 13),
        *damage.of_safetensors(content, 14, 8),
        *_weights(world / "a/results.rows.safetensors"),
    ]
    for name, change in changes:
        yield _case(kind, name, COMPARED, "a/results.rows.safetensors", change, "out.json")
    content = (world / "a/results.store.safetensors").read_bytes()
    words = (*EVALUATE, "--output", "a", "--methods", "[{name: mine, energy: head, temperature: 1.0}]")
    for name, change in [*damage.of_bytes(content, 15), *damage.of_safetensors(content, 16, 8)]:
        yield _case(kind, name, words, "a/results.store.safetensors", change, "a")
    for name in ("results.json", "results.rows.safetensors"):
        remove = lambda folder, name=name: (folder / "a" / name).unlink()  # noqa: E731
        yield Case(kind, f"{name}_gone", COMPARED, ("a/results", "a"), remove, ("a",), "out.json")


def prompts(world: Path) -> Iterator[Case]:
    """Prompts, texts with gaps, and candidates."""
    kind = "prompts"
    texts: dict[str, list[bytes]] = {
        "prompts.txt": [b"", b"\n \n", b"the \xff cat\n", b"the \x00\xd8\n", b"the cat\n" * 3 + b"\xf0\x9f"],
        "prompts.jsonl": [
            b"", b"{}\n", b"[]\n", b"3\n", b"null\n", b'{"prompt": 3}\n', b'{"prompt": null}\n', b'{"prompt": ["a"]}\n',
            b'{"prompt": "a", "text": "b"}\n', b'{"text": "no gap"}\n', b'{"text": "a <mask:0>"}\n',
            b'{"text": "<mask:99999999999>"}\n', b'{"text": "<mask:99999999999999999999999>"}\n', b'{"text": "<mask:x>"}\n',
            b'{"prompt": "a"\n', b'{"prompt": "\\ud800"}\n', b'{"prompt": "a"}{"prompt": "b"}\n', b'{"prompt": "\xff"}\n',
            b'{"prompt": "' + b"a" * 40 + b'"}\n', b'{"promt": "a"}\n', b"[" * 100_000 + b"\n", b'{"prompt": NaN}\n',
            b'{"prompt": "a"}\n' + b"\xff\xfe", b'{"prompt": "' + b"9" * 5000, b"9" * 5000 + b"\n",
        ],
        "candidates.jsonl": [
            b"", b"{}\n", b"[]\n", b'{"prompt": "a"}\n', b'{"prompt": "a", "texts": []}\n', b'{"prompt": "a", "texts": "b"}\n',
            b'{"prompt": "a", "texts": [3]}\n', b'{"prompt": 3, "texts": ["b"]}\n',
            b'{"prompt": "a", "texts": ["b"], "log_probs": [1, 2]}\n', b'{"prompt": "a", "texts": ["b"], "log_probs": "x"}\n',
            b'{"prompt": "a", "texts": ["b"], "log_probs": [NaN]}\n', b'{"prompt": "a", "texts": ["b"], "log_probs": [null]}\n',
            b'{"prompt": "a", "texts": ["b"], "log_probs": [Infinity]}\n', b'{"prompt": "a", "texts": ["b"], "log_probs": [true]}\n',
            b'{"prompt": "a", "texts": ["b"], "log_probs": [1e999]}\n', b'{"prompt": "\\ud800", "texts": ["b"]}\n',
            b'{"prompt": "a", "texts": ["\\udfff"]}\n', b'{"prompt": "a", "texts": ["b"]}\n{"prompt": "c"}\n',
            b'{"prompt": "a", "texts": ["' + b"b" * 500 + b'"]}\n',
            b'{"prompt": "a", "texts": ["b"], "log_probs": [' + b"9" * 400 + b"]}\n",
        ],
        "gaps.jsonl": [
            b"", b"{}\n", b"[]\n", b'{"text": "a <mask>"}\n', b'{"text": "a", "options": ["b", "c"]}\n',
            b'{"text": "a <mask>", "options": "b"}\n', b'{"text": "a <mask>", "options": []}\n',
            b'{"text": "a <mask>", "options": [3]}\n', b'{"text": 3, "options": ["b"]}\n',
            b'{"text": "a <mask> <mask>", "options": ["b"]}\n', b'{"text": "a <mask:2>", "options": ["b"]}\n',
            b'{"text": "a <mask>", "options": [""]}\n', b'{"text": "a <mask>", "options": ["b", "b"]}\n',
            b'{"text": "a <mask>", "options": ["\\ud800"]}\n', b'{"text": "\\ud800 <mask>", "options": ["b"]}\n',
            b'{"text": "a <mask>", "options": ["' + b"b" * 400 + b'"]}\n', b'{"text": "<mask>", "options": [null]}\n',
        ],
        "texts.jsonl": [
            b"", b"{}\n", b"[]\n", b'{"text": 3}\n', b'{"text": null}\n', b'{"text": ""}\n', b'{"text": "\\ud800"}\n',
            b'{"txt": "a"}\n', b'{"text": "a"\n', b'{"text": "\xff"}\n', b"\x00", b"[" * 100_000, b"9" * 5000 + b"\n",
        ],
    }  # fmt: skip
    uses = {
        "prompts.txt": ((*GENERATED, "--prompts", "prompts.txt"), "out.jsonl"),
        "prompts.jsonl": ((*GENERATED, "--prompts", "prompts.jsonl"), "out.jsonl"),
        "candidates.jsonl": (RERANKED, "out.jsonl"),
        "gaps.jsonl": (CHOSEN, "out.jsonl"),
        "texts.jsonl": (SCORED, "out.jsonl"),
    }
    for path, (words, output) in uses.items():
        for i, text in enumerate(texts[path]):
            named = ("a row must be at most",) if b"b" * 500 in text else ()  # only the LM knows how much it reads
            yield _case(kind, f"{i}_{text[:30]!r}", words, path, lambda _, text=text: text, output, named)
        if path != "prompts.txt":
            for name, change in damage.of_bytes((world / path).read_bytes(), 17):
                yield _case(kind, name, words, path, change, output)


def corpora(world: Path) -> Iterator[Case]:
    """Text of all kinds that is damaged, or compressed to expand absurdly."""
    kind = "corpora"
    names = [path.name for path in sorted(world.glob("stories*"))]
    for number, path in enumerate(names):
        words, content = (
            ("prepare", "corpus", *CORPUS, "--source", path, "--output_dir", "out"),
            (world / path).read_bytes(),
        )
        for name, change in damage.of_bytes(content, 18 + number):
            plain = path.endswith((".txt", ".jsonl", ".csv", ".tsv"))  # which are whole wherever they end
            if not (plain and (name.startswith("cut") or name == "zeros")):
                yield _case(kind, name, words, path, change, "out")
        if path.endswith((".gz", ".xz", ".parquet")):
            for i in range(8):
                yield _case(kind, f"flip_{i}", words, path, _flipped(i), "out")
    texts = {
        "stories.csv": [
            b"number,txt\n1,a\n",
            b"text\n",
            b'text\n"a\n',
            b"text,text\na,b\n",
            b"text\n\xff\n",
            b"number,text\n3\n",
            b"\n\n",
        ],
        "stories.json": [b"{", b"[]", b"[3]", b'[{"text": 3}]', b'{"text": ["a"]}', b'[{"txt": "a"}]', b"[" * 100_000],
        "stories.jsonl": [b"{}", b"[3]\n", b'{"text": NaN}\n', b'{"text": "a"}\n{\n', b"nul\n", b"[" * 100_000],
        "stories.txt": [b"\n", b" \n\t", b"a", b"\xef\xbb\xbf", b"<|endoftext|>\n" * 5],
    }
    for path, contents in texts.items():
        words = ("prepare", "corpus", *CORPUS, "--source", path, "--output_dir", "out")
        for i, text in enumerate(contents):
            yield _case(
                kind, f"{i}_{text[:30]!r}", words, path, lambda _, text=text: text, "out", (path, "documents", "blocks")
            )
    for path, bomb in {"stories.txt.gz": _gzip_bomb, "stories.txt.xz": _xz_bomb}.items():
        words = ("prepare", "corpus", *CORPUS, "--source", path, "--output_dir", "out")
        yield _case(kind, "bomb", words, path, lambda _, bomb=bomb: bomb(), "out")
        yield _case(kind, "bomb_scored", (*SCORED, "--data", path), path, lambda _, bomb=bomb: bomb(), "out.jsonl")
    words = ("prepare", "corpus", *CORPUS, "--source", "stories.parquet", "--output_dir", "out")
    yield _case(
        kind, "no_column", (*words, "--text_field", "x"), "stories.parquet", lambda x: x, "out", ("text_field",)
    )
    yield _case(kind, "bomb", words, "stories.parquet", lambda _: _parquet_bomb(), "out")


def _flipped(seed: int) -> damage.Change:
    def change(content: bytes) -> bytes:
        at = random.Random(seed).randrange(len(content))
        return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]

    return change


def _gzip_bomb() -> bytes:
    """Members of equal content, each made once."""
    return gzip.compress(b"a" * 2**26, 9, mtime=0) * (BOMB // 2**26)


def _xz_bomb() -> bytes:
    return lzma.compress(b"a" * 2**26) * (BOMB // 2**26)


def _parquet_bomb() -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    file, text = io.BytesIO(), "a" * 2**24
    with pq.ParquetWriter(file, pa.schema([("text", pa.string())]), compression="zstd") as writer:
        for _ in range(BOMB // 2**27):
            writer.write_table(pa.table({"text": [text] * 8}))
    return file.getvalue()


def jobs(world: Path) -> Iterator[Case]:
    """Folders of finished rows: torn, changed, or of another job."""
    kind, words, touched = (
        "job folders",
        ("generate", *GENERATE, "--output", "rows.jsonl"),
        ("rows.jsonl", "rows.jsonl.parts"),
    )
    part, manifest = "rows.jsonl.parts/00000.jsonl", "rows.jsonl.parts/manifest.json"

    def case(name: str, path: str, change: damage.Change, unfinished: bool = False) -> Case:
        def damaged(folder: Path) -> None:
            if unfinished:
                damage.rewritten(manifest, lambda x: json.dumps(json.loads(x) | {"checksums": {}}).encode())(folder)
            damage.rewritten(path, change)(folder)

        # The rows are those of the job: what was finished stays, and is written again where it was.
        return Case(kind, f"{path}_{name}_{unfinished}", words, ("rows.jsonl.parts",), damaged, touched, "rows.jsonl")

    content = (world / manifest).read_bytes()
    for name, change in [*damage.of_bytes(content, 30), *damage.of_json(content, 31, 40)]:
        yield case(name, manifest, change)
    content = (world / part).read_bytes()
    lines = content.splitlines()
    for unfinished in (False, True):
        for name, change in damage.of_bytes(content, 32):
            yield case(name, part, change, unfinished)
        for number in range(len(lines)):
            for name, change in damage.of_json(lines[number], 33 + number, 6):
                whole = lambda x, n=number, change=change: b"".join(  # noqa: E731
                    (change(line) if i == n else line) + b"\n" for i, line in enumerate(x.splitlines())
                )
                yield case(f"line_{number}_{name}", part, whole, unfinished)
    yield Case(
        kind, "no_manifest", words, ("rows.jsonl.parts",), lambda f: (f / manifest).unlink(), touched, "rows.jsonl"
    )
    other = ("generate", *GENERATE, "--seed", "7", "--output", "rows.jsonl")
    yield Case(kind, "other_job", other, ("rows.jsonl.parts",), lambda f: None, touched, "rows.jsonl")


KINDS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "command lines": lambda _: command_lines(),
    "configs": lambda _: configs(),
    "token files": token_files,
    "denoisers": lambda world: (case for case in models(world) if case.kind == "denoisers"),
    "energies": lambda world: (case for case in models(world) if case.kind == "energies"),
    "checkpoints": checkpoints,
    "results": results,
    "prompts": prompts,
    "corpora": corpora,
    "job folders": jobs,
}
