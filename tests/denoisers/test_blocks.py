"""Decoders that see both sides or block by block: each published format against its law computed by hand."""

import pytest
import torch
from transformers import DynamicCache

from edlm import load_denoiser
from edlm.denoisers import DecoderDenoiser
from tests.denoisers import published_blocks as published
from tests.denoisers.decoders import padded

each = pytest.mark.parametrize("family", published.SHAPES)


def load(family, path, **options):
    return load_denoiser(path, **{**published.SHAPES[family].options, **options})


def some_rows(family):
    """Rows of several blocks; the first token is always given."""
    generator, mask = torch.Generator().manual_seed(3), published.SHAPES[family].mask
    rows = [torch.randint(6, 30, (length,), generator=generator) for length in (3, 9, 22)]
    for row in rows:
        row[1:][torch.rand(len(row) - 1, generator=generator) < 0.5] = mask
        row[2] = mask
    return rows


@each
@torch.no_grad()
def test_log_probs_are_those_computed_by_hand(family, tmp_path):
    weights, shape = published.random_weights(family), published.SHAPES[family]
    denoiser = load(family, published.write(family, tmp_path))
    assert denoiser.family == {"sdar_moe": "sdar"}.get(family, "a2d" if "a2d" in family else family)
    assert isinstance(denoiser, DecoderDenoiser) and not denoiser.training and denoiser.max_length == 48
    assert (denoiser.mask_token_id, denoiser.vocab_size) == (shape.mask, published.VOCAB)
    assert (denoiser.shift, denoiser.block_size) == (shape.shift, shape.block)
    assert denoiser.prefix_ids == () and denoiser.eos_token_id == shape.config["eos_token_id"]
    for row in some_rows(family):
        masked = row == denoiser.mask_token_id
        log_probs = denoiser.log_probs(row[None])[0]
        expected = published.log_probs_by_hand(family, weights, row)
        torch.testing.assert_close(log_probs[masked], expected, rtol=1e-5, atol=1e-5)
        assert expected.exp().max() > 0.1 and torch.isneginf(log_probs[masked][:, shape.mask]).all()


@each
@torch.no_grad()
def test_rows_padded_on_the_right_are_as_if_alone(family, tmp_path):
    denoiser, rows = load(family, published.write(family, tmp_path)), some_rows(family)
    x_t, real = padded(rows)
    together = denoiser.log_probs(x_t, attention_mask=real)
    other = denoiser.log_probs(x_t.where(real, 7), attention_mask=real)
    torch.testing.assert_close(together[real], other[real], rtol=1e-6, atol=1e-6)
    for row, mine in zip(rows, together, strict=True):
        torch.testing.assert_close(mine[: len(row)], denoiser.log_probs(row[None])[0], rtol=1e-5, atol=1e-5)


@each
@torch.no_grad()
def test_a_token_moves_its_block_and_later_ones_only(family, tmp_path):
    denoiser, shape = load(family, published.write(family, tmp_path)), published.SHAPES[family]
    row = some_rows(family)[2][None]
    block = shape.block or row.shape[1]
    for changed in (1, block - 1, block, row.shape[1] - 1):
        if changed >= row.shape[1]:
            continue
        other = row.clone()
        other[0, changed] = 31
        states = [denoiser.encode(x, keep_hidden=True) for x in (row, other)]
        moved = (states[0].features - states[1].features)[0].abs().amax(-1)[shape.shift :]
        first = changed // block * block
        assert (moved[:first] < 1e-6).all(), moved  # experts are run on other groups of rows: the last bit
        assert (moved[first:] > 1e-2).all(), moved
        assert len(states[0].hidden) == published.LAYERS == denoiser.num_blocks


@each
def test_missing_unexpected_and_misshapen_weights_are_named(family, tmp_path):
    weights = published.random_weights(family)
    names = ["model.norm.weight", sorted(name for name in weights if ".2.mlp" in name)[-1]]
    for name in names:
        kept = weights.pop(name)
        with pytest.raises(ValueError, match=rf"weights missing \['{name}'\], unexpected \[\]$"):
            load(family, published.write(family, tmp_path, weights))
        weights[name] = kept[..., :-1].contiguous()
        with pytest.raises(ValueError, match=rf"weight {name} must have shape \[.*\], got \[.*\]$"):
            load(family, published.write(family, tmp_path, weights))
        weights[name] = kept
    weights["model.stranger"] = kept.clone()
    with pytest.raises(ValueError, match=r"weights missing \[\], unexpected \['model.stranger'\]$"):
        load(family, published.write(family, tmp_path, weights))


@each
def test_the_mask_is_the_published_one_or_must_be_given(family, tmp_path):
    path = published.write(family, tmp_path, mask_token_id=None)
    given = {name: value for name, value in published.SHAPES[family].options.items() if name != "mask_token_id"}
    known = {"sdar": 151669, "sdar_moe": 151669, "lladamoe": 156895, "llada2": 156895, "rnd1": 151669}
    known |= {"fast_dllm": 151665, "illada": 5, "stable_diffcoder": 5}
    if family not in known:
        with pytest.raises(ValueError, match="mask_token_id of a .* model must be given: neither the checkpoint nor"):
            load_denoiser(path, **given)
    elif known[family] == 5:
        assert load_denoiser(path).mask_token_id == 5
    else:
        with pytest.raises(ValueError, match=rf"\(40\), got {known[family]}$"):
            load_denoiser(path, **given)
    for wrong in (40, 41, -1):
        with pytest.raises(ValueError, match=rf"mask.*, got {wrong}$"):
            load_denoiser(path, **given, mask_token_id=wrong)
    assert load_denoiser(path, **given, mask_token_id=9).mask_token_id == 9


