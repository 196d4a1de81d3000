"""What a CallableEnergy is given, and when: the contract of ``f(candidates, x_partial, log_proposal)``."""

import pytest
import torch

from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
from tests.sampler.brute_force import MASK

L = 5
TABLE = torch.randn(4, L, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X_T = torch.tensor([[3, 3, 3, 3, 3], [0, 3, 1, 3, 2], [2, 2, 2, 2, 2], [3, 1, 3, 3, 3]])
ORDERS = ("ancestral", "random", "dilated", "bisecting", "left_to_right", "confidence")


def log_p_of(x_t):
    """Marginals that depend on ``x_t`` in order of position."""
    weights = torch.arange(1.0, L + 1, dtype=torch.float64)
    shift = ((x_t + 1) * weights).sum(1, keepdim=True)[..., None]
    return (TABLE[0] * (1 + torch.sin(shift)) + TABLE[1]).log_softmax(-1)


class Watch:
    """A denoiser and an energy that write down what they are given."""

    def __init__(self, k, x_t=X_T, complete=False, **options):
        self.k, self.x_t, self.options, self.seen, self.asked = k, x_t, options, [], []
        self.denoiser = FunctionDenoiser(self._denoise, MASK, 3)
        energy = CallableEnergy(self._judge, complete=complete)
        self.sampler = EnergySampler(self.denoiser, energy, num_candidates=k, **{"num_steps": 2, **options})

    def run(self):
        return self.sampler.fill(self.x_t, seeds=range(len(self.x_t)))

    def _denoise(self, x_t, t):
        self.seen.append((x_t.clone(), t.clone()))
        return log_p_of(x_t)

    def _judge(self, candidates, x_partial, log_proposal):
        assert candidates.shape == (len(self.x_t), self.k, L) and candidates.dtype == torch.int64
        assert x_partial.shape == (len(self.x_t), L) and log_proposal.shape == (len(self.x_t), self.k)
        self.asked.append((candidates.clone(), x_partial.clone(), log_proposal.clone(), len(self.seen) - 1))
        return 0.7 * (candidates == 1).sum(-1) + 0.1 * (candidates[..., 0] == 2)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("form", [{}, {"group_size": 1}, {"group_size": 2}, {"scope": "sequence"}], ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_f_gets_all_rows_in_order_k_candidates_and_their_log_proposal(order, form, k):
    watch = Watch(k, order=order, **form)
    watch.run()
    state = X_T.clone()
    assert watch.asked
    for candidates, x_partial, _, _ in watch.asked:
        given = X_T != MASK
        assert torch.equal(x_partial[given], X_T[given])  # all rows, in their order
        filled = candidates != x_partial[:, None]
        assert (x_partial[:, None].expand_as(candidates)[filled] == MASK).all()  # written at masks only
        assert (filled == filled[:, :1]).all()  # all candidates fill the same positions
        if form != {"scope": "sequence"}:
            if "group_size" in form:
                assert filled[:, 0].sum(1).max() <= form["group_size"]
        else:
            assert not (candidates == MASK).any()
        assert (x_partial == MASK).sum() <= (state == MASK).sum()
        state = x_partial
    # log_proposal: the marginals of x_t (not of x_partial) at the filled positions.
    for candidates, x_partial, log_proposal, call in watch.asked:
        seen = watch.seen[call][0]
        x_t = _rows_at(watch, call)
        log_p = log_p_of(x_t)
        filled = (candidates != x_partial[:, None]).double()
        tokens = candidates.clamp(max=2)[..., None]
        each = log_p[:, None].expand(-1, k, -1, -1).gather(3, tokens)[..., 0]
        torch.testing.assert_close(log_proposal, (each * filled).sum(2), rtol=0, atol=1e-9)
        assert len(seen) <= len(X_T)


def _rows_at(watch, call):
    """``x_t`` of all rows at a denoiser call: the ``x_partial`` of the first question asked after it."""
    return next(x_partial for _, x_partial, _, c in watch.asked if c == call)


def test_x_partial_holds_the_groups_before():
    watch = Watch(2, x_t=torch.full((4, L), MASK), order="left_to_right", group_size=2, num_steps=1)
    output = watch.run()
    for g, (candidates, x_partial, _, call) in enumerate(watch.asked):
        assert call == 0
        assert torch.equal(x_partial[:, : 2 * g], output.tokens[:, : 2 * g])
        assert (x_partial[:, 2 * g :] == MASK).all()
        assert (candidates[..., 2 * g : 2 * g + 2] != MASK).all() and (candidates[..., 2 * g + 2 :] == MASK).all()
    assert len(watch.asked) == 3 and len(watch.seen) == 1  # groups cost no denoiser pass


def test_candidates_at_step_scope_leave_other_masks():
    """Scoring whole rows at step scope would fill them."""
    watch = Watch(3, x_t=torch.full((4, L), MASK), order="left_to_right", num_steps=5)
    watch.run()
    for i, (candidates, _, log_proposal, _) in enumerate(watch.asked):
        assert (candidates[..., : i + 1] != MASK).all() and (candidates[..., i + 1 :] == MASK).all()
        assert log_proposal.exp().max() <= 1 and log_proposal.max() <= 0


def test_the_energy_is_asked_where_one_token_is_revealed():
    watch = Watch(3, x_t=torch.tensor([[0, 1, MASK, 2, 2]]), num_steps=1, order="random")
    watch.run()
    assert len(watch.asked) == 1
    heavy = EnergySampler(
        FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 3), MASK, 3),
        CallableEnergy(lambda c, x, log_p: 50.0 * (c[..., 0] != 1)),
        num_steps=1,
        num_candidates=80,
    )
    assert (heavy.sample(50, 1, seeds=range(50)).tokens == 1).all()  # or chance 50 (2/3)^80 = 4e-13


