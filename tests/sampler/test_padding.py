"""Padding and targets: each row is the same alone and in a padded batch, for all energies."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from edlm import AutoregressiveEnergy, CallableEnergy, EnergySampler, FunctionDenoiser, SequenceEnergy
from tests.energies.heads import MASK, disturbed_head, modernbert
from tests.orders import NAMED

ROWS = [
    [MASK] * 9,
    [1, MASK, MASK],
    [2, MASK, 0, MASK, MASK, 3, MASK],
    [3, 3, 1, 0],
    [MASK] * 9,
    [0, 1, MASK, MASK, MASK, MASK, MASK, MASK, MASK, MASK, MASK, MASK],
]
SEEDS = [5, 6, 7, 8, 5, 9]
LENGTHS = torch.tensor([len(row) for row in ROWS])
REAL = torch.arange(12) < LENGTHS[:, None]


def padded(pad=None) -> torch.Tensor:
    """What padding holds is arbitrary: masks too."""
    filler = torch.randint(MASK + 1, REAL.shape, generator=torch.Generator().manual_seed(0))
    x_t = filler if pad is None else torch.full_like(filler, pad)
    for b, row in enumerate(ROWS):
        x_t[b, : len(row)] = torch.tensor(row)
    return x_t


def causal_lm() -> GPT2LMHeadModel:
    torch.manual_seed(3)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=MASK, n_embd=8, n_layer=1, n_head=2, n_positions=16))
    for weight in model.parameters():
        weight.data += 0.5 * torch.randn(weight.shape)
    return model.eval()


def sequence_energy(denoiser) -> SequenceEnergy:
    energy = SequenceEnergy.from_denoiser(denoiser)
    torch.manual_seed(4)
    for weight in energy.parameters():
        weight.data += 0.3 * torch.randn(weight.shape)
    return energy


def judges(denoiser) -> dict:
    """Name -> energy and the options that it is used with."""
    warm, cold = disturbed_head(denoiser), disturbed_head(denoiser, start="cold")
    loose = disturbed_head(denoiser, form="unnormalized")
    ar = AutoregressiveEnergy(causal_lm(), bos_token_id=0)
    blind = CallableEnergy(lambda candidates, x, log_p: -1.0 * log_p)
    whole, groups = {"scope": "sequence", "num_candidates": 4}, {"num_candidates": 4, "group_size": 2}
    return {
        "base": (None, {}),
        "warm": (warm, {"num_candidates": 4}),
        "warm, groups": (warm, groups),
        "warm, exact": (warm, {"num_candidates": None}),
        "warm, rounds": (warm, {"num_candidates": None, "group_size": 2}),
        "warm, sequence": (warm, whole),
        "cold": (cold, groups),
        "cold, exact": (cold, {"num_candidates": None}),
        "loose": (loose, groups),
        "ar": (ar, whole),
        "sequence": (sequence_energy(denoiser), whole),
        "callable": (blind, groups),
        "callable, window": (blind, {**whole, "window": (0.4, 1.0)}),
        "tempered": (warm, {"num_candidates": 3, "temperature": 0.6, "top_p": 0.9, "correct_proposal": True}),
    }


DENOISER = modernbert()
JUDGES = judges(DENOISER)


def make(judge, **options) -> EnergySampler:
    energy, own = JUDGES[judge]
    return EnergySampler(DENOISER, energy, **{"num_steps": 3, **own, **options})


@pytest.mark.parametrize("order", NAMED)
@pytest.mark.parametrize("judge", JUDGES)
def test_a_row_is_the_same_alone_and_padded(judge, order):
    s = make(judge, order=order)
    together = s.fill(padded(), attention_mask=REAL, seeds=SEEDS)
    assert torch.equal(together.tokens[~REAL], padded()[~REAL])  # whatever it was
    assert (together.tokens[REAL] != MASK).all()
    for b, row in enumerate(ROWS):
        alone = s.fill(torch.tensor([row]), seeds=[SEEDS[b]])
        assert alone.tokens[0].tolist() == together.tokens[b, : len(row)].tolist()
        for one, all_ in zip(alone.steps, together.steps, strict=True):
            assert one.num_revealed[0] == all_.num_revealed[b] and one.judged[0] == all_.judged[b]
    assert torch.equal(s.fill(padded(0), attention_mask=REAL.long(), seeds=SEEDS).tokens[REAL], together.tokens[REAL])


@pytest.mark.parametrize("order", ["random", "dilated", "left_to_right", "confidence"])
@pytest.mark.parametrize("judge", JUDGES)
def test_a_rows_bound_is_the_same_alone_and_padded(judge, order):
    s = make(judge, order=order)
    x_0 = torch.where(padded(1) == MASK, torch.tensor([3, 2, 1, 0] * 3), padded(1))
    given = (padded(1) != MASK) & REAL
    together = s.likelihood_bound(x_0, given=given, attention_mask=REAL, seeds=SEEDS)
    for b, row in enumerate(ROWS):
        cut = slice(len(row))
        alone = s.likelihood_bound(x_0[b : b + 1, cut], given=given[b : b + 1, cut], seeds=[SEEDS[b]])
        torch.testing.assert_close(alone[0], together[b], rtol=0, atol=2e-3)
    assert together[3] == 0


@pytest.mark.parametrize("order", NAMED)
@pytest.mark.parametrize("judge", [name for name in JUDGES if name != "sequence"])
def test_what_is_no_target_stays_masked(judge, order):
    s, target = make(judge, order=order), torch.zeros(REAL.shape, dtype=torch.bool)
    target[:, :4] = True
    output = s.fill(padded(), attention_mask=REAL, target=target, seeds=SEEDS)
    due = (padded() == MASK) & target & REAL
    assert torch.equal(output.tokens != padded(), due)
    assert torch.equal(sum(step.num_revealed for step in output.steps), due.sum(1))


def test_a_step_sees_candidates_with_the_rest_masked():
    seen = []
    watch = CallableEnergy(lambda candidates, x, log_p: seen.append(candidates) or 0.0 * log_p)
    target = torch.tensor([[False, True, True, False]])
    s = EnergySampler(DENOISER, watch, num_steps=2, num_candidates=3, scope="sequence", order="left_to_right")
    s.fill(torch.tensor([[MASK] * 4]), target=target, seeds=[0])
    for candidates in seen:
        assert ((candidates == MASK) == ~target[:, None]).all()


def test_a_given_word_that_is_the_mask_stays():
    """DiffuLLaMA's mask is an ordinary word."""
    word = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), mask_token_id=1, vocab_size=4)
    x_t, target = torch.tensor([[1, 1, 0, 1]] * 40), torch.tensor([[False, True, False, True]] * 40)
    s = EnergySampler(word, num_steps=2)
    tokens = s.fill(x_t, target=target, seeds=range(40)).tokens
    assert (tokens[:, 0] == 1).all() and (tokens[:, [1, 3]] != 1).all()
    given = torch.tensor([[True, False, True, False]])
    bound = s.likelihood_bound(torch.tensor([[1, 2, 0, 3]]), given=given, seeds=[0])
    assert bound.item() == pytest.approx(2 * torch.tensor(3.0).log().item())


