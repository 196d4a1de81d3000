"""Cheap stand-ins for a sequence error rate on text, where no truth is known: unknown words and repetitions.

They see spelling and loops, nothing of grammar or sense: text that scores 0 in both may still be nonsense.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from edlm.evaluation.estimates.estimate import Estimate, mean_of, ratio_of

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words_of(text: str) -> list[str]:
    """Words of a text: runs of letters, apostrophes inside of them, in lower case.

    Example:
        >>> words_of("Tim didn't go. He'd 2 dogs, one's BIG!")
        ['tim', "didn't", 'go', "he'd", 'dogs', "one's", 'big']
    """
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def known_words(texts: Sequence[str], *, least: int = 1) -> frozenset[str]:
    """Words that stand in the texts at least ``least`` times: the vocabulary of a training corpus.

    Raises:
        ValueError: ``texts`` is one string, or holds no word.
    """
    _check_texts(texts)
    counts: dict[str, int] = {}
    for text in texts:
        for word in words_of(text):
            counts[word] = counts.get(word, 0) + 1
    if not counts:
        raise ValueError(f"texts must hold words, got {len(texts)} texts without any")
    return frozenset(word for word, count in counts.items() if count >= least)


def unknown_text_rate(texts: Sequence[str], vocabulary: Collection[str], *, cut: bool = True) -> Estimate:
    """Share of texts with a word outside of a vocabulary; a cheap stand-in for an error rate, low = good.

    Args:
        texts: Samples, at least one.
        vocabulary: Words in lower case, see `known_words`; a set.
        cut: Texts are cut out of running text: their first and last word may be parts of words, and do not count.

    Returns:
        With its standard error over texts.

    Raises:
        ValueError: no texts, ``texts`` is one string, or the vocabulary is empty.

    Note:
        Data have a share of their own, which depends on the size of the vocabulary: always give that of held-out
        text beside it. Longer texts have more words, so compare texts of one length.

    Example:
        >>> known = known_words(["a cat sat on the mat"])
        >>> unknown_text_rate(["the cat sat", "the czt sat", "on a mat", "the cat spt"], known, cut=False).value
        0.5
    """
    unknown, _ = _unknown(texts, vocabulary, cut)
    return mean_of((unknown > 0).double())


def unknown_word_rate(texts: Sequence[str], vocabulary: Collection[str], *, cut: bool = True) -> Estimate:
    """Share of all words that are outside of a vocabulary; for the rest see `unknown_text_rate`.

    It tells texts apart of which each has an unknown word, and does not grow with their length.

    Raises:
        ValueError: also where the texts have no words that count.

    Example:
        >>> known = known_words(["a cat sat on the mat"])
        >>> unknown_word_rate(["the cat sat", "the czt sat", "on a mat", "the cat"], known, cut=False).value
        0.09090909090909091
    """
    unknown, words = _unknown(texts, vocabulary, cut)
    if not words.any():
        which = "words beside their first and last" if cut else "words"
        raise ValueError(f"texts must hold {which}, got none in {len(texts)} texts")
    return ratio_of(unknown, words)


def _unknown(texts: Sequence[str], vocabulary: Collection[str], cut: bool) -> tuple[Tensor, Tensor]:
    """Unknown words, and all words, of each text, ``[n]``."""
    _check_texts(texts)
    if not vocabulary:
        raise ValueError("vocabulary must hold words, got none")
    counted = [words_of(text)[1:-1] if cut else words_of(text) for text in texts]
    unknown = [sum(word not in vocabulary for word in words) for words in counted]
    return torch.tensor(unknown), torch.tensor([len(words) for words in counted])


def repeated_ngram_rate(texts: Sequence[str], n: int = 4) -> Estimate:
    """Share of a text's n-grams of words that stood in the same text before; a cheap stand-in, low = good.

    Args:
        texts: Samples, at least one.
        n: Words of an n-gram, >= 1.

    Returns:
        Estimate over texts (0 for a text of fewer than ``n`` words) with its standard error.

    Raises:
        ValueError: no texts, ``texts`` is one string, or ``n`` is below 1.

    Note:
        Grows with the length of texts, and is not 0 for data: give that of held-out text beside it.

    References:
        seq-rep-n of Welleck et al. 2020, arXiv:1908.04319.

    Example:
        >>> repeated_ngram_rate(["to be or not to be"], n=2).value  # "to be" again: 1 of 5
        0.2
    """
    _check_texts(texts)
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    shares = []
    for text in texts:
        words = words_of(text)
        ngrams = list(zip(*(words[i:] for i in range(n)), strict=False))
        shares.append((len(ngrams) - len(set(ngrams))) / max(1, len(ngrams)))
    return mean_of(torch.tensor(shares, dtype=torch.float64))


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"texts must be at least one text in a list, got {texts[:40]!r}")