@pytest.mark.parametrize("order", ORDERS)
def test_a_complete_energy_never_sees_a_mask(order):
    watch = Watch(2, order=order, complete=True, scope="sequence", num_steps=4)
    watch.run()
    assert watch.asked
    for candidates, _, _, _ in watch.asked:
        assert not (candidates == MASK).any()


def test_the_window_saves_the_questions():
    watch = Watch(2, order="left_to_right", num_steps=4, window=(0.5, 1.0))
    watch.run()
    assert [call for *_, call in watch.asked] == [0, 1] and len(watch.seen) == 4


def test_the_denoiser_is_told_the_time_of_the_step():
    watch = Watch(2, order="left_to_right", num_steps=4)
    watch.run()
    assert [t.unique().tolist() for _, t in watch.seen] == [[1.0], [0.75], [0.5], [0.25]]


@pytest.mark.parametrize("form", [{}, {"group_size": 1}, {"scope": "sequence"}], ids=str)
def test_the_bound_asks_the_same_questions_with_the_data_in_the_first_slot(form):
    watch = Watch(3, x_t=torch.full((4, L), MASK), order="dilated", **form)
    x_0 = torch.tensor([[0, 1, 2, 2, 1], [1, 1, 0, 2, 0], [2, 0, 2, 1, 1], [0, 0, 1, 0, 2]])
    watch.sampler.likelihood_bound(x_0, seeds=range(4))
    for n, (candidates, x_partial, log_proposal, call) in enumerate(watch.asked):
        known = x_partial != MASK
        assert torch.equal(x_partial[known], x_0[known])
        if n == 0:
            assert not known.any()
            decided = [0, 2] if form != {"group_size": 1} else [0]
            assert torch.equal(candidates[:, 0, decided], x_0[:, decided])
        log_p = log_p_of(_rows_at(watch, call))
        filled = (candidates != x_partial[:, None]).double()
        each = log_p[:, None].expand(-1, 3, -1, -1).gather(3, candidates.clamp(max=2)[..., None])[..., 0]
        torch.testing.assert_close(log_proposal, (each * filled).sum(2), rtol=0, atol=1e-9)
    assert len(watch.asked) == (5 if "group_size" in form else 2)
    # k = 1 is the base: nothing to ask.
    silent = Watch(1, x_t=x_0)
    silent.sampler.likelihood_bound(x_0, seeds=range(4))
    assert not silent.asked
