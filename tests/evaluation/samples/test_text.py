"""Texts as a judge reads them, tokens of their words, and diversity against counting by hand."""

import math
from collections import Counter

import pytest
import torch

from edlm import load_denoiser
from edlm.denoisers import FunctionDenoiser
from edlm.evaluation.samples.text import distinct_n, texts_of, tokens_per_word, unigram_entropy

STORY = "Once upon a time, there was a hippopotamus named Zebulon. He was happy."


@pytest.fixture(scope="module")
def denoiser():
    return load_denoiser("tinystories")


def tokens(denoiser, text) -> torch.Tensor:
    return torch.tensor([denoiser.tokenizer(text, add_special_tokens=False)["input_ids"]])


@pytest.mark.parametrize("width", [1, 2, 3])
def test_tokens_per_word_counts_a_word_across_blocks_once(denoiser, width):
    whole = tokens(denoiser, STORY)
    whole = whole[:, : whole.shape[1] // 6 * 6]
    words = len(denoiser.tokenizer.decode(whole[0]).split())
    assert whole.numel() > words + 5  # some words have several tokens
    assert tokens_per_word(denoiser, whole.reshape(-1, width)) == whole.numel() / words


def test_tokens_per_word_ends_words_at_document_separators(denoiser):
    whole = tokens(denoiser, "A cat.<|endoftext|>A dog ran.")
    assert tokens_per_word(denoiser, whole) == whole.numel() / 5
    bare = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 3), 3, 3)
    assert tokens_per_word(bare, torch.zeros(2, 3, dtype=torch.long)) is None
    assert tokens_per_word(denoiser, tokens(denoiser, "\n\n")) is None


def test_texts_of_keeps_or_replaces_blanks_and_separators(denoiser):
    text = " A cat.<|endoftext|> A dog ran\n"
    assert texts_of(denoiser, tokens(denoiser, text), None) == [text]
    assert texts_of(denoiser, tokens(denoiser, text)) == ["A cat.\n\n A dog ran"]
    assert texts_of(denoiser, tokens(denoiser, text), " | ") == ["A cat. |  A dog ran"]


def random_tokens(num_symbols, shape=(9, 31), seed=0):
    return torch.randint(num_symbols, shape, generator=torch.Generator().manual_seed(seed))


def counted_entropy(row):
    shares = [count / len(row) for count in Counter(row).values()]
    return -sum(p * math.log(p) for p in shares)


@pytest.mark.parametrize("num_symbols", [1, 2, 5, 40, 50_000])
def test_unigram_entropy_is_that_of_the_counts_of_each_row(num_symbols):
    tokens = random_tokens(num_symbols)
    expected = torch.tensor([counted_entropy(row) for row in tokens.tolist()], dtype=torch.float64)
    torch.testing.assert_close(unigram_entropy(tokens), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_unigram_entropy_of_equal_and_of_different_tokens(length):
    same, different = torch.full((length,), 3), torch.randperm(length, generator=torch.Generator().manual_seed(0))
    entropy = unigram_entropy(torch.stack([same, different]))
    torch.testing.assert_close(entropy, torch.tensor([0.0, math.log(length)], dtype=torch.float64), rtol=0, atol=1e-12)
    assert entropy[0] == 0


def test_unigram_entropy_ignores_the_order():
    tokens = random_tokens(6)
    torch.testing.assert_close(unigram_entropy(tokens), unigram_entropy(tokens.flip(1)))
    assert unigram_entropy(tokens[:0]).shape == (0,)


def counted_distinct(rows, n):
    ngrams = [tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)]
    return len(set(ngrams)) / len(ngrams)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 31])
@pytest.mark.parametrize("num_symbols", [1, 2, 7, 50_000])
def test_distinct_n_counts_the_ngrams_of_all_rows(num_symbols, n):
    tokens = random_tokens(num_symbols, seed=n)
    assert distinct_n(tokens, n) == counted_distinct(tokens.tolist(), n)


def test_distinct_n_never_crosses_rows():
    tokens = torch.tensor([[1, 2], [3, 4]])  # 2 3 is no bigram
    assert distinct_n(tokens, 2) == 1.0
    assert distinct_n(torch.tensor([[1, 2], [1, 2]]), 2) == 0.5  # rows count together
    assert distinct_n(torch.tensor([[1, 2, 3]]), 2) == distinct_n(torch.tensor([[2, 1, 2]]), 2) == 1.0  # order counts


def test_diversity_refuses_other_shapes():
    with pytest.raises(ValueError, match="rows of at least 4"):
        distinct_n(random_tokens(5, (9, 3)), 4)
    with pytest.raises(ValueError, match="n must be >= 1"):
        distinct_n(random_tokens(5), 0)
    with pytest.raises(ValueError, match="at least one row, got none"):
        distinct_n(random_tokens(5)[:0], 2)
    with pytest.raises(ValueError, match="rows of at least 1"):
        unigram_entropy(random_tokens(5)[:, :0])
    for measure in (unigram_entropy, lambda tokens: distinct_n(tokens, 1)):
        with pytest.raises(ValueError, match="got shape"):
            measure(random_tokens(5)[0])
