"""E = log p_theta - log p_AR against brute force, its cost in tokens, and the law that it samples."""

import math
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from edlm.denoisers.function import FunctionDenoiser
from edlm.diffusion.slots import Slots
from edlm.energies import AutoregressiveEnergy, load_energy
from edlm.sampler import EnergySampler
from tests.enumerable import (
    BOS,
    MASK,
    SEQUENCES,
    decide,
    empirical_law,
    fillings,
    log_p_ar,
    random_causal_lm,
    random_denoiser,
    total_variation,
)

VOCAB, LENGTH, LM_BOS = 5, 7, 6  # the LM has 7 columns, two of which no candidate holds
PROMPTS = (3, 0, 5, 1)  # tokens given to each row

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "initializer_range": 0.5}
ROTARY = {**SMALL, "num_key_value_heads": 1, "intermediate_size": 24, "pad_token_id": None}
FAMILIES = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16, "initializer_range": 0.5},
    "llama": ROTARY,
    "mistral": {**ROTARY, "sliding_window": 3},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}


def causal_lm(family="gpt2", seed=0):
    torch.manual_seed(seed)
    special = {"bos_token_id": LM_BOS, "eos_token_id": 0}
    config = AutoConfig.for_model(family, vocab_size=VOCAB + 2, **special, **FAMILIES[family])
    return AutoModelForCausalLM.from_config(config).eval()


def wide_denoiser():
    """Marginals that depend on the number of masks, the position and the last token; mask 5 = BOS - 1."""
    table = torch.randn(LENGTH + 1, VOCAB + 1, LENGTH, VOCAB, generator=torch.Generator().manual_seed(2))
    return FunctionDenoiser(lambda x, t: table[(x == VOCAB).sum(1), x[:, -1]], VOCAB, VOCAB)


def rows_with_gaps():
    """First slots 2, none, 0, 2, 1; clean tokens between and after; the mask is 5."""
    x_t = torch.randint(VOCAB, (5, LENGTH), generator=torch.Generator().manual_seed(3))
    for row, gaps in enumerate(([2, 3, 5], [], [0, 1, 2, 3, 4, 5, 6], [2, 4], [1, 6])):
        x_t[row, gaps] = VOCAB
    return x_t


def decision_with_gaps(num_candidates=6):
    x_t = rows_with_gaps()
    drawn = torch.randint(VOCAB, (5, num_candidates, LENGTH), generator=torch.Generator().manual_seed(4))
    drawn[:, 4] = drawn[:, 1]  # a duplicate
    return decide(wide_denoiser(), x_t, torch.where(x_t[:, None] == VOCAB, drawn, x_t[:, None]))


def brute_force(model, decision, carry_over, bos=LM_BOS):
    """Candidate by candidate, term by term; the terms stop before the first mask."""
    energy = decision.log_proposal.clone()
    for row in range(len(energy)):
        slots = sorted(decision.slots.positions[decision.slots.rows == row].tolist())
        for j in range(decision.num_candidates) if slots else ():
            tokens = decision.candidates[row, j]
            end = (tokens.tolist() + [VOCAB]).index(VOCAB)
            terms = log_p_ar(model, tokens[None, :end], bos)[0]
            energy[row, j] -= sum(terms[i] for i in (slots if carry_over else range(slots[0], end)))
    return energy


def tokens_read(model):
    """Numbers of tokens of each pass, filled in as the model runs."""
    passes = []
    model.get_input_embeddings().register_forward_hook(lambda m, args, out: passes.append(args[0].numel()))
    return passes


