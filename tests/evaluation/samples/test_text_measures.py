"""What sets of texts say without a judge."""

from types import SimpleNamespace

import pytest

import edlm
from edlm.evaluation.samples.features import Featurizer
from edlm.evaluation.samples.mauve import mauve_score
from edlm.evaluation.samples.text_errors import repeated_ngram_rate, unknown_text_rate, unknown_word_rate
from edlm.evaluation.samples.text_measures import TextMeasures
from tests.evaluation.samples.test_mauve import figures, stories

HELD_OUT = stories(8, seed=1)
WORDS = {word.strip(".").lower() for text in stories(200, seed=0) for word in text.split()}


def test_stand_ins_by_their_names():
    texts = ["The cat sat on the mat and sat on the mat and flew.", "A dog rxn to Lily and to Mom."]
    found = TextMeasures(HELD_OUT, WORDS).proxies(texts)
    assert found["unknown_text_rate"] == unknown_text_rate(texts, WORDS)
    assert found["unknown_word_rate"] == unknown_word_rate(texts, WORDS)
    assert found["repeated_4gram_rate"] == repeated_ngram_rate(texts)
    assert not any("mauve" in name for name in found)
    assert "unknown_word_rate" not in TextMeasures(HELD_OUT).proxies(texts)


def test_each_rate_has_its_own_error():
    texts = ["The cat sat on the mat.", "A dog rxn to Lily and Tom.", "Mom zzz qqq dog and dog."] * 2
    texts[0] += " The cat sat on the mat."  # three of nine 4-grams stood there before
    found = TextMeasures(HELD_OUT, WORDS).proxies(texts)
    expected = {"unknown_text": unknown_text_rate(texts, WORDS), "unknown_word": unknown_word_rate(texts, WORDS)}
    expected["repeated_4gram"] = repeated_ngram_rate(texts, 4)
    assert expected["repeated_4gram"].value == pytest.approx(3 / 9 / 6)
    for name, rate in expected.items():
        assert found[f"{name}_rate"] == rate
    assert len({rate.stderr for rate in expected.values()}) == 3


def test_three_words_that_are_there_again_are_no_4_gram():
    assert TextMeasures(HELD_OUT).proxies(["a b c x a b c y"])["repeated_4gram_rate"].value == 0
    assert TextMeasures(HELD_OUT).proxies(["a b c d x a b c d"])["repeated_4gram_rate"].value == pytest.approx(1 / 6)


def test_held_out_text_is_what_perfect_samples_would_be():
    found = TextMeasures(HELD_OUT, WORDS).of_held_out(5)
    assert found["unknown_word_rate"].value == 0
    assert found["repeated_4gram_rate"] == repeated_ngram_rate(HELD_OUT[:5])
    assert TextMeasures(HELD_OUT, WORDS).of_held_out(50)["repeated_4gram_rate"].n == 8


def test_what_they_depend_on_is_told_apart():
    said = [TextMeasures(HELD_OUT, words).identity for words in (None, WORDS, WORDS | {"zebra"}, set(list(WORDS)))]
    assert said[1] == said[3] and len(set(said)) == 3
    others = {*sorted(WORDS)[1:], "zebra"}  # as many
    assert len(others) == len(WORDS) and TextMeasures(HELD_OUT, others).identity != said[1]
    poolings = [SimpleNamespace(name="tiny", pooling=pooling) for pooling in ("mean", "last")]
    assert len({TextMeasures(HELD_OUT, WORDS, featurizer).identity for featurizer in poolings}) == 2


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
