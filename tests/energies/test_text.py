"""Energies of text: an LM with other tokens than the denoiser's, and Python functions."""

import math
from dataclasses import replace

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from edlm.denoisers import FunctionDenoiser
from edlm.energies import CallableEnergy, TextEnergy
from edlm.evaluation.samples.judge import Judge
from edlm.sampler import EnergySampler
from tests.chance import assert_law
from tests.enumerable import MASK, SEQUENCES, decide, fillings, random_denoiser

INF = math.inf
LETTERS = ["a", "b", "c", "[MASK]"]
MERGED = ["<bos>", "<eos>", "a", "b", "c", "ab", "ca", "bc"]  # the LM reads pairs


def characters(letters=LETTERS, **special):
    """One token a character."""
    words = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token=letters[0]))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words, mask_token="[MASK]", **special)


def pairs(more="", **special):
    """Byte-pair encoding with the merges ab, ca, bc, in that order, of these letters and maybe more."""
    merges = [("a", "b"), ("c", "a"), ("b", "c")]
    words = Tokenizer(models.BPE({token: i for i, token in enumerate([*MERGED, *more])}, merges))
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words, **{"bos_token": "<bos>", "eos_token": "<eos>", **special})


def pairs_by_hand(text):
    """The same without the library: merges in order of rank."""
    tokens = list(text)
    for merged in ("ab", "ca", "bc"):
        i = 0
        while i + 1 < len(tokens):
            if tokens[i] + tokens[i + 1] == merged:
                tokens[i : i + 2] = [merged]
            i += 1
    return [MERGED.index(token) for token in tokens]


def causal_lm(**settings):
    torch.manual_seed(4)
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 12, "vocab_size": len(MERGED) + 1}
    settings = {"bos_token_id": 0, "initializer_range": 0.8, **settings}
    model = GPT2LMHeadModel(GPT2Config(**shape | settings))
    return model.train()  # dropout on: the energy must turn it off


@torch.no_grad()
def log_p_lm(model, text, ended=False, bos=0):
    """One position at a time: nothing is batched, padded or masked."""
    model.eval()
    ids, total = pairs_by_hand(text) + [1] * ended, 0.0
    for i, token in enumerate(ids):
        logits = model(torch.tensor([[bos, *ids[:i]]])).logits[0, -1]
        total += logits.double().log_softmax(-1)[token].item()
    return total


def spell(ids):
    return "".join("abc"[i] for i in ids)


def spelling_denoiser(letters=LETTERS):
    denoiser = random_denoiser()
    denoiser.tokenizer = characters(letters)
    return denoiser


def decision_with_gaps():
    x_t = torch.tensor([[3, 3, 1], [2, 0, 1], [0, 3, 3], [3, 3, 3]])
    filled = torch.stack([fillings(x_t[0]), x_t[1].expand(9, -1), fillings(x_t[2]), SEQUENCES[[*range(9)]]])
    return decide(spelling_denoiser(), x_t, filled[:, [0, 5, 7, 8, 5]])


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_energy_is_log_proposal_minus_log_p_of_the_text(batch_size):
    model, decision = causal_lm(), decision_with_gaps()
    energies = TextEnergy(model, pairs(), batch_size=batch_size)(decision)
    expected = decision.log_proposal.clone()
    for row in (0, 2, 3):
        for j in range(5):
            expected[row, j] -= log_p_lm(model, spell(decision.candidates[row, j].tolist()))
    torch.testing.assert_close(energies, expected, atol=1e-5, rtol=0)
    assert energies.dtype == torch.float64 and (energies[1] == 0).all()
    assert expected[[0, 2, 3]].std(1).min() > 0.3


def test_each_row_is_judged_as_if_alone():
    energy, whole = TextEnergy(causal_lm(), pairs(), characters()), decision_with_gaps()
    together = energy(whole)
    for row in range(4):
        x_t = whole.x_partial[[row]]
        alone = decide(spelling_denoiser(), x_t, whole.candidates[[row]])
        torch.testing.assert_close(energy(alone), together[[row]], atol=1e-5, rtol=0)


def test_identical_texts_are_scored_once():
    model, decision = causal_lm(), decision_with_gaps()
    energy, read = TextEnergy(model, pairs()), []
    energy(decision)  # the first call looks at the model, too
    model.register_forward_pre_hook(lambda m, args, kwargs: read.extend(kwargs["input_ids"]), with_kwargs=True)
    energy(decision)
    texts = {spell(row) for r in (0, 2, 3) for row in decision.candidates[r].tolist()}
    assert len(read) == len(texts) < 15


