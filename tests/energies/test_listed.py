"""Residual heads that correct some tokens of each row: their law by hand, draws, gradients, rows alone, memory."""

from dataclasses import replace

import pytest
import torch

from edlm import EnergySampler
from edlm.energies.listed import Listed
from edlm.energies.proposal import Proposal
from edlm.training.soft_targets import with_soft_targets
from tests.chance import assert_law
from tests.energies.heads import MASK, VOCAB_SIZE, bert, decision_of, disturbed_head, log_q, modernbert, ranked, step_on

ORDER, ROW = (3, 0, 2), torch.tensor([MASK, 2, MASK, MASK, MASK])
FILLINGS = torch.cartesian_prod(*[torch.arange(VOCAB_SIZE)] * 3)
RAGGED = torch.tensor([[4, 2, 4, 4, 4], [1, 4, 0, 3, 4], [4, 0, 1, 4, 2], [4, 4, 4, 4, 4]])
ORDERS = [ORDER, (), (3,), (2, 4, 0, 3, 1)]
MAKERS = {
    "warm": lambda **more: disturbed_head(modernbert(), num_blocks=2, num_listed=2, **more),
    "cold": lambda **more: disturbed_head(modernbert(), start="cold", width=8, num_heads=2, num_listed=2, **more),
}
each_start = pytest.mark.parametrize("start", MAKERS)


def ragged(rows=range(4), denoiser=None):
    return step_on(denoiser or modernbert(), RAGGED[list(rows)], ranked(*[ORDERS[row] for row in rows]))


def laws_by_hand(head, step, tokens):
    """Laws after the tokens before each slot, of what the head gives to the output layer: numbers, token by token."""
    seen, law_of = [], head._law
    head._law = lambda *args: seen.append(args) or law_of(*args)
    head(decision_of(step, tokens[:, None]))
    del head._law
    ((x, valid, _, slots, _),) = seen
    marginals = step.denoiser.slot_log_probs(step.encoding, step.slots).exp()
    laws = torch.zeros(len(slots), VOCAB_SIZE + 1)
    for i, state in enumerate(head.final_norm(x[valid])):
        mine = marginals[step.slots.rows == slots.rows[i]]
        listed = sorted(range(VOCAB_SIZE), key=lambda v: -mine[:, v].sum().item())[: head.shape.num_listed]
        feature = head.write(state) + step.encoding.at(slots)[i] if head.shape.start == "cold" else state
        logits, base = step.denoiser.decode(feature[None])[0], marginals[i]
        others = [v for v in range(VOCAB_SIZE) if v not in listed]
        laws[i, listed] = logits[listed].softmax(0) * base[listed].sum()
        laws[i, others] = base[others] * head.rest(state).exp()
    return laws / laws.sum(1, keepdim=True)


@each_start
@torch.no_grad()
def test_laws_are_those_computed_by_hand(start):
    step, head = ragged(), MAKERS[start]()
    tokens = torch.randint(VOCAB_SIZE, (len(step.slots),), generator=torch.Generator().manual_seed(1))
    expected = laws_by_hand(head, step, tokens)
    assert (expected - step.denoiser.slot_log_probs(step.encoding, step.slots).exp()).abs().max() > 0.1
    for way in ("forward", "exact", 2):
        torch.testing.assert_close(log_q(way, head, step, tokens).exp(), expected, atol=1e-5, rtol=1e-4)
    by_row = step.slots.sum_rows(expected.gather(1, tokens[:, None])[:, 0].log().double())
    torch.testing.assert_close(head.log_prob(step, tokens), by_row, atol=1e-4, rtol=1e-4)


