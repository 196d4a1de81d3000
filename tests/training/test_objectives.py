"""Objectives against closed forms: the bound by enumeration, decisions as planned, NCE's optimum."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from edlm.corpus.languages import MarkovChain
from edlm.denoisers.function import FunctionDenoiser
from edlm.denoisers.scoring import scores_at
from edlm.diffusion.plan import plan_in_blocks, plan_reveal
from edlm.diffusion.schedule import Cosine, LogLinear, Polynomial, bell_times
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import BatchStreams
from edlm.energies import CallableEnergy, Decision, OracleEnergy, Step
from edlm.energies.proposal import make_decision
from edlm.sampler import EnergySampler
from edlm.training.means import add
from edlm.training.mixtures import EnergyObjectiveConfig
from edlm.training.objectives import AutoregressiveObjective, DenoiserObjective, EnergyObjective
from tests.chance import SIGMAS, assert_law, assert_mean
from tests.enumerable import BOS, LENGTH, MASK, SEQUENCES, VOCAB_SIZE, log_p_ar, random_causal_lm, random_denoiser

SCHEDULES = [LogLinear(), Cosine(), Polynomial(2.0)]
COUNTS = torch.tensor([9, 1, 4, 2, 7, 3, 1, 5, 2, 8, 1, 1, 3, 6, 2, 4, 1, 1, 2, 10, 3, 1, 1, 5, 2, 4, 11])
DATA = SEQUENCES.repeat_interleave(COUNTS, 0)  # 100 rows: every sequence as often as its probability says
P_DATA = COUNTS.double() / 100


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(rows: Tensor, *seed: int) -> BatchStreams:
    return BatchStreams(seed, *rows.shape)


# The denoiser's bound


class Table(nn.Module):
    """Marginals from a table over noisy sequences; shape ``[4 ** 3, 3, 3]``."""

    def __init__(self, log_probs: Tensor):
        super().__init__()
        self.log_probs = nn.Parameter(log_probs)

    def forward(self, x_t: Tensor, slots: Slots, t: Tensor) -> Tensor:
        assert t.shape == (slots.batch_size,)
        return self.log_probs[(x_t * 4 ** torch.arange(2, -1, -1)).sum(1)][slots.rows, slots.positions]


NOISY = torch.cartesian_prod(*[torch.arange(MASK + 1)] * LENGTH)  # in the order of the table's rows


def random_table() -> Table:
    return Table(torch.randn(len(NOISY), LENGTH, VOCAB_SIZE, generator=generator(2)).log_softmax(-1))


def true_table() -> Table:
    """Exact conditionals of the data's law: ``p(x_0^i = v | what x_t shows)``."""
    agrees = ((NOISY[:, None] == SEQUENCES) | (NOISY[:, None] == MASK)).all(-1).double()
    joint = agrees * P_DATA
    is_value = (SEQUENCES[:, :, None] == torch.arange(VOCAB_SIZE)).double()
    marginals = torch.einsum("ns,slv->nlv", joint, is_value)
    return Table((marginals / joint.sum(1)[:, None, None]).log())


def masked_nll(table: Table) -> Tensor:
    """Mean over the data of the summed nll of the masked tokens, summed over patterns of ``m`` masks: ``[4]``."""
    totals = torch.zeros(4, dtype=torch.float64)
    for masked in torch.cartesian_prod(*[torch.arange(2)] * 3).bool():
        x_t = torch.where(masked, MASK, DATA)
        slots = Slots.where(x_t == MASK)
        log_probs = table(x_t, slots, torch.ones(len(DATA))).gather(1, slots.gather(DATA)[:, None])
        totals[masked.sum()] -= log_probs.double().sum() / len(DATA)
    return totals


def nelbo(table: Table) -> float:
    """``sum_M (m - 1)! (L - m)! / L! nll(M)``, nats per token: the integral over t in closed form, for any schedule."""
    return (masked_nll(table)[1:] @ torch.tensor([2 / 6, 1 / 6, 2 / 6], dtype=torch.float64)).item() / LENGTH