def test_with_one_sequence_a_text_the_target_is_p_lm():
    """Normalised over the texts of this length, which is all that the LM is asked about."""
    model, denoiser, x_t = causal_lm(), spelling_denoiser(), torch.full((1, 3), MASK)
    decision = decide(denoiser, x_t, SEQUENCES[None])
    law = (decision.log_proposal - TextEnergy(model, pairs())(decision)).log_softmax(1)[0]
    expected = torch.tensor([log_p_lm(model, spell(row)) for row in SEQUENCES.tolist()]).double()
    torch.testing.assert_close(law, expected.log_softmax(0), atol=1e-5, rtol=0)
    energy = TextEnergy(model, pairs())
    sampler = EnergySampler(denoiser, energy, num_steps=2, num_candidates=300, scope="sequence", order="random")
    tokens = sampler.sample(600, 3, seeds=range(600)).tokens
    codes = (tokens * torch.tensor([9, 3, 1])).sum(1)
    assert_law(torch.bincount(codes, minlength=27), expected.softmax(0))


def test_with_several_sequences_a_text_each_of_them_counts():
    """Tokens 1 and 2 both spell b."""
    model, denoiser, x_t = causal_lm(), random_denoiser(), torch.full((1, 3), MASK)
    energy = TextEnergy(model, pairs(), decode=lambda ids: "".join("abb"[i] for i in ids))
    decision = decide(denoiser, x_t, SEQUENCES[None])
    law = (decision.log_proposal - energy(decision)).softmax(1)[0]
    texts = ["".join("abb"[i] for i in row) for row in SEQUENCES.tolist()]
    p = {text: math.exp(log_p_lm(model, text)) for text in set(texts)}
    total = sum(p[text] * texts.count(text) for text in p)
    for text in p:
        mass = sum(weight for weight, other in zip(law.tolist(), texts, strict=True) if other == text)
        assert mass == pytest.approx(p[text] * texts.count(text) / total, abs=1e-6)


def test_a_text_that_ends_is_scored_with_the_lms_own_eos():
    """The denoiser's c ends a text: every text up to it has p_LM's mass, and what follows the proposal's."""
    model, denoiser, eos = causal_lm(), spelling_denoiser(), 2
    decision = decide(denoiser, torch.full((1, 3), MASK), SEQUENCES[None])
    law = (decision.log_proposal - TextEnergy(model, pairs(), eos_token_id=eos)(decision)).softmax(1)[0]
    found, expected = {}, {}
    for row, weight in zip(SEQUENCES.tolist(), law.tolist(), strict=True):
        ended = eos in row
        text = spell(row[: row.index(eos)] if ended else row)
        found[text, ended] = found.get((text, ended), 0.0) + weight
        expected[text, ended] = math.exp(log_p_lm(model, text, ended))
    total = sum(expected.values())
    assert len(expected) == 1 + 2 + 4 + 8 and ("", True) in expected
    for key, value in expected.items():
        assert found[key] == pytest.approx(value / total, abs=1e-6)
    with pytest.raises(ValueError, match="eos_token_id needs an eos of the LM too"):
        TextEnergy(model, pairs(eos_token=None), eos_token_id=eos)


def test_the_end_of_text_is_the_denoisers_own_by_default():
    """Else an end token in the middle is part of no text, and costs the LM nothing."""
    model, denoiser = causal_lm(), spelling_denoiser()
    decision = decide(denoiser, torch.full((1, 3), MASK), SEQUENCES[None])
    free = TextEnergy(model, pairs())(decision)
    assert torch.equal(free, TextEnergy(model, pairs(), eos_token_id=None)(decision))  # there is none
    denoiser.tokenizer = characters(eos_token="c")
    ended = TextEnergy(model, pairs(), eos_token_id=2)(decision)
    assert torch.equal(TextEnergy(model, pairs())(decision), ended) and not torch.equal(ended, free)
    assert TextEnergy(model, pairs(eos_token=None), bos_token_id=0)(decision).isfinite().all()


def test_step_scope_reads_the_prefix_up_to_the_first_mask():
    model, seen, denoiser = causal_lm(), [], spelling_denoiser()
    energy = TextEnergy(model, pairs())
    energy.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    options = {"order": "left_to_right", "scope": "step", "num_steps": 3, "num_candidates": 4}
    EnergySampler(denoiser, energy, **options).sample(2, 3, seeds=[0, 1])
    assert len(seen) == 3
    for length, (decision, energies) in enumerate(seen, 1):
        for row in range(2):
            for j in range(4):
                text = spell(decision.candidates[row, j, :length].tolist())
                expected = decision.log_proposal[row, j] - log_p_lm(model, text)
                assert energies[row, j].item() == pytest.approx(expected.item(), abs=1e-5)
    with pytest.raises(ValueError, match="use scope='sequence', or order='left_to_right'"):
        EnergySampler(denoiser, energy, num_steps=2, scope="step", order="random")


def test_padding_frames_and_special_tokens_are_no_text():
    letters = ["a", "b", "c", "[MASK]", "[CLS]", "[SEP]", "[PAD]"]
    tokenizer = characters(letters, pad_token="[PAD]", cls_token="[CLS]")  # [SEP] is not said to be special
    denoiser = FunctionDenoiser(lambda x, t: torch.zeros(*x.shape, 7), 3, 7)
    denoiser.tokenizer, denoiser.prefix_ids, denoiser.suffix_ids = tokenizer, (4,), (5,)
    x_t = torch.tensor([[4, 3, 1, 3, 5], [4, 3, 5, 0, 1], [3, 2, 4, 3, 1]])
    candidates = torch.where(x_t == 3, torch.tensor(2), x_t)[:, None]
    decision = decide(denoiser, x_t, candidates)
    real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 5])
    decision = replace(decision, step=replace(decision.step, attention_mask=real))
    texts = []
    CallableEnergy.on_text(lambda found: texts.extend(found) or [0.0] * len(found))(decision)
    assert texts == ["cbc", "c", "cccb"]


