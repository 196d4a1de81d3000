"""Texts that end: what follows an EOS is left out, and the law of the text up to it is the LM's."""

import pytest
import torch

from edlm.denoisers import FunctionDenoiser
from edlm.energies import AutoregressiveEnergy
from edlm.energies.candidate_text import ends_of_text, log_proposal_until
from tests.enumerable import BOS, MASK, SEQUENCES, decide, fillings, log_p_ar, random_causal_lm, random_denoiser

EOS = 1


def text_of(row):
    row = tuple(row)
    return row[: row.index(EOS) + 1] if EOS in row else row


TEXTS = sorted({text_of(row) for row in SEQUENCES.tolist()})


def wide_denoiser(rows=(0, 1, 2, 3, 4)):
    """Five positions; every row has marginals of its own."""
    table = torch.randn(5, 5, 3, generator=torch.Generator().manual_seed(3))
    return FunctionDenoiser(lambda x, t: table[list(rows)], MASK, 3)


def by_text(weights, sequences=SEQUENCES):
    """Mass of each text: sums over what follows its end."""
    law = torch.zeros(len(TEXTS), dtype=torch.float64)
    for row, weight in zip(sequences.tolist(), weights.tolist(), strict=True):
        law[TEXTS.index(text_of(row))] += weight
    return law


def law_of_energy(energy, denoiser, x_t):
    """Law of the chosen candidate for infinitely many candidates: ``q' exp(-E)``, normalised."""
    candidates = fillings(x_t)
    decision = decide(denoiser, x_t[None], candidates[None])
    return candidates, (decision.log_proposal - energy(decision)).softmax(1)[0]


def sum_over_orders(energy, denoiser, order):
    """Law of samples for infinitely many candidates when these positions are revealed step by step."""
    states = {(MASK,) * 3: 1.0}
    for positions in order:
        after = {}
        for state, share in states.items():
            candidates, weights = law_of_energy(energy, denoiser, torch.tensor(state))
            for candidate, weight in zip(candidates.tolist(), weights.tolist(), strict=True):
                row = tuple(candidate[i] if i in positions else token for i, token in enumerate(state))
                after[row] = after.get(row, 0.0) + share * weight
        states = after
    return by_text(torch.tensor(list(states.values())), torch.tensor(list(states)))


@pytest.mark.parametrize("carry_over", [False, True])
def test_the_law_of_the_text_up_to_eos_is_p_ar_in_one_step(carry_over):
    model, denoiser = random_causal_lm(), random_denoiser()
    p_ar = by_text(log_p_ar(model, SEQUENCES).sum(1).exp())
    energy = AutoregressiveEnergy(model, bos_token_id=BOS, eos_token_id=EOS, carry_over=carry_over)
    sequences, law = law_of_energy(energy, denoiser, torch.full((3,), MASK))
    torch.testing.assert_close(by_text(law, sequences), p_ar, atol=1e-6, rtol=0)
    # What follows an end keeps the denoiser's law.
    first = denoiser.log_probs(torch.full((1, 3), MASK))[0].exp().double()
    ended = sequences[:, 0] == EOS
    expected = first[1][sequences[ended, 1]] * first[2][sequences[ended, 2]]
    torch.testing.assert_close(law[ended] / law[ended].sum(), expected, atol=1e-6, rtol=0)
    # p_AR itself has another law there.
    unaware = AutoregressiveEnergy(model, bos_token_id=BOS)
    assert (law_of_energy(unaware, denoiser, torch.full((3,), MASK))[1] - law)[ended].abs().sum() > 0.01


def test_several_steps_left_to_right_are_exact_and_other_orders_only_near():
    model, denoiser = random_causal_lm(), random_denoiser()
    p_ar = by_text(log_p_ar(model, SEQUENCES).sum(1).exp())
    energy = AutoregressiveEnergy(model, bos_token_id=BOS, eos_token_id=EOS)
    unaware = AutoregressiveEnergy(model, bos_token_id=BOS)
    for order in ([[0], [1], [2]], [[0, 1], [2]], [[0], [1, 2]]):
        torch.testing.assert_close(sum_over_orders(energy, denoiser, order), p_ar, atol=1e-6, rtol=0)
    for order in ([[2], [1], [0]], [[1], [0, 2]]):
        away = 0.5 * (sum_over_orders(energy, denoiser, order) - p_ar).abs().sum()
        assert 0.005 < away < 0.2
        torch.testing.assert_close(sum_over_orders(unaware, denoiser, order), p_ar, atol=1e-6, rtol=0)