def nelbo_of_times_drawn(table: Table, schedule) -> float:
    """The same for ``t`` uniform in [1e-3, 1), as training draws it: midpoint rule, 200,000 points."""
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t = 1e-3 + (1 - 1e-3) * t
    masked, weight, nll = 1 - schedule.alpha(t), schedule.nelbo_weight(t), masked_nll(table)
    terms = [masked**m * (1 - masked) ** (3 - m) * nll[m] for m in (1, 2, 3)]
    return (weight * sum(terms)).mean().item() / LENGTH


@torch.no_grad()
@pytest.mark.parametrize("make", [random_table, true_table])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_eq_10_the_denoisers_loss_is_the_nelbo_whatever_the_schedule(schedule, make):
    """False alarm: below 1e-9 (six and a half standard errors of 500 draws)."""
    table, rows = make(), DATA.repeat(10, 1)
    objective = DenoiserObjective(random_denoiser(), schedule)
    losses = torch.stack([objective(table, rows, noise(rows, 1, i))[0].value for i in range(500)])
    expected = nelbo_of_times_drawn(table, schedule)
    assert_mean(losses, expected)
    assert SIGMAS * losses.std() / 500**0.5 < 0.03 * expected  # so that a wrong factor would be seen
    assert abs(expected / nelbo(table) - 1) < 2e-3  # what leaving out t < 1e-3 costs


@torch.no_grad()
def test_bell_times_weigh_the_bounds_integrand_in_training_only():
    table, rows = true_table(), DATA.repeat(10, 1)
    objective = DenoiserObjective(random_denoiser(), LogLinear(), partial(bell_times, mean=0.9))
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = torch.exp(-(((t - 0.9) / 0.2) ** 2) / 2) * (t >= 1e-3)
    integrand = sum(t ** (m - 1) * (1 - t) ** (3 - m) * masked_nll(table)[m] for m in (1, 2, 3)) / LENGTH
    weighed = (density / density.mean() * integrand).mean()
    losses = torch.stack([objective(table, rows, noise(rows, 1, i))[0].value for i in range(500)])
    assert_mean(losses, weighed)
    assert abs(weighed / nelbo(table) - 1) > 10 * losses.std() / 500**0.5  # the two can be told apart
    table.eval()
    both = (objective, DenoiserObjective(random_denoiser(), LogLinear()))
    evaluated, uniform = (o(table, rows, noise(rows, 3))[0].value for o in both)
    assert evaluated == uniform


def test_at_the_true_conditionals_the_nelbo_is_the_entropy():
    entropy = -(P_DATA * P_DATA.log()).sum().item()
    assert nelbo(true_table()) == pytest.approx(entropy / LENGTH, rel=1e-9)
    assert nelbo(random_table()) > entropy / LENGTH + 0.1


def test_the_denoisers_loss_has_the_gradient_of_its_value():
    table = random_table()
    loss, _ = DenoiserObjective(random_denoiser(), LogLinear())(table, DATA, noise(DATA))
    loss.value.backward()
    step = 1e-2 * table.log_probs.grad / table.log_probs.grad.norm()
    with torch.no_grad():
        moved = DenoiserObjective(random_denoiser(), LogLinear())(Table(table.log_probs - step), DATA, noise(DATA))[0]
    assert (loss.value - moved.value).item() == pytest.approx(1e-2 * table.log_probs.grad.norm().item(), rel=1e-3)


# The causal LM


def test_autoregressive_loss_is_minus_log_p_with_bos_first():
    model = random_causal_lm()
    for bos in (BOS, 2):
        loss, metrics = AutoregressiveObjective(bos)(model, SEQUENCES, noise(SEQUENCES))
        assert loss.value.item() == pytest.approx(-log_p_ar(model, SEQUENCES, bos).mean().item(), rel=1e-5)
        assert metrics == {}


# Decisions that an energy is trained on

LONG = 12  # tokens of a row; 5 symbols, 5 the mask


def uniform_denoiser() -> FunctionDenoiser:
    return FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 5), 5, 5)


def decisions(batch_size: int = 12, num_candidates: int = 4, denoiser=None, seed: int = 0, **config):
    x_0 = torch.randint(5, (batch_size, LONG), generator=generator(4))
    x_0[:, 0] = torch.arange(batch_size) % 5
    config = EnergyObjectiveConfig(loss="ranking", **{"group_sizes": (None,), **config})
    objective = EnergyObjective(denoiser or uniform_denoiser(), config, reads_hidden=False)
    return x_0, objective.draw_decision(x_0, num_candidates, noise(x_0, seed))


