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
        log_p = log_p_of(_rows_at(watch, call))
        filled = (candidates != x_partial[:, None]).double()
        tokens = candidates.clamp(max=2)[..., None]
        each = log_p[:, None].expand(-1, k, -1, -1).gather(3, tokens)[..., 0]
        torch.testing.assert_close(log_proposal, (each * filled).sum(2), rtol=0, atol=1e-9)


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


def test_the_bound_of_one_candidate_asks_nothing():
    watch = Watch(1)
    watch.sampler.likelihood_bound(X_T.clamp(max=2), seeds=range(4))
    assert watch.seen and not watch.asked
