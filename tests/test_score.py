"""`edlm score`: likelihoods of all texts sum to one; lines and table agree."""

import itertools
import json
import math

import pytest

from edlm import EnergySampler, load_denoiser
from edlm.cli import main
from edlm.evaluation.likelihood.text import TextBounds, row_to_score
from tests.denoisers.test_framing import denoiser_of, roberta, roberta_tokenizer

TEXTS = [" ".join(words) for words in itertools.product("abcd", repeat=2)]


@pytest.fixture
def folder(tmp_path):
    denoiser_of(roberta).network.save_pretrained(tmp_path / "denoiser")
    roberta_tokenizer().save_pretrained(tmp_path / "denoiser")
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return tmp_path


def score(folder, capsys, *words, data="texts.jsonl", code=0):
    names = ["--denoiser", str(folder / "denoiser"), "--data", str(folder / data), "--device", "cpu"]
    assert main(["score", *names, "--sampler.num_steps", "2", *words]) == code
    printed = capsys.readouterr()
    return [json.loads(line) for line in printed.out.splitlines()], printed.err


def test_likelihoods_of_all_texts_of_two_tokens_sum_to_one(folder, capsys):
    lines, table = score(folder, capsys)
    assert [line["text"] for line in lines] == TEXTS
    assert sum(math.exp(-line["nats"]) for line in lines) == pytest.approx(1.0, abs=1e-5)
    assert len({round(line["nats"], 3) for line in lines}) > 8
    for line in lines:
        assert line["exact"] and line["num_tokens"] == 2 and line["nats_per_token"] == line["nats"] / 2
        assert line["bits_per_char"] == pytest.approx(line["nats"] / 3 / math.log(2))
    assert f"{sum(line['nats'] for line in lines) / 32:.3f} ±" in table and "-log p of texts" in table


def test_a_bound_is_the_mean_of_its_draws_and_goes_to_a_file(folder, capsys):
    (folder / "two.txt").write_text("a b c d a b\n<|endoftext|>\nd c\n")
    options = ["--sampler.order", "random", "--num_draws", "3", "--seed", "7", "--output", str(folder / "out.jsonl")]
    assert score(folder, capsys, *options, data="two.txt")[0] == []
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    denoiser = load_denoiser(folder / "denoiser")
    sampler = EnergySampler(denoiser, num_steps=2, order="random")
    ids = denoiser.tokenizer([line["text"] for line in lines], add_special_tokens=False)["input_ids"]
    expected = TextBounds(sampler, num_draws=3).bounds([row_to_score(denoiser, [], row) for row in ids], [7, 8])
    assert [line["nats"] for line in lines] == pytest.approx(expected.tolist(), rel=1e-5)
    assert [line["num_tokens"] for line in lines] == [6, 2] and not any(line["exact"] for line in lines)


def test_a_text_that_cannot_be_written_has_no_number(folder, capsys, caplog):
    """Unknown words, and the mask, which some vocabularies hold as a piece of text."""
    (folder / "odd.jsonl").write_text('{"text": "a b"}\n{"text": "a z"}\n{"text": "a <mask>"}\n{"text": "c a"}')
    lines, table = score(folder, capsys, data="odd.jsonl")
    assert [line["nats"] is None for line in lines] == [False, True, True, False]
    assert lines[1]["num_tokens"] == 2 and "2 of 4 texts hold tokens that the model never writes" in caplog.text
    assert f"{(lines[0]['nats'] + lines[3]['nats']) / 4:.3f} ±" in table
    assert lines[3]["nats"] == pytest.approx(
        next(line["nats"] for line in score(folder, capsys)[0] if line["text"] == "c a")
    )