def seeing_denoiser() -> FunctionDenoiser:
    """Its marginals depend on the whole of ``x_t``, and differ from position to position."""
    powers, places = 1.7 ** torch.arange(LONG), 1 + torch.arange(LONG)[:, None] / 7

    def f(x_t: Tensor, t: Tensor) -> Tensor:
        return 2 * torch.sin((x_t * powers).sum(1)[:, None, None] * torch.arange(1, 6) * places)

    return FunctionDenoiser(f, 5, 5)


@pytest.mark.parametrize("order", ["left_to_right", "dilated"])
def test_contexts_are_those_of_the_plan_and_steps_are_spread_evenly(order):
    x_0, decision = decisions(num_steps=(4,), orders=(order,), decisions_per_pass=1)
    at = ((1 - decision.step.t) * 4).round().long()
    assert torch.equal(torch.bincount(at), torch.tensor([3, 3, 3, 3]))
    residues = [0, 2, 1, 3]  # bit-reversed
    for row, i in enumerate(at.tolist()):
        if order == "dilated":
            sets = [set(range(residue, LONG, 4)) for residue in residues]
        else:
            sets = [{3 * step, 3 * step + 1, 3 * step + 2} for step in range(4)]
        masked = decision.step.x_t[row] == 5
        assert set(masked.nonzero()[:, 0].tolist()) == set().union(*sets[i:])
        assert torch.equal(decision.step.x_t[row][~masked], x_0[row][~masked])
        assert decision.slots.positions[decision.slots.rows == row].tolist() == sorted(sets[i])
    data = decision.slots.write(decision.x_partial, decision.slots.gather(x_0))
    assert torch.equal(decision.candidates[:, 0], data)
    filled = decision.candidates != decision.x_partial[:, None]
    assert torch.equal(filled, (data != decision.x_partial)[:, None].expand_as(filled))
    torch.testing.assert_close(decision.log_proposal, torch.full((12, 4), 3 * -math.log(5), dtype=torch.float64))
    negatives = decision.candidates[:, 1:]
    assert (negatives != decision.candidates[:, :1]).any(-1).sum() > 30  # of 36, but for chance 5 ** -3 each


@pytest.mark.parametrize("order", ["random", "dilated", "ancestral"])
def test_later_steps_are_decided_on_one_pass_as_if_they_came_next(order):
    x_0, decision = decisions(12, 2, seeing_denoiser(), num_steps=(6,), orders=(order,), decisions_per_pass=6)
    masked = decision.step.x_t == 5
    sources: list[int] = []
    while len(sources) < len(decision.candidates):  # all decisions of a row follow each other
        left = round(decision.step.t[len(sources)].item() * 6)
        sources += [sources[-1] + 1 if sources else 0] * left
    place = decision.step.encoding.place.tolist()
    assert len(set(zip(sources, place, strict=True))) == 12  # one pass for all decisions of a row;
    assert len(decision.step.encoding.features) == len(set(place)) <= 12  # equal rows share one
    assert ((decision.candidates[:, 0] == x_0[sources]) | (decision.candidates[:, 0] == 5)).all()
    assert torch.equal(decision.slots.gather(decision.candidates[:, 0]), decision.slots.gather(x_0[sources]))
    own_pass = decision.slots.gather(decision.step.denoiser.log_probs(decision.step.x_t))
    of_data = own_pass.gather(1, decision.slots.gather(x_0[sources])[:, None])[:, 0]
    torch.testing.assert_close(decision.log_proposal[:, 0], decision.slots.sum_rows(of_data.double()))
    for source in range(12):
        mine = [i for i, row in enumerate(sources) if row == source]
        assert len({tuple(decision.step.x_t[i].tolist()) for i in mine}) == 1
        at = round((1 - decision.step.t[mine[0]].item()) * 6)
        assert len(mine) == 6 - at
        sets = [decision.slots.positions[decision.slots.rows == i].tolist() for i in mine]
        together = [position for chosen in sets for position in chosen]
        assert sorted(together) == masked[mine[0]].nonzero()[:, 0].tolist()  # each masked position once
        if order != "ancestral":
            assert [len(chosen) for chosen in sets] == [2] * len(mine)
    few = decisions(num_steps=(6,), orders=(order,), decisions_per_pass=2)[1]
    assert len(few.candidates) == 10 * 2 + 2  # rows at the last of six steps have one