def bad_fills() -> dict:
    x_t = torch.tensor([[1, MASK, MASK, MASK]])
    second = torch.tensor([[False, True, False, False]])
    return {
        "left": ("base", x_t, {"attention_mask": torch.tensor([[0, 1, 1, 1]])}, "padding must be on the right"),
        "shape": ("base", x_t, {"attention_mask": torch.ones(1, 3)}, r"attention_mask must be a tensor \[1, 4\]"),
        "target": ("base", x_t, {"target": torch.ones(1, 4)}, r"target must be bool \[1, 4\], got torch.float32"),
        "hole": ("ar", x_t, {"target": ~second}, "needs a clean prefix: no mask on the left of the target"),
        "rest": ("sequence", x_t, {"target": second}, "needs complete sequences, and a prefix does not suffice"),
    }


@pytest.mark.parametrize("case", bad_fills())
def test_what_can_not_be_filled(case):
    judge, x_t, options, message = bad_fills()[case]
    with pytest.raises(ValueError, match=message):
        make(judge).fill(x_t, seeds=[0], **options)


def test_a_clean_prefix_suffices_for_a_causal_lm():
    x_t, target = torch.tensor([[1] + [MASK] * 5]), torch.tensor([[False, True, True, False, False, False]])
    energy = JUDGES["ar"][0]
    for options in ({"scope": "sequence"}, {"scope": "step", "order": "left_to_right"}):
        s = EnergySampler(DENOISER, energy, num_steps=2, num_candidates=4, **options)
        assert (s.fill(x_t, target=target, seeds=[0]).tokens == MASK).sum() == 3
