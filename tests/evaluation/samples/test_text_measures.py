"""Measures of texts without a judge: unknown words, repeated n-grams, MAUVE."""

from types import SimpleNamespace

import pytest

import edlm
from edlm.evaluation.samples.mauve import Featurizer, mauve_score
from edlm.evaluation.samples.text_measures import (
    TextMeasures,
    known_words,
    repeated_ngram_rate,
    unknown_text_rate,
    unknown_word_rate,
    words_of,
)
from tests.evaluation.samples.test_mauve import figures, stories

HELD_OUT = stories(8, seed=1)
WORDS = {word.strip(".").lower() for text in stories(200, seed=0) for word in text.split()}


def test_proxies_have_their_own_errors():
    texts = ["The cat sat on the mat.", "A dog rxn to Lily and Tom.", "Mom zzz qqq dog and dog."] * 2
    texts[0] += " The cat sat on the mat."  # three of nine 4-grams stood there before
    rates = TextMeasures(HELD_OUT, WORDS).proxies(texts)
    expected = {"unknown_text": unknown_text_rate(texts, WORDS), "unknown_word": unknown_word_rate(texts, WORDS)}
    expected["repeated_4gram"] = repeated_ngram_rate(texts, 4)
    assert expected["repeated_4gram"].value == pytest.approx(3 / 9 / 6)
    for name, rate in expected.items():
        assert rates[f"{name}_rate"] == rate
    assert len({rate.stderr for rate in expected.values()}) == 3
    assert rates.keys() == {f"{name}_rate" for name in expected}
    assert TextMeasures(HELD_OUT).proxies(texts).keys() == {"repeated_4gram_rate"}


def test_proxies_count_repeated_4grams():
    assert TextMeasures(HELD_OUT).proxies(["a b c x a b c y"])["repeated_4gram_rate"].value == 0
    assert TextMeasures(HELD_OUT).proxies(["a b c d x a b c d"])["repeated_4gram_rate"].value == pytest.approx(1 / 6)


def test_of_held_out_measures_as_many_texts():
    rates = TextMeasures(HELD_OUT, WORDS).of_held_out(5)
    assert rates["unknown_word_rate"].value == 0
    assert rates["repeated_4gram_rate"] == repeated_ngram_rate(HELD_OUT[:5])
    assert TextMeasures(HELD_OUT, WORDS).of_held_out(50)["repeated_4gram_rate"].n == 8


def test_identity_distinguishes_words_and_features():
    identities = [
        TextMeasures(HELD_OUT, words).identity for words in (None, WORDS, WORDS | {"zebra"}, set(list(WORDS)))
    ]
    assert identities[1] == identities[3] and len(set(identities)) == 3
    others = {*sorted(WORDS)[1:], "zebra"}  # as many
    assert len(others) == len(WORDS) and TextMeasures(HELD_OUT, others).identity != identities[1]
    models = [SimpleNamespace(name=name) for name in ("tiny", "other")]
    assert len({TextMeasures(HELD_OUT, WORDS, featurizer).identity for featurizer in models}) == 2


def test_words_are_read_from_text_or_a_list_of_them(tmp_path):
    (tmp_path / "text.txt").write_text("Once, a dog\nran. Don't!")
    (tmp_path / "words.txt").write_text("a\ndog\ndon't\nonce\nran\n")
    (tmp_path / "none.txt").write_text("12 34")
    both = [TextMeasures.load(HELD_OUT, tmp_path / name, None) for name in ("text.txt", "words.txt")]
    assert both[0].words == both[1].words == {"a", "dog", "don't", "once", "ran"}
    with pytest.raises(ValueError, match="must hold words"):
        TextMeasures.load(HELD_OUT, tmp_path / "none.txt", None)


def test_mauve_is_against_as_many_held_out_texts(recwarn):
    pytest.importorskip("mauve")
    model = edlm.load_energy("tinystories/autoregressive").model
    featurizer = Featurizer(model, edlm.load_denoiser("tinystories").tokenizer, batch_size=32, name="tiny")
    measures = TextMeasures(stories(80, seed=1), None, featurizer)
    reference = measures.held_out[:40]
    alike, far = (measures.mauve(texts(40, seed=2), reference) for texts in (stories, figures))
    expected = mauve_score(stories(40, seed=2), reference, featurizer)
    assert alike == (expected.value, None, 40, expected.low, expected.high)
    people = measures.of_held_out(40)["mauve"]
    assert far.value < 0.1 < 0.5 < min(alike.value, people.value)
    others = mauve_score(measures.held_out[40:], reference, featurizer)
    assert (people.value, people.low) == (others.value, others.low) and others.value < 1
    assert "mauve" not in measures.of_held_out(41)  # the others are too few
    assert "features of tiny, mean pooling" in measures.identity


KNOWN = known_words(["Once upon a time, a dog ran.", "The dog's ball didn't bounce!", "A time to run."])


def test_words_are_letters_with_apostrophes_inside():
    assert words_of("'Tis a dog’s life -- isn't it? 42 times_over") == [
        *("tis", "a", "dog's", "life", "isn't", "it", "times", "over"),
    ]
    assert words_of("...") == []


def test_known_words_occur_at_least_so_often():
    assert {"a", "dog", "dog's", "didn't", "time"} <= KNOWN
    assert known_words(["a dog, a cat", "The DOG"], least=2) == {"a", "dog"}


def test_unknown_text_rate_counts_texts_with_an_unknown_word():
    texts = ["a dog ran upon a ball", "a dog rann upon a ball", "Ran THE dog’s time", "a zzz qqq time"]
    rates = unknown_text_rate(texts, KNOWN)
    assert (rates.value, rates.n) == (0.5, 4)
    assert rates.stderr == pytest.approx((1 / 3) ** 0.5 * 0.5)


def test_unknown_word_rate_counts_over_all_words_of_all_texts():
    texts = ["a dog ran upon a ball", "a dog rann upon zz ball", "a qqq"]
    rates = unknown_word_rate(texts, KNOWN, cut=False)
    assert rates.value == pytest.approx(3 / 14) and rates.n == 3
    assert unknown_word_rate(texts, KNOWN).value == pytest.approx(2 / 8)


def test_unknown_text_rate_ignores_ends_of_cut_texts():
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
    rates = repeated_ngram_rate(["a b c", "a b c", "a b a b"], 2)
    assert rates.value == pytest.approx((1 / 3) / 3)
    assert rates.n == 3 and rates.stderr == pytest.approx(rates.value)


def test_rates_name_the_rule_that_is_broken():
    for call in (
        lambda: known_words("one text"),
        lambda: repeated_ngram_rate([]),
        lambda: unknown_text_rate([], KNOWN),
    ):
        with pytest.raises(ValueError, match="at least one text in a list"):
            call()
    with pytest.raises(ValueError, match="texts must hold words"):
        known_words(["42"])
    for cut, which in ((True, "words other than their first and last"), (False, "words")):
        with pytest.raises(ValueError, match=f"texts must hold {which}, got none in 2 texts"):
            unknown_word_rate(["a b", "c"] if cut else ["42", "!"], KNOWN, cut=cut)
    with pytest.raises(ValueError, match="vocabulary must hold words, got none"):
        unknown_text_rate(["a"], [])
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        repeated_ngram_rate(["a"], 0)
