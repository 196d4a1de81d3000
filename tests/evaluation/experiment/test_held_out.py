"""Held-out text: cut as a corpus is, and what is corrupt is named by file and line."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch

from edlm import load_denoiser
from edlm.cli import main
from edlm.corpus.blocks import load_blocks, save_blocks
from edlm.corpus.packing import pack_documents
from edlm.corpus.text import read_documents
from edlm.denoisers import FunctionDenoiser
from edlm.denoisers.loading import SHIPPED
from edlm.evaluation.experiment.lab import load_held_out

STORIES = [f"Once upon a time, there were {i} cats. " * 20 for i in range(1, 9)]


@pytest.fixture(scope="module")
def denoiser():
    return load_denoiser("tinystories")


def test_held_out_text_is_cut_into_blocks(denoiser, tmp_path):
    lines, plain = tmp_path / "a.jsonl", tmp_path / "a.txt"
    lines.write_text("".join(json.dumps({"text": story}) + "\n" for story in STORIES))
    plain.write_text("\n<|endoftext|>\n".join(STORIES))
    expected = pack_documents(STORIES, denoiser.tokenizer, 128)
    for path in (lines, plain):
        found = load_held_out(path, denoiser)
        assert torch.equal(found.tokens, expected.tokens) and found.num_characters == expected.num_characters
    assert load_held_out(lines, denoiser, 32).tokens.shape[1] == 32


@pytest.mark.parametrize(("is_framed", "length"), [(True, 17), (False, 20)])
def test_held_out_blocks_leave_room_for_framing_tokens(denoiser, tmp_path, is_framed, length):
    path = tmp_path / "a.txt"
    path.write_text(STORIES[0])
    framed = copy.copy(denoiser)
    framed.max_length = 20
    framed.prefix_ids, framed.suffix_ids, framed.is_framed = (0, 1), (1,), is_framed
    assert load_held_out(path, framed).tokens.shape[1] == length


@pytest.mark.parametrize("eos", ["<|endoftext|>", " the"])
def test_held_out_text_holds_the_documents_of_a_corpus(eos, denoiser, tmp_path):
    path, of_another = tmp_path / "a.txt", copy.copy(denoiser)
    of_another.tokenizer = copy.deepcopy(denoiser.tokenizer)
    of_another.tokenizer.eos_token = eos
    for separator in ("<|endoftext|>", "the"):
        path.write_text(f"\n{separator}\n".join(STORIES))
        num_documents = load_held_out(path, of_another, 20).num_documents
        assert num_documents == len(read_documents(path)) == (8 if separator == "<|endoftext|>" else 1)


def test_held_out_blocks_of_another_tokenizer_are_refused(denoiser, tmp_path):
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in STORIES * 8))
    options = ["--source", tmp_path / "t.jsonl", "--output_dir", tmp_path, "--vocab_size", 300, "--length", 32]
    assert main(["prepare", "corpus", *map(str, options)]) == 0
    with pytest.raises(ValueError, match="blocks must be made with the tokenizer of the denoiser, got vocabularies"):
        load_held_out(tmp_path, denoiser)
    blocks = replace(load_blocks(tmp_path / "valid.safetensors"), vocabulary="")  # as of an earlier version
    save_blocks(blocks, tmp_path / "valid.safetensors")
    wrong = replace(blocks, tokens=blocks.tokens.index_fill(1, torch.tensor([3]), denoiser.mask_token_id))
    assert torch.equal(load_held_out(tmp_path, denoiser).tokens, blocks.tokens)
    save_blocks(wrong, tmp_path / "valid.safetensors")
    with pytest.raises(ValueError, match=rf"rules out, got {len(blocks.tokens)} of '<\|mask\|>' \(id 1\): prepare"):
        load_held_out(tmp_path, denoiser)


def test_held_out_blocks_of_a_prepared_folder(denoiser, tmp_path):
    shutil.copy(SHIPPED / "tinystories" / "valid.safetensors", tmp_path)
    assert torch.equal(load_held_out(tmp_path, denoiser).tokens, load_blocks(tmp_path / "valid.safetensors").tokens)


def test_held_out_blocks_are_read_as_they_are(denoiser):
    path = SHIPPED / "tinystories" / "valid.safetensors"
    for length in (None, 128):
        assert torch.equal(load_held_out(path, denoiser, length).tokens, load_blocks(path).tokens)
    with pytest.raises(ValueError, match=f"length must be that of the blocks, 128, .* got 64 with {path}"):
        load_held_out(path, denoiser, 64)


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"text": "cut off', "JSON must be valid, got"), ('{"story": "a"}', "must have valid Unicode text in 'text'")],
)
def test_held_out_corrupt_line_is_named(denoiser, tmp_path, line, said):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*(json.dumps({"text": story}) for story in STORIES[:3]), line, '{"text": "b"}']))
    with pytest.raises(ValueError, match=said) as error:
        load_held_out(path, denoiser)
    assert f"{path}:4" in str(error.value)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_held_out_bad_byte_is_named(denoiser, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'{"text": "good"}\n{"text": "good"}\n{"text": "b\xffd"}\n')
    with pytest.raises(ValueError, match=r"must be UTF-8, got a bad byte \(0xff\) in .*:3$"):
        load_held_out(path, denoiser)


def test_held_out_truncated_or_missing_file_is_named(denoiser, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((SHIPPED / "tinystories" / "valid.safetensors").read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"{path} must be a whole safetensors file"):
        load_held_out(path, denoiser)
    with pytest.raises(FileNotFoundError, match="source must be an existing file .*, got .*no.jsonl"):
        load_held_out(tmp_path / "no.jsonl", denoiser)
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(ValueError, match="short.txt: documents must fill one block of 128 tokens"):
        load_held_out(tmp_path / "short.txt", denoiser)


def test_held_out_text_needs_a_tokenizer_and_a_length(tmp_path, denoiser):
    path = tmp_path / "a.txt"
    path.write_text("a")
    bare = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), 4, 4)
    with pytest.raises(ValueError, match="text needs a denoiser with a tokenizer, got"):
        load_held_out(path, bare)
    bare.tokenizer = denoiser.tokenizer
    with pytest.raises(ValueError, match="length must be given for text"):
        load_held_out(path, bare)
