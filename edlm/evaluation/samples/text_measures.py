"""Measures of texts without a judge: unknown words, repetitions, and MAUVE against held-out text.

The first two are cheap proxies for a sequence error rate where no true law is known. They see spelling and loops,
neither grammar nor sense: text that scores 0 in both may still be nonsense.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import Self

from edlm.corpus.text import read_documents
from edlm.evaluation.estimates.estimate import Estimate, mean_of, ratio_of
from edlm.evaluation.samples.mauve import Featurizer, mauve_score

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words_in(text: str) -> Iterator[tuple[slice, str]]:
    """Places and words of a text: runs of letters, apostrophes inside of them, in lower case."""
    for found in _WORD.finditer(text):
        yield slice(*found.span()), found[0].lower().replace("’", "'")


def words_of(text: str) -> list[str]:
    """Words of a text, see `words_in`.

    Example:
        >>> words_of("Tim didn't go. He'd 2 dogs, one's BIG!")
        ['tim', "didn't", 'go', "he'd", 'dogs', "one's", 'big']
    """
    return [word for _, word in words_in(text)]


def known_words(texts: Sequence[str], *, least: int = 1) -> frozenset[str]:
    """Words that occur at least ``least`` times in the texts: the vocabulary of a training corpus.

    Raises:
        ValueError: ``texts`` is one string, or holds no word.
    """
    _check_texts(texts)
    counts = Counter(word for text in texts for word in words_of(text))
    if not counts:
        raise ValueError(f"texts must hold words, got {len(texts)} texts without any")
    return frozenset(word for word, count in counts.items() if count >= least)


def unknown_text_rate(texts: Sequence[str], vocabulary: Collection[str], *, cut: bool = True) -> Estimate:
    """Share of texts with a word outside of a vocabulary, low = good.

    Args:
        texts: Samples, at least one.
        vocabulary: Words in lower case, see `known_words`; a set.
        cut: Ignore the first and last word of each text, which may be parts of words: texts are cut from running text.

    Returns:
        With its standard error over texts.

    Raises:
        ValueError: no texts, ``texts`` is one string, or the vocabulary is empty.

    Note:
        Not 0 for data, and dependent on the size of the vocabulary: compare it with that of held-out text of the same
        length, since longer texts have more words.

    Example:
        >>> known = known_words(["a cat sat on the mat"])
        >>> unknown_text_rate(["the cat sat", "the czt sat", "on a mat", "the cat spt"], known, cut=False).value
        0.5
    """
    unknown, _ = _unknown(texts, vocabulary, cut)
    return mean_of((unknown > 0).double())


def unknown_word_rate(texts: Sequence[str], vocabulary: Collection[str], *, cut: bool = True) -> Estimate:
    """Share of all words that are outside of a vocabulary; arguments as in `unknown_text_rate`.

    It distinguishes sets in which every text has an unknown word, and does not grow with the texts' length.

    Raises:
        ValueError: also where the texts have no words that count.

    Example:
        >>> known = known_words(["a cat sat on the mat"])
        >>> unknown_word_rate(["the cat sat", "the czt sat", "on a mat", "the cat"], known, cut=False).value
        0.09090909090909091
    """
    unknown, words = _unknown(texts, vocabulary, cut)
    if not words.any():
        which = "words other than their first and last" if cut else "words"
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
    """Share of a text's n-grams of words that occur earlier in the same text, low = good.

    Args:
        texts: Samples, at least one.
        n: Words of an n-gram, >= 1.

    Returns:
        Mean over texts (0 for a text of fewer than ``n`` words) with its standard error.

    Raises:
        ValueError: no texts, ``texts`` is one string, or ``n`` is below 1.

    Note:
        Grows with the length of texts, and is not 0 for data: compare it with that of held-out text.

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


@dataclass(frozen=True)
class TextMeasures:
    """Measures of sets of texts that are cut from running text.

    Attributes:
        held_out: Texts by people, of the samples' length.
        words: Of the training text, in lower case; None for no rates of unknown words.
        featurizer: Its features are compared; None for no MAUVE.
    """

    held_out: Sequence[str]
    words: Collection[str] | None = field(default=None, repr=False)
    featurizer: Featurizer | None = None

    @classmethod
    def load(cls, held_out: Sequence[str], training_text: str | Path | None, features: str | None) -> Self:
        """Read the words of a training text (or a list of them) and load the model of features.

        Raises:
            FileNotFoundError: there is no such text.
            ModuleNotFoundError: a package that holds the model is not installed.
            ValueError: the text is corrupt (names file and line) or holds no words.
        """
        words = known_words(read_documents(training_text)) if training_text is not None else None
        return cls(held_out, words, Featurizer.from_pretrained(features) if features is not None else None)

    @property
    def identity(self) -> str:
        """What the numbers depend on in addition to the texts: words and features."""
        parts = ["4-grams of words"]
        if self.words is not None:
            digest = hashlib.sha256("\n".join(sorted(self.words)).encode()).hexdigest()[:8]
            parts.append(f"{len(self.words)} known words ({digest})")
        if self.featurizer is not None:
            parts.append(f"features of {self.featurizer.name}, mean pooling")
        return ", ".join(parts)

    def proxies(self, texts: Sequence[str]) -> dict[str, Estimate]:
        """Proxies for the error rate of samples, by metric."""
        rates = {"repeated_4gram_rate": repeated_ngram_rate(texts)}
        if self.words is not None:
            rates["unknown_text_rate"] = unknown_text_rate(texts, self.words)
            if any(len(words_of(text)) > 2 for text in texts):
                rates["unknown_word_rate"] = unknown_word_rate(texts, self.words)
        return rates

    def mauve(self, texts: Sequence[str], reference: Sequence[str]) -> Estimate:
        """MAUVE of samples, with its interval."""
        return mauve_score(texts, reference, self.featurizer)

    def of_held_out(self, number: int) -> dict[str, Estimate]:
        """The same measures of held-out texts, compared with as many others: what perfect samples would have.

        Without MAUVE where there are not twice as many texts.
        """
        texts, others = self.held_out[:number], self.held_out[number : 2 * number]
        metrics = self.proxies(texts)
        if self.featurizer is not None and len(others) == number:
            metrics["mauve"] = self.mauve(others, texts)
        return metrics
