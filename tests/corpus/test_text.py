"""Reading, tokenizing, splitting, packing and saving text; every error message; real text where it is at hand."""

import csv
import gzip
import importlib.util
import io
import json
import logging
import lzma
import math
import random
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from edlm.corpus import (
    TokenBlocks,
    load_blocks,
    pack_documents,
    read_documents,
    save_blocks,
    split_documents,
    train_tokenizer,
)
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.text import iterate_documents
from edlm.corpus.tokens import vocabulary_fingerprint

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tinystories"
AWKWARD = [
    "naïve café — “quotes” … 日本語 🙂👩‍👩‍👧 e\u0301 \u202eright\u202c",
    " leading, trailing  and   inner spaces \t\ttabs\n\n\nnewlines\r\nand returns\r ",
    "\x00\x01\x7f\u0085\u2028\ufeff\ufffd\U0010ffff",
    "don't do n't , . ? ! 's spaces before punctuation .",
    "<|endoftext|> <|mask|> <|unk|> ## ▁ Ġ Ċ",
    "",
]


def abc_tokenizer():
    return train_tokenizer(["abc"], kind="character")  # <|endoftext|> 0, <|mask|> 1, <|unk|> 2, a 3, b 4, c 5


def plain(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


# Reading


def test_text_file_is_cut_at_lines_that_hold_just_the_separator(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\n  two\n<|endoftext|>\n\nthree \r\n<|endoftext|> \r\n \n<|endoftext|>\nfour\n")
    assert read_documents(file) == ["one\n  two", "three ", "four"]
    assert read_documents(str(file), separator="three ") == [
        "one\n  two\n<|endoftext|>",
        "<|endoftext|> \r\n \n<|endoftext|>\nfour",
    ]


def test_text_file_without_a_separator_is_one_document_verbatim(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\n one\r\n\ntwo \n")
    assert read_documents(file) == ["\n one\r\n\ntwo \n"]


def test_separator_inside_a_line_stays_text_and_is_reported(tmp_path, caplog):
    file = tmp_path / "a.txt"
    file.write_text("one <|endoftext|>\ntwo\n<|endoftext|>\nthree")
    assert read_documents(file) == ["one <|endoftext|>\ntwo", "three"]
    assert "1 separators that share a line with text" in caplog.text


def test_folder_is_read_in_sorted_order_and_says_what_it_skips(tmp_path, caplog):
    texts = {
        "b.txt": "3",
        "a/z.TXT": "1",
        "a.md": "2",
        "empty.txt": " \n",
        "c.pdf": "x",
        ".d.txt": "x",
        ".e/f.txt": "x",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "c.jsonl").write_text('{"text": "4"}\n\n{"text": "5", "more": 1}\n')
    (tmp_path / "d.json").write_text('[\n {"text": "6"},\n {"text": "7"}\n]')
    (tmp_path / "e.json").write_text('{"text": "8"}\n{"text": " "}')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["9", None], "n": [1, 2]}), tmp_path / "f.parquet")
    (tmp_path / "g.txt").mkdir()
    assert sorted(read_documents(tmp_path)) == list("123456789")
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path}: 9 documents, read from ") and "a/z.TXT" in said.partition(";")[0]
    for skipped in ("hidden: .d.txt, .e/f.txt", "unknown kind: c.pdf", "no text: empty.txt"):
        assert skipped in said.partition("; skipped ")[2]


def test_many_names_of_a_folder_are_said_in_short(tmp_path, caplog):
    for i in range(12):
        (tmp_path / f"{i:02}.txt").write_text("a")
    read_documents(tmp_path)
    assert caplog.messages[0].endswith("05.txt, 06.txt, 07.txt and 4 more")


ROWS = {"text": ['one,\n"two"', "three"], "n": ["1", "2"]}


def content_of(kind):
    """`ROWS` as a file of this kind."""
    if kind in (".jsonl", ".ndjson", ".json"):
        return "".join(
            json.dumps(dict(zip(ROWS, row, strict=True))) + "\n" for row in zip(*ROWS.values(), strict=True)
        ).encode()
    if kind in (".csv", ".tsv"):
        rows, target = [ROWS.keys(), *zip(*ROWS.values(), strict=True)], io.StringIO(newline="")
        csv.writer(target, delimiter="," if kind == ".csv" else "\t").writerows(rows)
        return target.getvalue().encode()
    if kind == ".parquet":
        target = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(ROWS), target)
        return target.getvalue()
    return "\n<|endoftext|>\n".join(ROWS["text"]).encode()


