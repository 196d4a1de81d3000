"""The SUBS rules, for any function."""

import copy
from dataclasses import replace

import pytest
import torch

from edlm.denoisers.base import Denoiser, DenoiserIdentity
from edlm.denoisers.function import FunctionDenoiser
from edlm.denoisers.vocabulary import Vocabulary
from edlm.diffusion.slots import Slots

V = 4
X_T = torch.tensor([[4, 0, 4], [2, 4, 1], [3, 1, 0]])
LOGITS = torch.randn(3, 3, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def outside(logits=LOGITS):
    return FunctionDenoiser(lambda x_t, t: logits[: len(x_t)], mask_token_id=V, vocab_size=V)


def inside(logits=LOGITS):
    return FunctionDenoiser(lambda x_t, t: logits[: len(x_t)], mask_token_id=1, vocab_size=V)


def test_masked_rows_are_renormalised():
    log_probs = outside().log_probs(X_T)
    assert log_probs.shape == (3, 3, V) and log_probs.dtype == torch.float64
    for row, position in ((0, 0), (0, 2), (1, 1)):
        logits = LOGITS[row, position]
        expected = logits - logits.exp().sum().log()
        torch.testing.assert_close(log_probs[row, position], expected, rtol=0, atol=1e-12)


def test_revealed_tokens_carry_over():
    log_probs = outside().log_probs(X_T)
    for row, position in (X_T != V).nonzero().tolist():
        expected = torch.full((V,), -torch.inf, dtype=torch.float64)
        expected[X_T[row, position]] = 0
        assert torch.equal(log_probs[row, position], expected)


def test_a_mask_inside_the_columns_gets_no_mass():
    x_t = torch.tensor([[1, 0, 1], [2, 1, 3], [3, 2, 0]])
    log_probs = inside().log_probs(x_t)
    masked = x_t == 1
    assert torch.isneginf(log_probs[..., 1]).all()
    others = LOGITS[..., [0, 2, 3]].log_softmax(-1)
    torch.testing.assert_close(log_probs[masked][:, [0, 2, 3]], others[masked], rtol=0, atol=1e-12)
    assert log_probs[1, 0].exp().tolist() == [0, 0, 1, 0]
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 3, dtype=torch.float64))


def test_impossible_columns_get_no_mass():
    class Padded(Denoiser):
        def encode_tokens(self, x_t, t, attention_mask, keep_hidden):
            return lambda: LOGITS[: len(x_t)], None

        def decode(self, features):
            return features

    log_probs = Padded(Vocabulary(V, V, impossible=(0, 3))).log_probs(X_T)
    assert torch.isneginf(log_probs[0, 0, [0, 3]]).all()
    torch.testing.assert_close(log_probs[0, 0, [1, 2]], LOGITS[0, 0, [1, 2]].log_softmax(-1))
    assert log_probs[0, 1].exp().tolist() == [1, 0, 0, 0]  # a known token carries over all the same


@pytest.mark.parametrize("make", [outside, inside])
def test_an_expanded_view_is_never_written_into(make):
    base = torch.tensor([0.3, -1.0, 2.0, 0.5])
    denoiser = make(base.expand(3, 3, V))
    before = base.clone()
    denoiser.log_probs(torch.full((3, 3), denoiser.mask_token_id))
    denoiser.log_probs(torch.tensor([[0, 2, 3], [denoiser.mask_token_id] * 3, [3, 2, 0]]))
    assert torch.equal(base, before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinite_mass_raise(bad):
    logits = LOGITS.clone()
    logits[1, 1, 2] = bad
    with pytest.raises(ValueError, match=f"finite mass on a real token, got a maximum of {bad}"):
        outside(logits).log_probs(X_T)


def test_nan_in_a_banned_column_or_at_a_revealed_position_is_nothing():
    logits = LOGITS.clone()
    logits[:, :, 1] = torch.nan
    assert torch.isfinite(inside(logits).log_probs(torch.ones(3, 3, dtype=torch.long))[..., 0]).all()
    logits = LOGITS.clone()
    logits[2] = torch.nan
    assert not outside(logits).log_probs(X_T).isnan().any()


def test_a_masked_row_without_mass_raises():
    logits = LOGITS.clone()
    logits[0, 2] = -torch.inf
    with pytest.raises(ValueError, match="every masked position needs finite mass on a real token, got .*-inf"):
        outside(logits).log_probs(X_T)
    only_mask = torch.full((3, 3, V), -torch.inf)
    only_mask[..., 1] = 0.0
    with pytest.raises(ValueError, match="every masked position needs finite mass on a real token, got .*-inf"):
        inside(only_mask).log_probs(torch.ones(3, 3, dtype=torch.long))


@pytest.mark.parametrize("shape", [(3, 3, V + 1), (3, V, 3), (1, 3, V), (3, 3)])
def test_a_wrong_shape_raises(shape):
    with pytest.raises(ValueError, match=r"log_probs, a floating-point tensor of shape \(3, 3, 4\), got "):
        outside(torch.zeros(shape)).log_probs(X_T)


def test_default_time_is_the_fraction_masked():
    seen = []

    def f(x_t, t):
        seen.append(t)
        return torch.zeros(*x_t.shape, V)

    denoiser = FunctionDenoiser(f, V, V)
    denoiser.log_probs(X_T)
    denoiser.log_probs(X_T, torch.tensor([0.1, 0.2, 0.7]))
    assert seen[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert seen[1].tolist() == pytest.approx([0.1, 0.2, 0.7])


def test_rows_subset():
    seen = []

    def f(x_t, t):
        seen.append((x_t, t))
        return LOGITS[x_t[:, 0]][:, :, :]

    denoiser = FunctionDenoiser(f, V, V)
    x_t = torch.tensor([[0, 4, 4], [1, 4, 4], [2, 4, 4]])
    t = torch.tensor([0.3, 0.6, 0.9])
    encoding = denoiser.encode(x_t, t, rows=torch.tensor([2, 0]))
    assert seen[0][0].tolist() == [[2, 4, 4], [0, 4, 4]] and seen[0][1].tolist() == pytest.approx([0.9, 0.3])
    assert encoding.place.tolist() == [1, -1, 0] and encoding.hidden is None
    slots = Slots.where(torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 1]]).bool())
    torch.testing.assert_close(encoding.at(slots), LOGITS[[0, 2], [1, 2]])
    torch.testing.assert_close(denoiser.slot_log_probs(encoding, slots), LOGITS[[0, 2], [1, 2]].log_softmax(-1))


