"""Corpora that are written as a stream: the blocks of all documents at once; kept, streamed, stopped and resumed."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from itertools import count
from pathlib import Path

import datasets
import pytest
import torch
from safetensors import safe_open

from edlm.cli import main
from edlm.corpus import preparation
from edlm.corpus.blocks import COUNTS, load_blocks
from edlm.corpus.packing import Packer, PackerState, pack_documents
from edlm.corpus.preparation import cache_folder, prepare_text
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.recipe import Recipe, TextConfig
from edlm.corpus.streaming import iterate_windows
from edlm.corpus.text import read_documents, split_documents, train_tokenizer
from edlm.corpus.writing import write_corpus
from edlm.training.checkpoints import fingerprint

ROOT = Path(__file__).resolve().parents[2]
ABC = train_tokenizer(["abcdef"], kind="character", vocab_size=64)  # separator 0, mask 1, unknown 2, a 3


def some_documents(number, seed=0, longest=40):
    chance = random.Random(seed)
    return ["".join(chance.choices("abcdef", k=chance.randint(1, longest))) for _ in range(number)]


def text_file(path, documents):
    path.write_text("\n<|endoftext|>\n".join(documents))
    return path


def assert_same(blocks, other, documents=True):
    assert torch.equal(blocks.tokens.long(), other.tokens.long()) and blocks.vocabulary == other.vocabulary
    assert [getattr(blocks, name) for name in COUNTS] == [getattr(other, name) for name in COUNTS]
    if documents:
        assert blocks.documents.tolist() == other.documents.tolist()


# Packing


@pytest.mark.parametrize("never", [None, [1, 4]])
@pytest.mark.parametrize("length", [1, 3, 16, 100])
def test_packing_is_that_of_one_stream_of_characters(length, never):
    documents = some_documents(200)
    ids = {letter: 3 + i for i, letter in enumerate("abcdef")}
    stream, owners = [0], [0]
    for i, text in enumerate(documents):
        kept = [ids[letter] for letter in text if ids[letter] not in (never or [])]
        stream, owners = [*stream, *kept, 0], [*owners, *[i] * (len(kept) + 1)]
    size = len(stream) // length
    blocks = pack_documents(documents, ABC, length, never)
    assert blocks.tokens.flatten().tolist() == stream[: size * length]
    assert (blocks.num_documents, blocks.num_tokens) == (200, len(stream))
    assert blocks.num_characters == sum(token != 0 for token in stream[: size * length])
    for row, owner in enumerate(blocks.documents.tolist()):
        shares = Counter(owners[row * length : (row + 1) * length])
        assert shares[owner] == max(shares.values())


@pytest.mark.parametrize("seed", range(5))
def test_a_packer_that_is_stopped_anywhere_packs_the_same(seed):
    documents, chance, pieces = some_documents(60, seed), random.Random(seed), []
    expected, state = pack_documents(documents, ABC, 8, [1, 5]), None
    while documents:
        packer, taken = Packer(ABC, 8, [1, 5]), chance.randint(1, 9)
        packer.state = packer.state if state is None else PackerState.restored(json.loads(state))
        packer.add(documents[:taken], lambda tokens, owners: pieces.append((tokens, owners)))
        documents, state = documents[taken:], json.dumps(vars(packer.state))
    tokens, owners = (torch.cat([torch.from_numpy(part[i]) for part in pieces]) for i in (0, 1))
    assert torch.equal(tokens, expected.tokens) and torch.equal(owners, expected.documents)
    assert packer.counts() == {name: getattr(expected, name) for name in COUNTS}


# Folders


def test_the_folder_holds_the_blocks_of_documents_packed_at_once(tmp_path):
    documents = some_documents(300)
    config = TextConfig(source=str(text_file(tmp_path / "a.txt", documents)), length=16, vocab_size=270)
    corpus = prepare_text(config, folder=tmp_path / "c")
    train, valid = split_documents(documents, 0.05)
    tokenizer = train_tokenizer(train, vocab_size=270)
    assert corpus.tokenizer.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert_same(corpus.train, pack_documents(train, tokenizer, 16).cut_again(1), documents=False)
    assert_same(corpus.valid, pack_documents(valid, tokenizer, 16))
    loaded = PreparedCorpus.load(tmp_path / "c")
    assert loaded.train.tokens.dtype == torch.int64 and corpus.train.tokens.dtype == torch.uint16
    assert fingerprint(loaded.train.tokens) == fingerprint(corpus.train.tokens)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        *("tokenizer", "train.safetensors", "valid.safetensors")
    ]
    cuts = prepare_text(replace(config, num_cuts=3), ABC, folder=tmp_path / "d")
    assert_same(cuts.train, pack_documents(train, ABC, 16).cut_again(3), documents=False)
    for name in ("train", "valid"):  # the same layout as that of blocks that are saved at once
        corpus.save(tmp_path / "saved")
        with (
            safe_open(tmp_path / "saved" / f"{name}.safetensors", "pt") as one,
            safe_open(tmp_path / "c" / f"{name}.safetensors", "pt") as other,
        ):
            assert one.metadata() == other.metadata() and list(one.offset_keys()) == list(other.offset_keys())


def test_text_ends_with_the_document_that_fills_max_tokens(tmp_path):
    documents = some_documents(300)
    config = TextConfig(source=str(text_file(tmp_path / "a.txt", documents)), length=4, valid_fraction=0.3)
    corpus = prepare_text(replace(config, max_tokens=500), ABC, folder=tmp_path / "c")
    train, size = split_documents(documents, 0.3)[0], 1
    number = next(i for i, text in enumerate(train, start=1) if (size := size + len(text) + 1) >= 500)
    assert_same(corpus.train, pack_documents(train[:number], ABC, 4).cut_again(1), documents=False)
    assert corpus.valid.num_documents > 5


def test_a_failed_preparation_leaves_the_corpus_that_was_there(tmp_path, capsys):
    source = text_file(tmp_path / "a.txt", some_documents(100))
    words = ["prepare", "corpus", "--output_dir", str(tmp_path / "c"), "--length", "16", "--vocab_size", "270"]
    assert main([*words, "--source", str(source)]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "c").rglob("*") if path.is_file()}
    (tmp_path / "b.txt").write_bytes(source.read_bytes() + b"\n\xff")
    assert main([*words, "--source", str(tmp_path / "b.txt")]) == 2
    assert "a text file must be UTF-8, got a bad byte (0xff) in" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "c").rglob("*") if path.is_file()} == before


# The cache


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Recipes of which a corpus was written, in a cache of the test's own."""
    recipes = []

    def counted(recipe, folder):
        recipes.append(recipe)
        return write_corpus(recipe, folder)

    monkeypatch.setenv("EDLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preparation, "write_corpus", counted)
    return recipes


def test_a_corpus_is_found_by_the_bytes_of_its_text_and_all_options(tmp_path, made):
    source = text_file(tmp_path / "a.txt", some_documents(100))
    config = TextConfig(source=str(source), length=16)
    first = prepare_text(config, ABC)
    os.utime(source, (1, 1))
    source.rename(tmp_path / "b.txt")
    again = prepare_text(replace(config, source=str(tmp_path / "b.txt")), ABC)
    assert len(made) == 1
    assert_same(first.train, again.train, documents=False)
    config = replace(config, source=str(tmp_path / "b.txt"))
    other = train_tokenizer(["abcdefg"], kind="character")
    for number, (changed, tokenizer, never) in enumerate(
        [
            (replace(config, length=8), ABC, None),
            (config, other, None),
            (config, ABC, [1, 3]),
            (replace(config, valid_fraction=0.2), ABC, None),
            (replace(config, valid_source=config.source), ABC, None),
        ],
        start=2,
    ):
        prepare_text(changed, tokenizer, never)
        prepare_text(changed, tokenizer, never)
        assert len(made) == number
    text = (tmp_path / "b.txt").read_text()
    (tmp_path / "b.txt").write_text(("b" if text[0] == "a" else "a") + text[1:])
    assert not torch.equal(prepare_text(config, ABC).train.tokens, first.train.tokens) and len(made) == 7


def test_a_folder_and_a_saved_data_set_are_found_by_their_files(tmp_path, made):
    (tmp_path / "a").mkdir()
    for i in range(2):
        text_file(tmp_path / "a" / f"{i}.txt", some_documents(50, i))
    for name, documents in (("s", some_documents(100)), ("t", some_documents(100, 1))):
        datasets.Dataset.from_dict({"text": documents}).save_to_disk(tmp_path / name)
    for number, name in enumerate("ast", start=1):
        for _ in range(2):
            prepare_text(TextConfig(source=str(tmp_path / name), length=16), ABC)
        assert len(made) == number
    (tmp_path / "a" / "notes.pdf").write_text("not read")
    prepare_text(TextConfig(source=str(tmp_path / "a"), length=16), ABC)
    assert len(made) == 3
    (tmp_path / "a" / "1.txt").rename(tmp_path / "a" / "-1.txt")  # another order
    prepare_text(TextConfig(source=str(tmp_path / "a"), length=16), ABC)
    assert len(made) == 4


def test_one_writer_makes_the_corpus_and_the_others_wait_for_it(tmp_path, made):
    config, corpora = TextConfig(source=str(text_file(tmp_path / "a.txt", some_documents(3000)))), []
    threads = [threading.Thread(target=lambda: corpora.append(prepare_text(config, ABC))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(corpora) == 3
    assert len({fingerprint(corpus.train.tokens) for corpus in corpora}) == 1


def test_what_a_killed_process_left_in_the_cache_is_made_again(tmp_path, made):
    config = TextConfig(source=str(text_file(tmp_path / "a.txt", some_documents(100))), length=16)
    expected = fingerprint(prepare_text(config, ABC, folder=tmp_path / "c").train.tokens)
    for number in count(1):
        code = forked(lambda: prepare_text(config, ABC), die_at_sync=number)
        (folder,) = cache_folder().iterdir()
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert number > 2 and fingerprint(load_blocks(folder / "train.safetensors").tokens) == expected


# Streaming


def forked(call, die_at_sync):
    """Exit code of a process that calls, and gets SIGKILL when it puts a file on disk for the n-th time."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code, sync, calls = 1, os.fsync, count(1)
    try:
        os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == die_at_sync else sync(file)
        call()
        code = 0
    finally:
        os._exit(code)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """A saved data set of 500 rows, two of them without text."""
    path = tmp_path_factory.mktemp("set") / "saved"
    rows = [*some_documents(498, 3), "", None]
    random.Random(0).shuffle(rows)
    datasets.Dataset.from_dict({"text": rows, "n": range(500)}).save_to_disk(path)
    return path


def test_windows_are_the_same_from_every_position(streamed):
    windows = [*iterate_windows(str(streamed), None, "text", 120, 7)]
    documents = [text for window in windows for text in window.documents]
    assert sorted(documents) == sorted(read_documents(streamed)) and documents != read_documents(streamed)
    for i, window in enumerate(windows):
        position = json.loads(json.dumps(window.end))
        assert [*iterate_windows(str(streamed), None, "text", 120, 7, position)] == windows[i + 1 :]
    other = next(iterate_windows(str(streamed), None, "text", 120, 8))
    assert other != windows[0]


def test_a_streamed_corpus_is_the_same_wherever_it_was_killed(streamed, tmp_path):
    config = TextConfig(source=str(streamed), streaming=True, shuffle_buffer=150, length=8, valid_fraction=0.2)
    config = replace(config, max_tokens=5000)
    recipe, kills = Recipe(config, ABC), 0
    write_corpus(recipe, tmp_path / "whole")
    for number in count(1):
        folder = tmp_path / str(number)
        if forked(lambda: write_corpus(recipe, folder), die_at_sync=number) == 0:  # noqa: B023
            break
        has_position = (folder / "unfinished" / "position.json").exists()
        kills += has_position
        if has_position:  # it goes on, and does not begin anew
            other = Recipe(replace(config, length=4), ABC)
            with pytest.raises(
                ValueError, match="unfinished must be of the same options, got others of length: remove"
            ):
                write_corpus(other, folder)
        write_corpus(recipe, folder)
        for name in ("train", "valid"):
            name = f"{name}.safetensors"
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert kills > 10
    train = load_blocks(tmp_path / "whole" / "train.safetensors")
    assert 4990 < train.num_tokens < 5040


def test_the_command_streams_files_and_trains_its_tokenizer(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    (tmp_path / "set").mkdir()
    for part in range(3):
        lines = [json.dumps({"text": text}) for text in some_documents(100, part)]
        (tmp_path / "set" / f"train-{part}.jsonl").write_text("\n".join(lines))
    words = ["prepare", "corpus", "--streaming", "--source", str(tmp_path / "set"), "--split", "train"]
    words += ["--output_dir", str(tmp_path / "c"), "--length", "8", "--vocab_size", "270", "--shuffle_buffer", "50"]
    assert main(words) == 0
    corpus = PreparedCorpus.load(tmp_path / "c")
    assert corpus.train.num_documents + corpus.valid.num_documents == 300
    texts = corpus.tokenizer.decode(corpus.train.tokens.flatten()).split("<|endoftext|>")[1:-1]
    whole = {text for part in range(3) for text in some_documents(100, part)}
    assert {*texts} <= whole and len(texts) > 250
    capsys.readouterr()
    assert main([*words, "--text_field", "story"]) == 2
    assert "text_field must be a text column of" in capsys.readouterr().err


# Memory

MEASURED = """
import resource, sys
from edlm.cli import main
assert main(["prepare", "corpus", *sys.argv[1:]]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_peak_memory_does_not_depend_on_the_size_of_the_text(tmp_path):
    chance, peaks = random.Random(0), []
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(1, 9))) for _ in range(5000)]
    train_tokenizer(words, vocab_size=2048).save_pretrained(tmp_path / "tokenizer")
    for megabytes in (4, 40):
        with (tmp_path / "a.txt").open("w") as file:
            for _ in range(megabytes * 1000):  # of about a kilobyte
                file.write(" ".join(chance.choices(words, k=170)) + "\n<|endoftext|>\n")
        options = {"source": tmp_path / "a.txt", "output_dir": tmp_path / "c", "tokenizer": tmp_path / "tokenizer"}
        argv = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", MEASURED, *argv]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < 1.1 * peaks[0]
