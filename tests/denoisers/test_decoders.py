"""Decoders that denoise: each published format against its law computed by hand from the raw tensors."""

import pytest
import torch
from torch import nn

from edlm import ResidualHead, SequenceEnergy, load_denoiser
from edlm.denoisers.columns import decoder_of
from edlm.denoisers.decoder import DecoderDenoiser
from edlm.training import train_denoiser
from tests.denoisers import published_decoders as published
from tests.denoisers.decoders import load, padded, some_rows, wrapped
from tests.energies.heads import decision_of, ranked, step_on

each = pytest.mark.parametrize("family", published.FAMILIES)


@each
@torch.no_grad()
def test_log_probs_are_those_computed_by_hand(family, tmp_path):
    weights = published.random_weights(family)
    denoiser = load(family, published.write(family, tmp_path))
    assert denoiser.family == family and isinstance(denoiser, DecoderDenoiser) and not denoiser.training
    assert (denoiser.mask_token_id, denoiser.vocab_size) == (published.MASK[family], published.VOCAB)
    assert denoiser.shift == (family in published.SHIFTED)
    for row in some_rows(family):
        masked = row == denoiser.mask_token_id
        log_probs = denoiser.log_probs(row[None])[0]
        expected = published.log_probs_by_hand(family, weights, row)
        torch.testing.assert_close(log_probs[masked], expected, rtol=1e-5, atol=1e-5)
        assert expected.exp().max() > 0.1 and (log_probs[~masked].max(-1).indices == row[~masked]).all()


@each
@torch.no_grad()
def test_rows_padded_on_the_right_are_as_if_alone(family, tmp_path):
    weights = published.random_weights(family)
    loaded = load(family, published.write(family, tmp_path))
    for denoiser in (loaded, wrapped(family, weights)[0]):
        rows = some_rows(family)
        x_t, real = padded(rows)
        together = denoiser.log_probs(x_t, attention_mask=real)
        assert torch.equal(together, denoiser.log_probs(x_t, attention_mask=real.long()))
        for row, mine in zip(rows, together, strict=True):
            masked = row == denoiser.mask_token_id
            expected = published.log_probs_by_hand(family, weights, row)
            torch.testing.assert_close(mine[: len(row)][masked], expected, rtol=1e-5, atol=1e-5)


@each
@torch.no_grad()
def test_every_block_sees_the_right_side_with_any_attention(family, tmp_path):
    denoiser = load(family, published.write(family, tmp_path))
    weights, row = published.random_weights(family), some_rows(family)[2]
    for attention in ("sdpa", "eager"):
        denoiser.network.set_attn_implementation(attention)
        torch.testing.assert_close(
            denoiser.log_probs(row[None])[0, row == denoiser.mask_token_id],
            published.log_probs_by_hand(family, weights, row),
            rtol=1e-5,
            atol=1e-5,
        )
        other = row.clone()
        other[-1] = (other[-1] + 1) % 30
        hidden = [denoiser.encode(x[None], keep_hidden=True).hidden for x in (row, other)]
        assert len(hidden[0]) == published.BLOCKS == denoiser.num_blocks
        torch.testing.assert_close(hidden[0][0][0, :-1], hidden[1][0][0, :-1])  # the embeddings
        for a, b in zip(hidden[0][1:], hidden[1][1:], strict=True):  # what leaves each block but the last
            assert (a - b)[0, 0].abs().max() > 1e-4


@each
@torch.no_grad()
def test_a_wrapped_module_is_called_as_its_own_code_calls_it(family):
    weights = published.random_weights(family)
    denoiser, module = wrapped(family, weights)
    assert denoiser.family == family and denoiser.shift == (family in published.SHIFTED)
    assert (denoiser.mask_token_id, denoiser.vocab_size) == (published.MASK[family], published.VOCAB)
    row = some_rows(family)[2]
    expected = published.log_probs_by_hand(family, weights, row)
    torch.testing.assert_close(
        denoiser.log_probs(row[None])[0, row == denoiser.mask_token_id], expected, rtol=1e-5, atol=1e-5
    )
    assert len(module.calls) == 1


@each
def test_the_first_token_of_a_shifted_family_must_be_given(family, tmp_path):
    denoiser = load(family, published.write(family, tmp_path))
    x_t = torch.tensor([[published.MASK[family], 3, published.MASK[family]]])
    if family not in published.SHIFTED:
        assert denoiser.log_probs(x_t).shape == (1, 3, published.VOCAB)
        return
    with pytest.raises(ValueError, match=r"x_t must begin with a given token such as prefix_ids = \[34\]"):
        denoiser.log_probs(x_t)
    assert denoiser.is_framed and denoiser.prefix_ids == (34,) and denoiser.suffix_ids == ()


@each
def test_sequences_beyond_the_longest_are_refused(family, tmp_path):
    denoiser = load(family, published.write(family, tmp_path))
    assert denoiser.max_length == (2048 if family == "smdm" else 32)
    with pytest.raises(ValueError, match=f"at most max_length = {denoiser.max_length} tokens, got"):
        denoiser.log_probs(torch.zeros(1, denoiser.max_length + 1, dtype=torch.long))