@pytest.mark.parametrize("carry_over", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_energy_is_log_p_theta_minus_log_p_ar(family, carry_over):
    model, decision = causal_lm(family), decision_with_gaps()
    expected = brute_force(model, decision, carry_over)
    energy = AutoregressiveEnergy(model, bos_token_id=LM_BOS, carry_over=carry_over)(decision)
    assert energy.dtype == torch.float64
    torch.testing.assert_close(energy, expected, atol=2e-5, rtol=0)
    assert (energy[1] == 0).all()  # nothing to decide
    assert expected[[0, 2, 3, 4]].std(1).min() > 0.3  # so that a mix-up of candidates would be seen


@pytest.mark.parametrize("carry_over", [False, True])
@pytest.mark.parametrize("max_tokens", [1, 7, 23, 60, 16384])
def test_passes_stay_within_max_tokens_and_change_nothing(max_tokens, carry_over):
    model, decision, options = causal_lm(), decision_with_gaps(), {"bos_token_id": LM_BOS, "carry_over": carry_over}
    expected = brute_force(model, decision, carry_over)
    energy, passes = AutoregressiveEnergy(model, max_tokens_per_pass=max_tokens, **options), tokens_read(model)
    torch.testing.assert_close(energy(decision), expected, atol=1e-5, rtol=0)
    assert max_tokens < 23 or max(passes) <= max_tokens


def test_each_row_is_judged_as_if_alone():
    energy, whole = AutoregressiveEnergy(causal_lm(), bos_token_id=LM_BOS), decision_with_gaps()
    alone = [
        energy(decide(wide_denoiser(), whole.x_partial[[row]], whole.candidates[[row]]))
        for row in range(len(whole.x_partial))
    ]
    torch.testing.assert_close(energy(whole), torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("max_tokens", [16384, 20])
def test_prefix_is_read_once_a_row_and_duplicates_once(max_tokens):
    model = causal_lm()
    x_t = torch.tensor([[1, 4, 0, 2, 5, 5, 5], [3, 3, 1, 0, 5, 5, 5]])
    fills = torch.tensor([[[0, 1, 2], [4, 4, 1], [0, 1, 2], [0, 1, 3]], [[2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 3]]])
    decision = decide(wide_denoiser(), x_t, torch.cat([x_t[:, None, :4].expand(-1, 4, -1), fills], 2))
    energy = AutoregressiveEnergy(model, bos_token_id=LM_BOS, max_tokens_per_pass=max_tokens)
    energy(decision)  # the first call looks at the model, too
    passes = tokens_read(model)
    logits = []
    model.lm_head.register_forward_hook(lambda m, args, out: logits.append(args[0].shape[:-1].numel()))
    energy(decision)
    prefixes, distinct = 2 * 5, 3 + 2  # BOS and 4 tokens; the last of a candidate's 3 is only scored
    assert sum(passes) == prefixes + distinct * 2
    assert sum(logits) == 2 + distinct * 2
    assert (len(passes) == 2) == (max_tokens == 16384)


def test_one_token_groups_cost_the_prefix_only():
    model, x_t = causal_lm(), torch.tensor([[1, 4, 0, 2, 5, 5, 5]])
    candidates = x_t[:, None].repeat(1, VOCAB, 1)
    candidates[0, :, 4] = torch.arange(VOCAB)
    slots = Slots(torch.tensor([0]), torch.tensor([4]), torch.tensor([0]), 1)
    decision = decide(wide_denoiser(), x_t, candidates, slots)
    passes = tokens_read(model)
    energy = AutoregressiveEnergy(model, bos_token_id=LM_BOS)(decision)
    assert passes == [5]
    torch.testing.assert_close(energy, brute_force(model, decision, False), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("given", "chosen", "passes"),
    [
        ((1, 1), 94, [6 * 95]),  # BOS and a token, read again by each of six candidates
        ((3, 3), 92, [2 * 4, 6 * 91]),
        ((1, 6), 89, [2 * 2, 6 * 93]),  # one row's prefix is long, and they start together
        ((1, 1), 1, [2 * 2]),  # nothing is read after it
    ],
)
def test_a_prefix_that_is_short_for_what_follows_costs_no_pass(given, chosen, passes):
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", vocab_size=VOCAB + 2, **{**FAMILIES["gpt2"], "n_positions": 96})
    model = AutoModelForCausalLM.from_config(config).eval()
    x_t = torch.full((2, 95), VOCAB)
    for row, number in enumerate(given):
        x_t[row, :number] = 1
    slots = Slots.where((x_t == VOCAB) & ((x_t == VOCAB).cumsum(1) <= chosen))
    drawn = torch.randint(VOCAB, (2, 3, 95), generator=torch.Generator().manual_seed(0))
    candidates = x_t[:, None].repeat(1, 3, 1)
    candidates[slots.rows, :, slots.positions] = drawn[slots.rows, :, slots.positions]
    table = torch.randn(95, VOCAB, generator=torch.Generator().manual_seed(1))
    denoiser = FunctionDenoiser(lambda x, t: table.expand(len(x), -1, -1), VOCAB, VOCAB)
    decision = decide(denoiser, x_t, candidates, slots)
    energy = AutoregressiveEnergy(model, bos_token_id=LM_BOS)
    energy(decision)  # the first pass finds out about the output layer
    read = tokens_read(model)
    found = energy(decision)
    assert read == passes
    torch.testing.assert_close(found, brute_force(model, decision, False), atol=1e-3, rtol=0)


@pytest.mark.parametrize("carry_over", [False, True])
def test_step_scope_scores_up_to_the_last_slot_of_each_group(carry_over):
    model, seen = causal_lm(), []
    energy = AutoregressiveEnergy(model, bos_token_id=LM_BOS, carry_over=carry_over)
    energy.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    sampler = EnergySampler(wide_denoiser(), energy, num_steps=2, num_candidates=5, order="left_to_right", group_size=2)
    x_t = torch.full((len(PROMPTS), LENGTH), VOCAB)
    for row, given in enumerate(PROMPTS):
        x_t[row, :given] = torch.arange(given) % VOCAB
    output = sampler.fill(x_t, seeds=[5, 6, 7, 8])
    assert (output.tokens != VOCAB).all() and len(seen) == 2 + 2
    for decision, energies in seen:
        torch.testing.assert_close(energies, brute_force(model, decision, carry_over), atol=2e-5, rtol=0)
    assert any((decision.candidates == VOCAB).any() for decision, _ in seen)


def test_padding_on_the_right_is_not_scored():
    model, whole, keep = causal_lm(), decision_with_gaps(), [0, 1, 3]  # no slot at the end
    decision = decide(wide_denoiser(), whole.x_partial[keep], whole.candidates[keep])
    real = torch.tensor([[True] * 6 + [False]]).expand(3, -1)
    padded = replace(decision, step=replace(decision.step, attention_mask=real))
    last = torch.stack([log_p_ar(model, row, LM_BOS)[:, -1] for row in decision.candidates])
    expected = brute_force(model, decision, False) + last * torch.tensor([[1], [0], [1]])
    energy = AutoregressiveEnergy(model, bos_token_id=LM_BOS)
    torch.testing.assert_close(energy(padded), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_samples_follow_p_ar_for_any_number_of_steps(num_steps):
    model, denoiser, count = random_causal_lm(), random_denoiser(), 4000
    p_ar = log_p_ar(model, SEQUENCES).sum(1).exp()
    energy = AutoregressiveEnergy(model, bos_token_id=BOS)
    options = {"num_steps": num_steps, "scope": "sequence"}
    sampler = EnergySampler(denoiser, energy, num_candidates=200, **options)
    law = empirical_law(sampler.sample(count, 3, seeds=range(count)).tokens)
    # E[TV] of 4000 draws <= sum_x sqrt(p (1 - p) / (2 pi n)) = 0.03; McDiarmid: 0.04 above that has
    # probability exp(-2 n 0.04^2) = 3e-6. Finite k: of the order of chi^2 / 2k = 0.01 a step.
    noise = (p_ar * (1 - p_ar) / (2 * math.pi * count)).sqrt().sum().item()
    assert total_variation(law, p_ar) < noise + 0.04 + 0.01 * num_steps
    base = EnergySampler(denoiser, **options).sample(count, 3, seeds=range(count)).tokens
    assert total_variation(empirical_law(base), p_ar) > 0.3


def test_step_scope_left_to_right_follows_p_ar():
    model, count = random_causal_lm(), 2000
    p_ar = log_p_ar(model, SEQUENCES).sum(1).exp()
    energy = AutoregressiveEnergy(model, bos_token_id=BOS)
    sampler = EnergySampler(
        random_denoiser(), energy, num_steps=1, num_candidates=60, order="left_to_right", group_size=1
    )
    law = empirical_law(sampler.sample(count, 3, seeds=range(count)).tokens)
    noise = (p_ar * (1 - p_ar) / (2 * math.pi * count)).sqrt().sum().item()
    assert total_variation(law, p_ar) < noise + 0.06 + 0.01  # exp(-2 n 0.06^2) = 6e-7


@pytest.mark.parametrize("x_t", [[3, 3, 3], [2, 3, 3], [3, 3, 1], [3, 0, 3]])
def test_enumerated_posterior(x_t):
    """Full: p_theta exp(-E) / Z = p_AR(. | given). coAR: Z = 1."""
    model, x_t = random_causal_lm(), torch.tensor(x_t)
    candidates = fillings(x_t)
    decision = decide(random_denoiser(), x_t[None], candidates[None])
    terms = log_p_ar(model, candidates)

    full = decision.log_proposal - AutoregressiveEnergy(model, bos_token_id=BOS)(decision)
    torch.testing.assert_close(full.log_softmax(1)[0], terms.sum(1).log_softmax(0), atol=1e-5, rtol=0)
    # Z is the probability of what is given after the first slot.
    first = (x_t == MASK).nonzero()[0, 0]
    assert full.logsumexp(1).item() == pytest.approx(terms[:, first:].sum(1).logsumexp(0).item(), abs=1e-5)

    energy = AutoregressiveEnergy(model, bos_token_id=BOS, carry_over=True)
    blind = decision.log_proposal - energy(decision)
    assert blind.exp().sum().item() == pytest.approx(1, abs=1e-5)
    evidence_to_the_right = x_t.tolist() in ([3, 3, 1], [3, 0, 3])
    distance = total_variation(blind.exp()[0], full.softmax(1)[0])
    assert distance > 0.03 if evidence_to_the_right else distance < 1e-5


def test_log_prob_sums_to_one_and_matches_brute_force():
    model = random_causal_lm()
    energy = AutoregressiveEnergy(model, bos_token_id=BOS, max_tokens_per_pass=10)
    log_prob = energy.log_prob(SEQUENCES)
    assert log_prob.dtype == torch.float64
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(log_prob, log_p_ar(model, SEQUENCES).sum(1), atol=1e-5, rtol=0)


def test_without_bos_the_first_token_is_given():
    model = causal_lm()
    energy, x_t = AutoregressiveEnergy(model, bos_token_id=None), rows_with_gaps()[[0, 1, 3, 4]]
    whole = decision_with_gaps()
    decision = decide(wide_denoiser(), x_t, whole.candidates[[0, 1, 3, 4]])
    expected = decision.log_proposal.clone()
    for row, first in ((0, 2), (2, 2), (3, 1)):
        for j in range(6):
            tokens = decision.candidates[row, j]
            expected[row, j] -= log_p_ar(model, tokens[None, 1:], tokens[0].item())[0, first - 1 :].sum()
    torch.testing.assert_close(energy(decision), expected, atol=1e-5, rtol=0)
    text = whole.candidates[2]
    judged = torch.stack([log_p_ar(model, row[None, 1:], row[0].item()).sum() for row in text])
    torch.testing.assert_close(energy.log_prob(text), judged, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="give a bos_token_id"):
        energy(whole)


def test_half_precision_is_summed_in_double():
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=50, **{**ROTARY, "initializer_range": 0.2})
    model = AutoModelForCausalLM.from_config(config).bfloat16().eval()
    tokens = torch.randint(50, (2, 300))
    with torch.no_grad():
        logits = model(torch.cat([torch.full((2, 1), 7), tokens[:, :-1]], 1)).logits
    terms = logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    energy = AutoregressiveEnergy(model, bos_token_id=7)
    torch.testing.assert_close(energy.log_prob(tokens), terms.double().sum(1), atol=1e-3, rtol=0)


def test_mask_inside_of_the_lm_vocabulary_is_refused_before_a_slot():
    x_t = torch.tensor([[1, 4, 0, 2, 1, 1, 0], [3, 5, 1, 0, 5, 5, 5]])
    slots = Slots(torch.tensor([1]), torch.tensor([4]), torch.tensor([0]), 2)
    decision = decide(wide_denoiser(), x_t, x_t[:, None].repeat(1, 3, 1).masked_fill(x_t[:, None] == 5, 1), slots)
    with pytest.raises(ValueError, match=r"reads from the left.* rows \[1\]"):
        AutoregressiveEnergy(causal_lm(), bos_token_id=LM_BOS)(decision)


def test_what_does_not_fit_the_lm_is_an_error():
    model = causal_lm()  # 16 positions, ids 0..6
    energy = AutoregressiveEnergy(model, bos_token_id=LM_BOS)
    assert torch.isfinite(energy.log_prob(torch.ones(2, 16, dtype=torch.long))).all()
    with pytest.raises(ValueError, match="at most 17 tokens long, BOS included.* got 18"):
        energy.log_prob(torch.ones(2, 17, dtype=torch.long))
    with pytest.raises(ValueError, match=r"LM's vocabulary 0\.\.6, got 7"):
        energy.log_prob(torch.tensor([[1, 2], [2, 7]]))
    with pytest.raises(ValueError, match="bos_token_id must lie in 0..6 or be None, got 7"):
        AutoregressiveEnergy(model, bos_token_id=7)
    with pytest.raises(ValueError, match="max_tokens_per_pass must be >= 1, got 0"):
        AutoregressiveEnergy(model, bos_token_id=None, max_tokens_per_pass=0)
    with pytest.raises(ValueError, match="eos_token_id must lie in 0..6 or be None, got 7"):
        AutoregressiveEnergy(model, bos_token_id=LM_BOS, eos_token_id=7)
    short = AutoregressiveEnergy(model, bos_token_id=LM_BOS, max_positions=4)
    assert torch.isfinite(short.log_prob(torch.ones(1, 4, dtype=torch.long))).all()
    with pytest.raises(ValueError, match="LM's max_positions is 4 .*got 6"):
        short.log_prob(torch.ones(1, 5, dtype=torch.long))


def test_step_scope_needs_a_clean_prefix():
    energy = AutoregressiveEnergy(random_causal_lm(), bos_token_id=BOS)
    options = {"num_steps": 2, "num_candidates": 4, "scope": "step"}
    with pytest.raises(ValueError, match="or order='left_to_right'; got scope='step', order='dilated'"):
        EnergySampler(random_denoiser(), energy, order="dilated", **options)
    sampler = EnergySampler(random_denoiser(), energy, order="left_to_right", **options)
    with pytest.raises(ValueError, match="clean prefix"):
        sampler.fill(torch.tensor([[1, 3, 3], [3, 3, 0]]), seeds=[0, 1])
    assert sampler.fill(torch.tensor([[1, 3, 3], [3, 3, 3]]), seeds=[0, 1]).tokens[0, 0] == 1


def test_dropout_is_off():
    model = random_causal_lm(resid_pdrop=0.5, embd_pdrop=0.5).train()
    energy = AutoregressiveEnergy(model, bos_token_id=BOS)
    assert torch.equal(energy.log_prob(SEQUENCES), energy.log_prob(SEQUENCES))


def test_from_causal_lm_finds_bos(tmp_path):
    model = causal_lm()
    model.save_pretrained(tmp_path / "with")
    energy = AutoregressiveEnergy.from_causal_lm(tmp_path / "with", carry_over=True)
    assert (energy.bos_token_id, energy.carry_over, energy.model.dtype) == (LM_BOS, True, torch.float32)
    tokens = decision_with_gaps().candidates[2]
    expected = AutoregressiveEnergy(model, bos_token_id=LM_BOS).log_prob(tokens)
    torch.testing.assert_close(energy.log_prob(tokens), expected)
    half = AutoregressiveEnergy.from_causal_lm(tmp_path / "with", bos_token_id=None, dtype=torch.bfloat16)
    assert (half.bos_token_id, half.model.dtype) == (None, torch.bfloat16)
    model.config.bos_token_id = None
    model.save_pretrained(tmp_path / "without")
    assert AutoregressiveEnergy.from_causal_lm(tmp_path / "without").bos_token_id is None
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[begin]": 2, "[what]": 3}, unk_token="[what]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="[begin]", unk_token="[what]")
    tokenizer.save_pretrained(tmp_path / "without")
    assert AutoregressiveEnergy.from_causal_lm(tmp_path / "without").bos_token_id == 2


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_saved_and_loaded_gives_the_same_energies(family, tmp_path):
    decision = decision_with_gaps()
    options = {"bos_token_id": LM_BOS, "carry_over": True, "max_tokens_per_pass": 99}
    energy = AutoregressiveEnergy(causal_lm(family), **options)
    energy.save_pretrained(tmp_path)
    loaded = load_energy(tmp_path)
    assert isinstance(loaded, AutoregressiveEnergy)
    assert {name: loaded.settings()[name] for name in options} == options
    assert torch.equal(loaded(decision), energy(decision))
    other = AutoregressiveEnergy(causal_lm(family, seed=1), **options)
    assert (other(decision) - energy(decision)).abs().max() > 0.1


def words_tokenizer(words, **special):
    vocabulary = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary, unk_token=words[0], **special)