def test_slot_log_probs_are_those_of_log_probs():
    everywhere = outside().log_probs(X_T)
    slots = Slots.from_ranked(torch.tensor([[2, 0, 1]] * 3), torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0]]).bool())
    torch.testing.assert_close(outside()(X_T, slots), everywhere[[0, 0, 1], [2, 0, 1]])


def test_half_precision_is_normalised_in_float32():
    log_probs = outside(LOGITS.bfloat16()).log_probs(X_T)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs[0, 0], LOGITS[0, 0].bfloat16().float().log_softmax(-1))


@pytest.mark.parametrize("mask_token_id", [-1, V + 1])
def test_the_mask_must_lie_in_or_next_to_the_columns(mask_token_id):
    with pytest.raises(ValueError, match=rf"mask_token_id must lie in 0\.\.vocab_size \(4\), got {mask_token_id}"):
        FunctionDenoiser(lambda x_t, t: None, mask_token_id, V)


def test_a_function_has_no_identity_no_limits_and_no_states():
    denoiser = outside()
    assert denoiser.identity is denoiser.tokenizer is denoiser.family is denoiser.eos_token_id is None
    assert denoiser.max_length is denoiser.block_size is None and denoiser.prefix_ids == denoiser.suffix_ids == ()
    for name in ("hidden_size", "num_blocks"):
        with pytest.raises(ValueError, match="FunctionDenoiser keeps no hidden states"):
            getattr(denoiser, name)
    with pytest.raises(ValueError, match="FunctionDenoiser has no token embeddings"):
        outside().embed(torch.tensor([0]))
    assert copy.deepcopy(outside()).vocab_size == V


def test_identity_differences_in_words():
    ours = DenoiserIdentity("mine", "abc", 10, 4, "voc")
    assert ours.differences(ours) == []
    assert ours.differences(replace(ours, name="moved")) == []
    theirs = replace(ours, revision="xyz", vocab_size=11, mask_token_id=5, vocabulary="")
    assert ours.differences(theirs) == [
        "revision 'abc' != 'xyz'",
        "vocab_size 10 != 11",
        "mask_token_id 4 != 5",
        "vocabulary 'voc' != ''",
    ]


@pytest.mark.parametrize("masked_too", [False, True])
def test_equal_rows_share_one_pass(masked_too):
    ran = []

    def f(x_t, t):
        ran.append(len(x_t))
        return x_t[..., None] * torch.arange(V) * 0.1 + t[:, None, None]

    denoiser = FunctionDenoiser(f, mask_token_id=V, vocab_size=V)
    x_t, t = X_T[:1].repeat(3, 1), torch.tensor([0.5, 0.5, 0.5])
    everywhere = Slots.where(torch.ones_like(x_t, dtype=torch.bool))
    mask = torch.ones_like(x_t) if masked_too else None
    shared = denoiser.encode(x_t, t, mask)
    assert ran == [1] and shared.place.tolist() == [0, 0, 0]
    subset = denoiser.encode(x_t, t, mask, rows=torch.tensor([0, 2]))
    assert ran == [1, 1] and subset.place.tolist() == [0, -1, 0]
    one_by_one = torch.cat(
        [
            denoiser.slot_log_probs(denoiser.encode(x, s[None]), Slots.where(x >= 0))
            for x, s in zip(x_t.split(1), t, strict=True)
        ]
    )
    torch.testing.assert_close(denoiser.slot_log_probs(shared, everywhere), one_by_one)
    ran.clear()
    denoiser.encode(x_t, torch.tensor([0.5, 0.5, 0.4]), mask)
    x_t[1, 0] = (x_t[1, 0] + 1) % V
    denoiser.encode(x_t, t, mask)
    assert ran == [2, 2]  # one row for those that are equal
    if masked_too:
        mask[2, -1] = 0
        denoiser.encode(X_T[:1].repeat(3, 1), t, mask)
        assert ran == [2, 2, 2]
