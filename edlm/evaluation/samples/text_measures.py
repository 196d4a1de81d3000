"""What texts say without a judge: stand-ins for errors, and MAUVE against held-out text."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

from edlm.corpus.text import read_documents
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
    def described(self) -> str:
        """What the numbers depend on beside the texts: words and features."""
        said = ["4-grams of words"]
        if self.words is not None:
            digest = hashlib.sha256("\n".join(sorted(self.words)).encode()).hexdigest()[:8]
            said.append(f"{len(self.words)} known words ({digest})")
        if self.featurizer is not None:
            said.append(f"features of {self.featurizer.name}, {self.featurizer.pooling} pooling")
        return ", ".join(said)

    def of(self, texts: Sequence[str]) -> dict[str, Any]:
        """Measures of samples, by the names that a `Measurement` has for them."""
        found = self._stand_ins(texts)
        if self.featurizer is not None:
            found |= self._mauve(texts, self.held_out[: len(texts)])
        return {**found, "texts_held_against": self.described}

    def of_held_out(self, number: int) -> dict[str, Any]:
        """The same of as many held-out texts, against as many others: what perfect samples would have.

        MAUVE is None where there are not twice as many texts.
        """
        texts, others = self.held_out[:number], self.held_out[number : 2 * number]
        found = {"num_texts": len(texts), **self._stand_ins(texts)}
        if self.featurizer is not None and len(others) == number:
            found |= self._mauve(others, texts)
        return {**found, "texts_held_against": self.described}

    def _stand_ins(self, texts: Sequence[str]) -> dict[str, float]:
        repeated = repeated_ngram_rate(texts)
        found = {"repeated_4gram_rate": repeated.value, "repeated_4gram_stderr": repeated.stderr}
        if self.words is not None:
            rates = {"unknown_text": unknown_text_rate(texts, self.words)}
            if any(len(words_of(text)) > 2 for text in texts):
                rates["unknown_word"] = unknown_word_rate(texts, self.words)
            for name, rate in rates.items():
                found |= {f"{name}_rate": rate.value, f"{name}_stderr": rate.stderr}
        return found

    def _mauve(self, texts: Sequence[str], reference: Sequence[str]) -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a report's cautions say it
            score = mauve_score(texts, reference, self.featurizer)
        ends = {"mauve_low": score.low, "mauve_high": score.high}
        return {"mauve": score.value, **ends, "mauve_references": score.num_reference}