@each_start
@pytest.mark.parametrize("proposal", [Proposal(), Proposal(0.5), Proposal(top_k=2), Proposal(0.7, top_p=0.8)], ids=str)
@pytest.mark.parametrize("blind", [False, True])
@torch.no_grad()
def test_draws_follow_the_law(start, proposal, blind):
    head, count = MAKERS[start](blind=blind), 20_000
    one = step_on(modernbert(), ROW[None], ranked(ORDER))
    law = torch.stack([head.log_prob(one, tokens, proposal=proposal)[0] for tokens in FILLINGS]).exp()
    torch.testing.assert_close(law.sum(), torch.ones(()).double(), atol=1e-5, rtol=0)
    many = step_on(modernbert(), ROW.repeat(count, 1), ranked(*[ORDER] * count))
    uniforms = torch.rand(3 * count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    tokens, (likeliest, shares) = head.sample(many, uniforms, proposal=proposal, num_likeliest=2)
    number = (tokens.view(count, 3) * torch.tensor([16, 4, 1])).sum(1)
    assert_law(torch.bincount(number, minlength=64), law / law.sum())
    assert likeliest.shape == shares.shape == (3 * count, 2) and (shares.sum(1) <= 1 + 1e-5).all()


@each_start
@torch.no_grad()
def test_rows_of_a_batch_are_rows_alone(start):
    step, head = ragged(), MAKERS[start]()
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(VOCAB_SIZE, (len(step.slots), 5), generator=generator)
    uniforms = torch.rand(len(step.slots), 2, dtype=torch.float64, generator=generator)
    energy, drawn = head(decision_of(step, tokens)), head.sample(step, uniforms)[0]
    assert len({tuple(sorted(row)) for row in Listed.of(step, 2).tokens[[0, 2, 3]].tolist()}) > 1  # lists of their own
    for row in (0, 2, 3):
        alone, mine = ragged([row]), step.slots.rows == row
        torch.testing.assert_close(head(decision_of(alone, tokens[mine])), energy[row : row + 1], atol=1e-4, rtol=1e-4)
        assert torch.equal(head.sample(alone, uniforms[mine])[0], drawn[mine])


@each_start
def test_gradients_are_those_of_the_law_by_hand(start):
    step, head = ragged(denoiser=modernbert().requires_grad_(False)), MAKERS[start]().train()
    tokens = torch.randint(VOCAB_SIZE, (len(step.slots),), generator=torch.Generator().manual_seed(1))

    def gradients(loss):
        head.zero_grad()
        loss.backward()
        return {name: weight.grad.clone() for name, weight in head.named_parameters()}

    decision = decision_of(step, tokens[:, None])
    found = gradients((head(decision) - decision.log_p).sum())
    expected = gradients(-laws_by_hand(head, step, tokens).gather(1, tokens[:, None]).log().sum())
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-4, name
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3)


