"""Stand-ins for errors of text: unknown words, repeated n-grams."""

import pytest

from edlm.evaluation.samples.text_errors import (
    known_words,
    repeated_ngram_rate,
    unknown_text_rate,
    unknown_word_rate,
    words_of,
)

KNOWN = known_words(["Once upon a time, a dog ran.", "The dog's ball didn't bounce!", "A time to run."])


def test_words_are_letters_with_apostrophes_inside():
    assert words_of("'Tis a dog’s life -- isn't it? 42 times_over") == [
        *("tis", "a", "dog's", "life", "isn't", "it", "times", "over"),
    ]
    assert words_of("...") == []


def test_the_vocabulary_can_ask_for_more_than_one_occurrence():
    assert {"a", "dog", "dog's", "didn't", "time"} <= KNOWN
    assert known_words(["a dog, a cat", "The DOG"], least=2) == {"a", "dog"}


def test_one_unknown_word_fails_a_text():
    texts = ["a dog ran upon a ball", "a dog rann upon a ball", "Ran THE dog’s time", "a zzz qqq time"]
    found = unknown_text_rate(texts, KNOWN)
    assert (found.value, found.n) == (0.5, 4)
    assert found.stderr == pytest.approx((1 / 3) ** 0.5 * 0.5)


def test_unknown_words_are_counted_over_all_words_of_all_texts():
    texts = ["a dog ran upon a ball", "a dog rann upon zz ball", "a qqq"]
    found = unknown_word_rate(texts, KNOWN, cut=False)
    assert found.value == pytest.approx(3 / 14) and found.n == 3
    assert unknown_word_rate(texts, KNOWN).value == pytest.approx(2 / 8)


def test_ends_of_cut_texts_do_not_count_unless_asked():
    texts = ["og ran upon a ti", "dog ran"]
    assert unknown_text_rate(texts, KNOWN).value == 0
    assert unknown_text_rate(texts, KNOWN, cut=False).value == 0.5


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [("a b c d", 1, 0), ("a b a b a", 1, 3 / 5), ("a b a b a", 2, 2 / 4), ("a b a b a", 3, 1 / 3), ("A a", 4, 0)],
)
def test_repeated_ngrams_by_hand(text, n, share):
    assert repeated_ngram_rate([text], n).value == pytest.approx(share)


def test_ngrams_are_counted_text_by_text():
    found = repeated_ngram_rate(["a b c", "a b c", "a b a b"], 2)
    assert found.value == pytest.approx((1 / 3) / 3)
    assert found.n == 3 and found.stderr == pytest.approx(found.value)


def test_mistakes_are_named():
    for call in (
        lambda: known_words("one text"),
        lambda: repeated_ngram_rate([]),
        lambda: unknown_text_rate([], KNOWN),
    ):
        with pytest.raises(ValueError, match="at least one text in a list"):
            call()
    with pytest.raises(ValueError, match="texts must hold words"):
        known_words(["42"])
    for cut, which in ((True, "words beside their first and last"), (False, "words")):
        with pytest.raises(ValueError, match=f"texts must hold {which}, got none in 2 texts"):
            unknown_word_rate(["a b", "c"] if cut else ["42", "!"], KNOWN, cut=cut)
    with pytest.raises(ValueError, match="vocabulary must hold words, got none"):
        unknown_text_rate(["a"], [])
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        repeated_ngram_rate(["a"], 0)
