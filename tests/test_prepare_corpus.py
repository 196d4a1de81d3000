"""`edlm prepare corpus` of whatever text a user has: a book, few documents, a data set, a folder, names of nothing."""

import json
import math
import random
from dataclasses import replace

import datasets
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from edlm import EnergySampler
from edlm.cli import main
from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.loading import load_denoiser
from edlm.evaluation import estimate_bound
from edlm.evaluation.experiment.lab import load_held_out
from edlm.training import train_denoiser, train_energy
from edlm.training.text import corpus_of

BOOK = "".join(f"Chapter {i}. It rained for {i * i} days.\n\n" for i in range(1, 200))
SHAPE = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
STORIES = [f"story {i} of a cat" for i in range(100)]


def prepare(tmp_path, code=0, **options):
    """The corpus of the command, with small blocks."""
    options = {"output_dir": tmp_path / "corpus", "length": 16, "vocab_size": 280, **options}
    assert main(["prepare", "corpus", *(word for k, v in options.items() for word in (f"--{k}", str(v)))]) == code
    return PreparedCorpus.load(tmp_path / "corpus") if code == 0 else None


def text_of(corpus, *splits):
    return corpus.tokenizer.decode(torch.cat([getattr(corpus, split).tokens.flatten() for split in splits]))


@pytest.mark.parametrize("parts", [1, 3])
def test_the_last_part_of_few_documents_is_held_out(tmp_path, caplog, parts):
    size = len(BOOK) // parts
    documents = [BOOK[i * size : (i + 1) * size] for i in range(parts)]
    (tmp_path / "book.txt").write_text("\n<|endoftext|>\n".join(documents))
    corpus = prepare(tmp_path, source=tmp_path / "book.txt", valid_fraction=0.1)
    sizes = [len(blocks.tokens) for blocks in (corpus.train, corpus.valid)]
    assert sizes[1] == round(0.1 * sum(sizes)) and corpus.valid.num_documents == 1
    texts = [text.strip("\n") for text in documents] if parts > 1 else documents  # verbatim, where nothing is cut
    whole = "<|endoftext|>" + "<|endoftext|>".join(texts)
    assert (whole + "<|endoftext|>").startswith(text_of(corpus, "train", "valid"))
    assert corpus.train.num_documents == parts and set(corpus.valid.documents.tolist()) == {parts - 1}
    (said,) = caplog.messages
    assert f"the last {sizes[1]} blocks are held out" in said