def test_only_an_eos_behind_all_given_text_is_an_end():
    x_t = torch.tensor(
        [
            [EOS, 3, 3, 3, 3],  # one in the prompt separates documents
            [2, 3, 3, 0, 3],  # text stands at position 3: nothing before it can end
            [2, 3, 3, EOS, 3],  # a given EOS may be an end, or lie behind one
            [3, 2, 0, 2, 0],  # no candidate can end, since text follows
            [0, 0, EOS, 2, 0],  # nothing to decide
        ]
    )
    drawn = torch.tensor([[2, EOS, 0, EOS, 2], [EOS, EOS, EOS, EOS, EOS], [0, 2, 0, 2, 0]])
    candidates = torch.where(x_t[:, None] == MASK, drawn, x_t[:, None])
    denoiser = wide_denoiser()
    decision = decide(denoiser, x_t, candidates)
    expected = [[1, 1, 5], [5, 4, 5], [1, 1, 3], [5, 5, 5], [5, 5, 5]]
    assert ends_of_text(decision, EOS).tolist() == expected
    assert (ends_of_text(decision, None) == 5).all()
    log_q = log_proposal_until(decision, ends_of_text(decision, EOS))
    log_probs = denoiser.log_probs(x_t)
    assert log_q[0, 0].item() == pytest.approx(log_probs[0, 1, EOS].item())
    assert log_q[1, 1].item() == pytest.approx(sum(log_probs[1, i, EOS].item() for i in (1, 2, 4)))
    assert log_q[2, 2].item() == pytest.approx((log_probs[2, 1, 2] + log_probs[2, 2, 0]).item())
    assert (log_q[4] == 0).all()


def test_energies_with_eos_are_sums_up_to_the_end():
    """Term by term, with prompts, duplicates up to the end, and each row as if it were alone."""
    model, denoiser = random_causal_lm(), wide_denoiser()
    x_t = torch.tensor([[EOS, 3, 3, 3, 3], [2, 3, 3, 0, 3], [0, 0, 0, 2, 3], [3, 3, 3, 3, 3], [0, 0, EOS, 2, 0]])
    drawn = torch.tensor([[0, EOS, 0, 2, 2], [0, EOS, 0, 2, 0], [EOS, 0, 0, 2, EOS], [2, 2, 2, 0, 2]])
    decision = decide(denoiser, x_t, torch.where(x_t[:, None] == MASK, drawn, x_t[:, None]))
    ends, log_probs = ends_of_text(decision, EOS), denoiser.log_probs(x_t)
    expected = torch.zeros(5, 4, dtype=torch.float64)
    for row in range(4):
        slots = (x_t[row] == MASK).nonzero()[:, 0].tolist()
        for j in range(4):
            terms = log_p_ar(model, decision.candidates[row, j][None])[0]
            stop = ends[row, j].item() + 1
            expected[row, j] = -terms[slots[0] : stop].sum()
            expected[row, j] += sum(log_probs[row, i, decision.candidates[row, j, i]] for i in slots if i < stop)
    energy = AutoregressiveEnergy(model, bos_token_id=BOS, eos_token_id=EOS)
    read = []
    model.get_input_embeddings().register_forward_hook(lambda m, args, out: read.append(args[0].numel()))
    torch.testing.assert_close(energy(decision), expected, atol=1e-5, rtol=0)
    with_eos = sum(read)
    for row in range(4):
        alone = decide(wide_denoiser([row]), x_t[[row]], decision.candidates[[row]])
        torch.testing.assert_close(energy(alone)[0], expected[row], atol=1e-5, rtol=0)
    read.clear()
    AutoregressiveEnergy(model, bos_token_id=BOS)(decision)
    assert with_eos < sum(read)  # what follows an end is not read, and candidates equal up to theirs are one


@pytest.mark.parametrize("bos", [BOS, None])
def test_log_prob_of_texts_sums_to_one(bos):
    energy = AutoregressiveEnergy(random_causal_lm(), bos_token_id=bos, eos_token_id=EOS)
    log_prob = energy.log_prob(SEQUENCES)
    seen = {}
    for row, value in zip(SEQUENCES.tolist(), log_prob.tolist(), strict=True):
        given = () if bos is not None else (row[0],)
        key = (given, text_of(row[len(given) :]))
        assert seen.setdefault(key, value) == pytest.approx(value, abs=1e-6)
    for first in {given for given, _ in seen}:
        total = sum(torch.tensor(v).exp().item() for (given, _), v in seen.items() if given == first)
        assert total == pytest.approx(1, abs=1e-6)