@each
@torch.no_grad()
def test_old_and_new_names_of_rotary_settings_count(family, tmp_path):
    weights, row = published.random_weights(family), some_rows(family)[2]
    expected = published.log_probs_by_hand(family, weights, row, theta=70.0, factor=2.0)
    linear = {"type": "linear", "factor": 2.0}
    partial = {"partial_rotary_factor": 0.5} if family == "llada2" else {}
    new = {"rope_type": "linear", "factor": 2.0, "rope_theta": 70.0, **partial}
    for config in (
        {"rope_theta": 70.0, "rope_scaling": linear},
        {"rope_theta": 70.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_theta": None, "rope_parameters": new},
    ):
        denoiser = load(family, published.write(family, tmp_path, weights, **config))
        log_probs = denoiser.log_probs(row[None])[0, row == denoiser.mask_token_id]
        torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)


@each
def test_a_setting_of_another_function_or_no_size_is_refused(family, tmp_path):
    path = published.write(family, tmp_path, use_sliding_window=True)
    with pytest.raises(ValueError, match="config must have use_sliding_window = False, got True$"):
        load(family, path)
    with pytest.raises(ValueError, match=r"config must say \['num_hidden_layers'\]"):
        load(family, published.write(family, tmp_path, num_hidden_layers=...))
    with pytest.raises(ValueError, match="must hold"):
        load(family, published.write(family, tmp_path, rms_norm_eps="small"))


@pytest.mark.parametrize(
    ("family", "setting"),
    [
        ("lladamoe", {"clip_qkv": 8.0}),
        ("lladamoe", {"qk_layernorm": False}),
        ("lladamoe", {"shared_expert_intermediate_size": 8}),
        ("lladamoe", {"moe_router_enable_expert_bias": True}),
        ("llada2", {"score_function": "softmax"}),
        ("llada2", {"tie_word_embeddings": True}),
    ],
)
def test_settings_that_no_published_model_has_are_refused(family, setting, tmp_path):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"config must have {name} = .*, got {value!r}$"):
        load(family, published.write(family, tmp_path, **setting))


@each
def test_the_options_of_a_family_are_those_it_takes(family, tmp_path):
    path, shape = published.write(family, tmp_path), published.SHAPES[family]
    if shape.block is None and "a2d" not in family:
        with pytest.raises(ValueError, match="takes no block_size: it is known, got 4"):
            load(family, path, block_size=4)
    else:
        assert load(family, path, block_size=8).block_size == 8
        for wrong in (0, 2.5):
            with pytest.raises(ValueError, match=f"block_size must be .*, got {wrong}$"):
                load(family, path, block_size=wrong)
    if family != "decoder":
        with pytest.raises(ValueError, match="takes no shift: it is known, got True"):
            load(family, path, shift=True)


def test_the_block_of_a_family_is_its_configs_or_the_published_one(tmp_path):
    assert load("llada2", published.write("llada2", tmp_path), block_size=None).block_size == 32
    assert load("sdar", published.write("sdar", tmp_path, block_size=16)).block_size == 16
    with pytest.raises(ValueError, match="block_size of the config must be an integer, got 'many'"):
        load("sdar", published.write("sdar", tmp_path, block_size="many"))
    path = published.write("a2d-qwen3-bd3lm", tmp_path)
    with pytest.raises(ValueError, match="block_size must be given, since Qwen3-.* was trained block by block"):
        load_denoiser(path, mask_token_id=published.MASK)


@torch.no_grad()
def test_llada2_is_a_decoder_of_transformers_with_a_cache(tmp_path):
    network = load("llada2", published.write("llada2", tmp_path)).network
    tokens, block = torch.randint(0, 30, (2, 14), generator=torch.Generator().manual_seed(0)), torch.arange(14) // 7
    visible = (block[:, None] >= block)[None, None]
    for attention in ("eager", "sdpa"):
        network.set_attn_implementation(attention)
        whole = network(tokens, attention_mask=visible, output_hidden_states=True)
        cache = DynamicCache(config=network.config)
        first = network(tokens[:, :7], past_key_values=cache, attention_mask=visible[..., :7, :7])
        positions = torch.arange(7, 14)[None]
        second = network(tokens[:, 7:], past_key_values=cache, position_ids=positions)
        torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole.logits, rtol=1e-5, atol=1e-5)
        assert len(whole.hidden_states) == published.LAYERS + 1 and cache.get_seq_length() == 14
        torch.testing.assert_close(network.lm_head(whole.hidden_states[-1]), whole.logits)
    assert network.base_model is network.model and network.get_input_embeddings() is network.model.word_embeddings
    embedded = network.get_input_embeddings()(tokens)
    torch.testing.assert_close(network(inputs_embeds=embedded, attention_mask=visible).logits, whole.logits)