PACKED = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("kind", [".txt", ".md", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"])
def test_every_kind_holds_the_same_documents_packed_or_not(kind, packed, tmp_path):
    for name in (f"a{kind}{packed}", f"B{kind.upper()}{packed.upper()}"):
        (tmp_path / name).write_bytes(PACKED[packed](content_of(kind)))
        assert read_documents(tmp_path / name) == ROWS["text"]


def test_zst_is_read_or_its_package_is_named(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl.zst"
    file.write_bytes(b"(\xb5/\xfd")
    if importlib.util.find_spec("zstandard"):
        import zstandard

        packed = [zstandard.ZstdCompressor().compress(line) for line in content_of(".jsonl").splitlines(keepends=True)]
        file.write_bytes(b"".join(packed))
        assert read_documents(file) == ROWS["text"]
        file.write_bytes(b"".join(packed)[:-3])
        with pytest.raises(ValueError, match="a compressed file must be whole and of its suffix, got .*a.jsonl.zst"):
            read_documents(file)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="zst file needs the package zstandard: pip install zstandard"):
        read_documents(file)


def test_a_long_field_of_a_table_and_a_number_are_text(tmp_path):
    (tmp_path / "a.csv").write_text(f"n,text\n1,{'x' * 200_000}\n2,\n3,007\n")
    assert read_documents(tmp_path / "a.csv") == ["x" * 200_000, "007"]


def test_text_field_names_the_field_and_the_column(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"story": "1", "text": "x"}')
    pyarrow.parquet.write_table(pyarrow.table({"story": ["2"], "text": ["x"]}), tmp_path / "b.parquet")
    assert read_documents(tmp_path, text_field="story") == ["1", "2"]


def test_unicode_line_separators_do_not_end_a_jsonl_line(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a\u2028b\u0085c"}, ensure_ascii=False), encoding="utf-8")
    assert read_documents(tmp_path / "a.jsonl") == ["a\u2028b\u0085c"]


def test_saved_datasets_are_read_with_and_without_splits(tmp_path):
    one = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "n": [1, 2, 3]})
    one.select([2, 0]).save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=one, valid=one.select([1])).save_to_disk(tmp_path / "two")
    assert read_documents(tmp_path / "one") == ["c", "a"]
    assert read_documents(tmp_path / "two", split="train") == ["a", "b", "c"]
    assert read_documents(tmp_path / "two", split="valid") == ["b"]
    with pytest.raises(ValueError, match="split must be one of train, valid for .*two, got None"):
        read_documents(tmp_path / "two")
    with pytest.raises(ValueError, match="split must be one of train, valid for .*two, got 'test'"):
        read_documents(tmp_path / "two", split="test")
    with pytest.raises(ValueError, match="split must be one of None for .*one, got 'test'"):
        read_documents(tmp_path / "one", split="test")
    for field in ("story", "n"):
        with pytest.raises(ValueError, match=rf"text_field must be a text column of .*one \(text, n\), got '{field}'"):
            read_documents(tmp_path / "one", text_field=field)


def test_dataset_name_goes_to_load_dataset_with_config_and_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    real, calls = datasets.load_dataset, []

    def load(*args, split=None):
        calls.append((*args, split))
        return real("json", data_files={"train": "rows.jsonl"}, split=split, cache_dir=tmp_path / "cache")

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_documents("house/stories") == ["a", "b", "c"]
    assert read_documents("stories:small", split="train") == ["a", "b", "c"]
    assert read_documents("stories", split="train[1:]") == ["b", "c"]
    assert calls == [("house/stories", None), ("stories", "small", "train"), ("stories", "train[1:]")]


MISSING = ["./missing", "/no/such/folder", "../missing", "~/missing", "missing.txt", "missing.TXT.gz", "a/b.jsonl"]
MISSING += [Path("missing"), "missing/", "missing.pdf", "my/texts/missing", "here/missing", "texts\\missing"]


