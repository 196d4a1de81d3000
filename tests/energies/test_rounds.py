"""Rounds of a residual head: teacher-forced in one pass, and decided one after the other with a cache: one law."""

import pytest
import torch

from edlm.energies import ResidualHead, TokenwiseEnergy
from edlm.energies.proposal import Proposal
from tests.energies.heads import MASK, bert, disturbed_head, modernbert, ranked, step_on

X_T = torch.tensor([[MASK, 1, MASK, MASK, MASK, 0], [MASK, MASK, 2, 3, MASK, 1], [3, 2, 1, 0, 1, 2]])
SLOTS = {"alike": ranked((4, 0, 2), (1, 4, 0), ()), "ragged": ranked((4, 0, 3, 2), (1,), ())}
HEADS = {
    "warm": lambda: disturbed_head(modernbert()),
    "two warm blocks": lambda: disturbed_head(modernbert(), num_blocks=2),
    "cold": lambda: disturbed_head(modernbert(), start="cold", num_blocks=2, width=8, num_heads=2),
    "bert": lambda: disturbed_head(bert(), start="cold", width=8, num_heads=2),
    "blind": lambda: disturbed_head(modernbert(), blind=True),
    "listed": lambda: disturbed_head(modernbert(), num_blocks=2, num_listed=2),
    "listed, cold": lambda: disturbed_head(modernbert(), start="cold", width=8, num_heads=2, num_listed=1),
    "listed, blind": lambda: disturbed_head(modernbert(), blind=True, num_listed=2),
}
TOKENS = torch.tensor([2, 3, 0, 1, 2, 0])


def step_of(name: str, slots: str):
    return step_on(bert() if name == "bert" else modernbert(), X_T, SLOTS[slots])


@torch.no_grad()
@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("size", [1, 2, 3, 9])
@pytest.mark.parametrize("name", HEADS)
def test_one_pass_and_round_by_round_agree(name, size, slots):
    head, step = HEADS[name](), step_of(name, slots)
    tokens = TOKENS[: len(step.slots)]
    at_once = head.log_prob(step, tokens, size)
    torch.testing.assert_close(at_once, TokenwiseEnergy.log_prob(head, step, tokens, size), rtol=1e-5, atol=1e-5)
    assert at_once[2] == 0


@torch.no_grad()
@pytest.mark.parametrize("window", [2, 3, 8, 64])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("name", HEADS)
def test_rounds_drawn_ahead_are_those_drawn_one_by_one(name, slots, size, window, monkeypatch):
    monkeypatch.setattr("edlm.energies.residual_head.rounds_ahead", lambda step, size, listed: window)
    head, step = HEADS[name]().double(), step_of(name, slots)
    for seed in range(4):
        uniforms = torch.rand(len(step.slots), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        options = (uniforms, size, Proposal(temperature=1.5, top_k=3), 2)
        tokens, (likeliest, shares) = head.sample(step, *options)
        one_by_one, tops = TokenwiseEnergy.sample(head, step, *options)
        assert torch.equal(tokens, one_by_one) and torch.equal(likeliest, tops[0])
        torch.testing.assert_close(shares, tops[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_guesses_that_agree_save_passes_and_others_cost_none(monkeypatch):
    """A head that is nearly blind needs few passes, another at most one for each token; a blind one needs one."""
    monkeypatch.setattr("edlm.energies.speculation.CACHED_ENTRIES", 0)
    passes, queries = [], ResidualHead._queries
    monkeypatch.setattr(ResidualHead, "_queries", lambda *args: passes.append(1) or queries(*args))
    for settings, least, most in (({"scale": 0.01}, 2, 4), ({"scale": 1.0}, 2, 6), ({"blind": True}, 1, 1)):
        torch.manual_seed(3)
        head = disturbed_head(modernbert(), **settings)
        passes.clear()
        step = step_on(modernbert(), torch.full((1, 6), MASK), ranked((4, 0, 3, 2, 5, 1)))
        head.sample(step, torch.rand(6, 2).double())
        assert least <= len(passes) <= most


@torch.no_grad()
def test_tokens_of_a_round_do_not_see_each_other_and_those_after_it_do():
    """Three slots, rounds (0, 2) and (1): the law of rank 2 does not depend on rank 0's token; that of rank 1 does."""
    head, step = HEADS["warm"](), step_on(modernbert(), X_T[:1], ranked((4, 0, 2)))

    def log_probs(size: int, *tokens: int) -> float:
        return head.log_prob(step, torch.tensor(tokens), size).item()

    def of_last(size: int, first: int) -> torch.Tensor:
        """``log q`` of the values of rank 2, summed over what rank 1 may be."""
        table = torch.tensor([[log_probs(size, first, other, last) for other in range(4)] for last in range(4)])
        return table.logsumexp(1).log_softmax(0)

    torch.testing.assert_close(of_last(2, 0), of_last(2, 3), rtol=1e-4, atol=1e-4)
    assert (of_last(1, 0) - of_last(1, 3)).abs().max() > 0.001
    given = [torch.tensor([log_probs(2, first, other, 1) for other in range(4)]).log_softmax(0) for first in (0, 3)]
    assert (given[0] - given[1]).abs().max() > 0.001


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", ["two warm blocks", "listed"])
def test_it_is_a_law(name, size):
    head, step = HEADS[name](), step_on(modernbert(), X_T[:1], ranked((4, 0, 2)))
    everything = torch.cartesian_prod(*[torch.arange(4)] * 3)
    total = torch.stack([head.log_prob(step, tokens, size)[0] for tokens in everything]).logsumexp(0)
    assert total.item() == pytest.approx(0, abs=1e-5)