@each_start
@torch.no_grad()
def test_soft_targets_are_means_of_the_law_by_hand(start):
    step, head = ragged(), MAKERS[start]()
    tokens = torch.randint(VOCAB_SIZE, (len(step.slots),), generator=torch.Generator().manual_seed(1))
    log_probs = step.denoiser.slot_log_probs(step.encoding, step.slots)
    decision = with_soft_targets(decision_of(step, tokens[:, None]), log_probs, 2, torch.rand(RAGGED.shape))
    law, targets = laws_by_hand(head, step, tokens), decision.targets
    real = targets.probs > 0
    terms = (targets.probs * law[targets.index].log().masked_fill(~real, 0.0)).sum(1)
    rows = step.slots.part(targets.index).sum_rows(terms.double())
    torch.testing.assert_close((decision.log_p[:, 0] - head(decision)[:, 0]), rows, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("entries", [1, 2**26])
@torch.no_grad()
def test_parts_change_nothing(entries, monkeypatch):
    step, head = ragged(), MAKERS["warm"]()
    tokens = torch.randint(VOCAB_SIZE, (len(step.slots), 3), generator=torch.Generator().manual_seed(3))
    expected, lists = head(decision_of(step, tokens)), Listed.of(step, 2)
    monkeypatch.setattr("edlm.memory.rows_at_once.__defaults__", (entries,))
    again, parted = ragged(), Listed.of(ragged(), 2)
    torch.testing.assert_close(head(decision_of(again, tokens)), expected, atol=1e-5, rtol=1e-5)
    for name in ("log_odds", "log_p_rest"):
        torch.testing.assert_close(getattr(parted, name), getattr(lists, name))
    assert torch.equal(parted.tokens, lists.tokens) and torch.equal(parted.places, lists.places)


@torch.no_grad()
def test_an_unlisted_token_far_below_the_others_has_a_finite_energy():
    denoiser = bert()
    denoiser.network.cls.predictions.decoder.bias.data = torch.tensor([0.0, -5.0, -300.0, -310.0, 0.0])
    step, head = step_on(denoiser, ROW[None], ranked(ORDER)), None
    head = disturbed_head(denoiser, start="cold", width=8, num_heads=2, num_listed=2)
    energy = head(decision_of(step, torch.tensor([[2], [3], [2]])))
    assert energy.isfinite().all() and energy.abs().item() < 100
    tokens, _ = head.sample(step, torch.rand(3, 2, dtype=torch.float64))
    assert (tokens < 2).all()


@torch.no_grad()
def test_the_whole_output_layer_is_run_for_the_lists_only():
    denoiser, rows = modernbert(), []
    decode = denoiser.decode
    denoiser.decode = lambda features: rows.append(len(features)) or decode(features)
    head = disturbed_head(denoiser, scale=0.0, num_listed=3)  # the law of the denoiser
    step = step_on(denoiser, ROW[None], ranked(ORDER))
    uniforms = torch.zeros(3, 2, dtype=torch.float64)  # the likeliest token of all
    head.sample(step, uniforms)
    assert rows == [3]


@torch.no_grad()
def test_lists_whose_mass_underflows_at_a_slot():
    """All slots share one list, of a token that is impossible in single precision at most of them."""
    denoiser = modernbert(4)
    denoiser.decode = lambda features, decode=denoiser.decode: 1000 * decode(features)
    head = disturbed_head(denoiser, scale=0.05, num_listed=1)
    step = step_on(denoiser, torch.tensor([[4, 4, 3, 4, 0]]), ranked((3, 0, 1)))
    assert Listed.of(step, 1).log_odds.max() > 104
    assert head(decision_of(step, torch.tensor([[0, 3], [3, 0], [3, 3]]))).isfinite().all()
    tokens, _ = head.sample(step, torch.rand(3, 2, dtype=torch.float64))
    assert (tokens < VOCAB_SIZE).all()


@torch.no_grad()
def test_a_listed_law_is_one_under_autocast():
    step, head = step_on(modernbert(), ROW.repeat(1, 1), ranked(ORDER)), MAKERS["warm"]()
    decision = decision_of(step, FILLINGS.T)
    with torch.autocast("cpu", torch.bfloat16):
        energy = head(decision)
    total = (decision.log_p - energy).exp().sum()
    assert abs(total.item() - 1) < 1e-4


@torch.no_grad()
def test_nothing_to_decide():
    step, head = replace(ragged([0]), slots=ranked(())), MAKERS["warm"]()
    for proposal in (Proposal(), Proposal(0.5)):
        assert head.log_prob(step, torch.zeros(0, dtype=torch.long), proposal=proposal).tolist() == [0.0]
        assert not len(head.sample(step, torch.rand(0, 2), proposal=proposal)[0])


@torch.no_grad()
def test_candidates_and_lists_share_the_marginals_of_a_step():
    denoiser, rows = modernbert(), []
    decode = denoiser.decode
    denoiser.decode = lambda features: rows.append(len(features)) or decode(features)
    head = disturbed_head(denoiser, num_listed=3)
    tokens = EnergySampler(denoiser, head, num_steps=2, num_candidates=3).sample(1, 8, seeds=[0]).tokens
    assert (tokens < VOCAB_SIZE).all() and rows == [4, 4]
