"""Diversity of token rows, against counting by hand."""

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import edlm
from edlm.evaluation.samples.diversity import distinct_n, unigram_entropy


def random_tokens(num_symbols, shape=(9, 31), seed=0):
    return torch.randint(num_symbols, shape, generator=torch.Generator().manual_seed(seed))


def counted_entropy(row):
    shares = [count / len(row) for count in Counter(row).values()]
    return -sum(p * math.log(p) for p in shares)


@pytest.mark.parametrize("num_symbols", [1, 2, 5, 40, 50_000])
def test_the_entropy_is_that_of_the_counts_of_each_row(num_symbols):
    tokens = random_tokens(num_symbols)
    expected = torch.tensor([counted_entropy(row) for row in tokens.tolist()], dtype=torch.float64)
    torch.testing.assert_close(unigram_entropy(tokens), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_the_entropy_of_one_token_is_zero_and_that_of_all_different_ones_the_log_of_the_length(length):
    same, different = torch.full((length,), 3), torch.randperm(length, generator=torch.Generator().manual_seed(0))
    entropy = unigram_entropy(torch.stack([same, different]))
    torch.testing.assert_close(entropy, torch.tensor([0.0, math.log(length)], dtype=torch.float64), rtol=0, atol=1e-12)
    assert entropy[0] == 0


def test_the_entropy_ignores_the_order_and_leaves_the_tokens_alone():
    tokens = random_tokens(6)
    before = tokens.clone()
    torch.testing.assert_close(unigram_entropy(tokens), unigram_entropy(tokens.flip(1)))
    assert torch.equal(tokens, before)
    assert unigram_entropy(tokens[:0]).shape == (0,)


def counted_distinct(rows, n):
    ngrams = [tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)]
    return len(set(ngrams)) / len(ngrams)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 31])
@pytest.mark.parametrize("num_symbols", [1, 2, 7, 50_000])
def test_distinct_n_counts_the_ngrams_of_all_rows(num_symbols, n):
    tokens = random_tokens(num_symbols, seed=n)
    assert distinct_n(tokens, n) == counted_distinct(tokens.tolist(), n)


def test_ngrams_never_cross_rows():
    tokens = torch.tensor([[1, 2], [3, 4]])  # 2 3 is no bigram
    assert distinct_n(tokens, 2) == 1.0
    assert distinct_n(torch.tensor([[1, 2], [1, 2]]), 2) == 0.5  # rows count together
    assert distinct_n(torch.tensor([[1, 2, 3]]), 2) == distinct_n(torch.tensor([[2, 1, 2]]), 2) == 1.0  # order counts


def test_what_is_no_block_of_tokens_is_an_error():
    with pytest.raises(ValueError, match=r"rows of at least 4, \[n, length\], got shape \[9, 3\]"):
        distinct_n(random_tokens(5, (9, 3)), 4)
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        distinct_n(random_tokens(5), 0)
    with pytest.raises(ValueError, match="at least one row, got none"):
        distinct_n(random_tokens(5)[:0], 2)
    with pytest.raises(ValueError, match=r"rows of at least 1, \[n, length\], got shape \[9, 0\]"):
        unigram_entropy(random_tokens(5)[:, :0])
    for measure in (unigram_entropy, lambda tokens: distinct_n(tokens, 1)):
        with pytest.raises(ValueError, match=r"\[n, length\], got shape \[31\]"):
            measure(random_tokens(5)[0])


def test_the_module_needs_no_transformers():
    module = Path(edlm.__file__).parent / "evaluation" / "samples" / "diversity.py"
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(module)], check=True, cwd=Path(edlm.__file__).parent.parent)
