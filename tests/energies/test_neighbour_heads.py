"""MarkovHead and ChainHead against sums over all fillings: Z, likelihood, gradients, draws, neighbours, groups."""

import pytest
import torch

from edlm import FunctionDenoiser
from edlm.energies import ChainHead, MarkovHead, Step, load_energy
from edlm.energies.card import TrainedFor
from edlm.energies.neighbours import Neighbours
from edlm.energies.proposal import PLAIN, Proposal
from edlm.energies.shortlist import shortlist_and_shares
from tests.chance import assert_law
from tests.energies.heads import MASK, VOCAB_SIZE, decision_of, modernbert, ranked, step_on

HEADS = pytest.mark.parametrize("kind", [MarkovHead, ChainHead])
LISTED = pytest.mark.parametrize("num_likeliest", [1, 2, 3, 9])  # of 4 tokens; 9 lists the mask too
FILLINGS = torch.cartesian_prod(*[torch.arange(VOCAB_SIZE)] * 3)
#  Slots 0 and 2 surround a given token, 3 follows 2 at once, 4 stays masked; the decision order is another one.
ROW = torch.tensor([MASK, 2, MASK, MASK, MASK, 1])
ORDER = (3, 0, 2)


@pytest.fixture(scope="module")
def denoiser():
    return modernbert().double()


def disturbed(kind, denoiser, **options):
    """As if trained: every weight is moved at random."""
    torch.manual_seed(7)
    head = kind.from_denoiser(denoiser, rank=3, **options).double().eval()
    for weight in head.parameters():
        weight.data += 0.7 * torch.randn(weight.shape, dtype=weight.dtype)
    return head


def every_filling(denoiser, row=ROW, order=ORDER) -> tuple[Step, torch.Tensor]:
    step = step_on(denoiser, row[None], ranked(order))
    return step, FILLINGS.T


class Enumerated:
    """The law of all fillings of a step of one row, by loops over positions and tokens, from the weights of a head.

    A slot has its likeliest tokens as states, and one more that is any other token.
    """

    def __init__(self, head, step: Step, order=ORDER, proposal=PLAIN):
        self.head, self.row, self.order, self.sharpness = head, step.x_t[0].tolist(), order, 1 / proposal.temperature
        log_p = proposal(step.denoiser.slot_log_probs(step.encoding, ranked(order)))
        self.log_p = dict(zip(order, log_p.detach(), strict=True))
        self.listed = {p: self.log_p[p].argsort(descending=True)[: head.shape.num_likeliest].tolist() for p in order}
        hidden = step.encoding.hidden[-1][0].detach() if head.shape.reads_states else None
        self.states = {p: None if hidden is None else head.norm(hidden[p]) for p in order}

    def law(self) -> torch.Tensor:
        """``log q`` of every filling, ``[64]``."""
        return self.weights() if isinstance(self.head, MarkovHead) else self.weights().log_softmax(0)

    def weights(self) -> torch.Tensor:
        """Of a chain: log-weights, whose sum is the partition function; of a Markov head: ``log q``."""
        return torch.stack([self._weight(dict(zip(self.order, f, strict=True))) for f in FILLINGS.tolist()])

    def _weight(self, filling: dict[int, int]) -> torch.Tensor:
        total = 0.0
        for position, token in filling.items():
            listed, log_p = self.listed[position], self.log_p[position]
            rest = torch.tensor([v for v in range(len(log_p)) if v not in listed], dtype=torch.long)
            pair = self._pair(filling, position)
            weights = [log_p[v] + self.sharpness * (self._single(position, v) + pair(v)) for v in listed]
            weights = torch.stack([*weights, log_p[rest].logsumexp(0) if len(rest) else log_p.new_tensor(-torch.inf)])
            weights = weights.log_softmax(0) if isinstance(self.head, MarkovHead) else weights
            if token in listed:
                total = total + weights[listed.index(token)]
            else:
                total = total + (weights[-1] + log_p[token] - log_p[rest].logsumexp(0)).nan_to_num(-torch.inf)
        return total

    def _single(self, position: int, token: int) -> torch.Tensor:
        state = self.states[position]
        return 0.0 if state is None else self.head.token.weight[token] @ (self.head.state.weight @ state)

    def _pair(self, filling: dict[int, int], position: int):
        head = self.head
        left = [p for p in range(position) if p in filling or self.row[p] != MASK]
        if not left or head.shape.blind:
            return lambda token: 0.0
        at = left[-1]
        other = filling.get(at, self.row[at])
        if isinstance(head, ChainHead) and at in filling and other not in self.listed[at]:
            return lambda token: 0.0
        gate = head.distance[int(at not in filling), sum(position - at >= bound for bound in (2, 4, 8, 16))]
        if self.states[position] is not None:
            gate = gate * (1 + head.gate.weight @ self.states[position])
        return lambda token: head.right.weight[token] @ (gate * head.left.weight[other])