def test_a_text_energy_needs_the_denoisers_tokenizer():
    energy = TextEnergy(causal_lm(), pairs())
    with pytest.raises(ValueError, match="needs the denoiser's tokenizer: give it, for FunctionDenoiser has none"):
        EnergySampler(random_denoiser(), energy, num_steps=1, scope="sequence")
    EnergySampler(random_denoiser(), TextEnergy(causal_lm(), pairs(), characters()), num_steps=1, scope="sequence")
    other = TextEnergy(causal_lm(), pairs(), characters(["a", "c", "b", "[MASK]"]))
    with pytest.raises(ValueError, match=r"2 ids that differ, the first: 1 \('b', the tokenizer that decodes: 'c'\)"):
        EnergySampler(spelling_denoiser(), 0.5 * other, num_steps=1, scope="sequence")
    with pytest.raises(ValueError, match="at most 2 of the LM's tokens long, its max_positions, got 3"):
        TextEnergy(causal_lm(), pairs(), max_positions=2)(decision_with_gaps())


def test_bos_is_the_tokenizers_or_the_one_given():
    decision, model = decision_with_gaps(), causal_lm()
    found = [TextEnergy(model, pairs(), bos_token_id=bos)(decision) for bos in ("auto", 0, 1)]
    assert torch.equal(found[0], found[1]) and (found[1] - found[2]).abs().max() > 0.1
    text = spell(decision.candidates[3, 1].tolist())
    assert (decision.log_proposal - found[2])[3, 1].item() == pytest.approx(log_p_lm(model, text, bos=1), abs=1e-5)
    for bos in (None, 99):
        with pytest.raises(ValueError, match=f"bos_token_id must be 'auto' or lie in 0..8, got {bos}"):
            TextEnergy(model, pairs(), bos_token_id=bos)


def test_a_folder_gives_a_text_energy_and_a_judge_that_agree(tmp_path):
    causal_lm().save_pretrained(tmp_path)
    pairs().save_pretrained(tmp_path)
    energy = TextEnergy.from_causal_lm(tmp_path, characters(), batch_size=3)
    decision = decision_with_gaps()
    texts = [spell(row) for row in decision.candidates[3].tolist()]
    nats = Judge.from_pretrained(tmp_path).score(texts).nats
    torch.testing.assert_close((energy(decision) - decision.log_proposal)[3], nats, atol=1e-5, rtol=0)
    assert energy.model.dtype == torch.float32 and not energy.model.training


def test_a_sum_of_text_tokens_and_functions():
    decision, text = decision_with_gaps(), TextEnergy(causal_lm(), pairs())
    tokens = CallableEnergy(lambda c, x, p: 1.0 * (c == 2).sum(-1))
    vowels = CallableEnergy.on_text(lambda texts: [-1.0 * t.count("a") for t in texts])
    total = 0.5 * text + 2 * tokens + vowels
    expected = 0.5 * text(decision) + 2 * tokens(decision) + vowels(decision)
    torch.testing.assert_close(total(decision), expected)
    assert total.reads == "sequence" and total.proposal_share == 0.5


def test_functions_of_text_get_each_text_once():
    seen, decision = [], decision_with_gaps()
    energies = CallableEnergy.on_text(lambda texts: seen.append(texts) or [float(len(t) + t.count("b")) for t in texts])
    found = energies(decision)
    assert len(seen) == 1 and len(set(seen[0])) == len(seen[0])
    for row in (0, 2, 3):
        for j in range(5):
            text = spell(decision.candidates[row, j].tolist())
            assert found[row, j].item() == 3 + text.count("b")
    assert (found[1] == 0).all()  # decides nothing
    with pytest.raises(ValueError, match=r"numbers of shape \(\d+,\), got \(1,\)"):
        CallableEnergy.on_text(lambda texts: [0.0])(decision)
    with pytest.raises(ValueError, match="needs complete sequences"):
        EnergySampler(spelling_denoiser(), energies, num_steps=2, scope="step", order="left_to_right")


def test_functions_of_prefixes_see_what_stands_before_the_first_mask():
    seen = []
    energy = CallableEnergy.on_text(lambda texts: seen.append(set(texts)) or [0.0] * len(texts), of_prefixes=True)
    options = {"order": "left_to_right", "scope": "step", "num_steps": 3, "num_candidates": 3}
    EnergySampler(spelling_denoiser(), energy, **options).sample(2, 3, seeds=[0, 1])
    assert [{len(text) for text in texts} for texts in seen] == [{1}, {2}, {3}]