def test_an_lm_with_a_larger_vocabulary_keeps_its_own_normalisation():
    """Mass on rows that the denoiser lacks is lost, which cancels at sequence scope."""
    torch.manual_seed(0)
    larger = random_causal_lm(vocab_size=7)
    x_t, denoiser = torch.full((1, 3), MASK), random_denoiser()
    decision = decide(denoiser, x_t, SEQUENCES[None])
    terms = log_p_ar(larger, SEQUENCES).sum(1)
    assert terms.logsumexp(0) < -0.1
    law = (decision.log_proposal - AutoregressiveEnergy(larger, bos_token_id=BOS)(decision)).log_softmax(1)[0]
    torch.testing.assert_close(law, terms.log_softmax(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("carry_over", [False, True])
def test_tokens_that_a_smaller_lm_lacks_are_impossible_in_slots(carry_over):
    model, x_t = causal_lm(), torch.tensor([[1, 8, 0, 9, 3], [8, 8, 8, 4, 7]])  # the LM has 7 columns
    denoiser = FunctionDenoiser(lambda x, t: torch.zeros(*x.shape, 10), 8, 10)
    drawn = torch.tensor([[0, 1, 2, 3, 4], [0, 9, 2, 3, 4], [7, 1, 2, 3, 4]])
    x_t[0, 3], x_t[1, 4] = 2, 6
    decision = decide(denoiser, x_t, torch.where(x_t[:, None] == 8, drawn, x_t[:, None]))
    energies = AutoregressiveEnergy(model, bos_token_id=LM_BOS, carry_over=carry_over)(decision)
    assert torch.isposinf(energies).tolist() == [[False, True, False], [False, True, True]]
    terms = log_p_ar(model, decision.candidates[1, :1], LM_BOS)[0]
    expected = decision.log_proposal[1, 0] - (terms[:3] if carry_over else terms).sum()
    assert energies[1, 0].item() == pytest.approx(expected.item(), abs=1e-5)
    ends = decide(denoiser, torch.tensor([[1, 8, 8]]), torch.tensor([[[1, 0, 9], [1, 9, 0], [1, 2, 9]]]))
    text = AutoregressiveEnergy(model, bos_token_id=LM_BOS, carry_over=carry_over, eos_token_id=0)
    assert torch.isposinf(text(ends)).tolist() == [[False, True, True]]  # what follows an end does not count
    given = decide(denoiser, torch.tensor([[9, 8]]), torch.tensor([[[9, 1]]]))
    with pytest.raises(ValueError, match=r"LM's vocabulary 0\.\.6, got 9"):
        AutoregressiveEnergy(model, bos_token_id=LM_BOS)(given)


def test_tokenizers_that_disagree_are_refused():
    denoiser = random_denoiser()  # ids 0..2, mask 3
    model = random_causal_lm(vocab_size=5)
    gpt2 = AutoregressiveEnergy(model, bos_token_id=BOS, tokenizer=words_tokenizer(["<|end|>", "the", "cat", "x", "y"]))
    gpt2.check_denoiser(denoiser)  # it has no tokenizer
    denoiser.tokenizer = words_tokenizer(["<|end|>", "the", "cat", "[MASK]"])
    EnergySampler(denoiser, gpt2, num_steps=1, scope="sequence")  # but for the mask, which is never written
    AutoregressiveEnergy(model, bos_token_id=BOS).check_denoiser(denoiser)
    denoiser.tokenizer = words_tokenizer(["[PAD]", "the", "[CLS]", "[MASK]"])
    message = r"must give .* got 2 ids that differ, the first: 0 \('\[PAD\]', the causal LM: '<\|end\|>'\), 2 "
    with pytest.raises(ValueError, match=message + r".*score its text instead: TextEnergy.from_causal_lm"):
        EnergySampler(denoiser, 0.5 * gpt2, num_steps=1, scope="sequence")


def test_from_causal_lm_keeps_the_tokenizer_and_so_does_the_folder(tmp_path):
    model, words = causal_lm(), ["<unk>", "a", "b", "c", "d", "e", "<s>"]
    model.save_pretrained(tmp_path / "lm")
    assert AutoregressiveEnergy.from_causal_lm(tmp_path / "lm").tokenizer is None
    words_tokenizer(words, bos_token="<s>").save_pretrained(tmp_path / "lm")
    energy = AutoregressiveEnergy.from_causal_lm(tmp_path / "lm", eos_token_id=2, max_positions=9)
    energy.save_pretrained(tmp_path / "energy")
    loaded = load_energy(tmp_path / "energy")
    assert (loaded.eos_token_id, loaded.scoring, loaded.bos_token_id) == (2, {"max_positions": 9}, LM_BOS)
    for found in (energy, loaded):
        assert found.tokenizer.convert_tokens_to_ids(words) == list(range(7))