def enumerated_log_q(head, step: Step, **options) -> torch.Tensor:
    return Enumerated(head, step, **options).law()


@HEADS
@LISTED
@pytest.mark.parametrize("reads_states", [True, False])
def test_likelihood_is_that_of_the_enumerated_law(kind, num_likeliest, reads_states, denoiser):
    head = disturbed(kind, denoiser, num_likeliest=num_likeliest, reads_states=reads_states)
    step, tokens = every_filling(denoiser)
    expected, decision = enumerated_log_q(head, step), decision_of(step, tokens)
    energy = head(decision)
    torch.testing.assert_close(decision.log_p[0] - energy[0], expected, atol=1e-10, rtol=0)
    one_by_one = torch.stack([head.log_prob(step, tokens[:, i])[0] for i in range(len(FILLINGS))])
    torch.testing.assert_close(one_by_one, expected, atol=1e-10, rtol=0)
    assert abs(one_by_one.exp().sum().item() - 1) < 1e-10
    assert energy.std() > 0.3  # the corrections are not small


@HEADS
@pytest.mark.parametrize("num_likeliest", [2, 4])
def test_gradients_are_those_of_the_enumerated_law(kind, num_likeliest, denoiser):
    head = disturbed(kind, denoiser, num_likeliest=num_likeliest)
    step, tokens = every_filling(denoiser)
    weights = torch.randn(len(FILLINGS), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = [weight for weight in head.parameters()]
    expected = torch.autograd.grad(weights @ enumerated_log_q(head, step), parameters)
    found = torch.autograd.grad(-weights @ head(decision_of(step, tokens))[0], parameters)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)
    assert all(gradient.abs().max() > 1e-3 for gradient in expected)


def test_log_partition_is_a_sum_over_all_fillings(denoiser):
    head = disturbed(ChainHead, denoiser, num_likeliest=2)
    step, _ = every_filling(denoiser)
    expected = Enumerated(head, step).weights().logsumexp(0)
    neighbours = Neighbours.of(step, step.slots, step.x_t)
    shortlist, _ = shortlist_and_shares(step, neighbours.slots, PLAIN, 2, FILLINGS.T)
    ((_, field),) = head._fields(step, neighbours, shortlist, PLAIN)
    assert head.log_partition(field).sum().item() == pytest.approx(expected.item(), abs=1e-10)
    assert abs(expected.item()) > 0.1


@HEADS
@LISTED
def test_before_training_it_is_the_denoiser(kind, num_likeliest, denoiser):
    head = kind.from_denoiser(denoiser, rank=3, num_likeliest=num_likeliest).double()
    step, tokens = every_filling(denoiser)
    assert head(decision_of(step, tokens)).abs().max() < 1e-12


@HEADS
def test_what_a_token_depends_on(kind, denoiser):
    """Slot 3 on slot 2; slot 2 on the given token beside it, not on slot 0; the control on nothing."""
    step, tokens = every_filling(denoiser)

    def dependence(head) -> torch.Tensor:
        """Mutual information of slots (3, 0), (3, 2) and (0, 2)."""
        law = enumerated_log_q(head, step).exp().view(4, 4, 4)
        pairs = [law.sum(axis) for axis in (2, 1, 0)]
        return torch.stack([(p * (p / (p.sum(1, keepdim=True) * p.sum(0))).log()).sum() for p in pairs])

    found = dependence(disturbed(kind, denoiser, num_likeliest=3))
    assert found[0] < 1e-10 and found[1] > 0.005 and found[2] < 1e-10
    blind = disturbed(kind, denoiser, num_likeliest=3, blind=True)
    assert blind.is_control and dependence(blind).max() < 1e-10
    torch.testing.assert_close(
        decision_of(step, tokens).log_p - blind(decision_of(step, tokens)), enumerated_log_q(blind, step)[None]
    )
    head = disturbed(kind, denoiser, num_likeliest=3)
    other = Step(step.denoiser, torch.where(step.x_t == 2, 3, step.x_t), step.t, step.encoding, step.slots)
    assert (head.log_prob(step, tokens[:, 5]) - head.log_prob(other, tokens[:, 5])).abs().item() > 0.01


