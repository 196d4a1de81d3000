"""What texts say without a judge: stand-ins for errors, and MAUVE against held-out text."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import Self

from edlm.corpus.text import read_documents
from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.samples.features import Featurizer
from edlm.evaluation.samples.mauve import mauve_score
from edlm.evaluation.samples.text_errors import (
    known_words,
    repeated_ngram_rate,
    unknown_text_rate,
    unknown_word_rate,
    words_of,
)


@dataclass(frozen=True)
class TextMeasures:
    """Measures of sets of texts that were cut out of running text, or look so.

    Attributes:
        held_out: Texts by people, of the samples' length.
        words: Of the training text, in lower case; None where they are not known.
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
            parts.append(f"features of {self.featurizer.name}, {self.featurizer.pooling} pooling")
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a report's cautions say it
            score = mauve_score(texts, reference, self.featurizer)
        return Estimate(score.value, None, len(texts), score.low, score.high)

    def of_held_out(self, number: int) -> dict[str, Estimate]:
        """The same of as many held-out texts, against as many others: what perfect samples would have.

        Without MAUVE where there are not twice as many texts.
        """
        texts, others = self.held_out[:number], self.held_out[number : 2 * number]
        metrics = self.proxies(texts)
        if self.featurizer is not None and len(others) == number:
            metrics["mauve"] = self.mauve(others, texts)
        return metrics