def test_earlier_groups_are_written_with_data_and_groups_are_drawn_evenly():
    """False alarm: 1e-9. A step of 12 tokens in groups of 5: 5, 5 and 2 tokens."""
    x_0, decision = decisions(3000, num_steps=(1,), orders=("left_to_right",), group_sizes=(5,))
    first = decision.slots.positions[decision.slots.ranks == 0]
    assert torch.equal(decision.slots.counts, torch.where(first == 10, 2, 5))
    assert_law(torch.bincount(first // 5, minlength=3), torch.full((3,), 1 / 3, dtype=torch.float64))
    earlier = torch.arange(LONG) < first[:, None]
    assert torch.equal(decision.x_partial, torch.where(earlier, x_0, 5))
    assert (decision.step.x_t == 5).all()
    inside = (torch.arange(LONG) >= first[:, None]) & (torch.arange(LONG) < first[:, None] + 5)
    assert torch.equal(decision.candidates[:, 0], torch.where(earlier | inside, x_0, 5))


def test_at_sequence_scope_every_masked_position_is_filled():
    x_0, decision = decisions(num_steps=(4,), orders=("random",), scope="sequence")
    masked = decision.step.x_t == 5
    assert sorted(masked.sum(1).tolist(), reverse=True) == [12] * 3 + [9] * 3 + [6] * 3 + [3] * 3
    assert torch.equal(decision.slots.counts, masked.sum(1)) and not (decision.candidates == 5).any()
    assert torch.equal(decision.candidates[:, 0], x_0)
    assert torch.equal(decision.candidates.movedim(1, -1)[~masked], x_0[~masked][:, None].expand(-1, 4))


def test_negatives_follow_the_denoisers_law():
    """Product of the marginals, whatever the data; independent between candidates. False alarm: 2e-9."""
    denoiser = random_denoiser()
    config = EnergyObjectiveConfig(loss="ranking", num_steps=(1,), orders=("random",))
    x_0 = torch.tensor([2, 0, 1]).repeat(4000, 1)
    drawn = EnergyObjective(denoiser, config, reads_hidden=False).draw_decision(x_0, 6, noise(x_0))
    marginals = denoiser.log_probs(torch.tensor([[MASK] * 3]))[0].double().log_softmax(-1)  # sums to 1 in float64
    law = torch.stack([marginals[i, SEQUENCES[:, i]] for i in range(3)]).sum(0).exp()
    code = (drawn.candidates * torch.tensor([9, 3, 1])).sum(-1)
    assert_law(torch.bincount(code[:, 1:].flatten(), minlength=27), law)
    assert_law(torch.bincount(27 * code[:, 1] + code[:, 5], minlength=729), torch.outer(law, law).flatten())
    assert (code[:, 0] == 19).all()  # 2 0 1
    torch.testing.assert_close(drawn.log_proposal, law.log()[code], atol=1e-5, rtol=0)


def test_each_batch_draws_from_the_mixtures():
    """Every triple is met in 300 draws; false alarm 12 (11 / 12) ** 300 < 1e-10."""
    met, denoiser = set(), uniform_denoiser()
    for seed in range(300):
        config = {"num_steps": (2, 3, 6), "orders": ("left_to_right", "dilated"), "group_sizes": (None, 1)}
        _, decision = decisions(2, 2, denoiser, seed, **config)
        tokens_of_a_step = decision.step.slots.positions[decision.step.slots.rows == 0]
        in_a_row = int(tokens_of_a_step[1] - tokens_of_a_step[0]) == 1
        met.add((len(tokens_of_a_step), in_a_row, int(decision.slots.counts[0])))
    assert met == {(n, in_a_row, size) for n in (6, 4, 2) for in_a_row in (True, False) for size in (n, 1)}


def test_blocks_are_a_mixture_of_their_lengths():
    """Two steps of a block of 4 reveal 2 tokens each, all left of the block being given."""
    met = set()
    for seed in range(40):
        x_0, decision = decisions(2, 1, seed=seed, num_steps=(2,), orders=("random",), block_lengths=(None, 4))
        size = 4 if int(decision.slots.counts[0]) == 2 else 12
        for row in range(len(x_0)):
            places = decision.slots.positions[decision.slots.rows == row]
            block = int(places[0]) // size
            assert (places // size == block).all() and len(places) == size // 2
            assert torch.equal(decision.step.x_t[row, : block * size], x_0[row, : block * size])
            assert (decision.step.x_t[row, (block + 1) * size :] == 5).all()
        met.add(size)
    assert met == {4, 12}


@pytest.mark.parametrize("order, block_length", [("confidence", None), ("confidence", 6), ("entropy_bounded(3.0)", 6)])
def test_orders_that_look_are_followed_from_the_start_of_a_block(order, block_length):
    """The reveal sets are those that the sampler has on the same data, step after step."""
    denoiser, seen = seeing_denoiser(), set()
    config = {"num_steps": (4,), "orders": (order,), "block_lengths": (block_length,), "decisions_per_pass": 3}
    plan = plan_in_blocks(
        torch.ones(8, LONG, dtype=torch.bool),
        block_length,
        lambda masked, number: plan_reveal(masked, order, 4, LogLinear(), None),
        aligned=True,
    )
    for seed in range(6):
        x_0, decision = decisions(8, 1, denoiser, seed, **config)
        assert len(decision.step.x_t) == 8  # one decision a pass
        x_t, found = torch.full_like(x_0, 5), torch.zeros(8, dtype=torch.bool)
        for step in range(plan.total_steps):
            at = torch.full((8,), step)
            masked = plan.block(at) & (x_t == 5)
            encoding = denoiser.encode(x_t, torch.full((8,), 1 - step % 4 / 4))
            slots = plan.slots(at, masked, scores_at(plan.rule, denoiser, encoding, masked))
            is_here = (x_t == decision.step.x_t).all(1) & (slots.counts > 0) & (decision.slots.counts > 0)
            for row in is_here.nonzero()[:, 0].tolist():
                mine = slots.positions[slots.rows == row].tolist()
                assert decision.slots.positions[decision.slots.rows == row].tolist() == mine
                seen.add((step, *mine))
            found |= is_here
            x_t = slots.write(x_t, slots.gather(x_0))
        assert bool((found | (decision.slots.counts == 0)).all()) and found.sum() >= 4
    assert len(seen) > 10


# Losses by hand


def test_the_likelihood_loss_is_minus_log_q_of_the_data_per_token():
    """With the oracle as energy: ``-log p_true(x_R | x_t)``."""
    language = MarkovChain([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]], [0.5, 0.2, 0.3])
    config = EnergyObjectiveConfig(num_steps=(2,), orders=("random",), decisions_per_pass=2)
    objective = EnergyObjective(random_denoiser(), config, reads_hidden=False)
    loss, metrics = objective(OracleEnergy(language), DATA, noise(DATA, 6))
    decision = objective.draw_decision(DATA, 1, noise(DATA, 6))
    assert decision.num_candidates == 1
    log_q = language.log_prob(decision.candidates[:, 0]) - language.log_prob(decision.step.x_t)
    assert loss.value.item() == pytest.approx(-log_q.sum().item() / len(decision.slots))
    gain = log_q - decision.log_proposal[:, 0]
    assert metrics["gain_nats_per_token"].value.item() == pytest.approx(gain.sum().item() / len(decision.slots))


def judged(candidates: Tensor) -> Tensor:
    """Asymmetric energies of candidates, with and without masks."""
    return (candidates * torch.tensor([0.9, -0.7, 0.4])).sum(-1).double()


@pytest.mark.parametrize("scope", ["step", "sequence"])
@pytest.mark.parametrize("loss", ["ranking", "binary"])
def test_ranking_and_binary_losses_by_hand(loss, scope):
    config = EnergyObjectiveConfig(loss=loss, scope=scope, num_steps=(5,), orders=("random",), num_candidates=4)
    objective = EnergyObjective(random_denoiser(), config, reads_hidden=False)
    value, metrics = objective(CallableEnergy(lambda c, x, p: judged(c)), DATA, noise(DATA, 8))
    decision = objective.draw_decision(DATA, 4, noise(DATA, 8))
    expected, gains = [], []
    for row, count in enumerate(decision.slots.counts.tolist()):
        if count:  # five steps for three tokens: some decide nothing, and do not count
            first, *others = judged(decision.candidates[row]).tolist()
            gains.append(math.log(4) - first - math.log(math.exp(-first) + sum(math.exp(-e) for e in others)))
            accepted, refused = 1 / (1 + math.exp(first)), [1 / (1 + math.exp(-e)) for e in others]
            expected.append(-math.log(accepted) - sum(map(math.log, refused)) / 3 if loss == "binary" else -gains[-1])
    assert 0 < len(expected) and (scope == "sequence" or len(expected) < len(decision.candidates))
    assert value.value.item() == pytest.approx(sum(expected) / len(expected))
    assert metrics["gain_nats_per_decision"].value.item() == pytest.approx(sum(gains) / len(gains))


def test_the_ranking_loss_is_minus_the_gain_of_the_samplers_bound():
    """One step, one row a seed, whole step: the bound's gain over k = 1, in expectation. False alarm: 1e-9."""
    denoiser, energy = random_denoiser(), CallableEnergy(lambda c, x, p: judged(c))
    config = EnergyObjectiveConfig(loss="ranking", num_steps=(1,), orders=("left_to_right",), num_candidates=4)
    rows, objective = DATA.repeat(50, 1), EnergyObjective(denoiser, config, reads_hidden=False)
    losses = torch.stack([objective(energy, DATA, noise(DATA, 9, i))[0].value for i in range(50)])
    common = {"num_steps": 1, "order": "left_to_right"}
    base = EnergySampler(denoiser, **common).likelihood_bound(rows, seeds=range(5000))
    bound = EnergySampler(denoiser, energy, num_candidates=4, **common).likelihood_bound(rows, seeds=range(5000))
    difference = (bound - base).view(50, 100).mean(1)  # mean over the same rows
    assert_mean(losses - difference, torch.zeros(()))
    assert abs(difference.mean()) > 0.05 and losses.std() < 0.2


# Item 8 of the method page: what NCE recovers


class Energies(nn.Module):
    """An energy of its own for every (partial) candidate, in float64."""

    def __init__(self):
        super().__init__()
        self.of = nn.Parameter(torch.zeros(len(NOISY), dtype=torch.float64))

    def forward(self, decision: Decision) -> Tensor:
        return self.of[(decision.candidates * torch.tensor([16, 4, 1])).sum(-1)]


GIVEN = torch.tensor([MASK, 1, MASK])  # one x_t: two tokens to decide, the middle one known
PROPOSAL = torch.tensor([[3, 1, 2], [1, 4, 1]])  # sixths, of positions 0 and 2
IN_CONTEXT = SEQUENCES[SEQUENCES[:, 1] == 1]  # its nine fillings


def exact_decision(num_negatives: int) -> Decision:
    """All pairs of data and noise as often as their probabilities say, so that a mean over them is the expectation.

    With one negative: a row for each (data, noise). With all: a row for each data, all noise as its negatives.
    """
    data = DATA[DATA[:, 1] == 1]  # p_data(x_R | x_t), as counts
    weights = PROPOSAL[0][IN_CONTEXT[:, 0]] * PROPOSAL[1][IN_CONTEXT[:, 2]]
    noise = IN_CONTEXT.repeat_interleave(weights, 0)  # 36
    if num_negatives == 1:
        candidates = torch.stack([data.repeat_interleave(36, 0), noise.repeat(len(data), 1)], 1)
    else:
        candidates = torch.cat([data[:, None], noise.expand(len(data), -1, -1)], 1)
    table = (PROPOSAL / 6).log()
    denoiser = FunctionDenoiser(lambda x_t, t: table[[0, 0, 1]].expand(len(x_t), -1, -1), MASK, VOCAB_SIZE)
    x_t = GIVEN.expand(len(candidates), -1)
    step = Step(denoiser, x_t, torch.ones(len(x_t)), denoiser.encode(x_t), Slots.where(x_t == MASK))
    tokens = candidates[step.slots.rows, :, step.slots.positions]
    return make_decision(step, step.slots, x_t, denoiser.slot_log_probs(step.encoding, step.slots), tokens)


def log_ratio() -> Tensor:
    """``log p_data(x_R | x_t) - log p_theta(x_R | x_t)`` of the nine fillings."""
    p_data = P_DATA[SEQUENCES[:, 1] == 1]
    return (p_data / p_data.sum()).log() - (PROPOSAL[0][IN_CONTEXT[:, 0]] * PROPOSAL[1][IN_CONTEXT[:, 2]] / 36).log()


@pytest.mark.parametrize(("loss", "num_negatives"), [("binary", 1), ("binary", 36), ("ranking", 1)])
def test_item_8_nce_recovers_the_log_ratio(loss, num_negatives, monkeypatch):
    """Exact expected loss, minimised: binary NCE exactly whatever the number of negatives, ranking up to a constant."""
    config = EnergyObjectiveConfig(loss=loss, num_candidates=num_negatives + 1)
    objective, decision = EnergyObjective(random_denoiser(), config, reads_hidden=False), exact_decision(num_negatives)
    monkeypatch.setattr(objective, "draw_decision", lambda *args: decision)
    energies = Energies()
    optimizer = torch.optim.LBFGS(
        energies.parameters(), max_iter=2000, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = objective(energies, DATA, noise(DATA))
        loss.value.backward()
        return loss.value

    optimizer.step(closure)
    recovered = -energies.of.detach()[(IN_CONTEXT * torch.tensor([16, 4, 1])).sum(1)]
    difference = recovered - log_ratio()
    assert log_ratio().std() > 0.5
    if loss == "binary":
        torch.testing.assert_close(difference, torch.zeros(9).double(), atol=1e-4, rtol=0)
    else:
        torch.testing.assert_close(difference, difference.mean().expand(9), atol=1e-4, rtol=0)


@pytest.mark.parametrize("loss", ["binary", "ranking"])
def test_item_8_gradient_of_drawn_decisions_vanishes_at_the_log_ratio(loss):
    """Steps, groups, contexts and negatives as drawn: no mean gradient at the truth; one at its opposite.

    For ranking, a constant is added in each context. False alarm: 64 entries at 8e-11 each.
    """
    denoiser = random_denoiser(3)
    config = EnergyObjectiveConfig(
        loss=loss, num_steps=(1, 2), orders=("left_to_right",), group_sizes=(1, 2), num_candidates=4
    )
    objective = EnergyObjective(denoiser, config, reads_hidden=False)
    language = OracleEnergy(_Tabular())
    constants = torch.randn(len(NOISY), generator=generator(5), dtype=torch.float64)

    class Truth(Energies):
        """Energies ``language``'s (log p_theta - log p_data), moved by a table that is zero."""

        def forward(self, decision: Decision) -> Tensor:
            context = (decision.x_partial * torch.tensor([16, 4, 1])).sum(-1)
            energy = factor * language(decision) + (constants[context][:, None] if loss == "ranking" else 0)
            return energy + super().forward(decision)

    for factor in (1, -1):
        model, source, gradients = Truth(), generator(10), []
        for i in range(150):
            model.zero_grad()
            rows = DATA[torch.randperm(len(DATA), generator=source)]  # a row's place in a batch sets its step
            objective(model, rows, noise(rows, 10, i))[0].value.backward()
            gradients.append(model.of.grad)
        gradients = torch.stack(gradients)
        if factor == 1:
            assert_mean(gradients, torch.zeros(len(NOISY)))
        else:
            away = gradients.mean(0).abs() / (gradients.std(0) / 150**0.5 + 1e-9)
            assert away.max() > 3 * SIGMAS  # so that the test above has power


class _Tabular:
    """The law of ``DATA`` as a language: exact probabilities with masked positions summed out."""

    def log_prob(self, x: Tensor) -> Tensor:
        agrees = ((x[:, None] == SEQUENCES) | (x[:, None] == MASK)).all(-1).double()
        return (agrees @ P_DATA).log()


# A batch that is divided


def objectives() -> dict[str, tuple[Callable, nn.Module]]:
    """Every loss with its model; energies at random orders, in groups, several decisions a pass."""
    language, made = MarkovChain([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]], [0.5, 0.2, 0.3]), {}
    for loss, scope in [("likelihood", "step"), ("ranking", "step"), ("binary", "step"), ("binary", "sequence")]:
        energy = OracleEnergy(language) if loss == "likelihood" else CallableEnergy(lambda c, x, p: judged(c))
        settings = {"num_steps": (1, 2, 5), "orders": ("ancestral", "random"), "group_sizes": (1, 2)}
        config = EnergyObjectiveConfig(loss=loss, scope=scope, decisions_per_pass=2, num_candidates=4, **settings)
        made[f"{loss} {scope}"] = EnergyObjective(random_denoiser(), config, reads_hidden=False), energy
    made["denoiser"] = DenoiserObjective(random_denoiser(), Cosine()), random_table()
    made["bell times"] = DenoiserObjective(random_denoiser(), LogLinear(), bell_times), random_table()
    made["causal LM"] = AutoregressiveObjective(BOS), random_causal_lm()
    return made


@torch.no_grad()
@pytest.mark.parametrize("name", objectives())
def test_parts_of_a_batch_add_up_to_the_whole_batch(name):
    objective, model = objectives()[name]
    for seed in range(4):
        whole, sums = {}, {}
        loss, metrics = objective(model, DATA, noise(DATA, seed))
        add(whole, {"loss": loss, **metrics})
        for first, end in [(0, 37), (37, 38), (38, 100)]:
            part = BatchStreams((seed,), *DATA.shape, range(first, end))
            loss, metrics = objective(model, DATA[first:end], part)
            add(sums, {"loss": loss, **metrics})
        for mean, summed in zip(whole.values(), sums.values(), strict=True):
            assert mean.count == summed.count > 0
            assert summed.total.item() == pytest.approx(mean.total.item(), rel=1e-6)


# What is refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "ranking", "num_candidates": 1}, "num_candidates must be >= 2"),
        ({"decisions_per_pass": 0}, "decisions_per_pass must be >= 1"),
        ({"num_steps": ()}, "must not be empty"),
        ({"num_steps": (4, 0)}, "each >= 1"),
        ({"block_lengths": ()}, "must not be empty"),
        ({"block_lengths": (None, 0)}, r"block_lengths must each be >= 1 or null, got \[None, 0\]"),
    ],
)
def test_settings_that_cannot_be_trained_on_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        EnergyObjectiveConfig(**settings)


