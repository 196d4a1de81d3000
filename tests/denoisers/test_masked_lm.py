"""Masked LMs of transformers, tiny and random, against their own full logits."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from edlm import EnergySampler, load_denoiser
from edlm.denoisers.families.masked_lm import MaskedLMDenoiser
from edlm.denoisers.families.replacement import replace_vocabulary
from edlm.diffusion.slots import Slots

WORDS = ["[PAD]", "[UNK]", "[MASK]", "[SEP]", "a", "b", "c", "d"]
MASK, V, PADDED = 2, len(WORDS), 11  # three columns pad the vocabulary
SHAPE = {"vocab_size": PADDED, "hidden_size": 16, "intermediate_size": 24, "pad_token_id": 0}
LAYERS = {"num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 40}


def bert():
    return BertForMaskedLM(BertConfig(**SHAPE, **LAYERS))


def roberta():
    return RobertaForMaskedLM(RobertaConfig(**SHAPE, **LAYERS, bos_token_id=3, eos_token_id=3))


def distilbert():
    shape = {"vocab_size": PADDED, "dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 2, "pad_token_id": 0}
    return DistilBertForMaskedLM(DistilBertConfig(**shape, max_position_embeddings=40))


def modernbert():
    special = {f"{name}_token_id": 3 for name in ("bos", "eos", "cls", "sep")}
    return ModernBertForMaskedLM(ModernBertConfig(**SHAPE, **LAYERS, **special, local_attention=4))


FAMILIES = (bert, roberta, distilbert, modernbert)
each = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)


def random_model(family, seed=0):
    torch.manual_seed(seed)
    model = family()
    for name, weight in model.named_parameters():  # far from uniform, biases included
        torch.nn.init.normal_(weight, 1.0 if "norm" in name.lower() and "weight" in name else 0.0, 0.4)
    return model.eval()


def tokenizer():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def some_tokens():
    x_t = torch.randint(4, V, (3, 7), generator=torch.Generator().manual_seed(1))
    x_t[0, [1, 2, 5]] = MASK
    x_t[2, [0, 6]] = MASK
    return x_t


def output_rows(network):
    """Counts the positions that the last linear layer is applied to."""
    rows = []
    network.get_output_embeddings().register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[:-1].numel()))
    return rows


@each
@torch.no_grad()
def test_log_probs_are_the_models_own_masked_log_softmax(family):
    model, x_t = random_model(family), some_tokens()
    attention_mask = torch.ones_like(x_t)
    attention_mask[0, 6] = 0
    for given in (None, attention_mask):
        logits = model(input_ids=x_t, attention_mask=given).logits
        logits[..., [MASK, *range(V, PADDED)]] = -torch.inf
        expected = logits.log_softmax(-1)
        log_probs = MaskedLMDenoiser(model, tokenizer()).log_probs(x_t, attention_mask=given)
        masked = x_t == MASK
        torch.testing.assert_close(log_probs[masked], expected[masked], rtol=1e-4, atol=1e-5)
        known = torch.full((int((~masked).sum()), PADDED), -torch.inf)
        assert torch.equal(log_probs[~masked], known.scatter(1, x_t[~masked][:, None], 0.0))
    assert log_probs[masked].exp().max() > 0.3  # random, yet far from uniform


@each
@torch.no_grad()
def test_the_output_layer_runs_only_where_requested(family):
    model = random_model(family)
    denoiser = MaskedLMDenoiser(model, tokenizer())
    rows, x_t = output_rows(model), some_tokens()
    denoiser.log_probs(x_t)
    assert rows == [5]
    encoding = denoiser.encode(x_t, rows=torch.tensor([2]))
    assert encoding.features.shape == (1, 7, 16) and rows == [5]
    requested = Slots.where(torch.arange(7).expand(3, 7) == torch.tensor([9, 9, 6])[:, None])
    alone = denoiser.slot_log_probs(encoding, requested)
    assert rows == [5, 1]
    torch.testing.assert_close(alone[0], denoiser.log_probs(x_t)[2, 6], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_sampler_applies_the_output_layer_once_a_position():
    model = random_model(bert)
    rows = output_rows(model)
    EnergySampler(MaskedLMDenoiser(model, tokenizer()), num_steps=4, order="random").sample(3, 8, seeds=[1, 2, 3])
    assert rows == [6, 6, 6, 6]


@each
@torch.no_grad()
def test_hidden_states_are_kept_on_request(family):
    denoiser = MaskedLMDenoiser(random_model(family), tokenizer())
    x_t = some_tokens()
    assert denoiser.encode(x_t).hidden is None
    encoding = denoiser.encode(x_t, keep_hidden=True)
    output = denoiser.network.base_model(input_ids=x_t, output_hidden_states=True)
    assert len(encoding.hidden) == 3 and denoiser.hidden_size == 16
    for states, theirs in zip(encoding.hidden, output.hidden_states[:-1], strict=True):
        torch.testing.assert_close(states, theirs)
    torch.testing.assert_close(encoding.features, denoiser.encode(x_t).features)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_modernberts_last_block_runs_only_on_request(padded):
    model, x_t = random_model(modernbert), some_tokens()
    attention_mask = torch.ones_like(x_t)
    attention_mask[1, 4:] = 1 - int(padded)
    ran = []
    for index, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    denoiser = MaskedLMDenoiser(model, tokenizer())
    whole = denoiser.encode(x_t, attention_mask=attention_mask).features
    assert ran == [0, 1, 2]
    ran.clear()
    encoding = denoiser.encode(x_t, attention_mask=attention_mask, keep_hidden=True)
    assert ran == [0, 1]
    for _ in range(2):
        torch.testing.assert_close(encoding.features, whole)
    assert ran == [0, 1, 2]


@torch.no_grad()
def test_modernberts_last_block_maps_the_last_states_to_the_features():
    model = random_model(modernbert)
    encoding = MaskedLMDenoiser(model, tokenizer()).encode(some_tokens(), keep_hidden=True)
    network, states = model.model, encoding.hidden[-1]
    kind = model.config.layer_types[-1]
    distance = (torch.arange(7)[:, None] - torch.arange(7)).abs()
    near = distance <= model.config.local_attention // 2 if kind == "sliding_attention" else distance >= 0
    attention_mask = torch.where(near, 0.0, -torch.inf)[None, None].expand(3, 1, 7, 7)
    angles = network.rotary_emb(states, torch.arange(7)[None], kind)
    output = network.layers[-1](states, attention_mask=attention_mask, position_embeddings=angles)
    output = output[0] if isinstance(output, tuple) else output
    torch.testing.assert_close(network.final_norm(output), encoding.features, rtol=1e-4, atol=1e-5)
    assert (network.final_norm(states) - encoding.features).abs().max() > 0.1


@each
@torch.no_grad()
def test_a_saved_denoiser_comes_back(family, tmp_path):
    denoiser = MaskedLMDenoiser(random_model(family), tokenizer(), name="tiny")
    denoiser.save_pretrained(tmp_path / "tiny")
    loaded = load_denoiser(tmp_path / "tiny")
    assert not any(module.training for module in loaded.modules())
    assert next(loaded.parameters()).dtype == torch.float32
    assert loaded.identity == denoiser.identity
    assert loaded.tokenizer.get_vocab() == tokenizer().get_vocab() and loaded.mask_token_id == MASK
    torch.testing.assert_close(loaded.log_probs(some_tokens()), denoiser.log_probs(some_tokens()))


@torch.no_grad()
def test_identity_tells_other_weights_and_other_words():
    identity = MaskedLMDenoiser(random_model(bert), tokenizer()).identity
    assert MaskedLMDenoiser(random_model(bert), tokenizer()).identity == identity
    other = MaskedLMDenoiser(random_model(bert, seed=1), tokenizer()).identity
    assert [d.split()[0] for d in identity.differences(other)] == ["revision"]
    without = MaskedLMDenoiser(random_model(bert), mask_token_id=3).identity
    assert [d.split()[0] for d in identity.differences(without)] == ["mask_token_id", "vocabulary"]
    halved = MaskedLMDenoiser(random_model(bert).half(), tokenizer()).identity
    assert identity.differences(halved) == []  # a float16 file and its source are the same denoiser


def test_without_a_mask_token():
    with pytest.raises(ValueError, match="a denoiser needs a mask token: give mask_token_id, or a tokenizer"):
        MaskedLMDenoiser(random_model(bert))
    words = tokenizer()
    words.mask_token = None
    with pytest.raises(ValueError, match="a denoiser needs a mask token"):
        MaskedLMDenoiser(random_model(bert), words)
    assert MaskedLMDenoiser(random_model(bert), mask_token_id=5).mask_token_id == 5


@each
@torch.no_grad()
def test_a_deep_copy_is_independent(family):
    denoiser = MaskedLMDenoiser(random_model(family), tokenizer())
    before = denoiser.log_probs(some_tokens())
    twin = copy.deepcopy(denoiser)
    for weight in twin.parameters():
        weight.mul_(0.5)
    after = twin.log_probs(some_tokens())
    finite = torch.isfinite(before)
    assert (after[finite] - before[finite]).abs().max() > 0.1
    # The copy's output layer reads the copy's weights, the source's its own.
    expected = twin.network(input_ids=some_tokens()).logits
    expected[..., [MASK, *range(V, PADDED)]] = -torch.inf
    masked = some_tokens() == MASK
    torch.testing.assert_close(after[masked], expected.log_softmax(-1)[masked], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(denoiser.log_probs(some_tokens()), before)


@each
def test_gradients_reach_the_whole_network_and_parameters_count_once(family):
    model = random_model(family)
    denoiser = MaskedLMDenoiser(model, tokenizer())
    assert {id(p) for p in denoiser.parameters()} == {id(p) for p in model.parameters()}
    assert len(denoiser.state_dict()) == len(model.state_dict())
    x_t = some_tokens()
    denoiser(x_t, Slots.where(x_t == MASK))[:, 5].sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    copy.deepcopy(denoiser)  # no graph is kept that could not be copied


@torch.no_grad()
def test_from_config_fits_the_tokenizer():
    settings = {"hidden_size": 16, "intermediate_size": 24, **LAYERS}
    denoiser = MaskedLMDenoiser.from_config(tokenizer(), model_type="modernbert", **settings)
    assert denoiser.vocab_size == V and denoiser.mask_token_id == MASK
    log_probs = denoiser.eval().log_probs(some_tokens())
    assert log_probs.shape == (3, 7, V) and torch.isneginf(log_probs[0, 1, MASK])


def other_tokenizer():
    vocabulary = {"<sep>": 0, "<mask>": 1, "b": 2, "ab": 3, "?": 4, " ": 5}
    backend = Tokenizer(models.WordLevel(vocabulary, "?"))
    special = dict.fromkeys(("eos_token", "sep_token", "pad_token"), "<sep>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>", **special)


@pytest.mark.parametrize(("family", "tied"), [(bert, True), (modernbert, True), (modernbert, False)])
def test_tokens_of_another_vocabulary_start_as_means_of_their_pieces(family, tied, tmp_path):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    letters = pre_tokenizers.Split("", "isolated")  # "ab" is a, b
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), letters])
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "mask", "sep")}
    old_tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    torch.manual_seed(0)
    settings = family().config
    settings.tie_word_embeddings = tied
    model = type(family())(settings).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.4)
    old = copy.deepcopy(model)
    denoiser = replace_vocabulary(MaskedLMDenoiser(model, old_tokenizer), other_tokenizer())
    assert denoiser.vocab_size == 6 and denoiser.mask_token_id == 1 and not denoiser.is_framed
    pieces = [[3], [2], [5], [4, 5], [1], list(range(V))]
    for get in ("get_input_embeddings", "get_output_embeddings"):
        new, before = getattr(denoiser.network, get)(), getattr(old, get)()
        for name in {"weight", "bias"} & dict(before.named_parameters()).keys():
            expected = torch.stack([getattr(before, name)[ids].mean(0) for ids in pieces])
            torch.testing.assert_close(getattr(new, name).data, expected.data)
    shared = denoiser.network.get_input_embeddings().weight is denoiser.network.get_output_embeddings().weight
    assert shared == tied
    x_t = torch.tensor([[0, 1, 3, 1]])
    log_probs = denoiser.log_probs(x_t)
    log_probs[0, 1, :].exp()[[0, 2]].sum().backward()
    assert denoiser.network.get_input_embeddings().weight.grad[0].any(), "the separator is trained, though it pads"
    denoiser.save_pretrained(tmp_path)
    torch.testing.assert_close(load_denoiser(tmp_path).log_probs(x_t), log_probs.detach())


def test_only_a_masked_lm_with_a_tokenizer_takes_another_vocabulary():
    with pytest.raises(ValueError, match="must be a masked LM of transformers with its tokenizer"):
        replace_vocabulary(MaskedLMDenoiser(bert(), mask_token_id=MASK), other_tokenizer())