@pytest.mark.parametrize("source", MISSING)
def test_missing_path_is_an_error_and_not_a_hub_call(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    for asks in ((datasets, "load_dataset"), (HfApi, "dataset_info")):
        monkeypatch.setattr(*asks, lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(FileNotFoundError, match="source must be .*, got .*(missing|folder|b.jsonl)"):
        read_documents(source)


def test_the_hub_is_asked_once_for_a_name_that_may_be_a_path(monkeypatch):
    asked = []

    def refuse(self, name, timeout):
        asked.append(name)
        raise RuntimeError("404 Client Error.\nMore of it")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "dataset_info", refuse)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: pytest.fail("tried again"))
    with pytest.raises(FileNotFoundError, match="data set's name, got my_text:a: 404 Client Error.$"):
        read_documents("my_text:a")
    assert asked == ["my_text"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"good\nbad \xff", r"a text file must be UTF-8, got a bad byte \(0xff\) in .*a\.txt:2$"),
        ("a.pdf", b"text", r"must end in \.txt, \.md, .*\.parquet, or one of these and \.gz, .*, got .*a\.pdf"),
        ("a.gz", b"text", r"must end in .*, got .*a\.gz"),
        ("a.txt.gz", gzip.compress(b"a" * 99, mtime=0)[:-9], r"a compressed file must be whole .*, got .*a\.txt\.gz: "),
        ("a.txt.gz", b"just text", r"a compressed file must be .* of its suffix, got .*a\.txt\.gz: "),
        ("a.csv.xz", lzma.compress(b"a" * 99)[:-9], r"a compressed file must be whole .*, got .*a\.csv\.xz: "),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid", r"a\.txt must hold text, got a Git LFS pointer"),
        ("a.parquet", b"PAR1", r"a \.parquet file must be whole, got .*a\.parquet"),
        ("a.csv", b"story,n\nx,1\n", r"text_field must be a column of .*a\.csv \(story, n\), got 'text'"),
        ("a.csv", b"n,text\n1,a\n2\n", r"each row must have a column 'text', got a shorter one in .*a\.csv:3"),
        ("a.csv", b'text\n"open\n', r"a table must be valid, got .* in .*a\.csv, after line 1"),
        ("a.txt", b" \n<|endoftext|>\n", r"source must hold text .*got none in .*a\.txt"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "b"\n', r"JSON must be valid, got .* in .*a\.jsonl:3$"),
        ("a.json", b'[{"text": "a"},\n{"text": }]', r"JSON must be valid, got .* in .*a\.json:2$"),
        ("a.jsonl", b'{"text": "a"}\n\n{"story": "b"}', r"each record must have .*story.*a\.jsonl:3 "),
        ("a.jsonl", b'"just text"', r"each record must have .* 'text', got 'just text' in .*a\.jsonl:1 "),
        ("a.jsonl", b'{"text": "\\ud800"}', r"each record must have valid Unicode .*a\.jsonl:1 "),
        ("a.json", b'[{"text": "a"},\n{"text": 5}]', r"each record must have .*a\.json.*\(record 2\)"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path / name)


def test_split_needs_a_dataset_and_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"source must hold text .*, got none"):
        read_documents(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match="split must be None for files and folders, got 'train' with"):
        read_documents(tmp_path, split="train")


# Tokenizers


@pytest.mark.parametrize(
    "kind, special", [("bpe", ["<|endoftext|>", "<|mask|>"]), ("character", ["<|endoftext|>", "<|mask|>", "<|unk|>"])]
)
def test_tokenizer_has_exactly_the_special_tokens(kind, special):
    tokenizer = train_tokenizer(AWKWARD, kind=kind, vocab_size=300)
    assert tokenizer.convert_ids_to_tokens(range(len(special))) == special
    assert sorted(tokenizer.all_special_tokens) == sorted(special)
    ids = [getattr(tokenizer, f"{kind}_token_id") for kind in ("eos", "bos", "sep", "pad", "mask")]
    assert ids == [0, 0, 0, 0, 1]
    assert tokenizer.unk_token_id == (2 if kind == "character" else None)
    assert len(tokenizer) == tokenizer.vocab_size <= 300
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert tokenizer("a")["input_ids"] == plain(tokenizer, "a")  # encoding adds no special token of its own


def test_bpe_vocabulary_reaches_its_size_and_merges_the_frequent():
    text = " ".join(random.Random(0).choices(["lantern", "harbour", "quietly"], k=200))
    tokenizer = train_tokenizer([text], vocab_size=270)
    assert len(tokenizer) == 270
    assert len(plain(tokenizer, text)) < len(text) / 2


def test_bpe_merges_no_pair_that_occurs_once():
    assert len(train_tokenizer(["abcdefg hijk"], vocab_size=5000)) == 258
    assert len(train_tokenizer(["abxab"], vocab_size=5000)) == 259