def test_denoiser_is_frozen_and_its_states_kept_only_where_read():
    denoiser = random_denoiser()
    denoiser.train()
    denoiser.register_parameter("weight", nn.Parameter(torch.ones(1)))
    config, kept = EnergyObjectiveConfig(), []
    encode = denoiser.encode
    denoiser.encode = lambda *args, keep_hidden: kept.append(keep_hidden) or encode(*args, keep_hidden=keep_hidden)
    for reads in (True, False):
        EnergyObjective(denoiser, config, reads_hidden=reads).draw_decision(DATA, 1, noise(DATA))
    assert kept == [True, False]
    assert not denoiser.training and not denoiser.weight.requires_grad


@pytest.mark.parametrize("loss", ["likelihood", "ranking", "binary"])
def test_a_batch_that_decides_nothing_is_no_loss(loss):
    """64 steps for 12 tokens: most steps reveal none, and the mean over no decision would be NaN."""
    denoiser = FunctionDenoiser(lambda x_t, t: torch.arange(5.0).expand(*x_t.shape, 5), 5, 5)
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    model.weight.data.fill_(2.0)
    model.register_forward_pre_hook(lambda model, args: args[0].log_proposal[..., None])
    model.register_forward_hook(lambda model, args, energy: energy[..., 0])
    config = EnergyObjectiveConfig(loss=loss, num_steps=(64,), num_candidates=2)
    objective = EnergyObjective(denoiser, config, reads_hidden=False)
    losses = []
    for seed in range(20):
        rows = torch.zeros(1, LONG, dtype=torch.long)
        loss, metrics = objective(model, rows, noise(rows, seed))
        loss.value.backward()
        assert all(torch.isfinite(mean.value) for mean in (loss, *metrics.values()))
        losses.append(loss.value.item())
    assert 0.0 in losses and max(map(abs, losses)) > 0.1
