"""A folder with a small valid file of every kind that edlm reads, all made by edlm itself."""

import gzip
import json
import lzma
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, ModernBertConfig, ModernBertForMaskedLM

from edlm import AutoregressiveEnergy, ResidualHead, load_denoiser
from edlm.cli import main
from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.families.masked_lm import MaskedLMDenoiser

SHAPE = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
WORDS = "the cat sat on a mat and the dog ran to it".split()
STORIES = [" ".join(WORDS[(7 * i + 5 * j * (i % 3 + 1)) % 12] for j in range(4 + i % 7)) + f" {i}." for i in range(60)]
TRAINER = {"batch_size": 4, "checkpoint_every": 1, "valid_batches": 1, "warmup_steps": 0}
EVALUATE = ["evaluate", "--denoiser", "denoiser", "--data", "corpus/valid.safetensors", "--num_rows", "4"]
EVALUATE += ["--num_steps", "[2]", "--orders", "[random]", "--measure", "[bounds]", "--report", "false"]


def build(folder: Path) -> None:
    """Make the files, with relative names in ``folder``."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        _build(folder)
    finally:
        os.chdir(before)


def _build(folder: Path) -> None:
    _texts(folder)
    run("prepare", "corpus", *CORPUS, "--output_dir", "corpus")
    corpus = PreparedCorpus.load("corpus")
    _models(folder, corpus.tokenizer)
    run(*TRAIN, "--trainer.num_steps", "2", "--trainer.output_dir", "run")
    run("generate", *GENERATE, "--output", "rows.jsonl")
    for output, temperature in (("a", "1.0"), ("b", "0.9")):
        run(*EVALUATE, "--output", output, "--methods", f"[{{name: mine, energy: head, temperature: {temperature}}}]")
    _configs(folder)


def run(*words: str) -> None:
    """Run a command that must succeed."""
    if code := main([*words]):
        raise RuntimeError(f"{' '.join(words)} must succeed, got exit code {code}")


CORPUS = ["--source", "stories.txt", "--tokenizer_kind", "character", "--length", "16", "--valid_fraction", "0.2"]
TRAIN_OPTIONS = [word for name, value in TRAINER.items() for word in (f"--trainer.{name}", str(value))]
TRAIN = ["train", "denoiser", "--corpus", "corpus", "--start_from", "denoiser", *TRAIN_OPTIONS]
MODELS = ["--denoiser", "denoiser", "--energy", "head", "--sampler.num_steps", "2"]
GENERATE = [*MODELS, "--num_samples", "5", "--length", "8", "--rows_per_item", "2"]
SAMPLE = ["sample", *MODELS, "--num_samples", "2", "--length", "8"]
SCORE = ["score", *MODELS, "--data", "texts.jsonl"]


def _texts(folder: Path) -> None:
    """Corpora, prompts and candidates."""
    text = "\n<|endoftext|>\n".join(STORIES)
    lines = "".join(json.dumps({"text": story}) + "\n" for story in STORIES)
    table = "".join(["number,text\n", *(f'{i},"{story}"\n' for i, story in enumerate(STORIES))])
    (folder / "stories.txt").write_text(text)
    (folder / "stories.jsonl").write_text(lines)
    (folder / "stories.json").write_text(json.dumps([{"text": story} for story in STORIES]))
    (folder / "stories.csv").write_text(table)
    (folder / "stories.tsv").write_text(table.replace(",", "\t"))
    (folder / "stories.txt.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (folder / "stories.txt.xz").write_bytes(lzma.compress(text.encode()))
    pq.write_table(pa.table({"text": STORIES}), folder / "stories.parquet", write_page_checksum=True)
    (folder / "texts.jsonl").write_text(lines[: lines.index("\n", 200) + 1])
    (folder / "prompts.txt").write_text("the cat\na dog\n")
    (folder / "prompts.jsonl").write_text('{"prompt": "the cat"}\n{"text": "a <mask:3> on"}\n')
    (folder / "candidates.jsonl").write_text(
        '{"prompt": "the", "texts": [" cat", " dog"], "log_probs": [-1.5, -2.0]}\n'
    )
    (folder / "gaps.jsonl").write_text('{"text": "the <mask> sat", "options": ["cat", "dog", "a"]}\n')


def _models(folder: Path, tokenizer: object) -> None:
    torch.manual_seed(0)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    shape = {**SHAPE, **special, "max_position_embeddings": 32, "pad_token_id": None}
    config = ModernBertConfig(vocab_size=len(tokenizer), **shape)
    MaskedLMDenoiser(ModernBertForMaskedLM(config), tokenizer).save_pretrained(folder / "denoiser")
    ResidualHead.from_denoiser(load_denoiser(folder / "denoiser"), num_blocks=1).save_pretrained(folder / "head")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2, n_positions=32)
    lm = GPT2LMHeadModel(config)
    AutoregressiveEnergy(lm, bos_token_id=0, tokenizer=tokenizer).save_pretrained(folder / "causal")
    lm.save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    (folder / "pickled").mkdir()
    shutil.copytree(folder / "denoiser", folder / "pickled", dirs_exist_ok=True)
    torch.save(load_file(folder / "denoiser" / "model.safetensors"), folder / "pickled" / "pytorch_model.bin")
    (folder / "pickled" / "model.safetensors").unlink()
    load_denoiser(folder / "denoiser").save_pretrained(folder / "sharded", max_shard_size="2KB")


def _configs(folder: Path) -> None:
    (folder / "generate.yaml").write_text(
        "denoiser: denoiser\nenergy: head\nnum_samples: 5\nlength: 8\nrows_per_item: 2\nsampler:\n  num_steps: 2\n"
    )
    (folder / "corpus.yaml").write_text("source: stories.txt\ntokenizer_kind: character\nlength: 16\n")