@pytest.mark.parametrize("text", AWKWARD)
def test_bpe_decodes_what_it_encodes_even_if_never_seen(text):
    tokenizer = train_tokenizer(["some ordinary training text, text, text"], vocab_size=280)
    assert tokenizer.decode(plain(tokenizer, text)) == text
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", AWKWARD)
def test_character_tokenizer_has_one_token_per_code_point(text):
    tokenizer = train_tokenizer(AWKWARD, kind="character")
    assert len(plain(tokenizer, text)) == len(text)
    assert tokenizer.decode(plain(tokenizer, text)) == text
    assert tokenizer("Z7", add_special_tokens=False)["input_ids"] == [2, 2]  # in no text above


@pytest.mark.parametrize("kind", ["bpe", "character"])
def test_saved_tokenizer_comes_back_through_auto_tokenizer(kind, tmp_path):
    tokenizer = train_tokenizer(AWKWARD * 2, kind=kind, vocab_size=320)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert loaded.clean_up_tokenization_spaces is False
    for text in AWKWARD:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert set(loaded(text)) == {"input_ids", "attention_mask"}
        assert loaded.decode(plain(loaded, text)) == text


@pytest.mark.parametrize(
    "documents, options, message",
    [
        ([], {}, "documents must not be empty, got none"),
        (["a"], {"kind": "word"}, "kind must be 'bpe' or 'character', got 'word'"),
        (["a"], {"vocab_size": 257}, r"vocab_size must be >= 258 \(256 symbols \+ special tokens\), got 257"),
        (
            ["abc", "cd"],
            {"kind": "character", "vocab_size": 6},
            r"vocab_size must be >= 7 \(4 symbols \+ special tokens\), got 6",
        ),
    ],
)
def test_tokenizer_errors(documents, options, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(documents, **options)


# Splitting


def test_split_is_a_partition_that_ignores_order():
    documents = [f"story number {i}" for i in range(2000)]
    train, valid = split_documents(documents, 0.2)
    assert 330 < len(valid) < 470  # 400, standard deviation 18
    assert sorted(train + valid) == sorted(documents)
    shuffled = random.Random(1).sample(documents, len(documents))
    assert sorted(split_documents(shuffled, 0.2)[1]) == sorted(valid)
    assert [d for d in documents if d in set(valid)] == valid


def test_split_of_known_texts():
    # First 32 bits of SHA-256, by sha256sum: 77af778b, cd6357ef, 7a5179ee, b474a99a, d44a08de; modulo 5: 2, 0, 2, 4, 1.
    texts = ["cat", "Dog.", "bird", "fish", "hen"]
    assert split_documents(texts, 0.2) == (["cat", "bird", "fish", "hen"], ["Dog."])
    assert split_documents(texts, 0.4) == (["cat", "bird", "fish"], ["Dog.", "hen"])
    assert split_documents(texts, 0.6) == (["fish"], ["cat", "Dog.", "bird", "hen"])


def test_near_copies_stay_on_one_side_and_texts_without_words_do_not_all():
    words = [f"story {i}" for i in range(50)]
    train, valid = split_documents(words + [f"  STORY\n{i}!" for i in range(50)], 0.5)
    assert {text.lower().split()[1].strip("!") for text in train}.isdisjoint(
        text.lower().split()[1].strip("!") for text in valid
    )
    brackets = ["(" * i + ")" * i for i in range(1, 30)]
    assert min(map(len, split_documents(brackets, 0.5))) > 5


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, math.nan])
def test_split_fraction_must_be_inside_0_and_1(fraction):
    with pytest.raises(ValueError, match=rf"valid_fraction must be in \(0, 1\), got {fraction}"):
        split_documents(["a", "b"], fraction)


def test_split_with_an_empty_side_is_an_error():
    with pytest.raises(ValueError, match="0.5 of the documents must be one, got 0 documents"):
        split_documents([], 0.5)
    with pytest.raises(ValueError, match="1e-09 of the documents must be one, got 2 documents"):
        split_documents(["one", "two"], 1e-9)


# Packing


