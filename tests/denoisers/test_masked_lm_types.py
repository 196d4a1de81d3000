"""Every masked LM of transformers, tiny and random, works or is refused by name; new networks are what was asked."""

import copy
import pickle

import pytest
import torch
from accelerate import dispatch_model
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForMaskedLM, BertConfig, BertModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from edlm import load_denoiser
from edlm.denoisers.architecture import new_config, preset
from edlm.denoisers.columns import decoder_of
from edlm.denoisers.families.masked_lm import _REFUSED, MaskedLMDenoiser
from tests.denoisers.test_masked_lm import V, tokenizer

FAST = "bert roberta xlm-roberta modernbert distilbert albert deberta-v2 electra esm camembert".split()
REST = [kind for kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES if kind not in FAST and kind not in _REFUSED]
LEAKY = ["convbert", "fnet", "mobilebert"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SHAPE = {**SIZES, "vocab_size": 40, "pad_token_id": 1, "embedding_size": 32, "max_position_embeddings": 64}
SHAPE |= {"hidden_dim": 48, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
SHAPE |= {"true_hidden_size": 32, "intra_bottleneck_size": 32, "head_ratio": 1, "attention_window": [4, 4]}
SHAPE |= {"num_key_value_heads": 2, "entity_vocab_size": 8, "default_language": "en_XX", "emb_dim": 32}
SHAPE |= {"pronunciation_vocab_size": 8, "shape_vocab_size": 8}


def random_model(kind):
    known = CONFIG_MAPPING[kind]()
    shape = {name: value for name, value in SHAPE.items() if hasattr(known, name)}
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **shape)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize("kind", [*FAST, *LEAKY, *(pytest.param(k, marks=pytest.mark.slow) for k in REST)])
@torch.no_grad()
def test_padding_leaks_nothing_and_both_sides_are_seen(kind):
    model = random_model(kind)
    denoiser = MaskedLMDenoiser(model, mask_token_id=4).eval()
    alone = torch.tensor([[7, 9, 4, 11, 4]])
    expected = model(input_ids=alone).logits.index_fill(-1, torch.tensor([4]), -torch.inf).log_softmax(-1)
    masked, finite = alone == 4, torch.arange(40) != 4
    log_probs = denoiser.log_probs(alone)
    torch.testing.assert_close(log_probs[masked], expected[masked], rtol=1e-4, atol=1e-4)
    rows = torch.nn.functional.pad(alone, (0, 3), value=1), torch.arange(8)[None] < 5
    padded = denoiser.log_probs(rows[0], None, rows[1])[:, :5]
    torch.testing.assert_close(padded[masked], log_probs[masked], rtol=1e-4, atol=1e-4)
    for position in (0, 3):
        other = alone.clone()
        other[0, position] = 12
        assert (denoiser.log_probs(other) - log_probs)[0, 2, finite].abs().max() > 1e-4
    if kind != "ibert":  # its states are numbers with scales
        encoding = denoiser.encode(*rows[:1], None, rows[1], keep_hidden=True)
        assert {states.shape for states in encoding.hidden} == {(1, 8, denoiser.hidden_size)}
        torch.testing.assert_close(encoding.features[:, :5], denoiser.encode(alone).features, rtol=1e-4, atol=1e-4)


ENDS_OTHERWISE = ["esm", "mobilebert", "neomme", "rembert"]  # by a bias of their own, or a product of two parts


@pytest.mark.parametrize("kind", [*FAST, *LEAKY, *(pytest.param(k, marks=pytest.mark.slow) for k in REST)])
@torch.no_grad()
def test_columns_of_the_output_layer_are_decoded_alone(kind):
    denoiser = MaskedLMDenoiser(random_model(kind), mask_token_id=4).eval()
    features = denoiser.encode(torch.tensor([[7, 9, 4, 11, 4], [4, 4, 8, 4, 6]])).features
    tokens = torch.tensor([[5, 0, 39], [12, 30, 5]])
    expected = denoiser.decode(features.flatten(0, 1)).view(2, 5, -1).gather(2, tokens[:, None].expand(-1, 5, -1))
    torch.testing.assert_close(decoder_of(denoiser, tokens)(features), expected, rtol=1e-4, atol=1e-4)
    assert (denoiser.output_layer is None) == (kind in ENDS_OTHERWISE)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
@torch.no_grad()
def test_the_output_layer_follows_copies_casts_and_new_layers(kind):
    denoiser, tokens = MaskedLMDenoiser(random_model(kind), mask_token_id=4).eval(), torch.tensor([[5, 0, 39]])

    def assert_alike(denoiser):
        features = denoiser.encode(torch.tensor([[7, 9, 4, 11, 4]])).features
        expected = denoiser.decode(features[0])[:, tokens[0]]
        torch.testing.assert_close(decoder_of(denoiser, tokens)(features)[0], expected, rtol=1e-4, atol=1e-4)
        return expected

    first = assert_alike(denoiser)
    other = copy.deepcopy(denoiser)
    for weight in other.parameters():
        weight += 0.1
    assert (assert_alike(other.double()) - first).abs().max() > 0.01
    torch.testing.assert_close(assert_alike(pickle.loads(pickle.dumps(denoiser))), first)
    layer = torch.nn.Linear(32, 40)
    denoiser.network.set_output_embeddings(layer)
    assert denoiser.output_layer[1] is layer
    assert (assert_alike(denoiser) - first).abs().max() > 0.01


@pytest.mark.parametrize(("kind", "parts"), [("bert", ("bert", "cls")), ("modernbert", ("model", "head", "decoder"))])
@torch.no_grad()
def test_a_model_that_accelerate_has_dispatched(kind, parts):
    """Hooks take the place of the forward of the modules that they are on."""
    rows = torch.tensor([[7, 9, 4, 11, 4]])
    expected = MaskedLMDenoiser(random_model(kind), mask_token_id=4).encode(rows, keep_hidden=True)
    model = dispatch_model(random_model(kind), dict.fromkeys(parts, "cpu"), main_device="cpu", force_hooks=True)
    denoiser = MaskedLMDenoiser(model, mask_token_id=4).eval()
    encoding = denoiser.encode(rows, keep_hidden=True)
    torch.testing.assert_close(encoding.hidden, expected.hidden)
    torch.testing.assert_close(encoding.features, expected.features)
    logits = denoiser.decode(encoding.features[0])
    torch.testing.assert_close(logits, random_model(kind)(input_ids=rows).logits[0], rtol=1e-4, atol=1e-4)


def test_architectures_that_cannot_work_are_refused_by_name(tmp_path):
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 20, "max_position_embeddings": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    AutoModelForMaskedLM.from_config(AutoConfig.for_model("bart", **shape, **heads)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'bart' cannot be a denoiser: its decoder sees only"):
        load_denoiser(tmp_path, mask_token_id=4)


def test_an_encoder_without_its_output_layer_is_refused(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=30, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"weights missing \['cls\.predictions.*needs its output layer"):
        load_denoiser(tmp_path, mask_token_id=4)


@pytest.mark.parametrize("kind", FAST)
def test_a_new_network_of_every_architecture_trains_all_its_tokens(kind, tmp_path):
    embedding = {"embedding_size": 32} if kind in ("albert", "electra") else {}
    torch.manual_seed(0)
    denoiser = MaskedLMDenoiser.from_config(
        tokenizer(), model_type=kind, **SIZES, **embedding, max_position_embeddings=12
    )
    assert denoiser.max_length in (11, 12) and denoiser.vocab_size == V
    x_t = torch.tensor([[0, 5, 2, 0, 6]])  # 0 is the tokenizer's padding, here a separator of documents
    log_probs = denoiser.eval().log_probs(x_t)
    log_probs[0, 2, 4].backward()
    assert denoiser.network.get_input_embeddings().weight.grad[0].any()
    denoiser.save_pretrained(tmp_path)
    torch.testing.assert_close(load_denoiser(tmp_path).log_probs(x_t), log_probs.detach())


def test_positions_do_not_depend_on_which_tokens_are_the_padding():
    denoiser = MaskedLMDenoiser(random_model("roberta"), mask_token_id=4).eval()
    with torch.no_grad():
        denoiser.network.get_input_embeddings().weight[1] = denoiser.network.get_input_embeddings().weight[7]
        one, other = (denoiser.log_probs(torch.tensor([[token, 4, 9]])) for token in (1, 7))
    torch.testing.assert_close(one[0, 1], other[0, 1])


@pytest.mark.parametrize(
    ("kind", "settings", "hint"),
    [
        ("modernbert", {"hidden_sise": 32}, "unknown setting 'hidden_sise' of modernbert; did you mean 'hidden_size'"),
        ("llama", {"num_hidden_layer": 2}, "did you mean 'num_hidden_layers'"),
        ("modernbret", {}, "unknown model_type 'modernbret'; did you mean 'modernbert'"),
    ],
)
def test_unknown_settings_name_the_nearest(kind, settings, hint):
    with pytest.raises(ValueError, match=hint):
        new_config(kind, settings)


def test_settings_of_older_versions_are_taken():
    config = new_config("modernbert", {"global_attn_every_n_layers": 1, "num_hidden_layers": 4, "cls_token_id": 3})
    assert set(config.layer_types) == {"full_attention"}
    assert new_config("distilbert", {"intermediate_size": 7}).hidden_dim == 7


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_identity(dtype, tmp_path):
    random_model("bert").save_pretrained(tmp_path)
    half, whole = load_denoiser(tmp_path, mask_token_id=4, dtype=dtype), load_denoiser(tmp_path, mask_token_id=4)
    assert next(half.parameters()).dtype == dtype and half.identity == whole.identity
    x_t = torch.tensor([[7, 4, 9]])
    torch.testing.assert_close(half.log_probs(x_t)[0, 1, 5:], whole.log_probs(x_t)[0, 1, 5:], rtol=0.1, atol=0.2)


@pytest.mark.parametrize(("name", "millions"), [("tiny", 2), ("small", 15), ("base", 110)])
def test_presets_have_about_their_number_of_parameters(name, millions):
    config = new_config("modernbert", preset(name, "modernbert", 128), vocab_size=8192, pad_token_id=None)
    with torch.device("meta"):
        network = AutoModelForMaskedLM.from_config(config)
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(millions * 1e6, rel=0.1)
    assert set(config.layer_types) == {"full_attention"}, "a head can start warm"


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WRONG_VALUES = {
    "saved no sooner than after training": {"output_attentions": True},
    "nothing": {"hidden_size": 0},
    "negative": {"hidden_size": -16},
    "a float": {"hidden_size": 16.5},
    "None": {"hidden_size": None},
    "another type": {"tie_word_embeddings": "maybe"},
    "an unknown activation": {"hidden_activation": "geluu"},
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_values_that_a_network_cannot_have_are_one_error(name):
    settings = {**SMALL, **WRONG_VALUES[name]}
    with pytest.raises(ValueError, match="model must hold settings that a modernbert can be built of, got"):
        MaskedLMDenoiser.from_config(tokenizer(), "modernbert", **settings)
    with pytest.raises(ValueError, match="unknown setting 'model_type' of modernbert"):
        new_config("modernbert", {**SMALL, "model_type": "bert"})