@each
def test_the_mask_has_no_mass_and_the_output_layer_runs_at_masks_only(family, tmp_path):
    denoiser, seen = load(family, published.write(family, tmp_path)), []
    denoiser.network.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    row = some_rows(family)[2]
    log_probs = denoiser.log_probs(row[None])[0, row == denoiser.mask_token_id]
    assert seen == [(len(log_probs), published.WIDTH)]
    if denoiser.mask_token_id < denoiser.vocab_size:
        assert torch.isneginf(log_probs[:, denoiser.mask_token_id]).all()
    assert torch.isfinite(log_probs).sum(-1).unique().tolist() == [published.VOCAB - (family != "smdm")]


@each
@torch.no_grad()
def test_columns_of_the_output_layer_are_decoded_alone(family, tmp_path):
    denoiser = load(family, published.write(family, tmp_path))
    features = torch.randn(2, 3, published.WIDTH, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[2, 0], [1, 3]])
    every = denoiser.decode(features.flatten(0, 1)).view(2, 3, -1)
    some = decoder_of(denoiser, tokens)(features)
    torch.testing.assert_close(some, every.gather(2, tokens[:, None].expand(-1, 3, -1)), rtol=1e-5, atol=1e-5)
    assert denoiser.output_layer


@each
def test_missing_and_unexpected_weights_are_named(family, tmp_path):
    weights = published.random_weights(family)
    last = sorted(name for name in weights if f".{published.BLOCKS - 1}." in name)[-1]
    kept = weights.pop(last)
    with pytest.raises(ValueError, match=r"missing \['[\w.]+'\], unexpected \[\]"):
        load(family, published.write(family, tmp_path, weights))
    weights |= {last: kept, "transformer.stranger": kept.clone()}
    with pytest.raises(ValueError, match=r"missing \[\], unexpected \['transformer.stranger'\]"):
        load(family, published.write(family, tmp_path, weights))
    del weights["transformer.stranger"]
    weights[last] = kept[..., :-1].contiguous()
    with pytest.raises(ValueError, match="must have shape"):
        load(family, published.write(family, tmp_path, weights))


@each
def test_a_mask_outside_the_vocabulary_is_refused(family, tmp_path):
    path = published.write(family, tmp_path)
    with pytest.raises(ValueError, match="mask"):
        load(family, path, mask_token_id=99)


@each
def test_loading_as_another_family_says_what_is_missing(family, tmp_path):
    path = published.write(family, tmp_path)
    for other in published.FAMILIES:
        if other != family:
            with pytest.raises(ValueError, match="must (say|hold|have)|missing"):
                load_denoiser(path, family=other)


@each
def test_gradients_reach_the_whole_network(family, tmp_path):
    denoiser = load(family, published.write(family, tmp_path))
    row = some_rows(family)[2][None]
    masked = row == denoiser.mask_token_id
    denoiser.log_probs(row)[masked][:, 3].sum().backward()
    assert [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()] == []


@each
def test_a_cold_head_reads_the_states(family, tmp_path):
    denoiser = load(family, published.write(family, tmp_path)).requires_grad_(False)
    with pytest.raises(ValueError, match="a warm start copies ModernBERT blocks .* got .*: use start='cold'"):
        ResidualHead.from_denoiser(denoiser, start="warm")
    with pytest.raises(ValueError, match="num_blocks must lie in 1..3, got 4"):
        ResidualHead.from_denoiser(denoiser, start="cold", num_blocks=4)
    head = ResidualHead.from_denoiser(denoiser, start="cold", num_blocks=2, width=32)
    assert head.denoiser_identity == denoiser.identity and head.shape.hidden_size == published.WIDTH
    mask = denoiser.mask_token_id
    step = step_on(denoiser, torch.tensor([[3, mask, 5, mask, mask]]), ranked((3, 1, 4)))
    energy = head(decision_of(step, torch.tensor([[1, 2], [7, 8], [9, 4]])))
    torch.testing.assert_close(energy, torch.zeros_like(energy), rtol=0, atol=1e-4)  # before training q = p
    nn.init.normal_(head.write.weight)
    energy = head(decision_of(step, torch.tensor([[1, 2], [7, 8], [9, 4]])))
    energy.sum().backward()
    assert energy.abs().min() > 1e-3 and head.token.weight.grad.abs().max() > 0
    with pytest.raises(ValueError, match="starts from the network of a MaskedLMDenoiser, got a DecoderDenoiser"):
        SequenceEnergy.from_denoiser(denoiser)


def test_training_further_needs_a_denoiser_that_can_be_saved(tmp_path):
    path = published.write("dream", tmp_path)
    with pytest.raises(ValueError, match="start_from must be a masked LM of transformers.*got a DecoderDenoiser"):
        train_denoiser(tmp_path, start_from=str(path), output_dir=str(tmp_path / "out"), num_steps=1)
    assert not (tmp_path / "out").exists()