@pytest.mark.parametrize(
    "length, rows, num_dropped, num_characters",
    [
        (1, [[0], [3], [4], [5], [0], [4], [0], [5], [5], [0]], 0, 6),
        (2, [[0, 3], [4, 5], [0, 4], [0, 5], [5, 0]], 0, 6),
        (3, [[0, 3, 4], [5, 0, 4], [0, 5, 5]], 1, 6),  # the last separator is dropped
        (4, [[0, 3, 4, 5], [0, 4, 0, 5]], 2, 5),  # cut inside the last document
        (6, [[0, 3, 4, 5, 0, 4]], 4, 4),  # between a document and its separator
        (7, [[0, 3, 4, 5, 0, 4, 0]], 3, 4),
        (10, [[0, 3, 4, 5, 0, 4, 0, 5, 5, 0]], 0, 6),
    ],
)
def test_packing_by_hand(length, rows, num_dropped, num_characters, caplog):
    caplog.set_level(logging.INFO)
    blocks = pack_documents(["abc", "b", "cc"], abc_tokenizer(), length)
    assert blocks.tokens.dtype == torch.int64 and blocks.tokens.tolist() == rows
    assert (blocks.num_documents, blocks.num_tokens, blocks.num_dropped) == (3, 10, num_dropped)
    assert blocks.num_characters == num_characters
    assert blocks.characters_per_token == pytest.approx(num_characters / (10 - num_dropped))
    assert f"dropped the last {num_dropped} of 10 tokens" in caplog.text


def test_each_block_belongs_to_the_document_of_most_of_its_tokens():
    blocks = pack_documents(["a" * 9, "b", "c" * 4], abc_tokenizer(), 4)  # sep aaaaaaaaa sep b sep cccc sep
    assert blocks.tokens.tolist() == [[0, 3, 3, 3], [3, 3, 3, 3], [3, 3, 0, 4], [0, 5, 5, 5]]
    assert blocks.documents.tolist() == [0, 0, 0, 2]


def test_documents_cross_the_batches_of_the_tokenizer_in_order():
    documents = ["a" * (i % 3) + "b" + "c" * (i % 2) for i in range(2345)]
    tokenizer = abc_tokenizer()
    blocks = pack_documents(documents, tokenizer, 1)
    assert (
        tokenizer.decode(blocks.tokens.flatten()) == "".join(f"<|endoftext|>{d}" for d in documents) + "<|endoftext|>"
    )


def test_special_tokens_spelled_out_in_a_document_are_ordinary_text():
    text = "a<|mask|>b<|endoftext|>c"
    tokenizer = train_tokenizer(["abc"])
    blocks = pack_documents([text], tokenizer, 1)
    ids = blocks.tokens.flatten().tolist()
    assert ids.count(0) == 2 and ids.count(1) == 0
    assert tokenizer.decode(ids[1:-1]) == text and blocks.num_characters == len(text)
    assert tokenizer("a<|mask|>b")["input_ids"].count(1) == 1  # and packing leaves the tokenizer as it was


@pytest.mark.parametrize("length", [2, 3, 5, 7, 11, 13])
def test_characters_of_cut_text_are_those_of_the_decoded_tokens(length):
    documents = ["naïve 🙂🙂 日本語", "plain", "ééé 🙂"]
    tokenizer = train_tokenizer(documents, vocab_size=260)
    blocks = pack_documents(documents, tokenizer, length)
    decoded = tokenizer.decode(blocks.tokens.flatten(), skip_special_tokens=True)
    assert blocks.num_characters == len(decoded)  # a character that is cut decodes to one replacement character


def test_unknown_characters_are_reported_unless_unknown_is_the_separator(caplog):
    tokenizer = abc_tokenizer()
    assert pack_documents(["axbx"], tokenizer, 6).tokens.tolist() == [[0, 3, 2, 4, 2, 0]]
    assert "2 of 6 tokens are unknown" in caplog.text
    caplog.clear()
    tokenizer.unk_token = tokenizer.eos_token  # as in GPT-2
    pack_documents(["ab"], tokenizer, 4)
    assert "unknown" not in caplog.text


def test_tokens_that_a_tokenizer_adds_of_its_own_stay_out():
    tokenizer = abc_tokenizer()
    template = TemplateProcessing(single="<|mask|> $A <|mask|>", special_tokens=[("<|mask|>", 1)])
    tokenizer.backend_tokenizer.post_processor = template
    assert tokenizer("ab")["input_ids"] == [1, 3, 4, 1]
    assert pack_documents(["ab", "c"], tokenizer, 6).tokens.tolist() == [[0, 3, 4, 0, 5, 0]]


def test_separator_falls_back_to_sep_where_there_is_no_eos():
    tokenizer = abc_tokenizer()
    tokenizer.eos_token, tokenizer.sep_token = None, "c"
    assert pack_documents(["ab"], tokenizer, 4).tokens.tolist() == [[5, 3, 4, 5]]