def test_one_block_of_a_short_text_is_held_out_and_a_shorter_one_refused(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("".join(chr(97 + i % 26) for i in range(40)))
    corpus = prepare(tmp_path, source=tmp_path / "a.txt", tokenizer_kind="character")
    assert (len(corpus.train.tokens), len(corpus.valid.tokens)) == (1, 1)
    (tmp_path / "a.txt").write_text("abc")
    prepare(tmp_path, 2, source=tmp_path / "a.txt", tokenizer_kind="character")
    assert "documents must fill one block of 16 tokens" in capsys.readouterr().err


def test_held_out_text_of_another_split_or_source(tmp_path, capsys):
    table = {name: datasets.Dataset.from_dict({"story": [f"{name} {text}" for text in STORIES]}) for name in ("a", "b")}
    datasets.DatasetDict(table).save_to_disk(tmp_path / "set")
    source = {"source": tmp_path / "set", "text_field": "story", "split": "a"}
    one = prepare(tmp_path, **source, valid_split="b")
    other = prepare(tmp_path, **source, valid_split="b", valid_source=tmp_path / "set")
    for corpus in (one, other):
        assert corpus.train.num_documents == corpus.valid.num_documents == 100
        assert "b story" not in text_of(corpus, "train") and "a story" not in text_of(corpus, "valid")
    apart = prepare(tmp_path, **source, valid_fraction=0.2)
    assert apart.train.num_documents + apart.valid.num_documents == 100
    prepare(tmp_path, 2, source=tmp_path / "set", text_field="story")
    assert "split must be one of a, b" in capsys.readouterr().err


def test_a_mistyped_path_is_refused_at_once(tmp_path, capsys):
    prepare(tmp_path, 2, source=tmp_path / "storys.txt")
    assert "source must be an existing file or folder or a data set's name, got" in capsys.readouterr().err


def test_a_bert_trains_and_is_evaluated_on_text_with_unknown_words(tmp_path, capsys):
    words = "cat dog ran home to eat red fish and sleep".split()
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=[*names.values()], show_progress=False)
    raw.train_from_iterator([" ".join(words)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    tokenizer.save_pretrained(tmp_path / "bert")
    torch.manual_seed(0)
    bert = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=20, **SHAPE))
    bert.save_pretrained(tmp_path / "bert")
    text = [" ".join(random.Random(i).choices([*words, "Ünknown"], k=20)) for i in range(60)]
    (tmp_path / "t.txt").write_text("\n<|endoftext|>\n".join(text))
    corpus = prepare(tmp_path, source=tmp_path / "t.txt", tokenizer=tmp_path / "bert", valid_fraction=0.3)
    special = torch.tensor(tokenizer.all_special_ids)
    assert not any(torch.isin(blocks.tokens, special).any() for blocks in (corpus.train, corpus.valid))
    trainer = {"batch_size": 4, "num_steps": 20, "warmup_steps": 1}
    further = train_denoiser(corpus, start_from=tmp_path / "bert", output_dir=tmp_path / "a", **trainer)
    train_energy(further, corpus, output_dir=tmp_path / "b", **trainer)
    for name in ("a", "b"):
        losses = [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        assert losses and all(map(math.isfinite, losses))
    held_out = load_held_out(tmp_path / "t.txt", further)
    assert held_out.num_documents == 60 and held_out.tokens.shape[1] == 18 and len(held_out.documents.unique()) > 20
    bound = estimate_bound(EnergySampler(further, num_steps=2), held_out.tokens[:8])
    assert math.isfinite(bound.value)
    spoiled = replace(corpus.train, tokens=corpus.train.tokens.index_fill(1, torch.tensor([2]), tokenizer.sep_token_id))
    for start in ({"start_from": tmp_path / "bert"}, {"model": SHAPE}):
        with pytest.raises(ValueError, match=r"rules out, got .* of '\[SEP\]' \(id 3\): prepare the corpus anew"):
            train_denoiser(
                PreparedCorpus(tokenizer, spoiled, corpus.valid), output_dir=tmp_path / "c", **start, **trainer
            )


def test_text_for_a_denoiser_is_cut_by_its_tokenizer(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("\n<|endoftext|>\n".join(STORIES))
    corpus = prepare(tmp_path, source=tmp_path / "t.txt", denoiser="tinystories", valid_fraction=0.2)
    denoiser = load_denoiser("tinystories")
    denoiser.vocabulary.check_blocks(corpus.train, corpus.valid)
    assert corpus.train.vocabulary == denoiser.vocabulary.fingerprint
    assert {*text_of(corpus, "train", "valid").split("<|endoftext|>")} >= {*STORIES[:10]}
    prepare(tmp_path, 2, source=tmp_path / "t.txt", denoiser="tinystories", tokenizer="gpt2")
    assert "tokenizer must not be given with denoiser, which has one, got gpt2" in capsys.readouterr().err


def test_training_reads_plain_text_by_the_tokenizer_of_its_denoiser(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "t.md").write_text("\n<|endoftext|>\n".join(STORIES))
    trainer = {"batch_size": 2, "num_steps": 2, "warmup_steps": 1}
    denoiser = train_denoiser(tmp_path / "text", model=SHAPE, output_dir=tmp_path / "a", **trainer)
    corpus = corpus_of(tmp_path / "text", denoiser)
    assert corpus.train.tokens.shape[1] == 128 and corpus.train.vocabulary == denoiser.vocabulary.fingerprint
    assert text_of(corpus, "train", "valid").startswith("<|endoftext|>story ")
    energy = train_energy(denoiser, tmp_path / "text", "nce", output_dir=tmp_path / "b", **trainer)
    assert energy.denoiser_identity == denoiser.identity
    with pytest.raises(FileNotFoundError, match="source must be an existing file or folder"):
        train_energy(denoiser, tmp_path / "texts", output_dir=tmp_path / "c", **trainer)