@HEADS
@LISTED
def test_draws_follow_the_enumerated_law(kind, num_likeliest, denoiser):
    head, count = disturbed(kind, denoiser, num_likeliest=num_likeliest), 30_000
    step = step_on(denoiser, ROW.repeat(count, 1), ranked(*[ORDER] * count))
    uniforms = torch.rand(3 * count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    tokens, likeliest = head.sample(step, uniforms, num_likeliest=2)
    number = (tokens.view(count, 3) * torch.tensor([16, 4, 1])).sum(1)
    one, _ = every_filling(denoiser)
    assert_law(torch.bincount(number, minlength=64), enumerated_log_q(head, one).exp())
    assert likeliest[0].shape == likeliest[1].shape == (3 * count, min(2, num_likeliest))
    assert (likeliest[1].sum(1) <= 1 + 1e-9).all()


TEMPERED = [Proposal(0.5), Proposal(2.0), Proposal(top_k=2), Proposal(0.7, top_p=0.8)]


@HEADS
@pytest.mark.parametrize("proposal", TEMPERED, ids=str)
def test_tempered_and_cut_laws(kind, proposal, denoiser):
    """Marginals and potentials are tempered alike, marginals are cut; a temperature alone gives q ** (1 / T)."""
    head = disturbed(kind, denoiser, num_likeliest=2)
    step, tokens = every_filling(denoiser)
    expected = enumerated_log_q(head, step, proposal=proposal)
    found = torch.stack([head.log_prob(step, tokens[:, i], proposal=proposal)[0] for i in range(64)])
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    assert abs(found.exp().sum().item() - 1) < 1e-10
    count = 20_000
    many = step_on(denoiser, ROW.repeat(count, 1), ranked(*[ORDER] * count))
    uniforms = torch.rand(3 * count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    drawn, _ = head.sample(many, uniforms, proposal=proposal)
    assert_law(torch.bincount((drawn.view(count, 3) * torch.tensor([16, 4, 1])).sum(1), minlength=64), found.exp())


def test_a_tempered_chain_is_a_power_of_its_law(denoiser):
    head = disturbed(ChainHead, denoiser, num_likeliest=9)
    step, tokens = every_filling(denoiser)
    plain, cold = (
        torch.stack([head.log_prob(step, tokens[:, i], proposal=Proposal(t))[0] for i in range(64)]) for t in (1, 0.5)
    )
    torch.testing.assert_close(cold, (2 * plain).log_softmax(0), atol=1e-10, rtol=0)


@HEADS
def test_groups_are_laws_given_what_is_decided(kind, denoiser):
    """A group sees the tokens of earlier ones; from left to right a Markov head's groups add up to the whole step."""
    head, order = disturbed(kind, denoiser, num_likeliest=2), (0, 2, 3)
    step, tokens = every_filling(denoiser, order=order)
    groups, total = step.slots.groups(2), 0.0
    for group in groups:
        earlier = step.slots.select(step.slots.ranks < (0 if group is groups[0] else 2))
        energies = []
        for i in range(64):
            x_partial = earlier.write(step.x_t, tokens[: len(earlier), i])
            chosen = tokens[:2, i : i + 1] if group is groups[0] else tokens[2:, i : i + 1]
            energies.append(head(decision_of(step, chosen, group, x_partial))[0, 0])
        total = total + torch.stack(energies)
    log_p = decision_of(step, tokens).log_p[0]
    assert abs((log_p - total).exp().sum().item() - 1) < 1e-10
    whole = head(decision_of(step, tokens))[0]
    assert ((total - whole).abs().max() < 1e-10) == (kind is MarkovHead)


def ragged(denoiser, rows=(0, 1, 2, 3), padded=False):
    """Rows that decide 3, 0, 1 and 6 tokens, or some of them; with one more position that is padding."""
    x_t = torch.tensor([ROW.tolist(), [1, MASK, 0, 3, 2, MASK], [MASK, 0, 1, MASK, 2, 2], [MASK] * 6])
    orders, real = [ORDER, (), (3,), (2, 5, 4, 0, 3, 1)], None
    if padded:
        x_t = torch.cat([x_t, torch.tensor([[0], [MASK], [3], [1]])], 1)
        real = torch.ones_like(x_t).bool()
        real[:, -1] = False
    index = list(rows)
    return step_on(denoiser, x_t[index], ranked(*[orders[r] for r in index]), None if real is None else real[index])


@HEADS
@pytest.mark.parametrize("padded", [False, True])
def test_rows_of_a_batch_are_rows_alone(kind, padded, denoiser):
    head, step = disturbed(kind, denoiser, num_likeliest=2), ragged(denoiser, padded=padded)
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(VOCAB_SIZE, (len(step.slots), 5), generator=generator)
    uniforms = torch.rand(len(step.slots), 2, dtype=torch.float64, generator=generator)
    energy, drawn = head(decision_of(step, tokens)), head.sample(step, uniforms)[0]
    assert energy.shape == (4, 5) and (energy[1] == 0).all() and energy[[0, 2, 3]].abs().min() > 1e-4
    for row in (0, 2, 3):
        alone, mine = ragged(denoiser, [row]), step.slots.rows == row
        torch.testing.assert_close(head(decision_of(alone, tokens[mine])), energy[row : row + 1], atol=1e-9, rtol=0)
        assert torch.equal(head.sample(alone, uniforms[mine])[0], drawn[mine])
        log_q = head.log_prob(alone, tokens[mine, 0])
        torch.testing.assert_close(log_q, head.log_prob(step, tokens[:, 0])[row : row + 1], atol=1e-9, rtol=0)


@HEADS
def test_parts_change_nothing(kind, denoiser, monkeypatch):
    head, step = disturbed(kind, denoiser, num_likeliest=2), ragged(denoiser)
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(VOCAB_SIZE, (len(step.slots),), generator=generator)
    uniforms = torch.rand(len(step.slots), 2, dtype=torch.float64, generator=generator)
    drawn, log_q = head.sample(step, uniforms)[0], head.log_prob(step, tokens)
    monkeypatch.setattr("edlm.energies.shortlist.parts_of_table", lambda rows, *_: torch.arange(rows).split(2))
    monkeypatch.setattr("edlm.energies.neighbour_head._ENTRIES_OF_CPU", 1)
    neighbours = Neighbours.of(step, step.slots, step.x_t)
    parts = neighbours.parts(1)
    assert len(parts) == len(neighbours.first) < len(step.slots) and len(neighbours.parts(4)) < len(parts)
    torch.testing.assert_close(head.log_prob(step, tokens), log_q, atol=1e-12, rtol=0)
    assert torch.equal(head.sample(step, uniforms)[0], drawn)


@HEADS
def test_nothing_to_decide(kind, denoiser):
    head, nothing = disturbed(kind, denoiser), torch.zeros(0, 2, dtype=torch.float64)
    step = Step(denoiser, torch.tensor([[1, 2]]), torch.zeros(1), None, ranked(()))
    assert head.log_prob(step, nothing[:, 0].long()).tolist() == [0]
    assert len(head.sample(step, nothing)[0]) == 0


@HEADS
@pytest.mark.parametrize("num_likeliest", [1, 2])
def test_extreme_marginals_in_single_precision(kind, num_likeliest):
    """Potentials of 40 nats bring back tokens of log-probability -40; the state of all others has almost no mass."""
    spread = torch.tensor([[0.0, -40.0, -38.0, -90.0], [-3.0, 0.0, -60.0, -41.0], [0.0, -45.0, -1.0, -44.0]])
    denoiser = FunctionDenoiser(lambda x_t, t: spread.repeat(len(x_t), 1, 1), MASK, VOCAB_SIZE)
    head = disturbed(kind, denoiser, num_likeliest=num_likeliest, reads_states=False).float()
    head.right.weight.data *= 20
    x_t = torch.full((1, 3), MASK)
    step = Step(denoiser, x_t, torch.ones(1), denoiser.encode(x_t, torch.ones(1)), ranked((0, 1, 2)))
    found = torch.stack([head.log_prob(step, tokens)[0] for tokens in FILLINGS])
    assert abs(found.logsumexp(0).item()) < 1e-4 and found.min() < -100 and found.isfinite().all()
    exact = Enumerated(head, step, order=(0, 1, 2)).law()
    torch.testing.assert_close(found.float(), exact.float(), atol=1e-3, rtol=1e-4)


@HEADS
def test_saved_and_loaded(kind, denoiser, tmp_path):
    head = disturbed(kind, denoiser, num_likeliest=2, reads_states=False).float()
    head.trained_for = TrainedFor(("left_to_right", "random"), (2, 4), (None,))
    head.save_pretrained(tmp_path)
    again = load_energy(tmp_path)
    assert (
        type(again) is kind
        and again.card == head.card
        and again.recommended == {"num_candidates": None, "order": "random"}
    )
    assert not again.reads_hidden and again.shape == head.shape
    step, tokens = every_filling(modernbert())
    torch.testing.assert_close(again(decision_of(step, tokens)), head(decision_of(step, tokens)))
    again.check_denoiser(modernbert())
    with pytest.raises(ValueError, match="the one given differs"):
        again.check_denoiser(modernbert(seed=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rank": 0}, "rank and num_likeliest must be >= 1"), ({"blind": True, "reads_states": False}, "blind needs")],
)
def test_wrong_options(options, message, denoiser):
    with pytest.raises(ValueError, match=message):
        ChainHead.from_denoiser(denoiser, **options)


def test_a_head_of_states_refuses_a_pass_without_them(denoiser):
    step, tokens = every_filling(denoiser)
    bare = Step(denoiser, step.x_t, step.t, denoiser.encode(step.x_t, step.t), step.slots)
    with pytest.raises(ValueError, match="a ChainHead reads states, and MaskedLMDenoiser gives none"):
        disturbed(ChainHead, denoiser).log_prob(bare, tokens[:, 0])
    disturbed(ChainHead, denoiser, reads_states=False).log_prob(bare, tokens[:, 0])