FRAMED = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "\n\n"]  # ids 0 to 7
NAMES = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


def framed_tokenizer(splits):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(FRAMED)}, "[UNK]"))
    backend.pre_tokenizer = splits
    return PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES)


def test_text_of_a_tokenizer_with_cls_holds_no_token_that_frames_one(caplog):
    tokenizer = framed_tokenizer(pre_tokenizers.WhitespaceSplit())
    blocks = pack_documents(["cat bird dog", "dog", "bees [SEP] cat"], tokenizer, 2)
    assert blocks.tokens.tolist() == [[5, 6], [6, 5]]  # a blank line is no token here
    assert blocks.documents.tolist() == [0, 1] and (blocks.num_tokens, blocks.num_documents) == (4, 3)
    assert blocks.num_characters == len("cat  dog" + "dog" + "  cat")
    assert caplog.messages == ["left out 3 of 7 tokens, which the model never writes"]
    cut = pack_documents(["bird cat dog", "cat bird dog dog"], tokenizer, 4)
    assert cut.tokens.tolist() == [[5, 6, 5, 6]] and cut.num_characters == len(" cat dog" + "cat  dog")


def test_documents_of_a_tokenizer_with_cls_are_separated_by_a_blank_line():
    lines = pre_tokenizers.Sequence([pre_tokenizers.Split("\n\n", "isolated"), pre_tokenizers.Split(" ", "removed")])
    blocks = pack_documents(["cat dog", "dog"], framed_tokenizer(lines), 3)
    assert blocks.tokens.tolist() == [[7, 5, 6], [7, 6, 7]] and blocks.num_characters == len("cat dogdog")
    tokenizer = framed_tokenizer(lines)
    tokenizer.eos_token = "dog"  # an eos that frames nothing separates, as elsewhere
    assert pack_documents(["cat", "cat"], tokenizer, 5).tokens.tolist() == [[6, 5, 6, 5, 6]]
    assert pack_documents(["cat", "cat"], tokenizer, 5, never=[6]).tokens.shape == (1, 5)


def test_a_model_that_rules_nothing_out_keeps_the_separator():
    tokenizer = framed_tokenizer(pre_tokenizers.WhitespaceSplit())  # the same text, by another family's rule
    blocks = pack_documents(["cat bird", "dog"], tokenizer, 3, never=[4])
    assert blocks.tokens.tolist() == [[3, 5, 1], [3, 6, 3]]


def test_cutting_again_shows_each_token_at_several_places_of_a_block():
    blocks = pack_documents(["abcabc", "bca"], abc_tokenizer(), 4)
    again, stream = blocks.cut_again(4), blocks.tokens.flatten().tolist()
    assert torch.equal(again.tokens[: len(blocks.tokens)], blocks.tokens) and torch.equal(
        blocks.cut_again(1).tokens, blocks.tokens
    )
    starts = [4 * row + cut for cut in range(4) for row in range((len(stream) - cut) // 4)]
    assert again.tokens.tolist() == [stream[i : i + 4] for i in starts]
    assert again.characters_per_token == pytest.approx(blocks.characters_per_token, rel=0.1)
    for wrong in (0, 5):
        with pytest.raises(ValueError, match=rf"num_cuts must lie in 1 .. 4, got {wrong}"):
            blocks.cut_again(wrong)


def test_packing_errors():
    tokenizer = abc_tokenizer()
    with pytest.raises(ValueError, match="length must be >= 1, got 0"):
        pack_documents(["a"], tokenizer, 0)
    with pytest.raises(ValueError, match="documents must fill one block of 6 tokens, got 5 tokens"):
        pack_documents(["abc"], tokenizer, 6)
    with pytest.raises(ValueError, match="documents must fill one block of 2 tokens, got 1 tokens"):
        pack_documents([], tokenizer, 2)
    tokenizer.eos_token = tokenizer.sep_token = None
    with pytest.raises(ValueError, match="tokenizer must have an eos or sep token, got .* with neither"):
        pack_documents(["abc"], tokenizer, 2)


# Blocks


@pytest.mark.parametrize("largest, stored", [(65535, torch.uint16), (65536, torch.int32)])
def test_saved_blocks_come_back_in_the_smallest_type_that_fits(tmp_path, largest, stored):
    from safetensors.torch import load_file

    blocks = TokenBlocks(torch.tensor([[0, 7, largest], [3, 2, 1]]), 2, 8, 2, 11, torch.tensor([0, 4]), "abc0")
    save_blocks(blocks, tmp_path / "new" / "er" / "blocks.safetensors")
    assert load_file(tmp_path / "new" / "er" / "blocks.safetensors")["tokens"].dtype == stored
    loaded = load_blocks(str(tmp_path / "new" / "er" / "blocks.safetensors"))
    assert loaded.tokens.dtype == torch.int64 and loaded.tokens.tolist() == blocks.tokens.tolist()
    counts = (loaded.num_documents, loaded.num_tokens, loaded.num_dropped, loaded.num_characters)
    assert counts == (2, 8, 2, 11) and loaded.documents.tolist() == [0, 4] and loaded.vocabulary == "abc0"


def test_blocks_keep_the_fingerprint_of_their_tokenizer(tmp_path):
    tokenizer, other = abc_tokenizer(), train_tokenizer(["abcd"], kind="character")
    blocks = pack_documents(["abcabc", "bca"], tokenizer, 4)
    assert blocks.vocabulary == vocabulary_fingerprint(tokenizer) != vocabulary_fingerprint(other)
    for made in (blocks.draw(2, 0), blocks.cut_again(2), *blocks.hold_out(0.5)):
        assert made.vocabulary == blocks.vocabulary
    PreparedCorpus(tokenizer, replace(blocks, vocabulary=""), blocks).save(tmp_path)
    assert PreparedCorpus.load(tmp_path).train.vocabulary == blocks.vocabulary
    other.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="blocks must be made with the corpus's tokenizer, got train blocks of vocab"):
        PreparedCorpus.load(tmp_path)


def test_loading_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        load_blocks(tmp_path / "missing")
    (tmp_path / "text").write_text("not safetensors at all")
    with pytest.raises(ValueError, match="text.* must be a whole safetensors file"):
        load_blocks(tmp_path / "text")
    save_file({"weight": torch.zeros(2)}, tmp_path / "model")
    with pytest.raises(ValueError, match="format must be 'edlm-token-blocks-1', got None in .*model"):
        load_blocks(tmp_path / "model")


@pytest.mark.parametrize(
    "tokens, num_tokens", [(torch.zeros(6, dtype=torch.long), 8), (torch.zeros(2, 3, dtype=torch.long), 7)]
)
def test_blocks_whose_counts_disagree_are_refused(tokens, num_tokens):
    with pytest.raises(ValueError, match=r"tokens must be \[num_blocks, length\], .* 2 dropped"):
        TokenBlocks(tokens, 1, num_tokens, 2, 5)
    with pytest.raises(ValueError, match=r"one for each block, got \[3\] for 2 blocks"):
        TokenBlocks(torch.zeros(2, 3, dtype=torch.long), 1, 6, 0, 5, torch.tensor([0, 0, 1]))


def test_drawn_blocks_are_distinct_and_of_all_documents():
    blocks = TokenBlocks(torch.arange(40).view(20, 2), 10, 40, 0, 80, torch.arange(20) // 2)
    drawn = blocks.draw(12, seed=1)
    assert torch.equal(drawn.tokens[:, 0] // 4, drawn.documents) and drawn.tokens[:, 0].unique().numel() == 12
    assert (drawn.num_tokens, drawn.num_characters, drawn.num_documents) == (24, 48, 10)
    assert torch.equal(drawn.tokens, blocks.draw(12, seed=1).tokens)
    assert not torch.equal(drawn.tokens, blocks.draw(12, seed=2).tokens)
    assert drawn.tokens[:6].max() > 20 > drawn.tokens[:6].min()  # in random order
    assert sorted(blocks.draw(99, seed=1).tokens[:, 0].tolist()) == list(range(0, 40, 2))


def test_the_last_blocks_are_held_out_with_their_documents():
    blocks = TokenBlocks(torch.arange(40).view(20, 2), 10, 41, 1, 80, torch.arange(20) // 2)
    train, valid = blocks.hold_out(0.25)
    assert torch.equal(torch.cat([train.tokens, valid.tokens]), blocks.tokens) and len(valid.tokens) == 5
    assert (train.num_documents, valid.num_documents) == (8, 3)  # document 7 is on both sides
    assert (valid.num_tokens, valid.num_dropped, valid.num_characters) == (10, 0, 20)
    for fraction, size in ((1e-9, 1), (0.999, 19)):
        assert len(blocks.hold_out(fraction)[1].tokens) == size
    for wrong in (0, 1, math.nan):
        with pytest.raises(ValueError, match=rf"fraction must be in \(0, 1\) .*, got {wrong} and 20 blocks of 2"):
            blocks.hold_out(wrong)
    with pytest.raises(ValueError, match="text fill two blocks to hold one out, got 0.5 and 1 blocks of 2 tokens"):
        blocks.hold_out(1e-9)[1].hold_out(0.5)


# Real text


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data/tinystories")
def test_split_of_one_twentieth_gives_back_the_files_of_tinystories():
    train, valid = read_documents(DATA / "train.txt"), read_documents(DATA / "valid.txt")
    assert len(train) == 6675
    mixed = random.Random(2).sample(train + valid, len(train) + len(valid))
    again = split_documents(mixed, 0.05)
    assert sorted(again[0]) == sorted(train) and sorted(again[1]) == sorted(valid)


def test_rows_of_few_documents_are_clustered_by_stretches():
    tokens = torch.arange(200).view(100, 2)
    few = TokenBlocks(tokens, 3, 200, 0, 200, torch.arange(100) * 3 // 100)
    many = TokenBlocks(tokens, 50, 200, 0, 200, torch.arange(100) // 2)
    assert many.with_stretches() is many and few.tokens is few.with_stretches().tokens
    stretches = few.with_stretches().documents
    assert len(stretches.unique()) == 32 and stretches.diff().min() == 0 and stretches.diff().max() == 1
    counts = torch.bincount(stretches)
    assert counts.min() == 3 and counts.max() == 4
    assert few._part(slice(5)).with_stretches().documents.tolist() == [0, 1, 2, 3, 4]


def test_a_row_with_more_cells_than_columns_is_refused(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("id,text\n1,a\n2,Once, upon a time\n")
    with pytest.raises(ValueError, match="at most the 2 columns of the first line, got 3 in .*a.csv:3: put text"):
        read_documents(file)
    file.write_text("text,text\na,b\n")
    with pytest.raises(ValueError, match="text_field must be one column of .*a.csv, got several of 'text'"):
        read_documents(file)
    file.write_text('id,text\n1,"Once, upon a time"\n2,b,,\n')  # empty cells say nothing
    assert read_documents(file) == ["Once, upon a time", "b"]


def test_json_may_be_records_over_several_lines(tmp_path):
    path = tmp_path / "a.json"
    texts = ["a", "} {\n]", '"[', "\\", "\u2028é", "f"]
    records = [json.dumps({"text": text, "more": [{"n": 1}, []]}, indent=i % 3) for i, text in enumerate(texts)]
    for between in ("\n", "", " \n\n "):  # as json.dump leaves them, with and without an end of line
        path.write_text(between.join(records))
        assert read_documents(path) == texts
    path.write_text("\n".join([records[0], f"[{records[1]},\n{records[2]}]", *records[3:]]))
    assert read_documents(path) == texts
    for last, rule in (
        ('{\n"text": 5\n}', r"each record must have .*a\.json:10 \(record 2\)"),
        ('{\n"text": "b"', r"JSON must be valid, got Expecting ',' delimiter in .*a\.json:11$"),
        ('{\n"text": "b\n}', r"JSON must be valid, got Unterminated string starting at in .*a\.json:11$"),
        ("},\n{}", r"JSON must be valid, got Expecting value in .*a\.json:10$"),
    ):
        path.write_text(json.dumps({"text": "a", "n": [{"n": 1}, []]}, indent=1) + "\n" + last)
        with pytest.raises(ValueError, match=rule):
            read_documents(path)


def test_json_is_read_value_by_value(tmp_path):
    """Not all of the file before its first record."""
    path = tmp_path / "a.json"
    path.write_text((json.dumps({"text": "a"}, indent=1) + "\n") * 1000 + "{")
    documents = iterate_documents(path)
    assert [next(documents) for _ in range(1000)] == ["a"] * 1000
    with pytest.raises(ValueError, match=r"JSON must be valid, got .* in .*a\.json:3001$"):
        next(documents)


def test_json_may_be_one_record_over_several_lines(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"text": "a"}, indent=2))
    (tmp_path / "b.json").write_text('{"text": "b"}\n{"text": "c"}\n')
    assert read_documents(tmp_path) == ["a", "b", "c"]
    (tmp_path / "a.json").write_text('{\n"text": "a"\n')
    with pytest.raises(ValueError, match="JSON must be valid, got Expecting ',' delimiter in .*a.json:2"):
        read_documents(tmp_path / "a.json")
