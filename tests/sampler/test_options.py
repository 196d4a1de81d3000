"""What the sampler refuses, each rule with its message."""

import math

import pytest
import torch

from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
from edlm.denoisers.base import DenoiserIdentity
from edlm.energies.base import Energy
from tests.sampler.brute_force import MASK, World

WORLD = World()
ZERO = CallableEnergy(lambda candidates, x, log_p: torch.zeros_like(log_p))
COMPLETE = CallableEnergy(lambda candidates, x, log_p: torch.zeros_like(log_p), complete=True)


class PrefixEnergy(Energy):
    """Needs a clean prefix only, as an autoregressive model does."""

    reads = "prefix"

    def forward(self, decision):
        return torch.zeros_like(decision.log_proposal)


def make(energy=None, **options):
    return EnergySampler(WORLD.denoiser(), energy, **{"num_steps": 2, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be >= 1, got 0"),
        ({"num_steps": -3}, "num_steps must be >= 1, got -3"),
        ({"num_candidates": 0}, "num_candidates must be >= 1, got 0"),
        ({"scope": "steps"}, "scope must be 'step' or 'sequence', got 'steps'"),
        ({"group_size": 0}, "group_size must be >= 1, got 0"),
        ({"group_size": 2, "scope": "sequence"}, "group_size needs scope='step': .*got group_size=2"),
        ({"order": "dilate"}, "order must be one of .*'left_to_right'.*, got 'dilate'"),
        ({"schedule": "linear"}, "schedule must be one of .*'log_linear'.*, got 'linear'"),
        ({"weight_temperature": 0.0}, "weight_temperature must be > 0, got 0.0"),
        ({"weight_temperature": math.nan}, "weight_temperature must be > 0, got nan"),
        ({"on_impossible": "skip"}, "on_impossible must be 'raise', 'redraw' or 'keep', got 'skip'"),
        ({"window": (0.5, 0.2)}, r"window must have 0 <= low <= high <= 1, got \(0.5, 0.2\)"),
        ({"window": (0.5,)}, "window must be a pair"),
    ],
)
@pytest.mark.parametrize("energy", [None, ZERO], ids=["base", "energy"])
def test_rules_of_the_options(options, message, energy):
    with pytest.raises(ValueError, match=message):
        make(energy, **options)


def test_exact_decisions_need_a_normalised_energy_step_scope_and_no_temperature():
    with pytest.raises(ValueError, match="num_candidates=None .* normalised token by token; got CallableEnergy"):
        make(ZERO, num_candidates=None)
    with pytest.raises(ValueError, match="normalised token by token; got WeightedSum"):
        make(0.5 * WORLD.head() + 0.5 * WORLD.head(), num_candidates=None)
    with pytest.raises(ValueError, match=r"num_candidates=None \(exact decisions\) needs scope='step', got 'sequence'"):
        make(WORLD.head(), num_candidates=None, scope="sequence")
    with pytest.raises(ValueError, match="weight_temperature must be 1, got 0.5"):
        make(WORLD.head(), num_candidates=None, weight_temperature=0.5)
    assert make(WORLD.head(), num_candidates=None).exact
    assert not make(WORLD.head(), num_candidates=2).exact and not make(None, num_candidates=None).exact


def test_complete_sequences_need_sequence_scope():
    for order in ("random", "left_to_right"):
        with pytest.raises(
            ValueError, match="CallableEnergy needs complete sequences: use scope='sequence'; got scope='step'"
        ):
            make(COMPLETE, num_candidates=2, order=order)
    make(COMPLETE, num_candidates=2, scope="sequence", order="random")
    with pytest.raises(
        ValueError, match="use scope='sequence', or order='left_to_right'; got scope='step', order='random'"
    ):
        make(PrefixEnergy(), num_candidates=2, order="random")
    with pytest.raises(ValueError, match="WeightedSum needs complete sequences: use scope='sequence'; got"):
        make(0.5 * COMPLETE + 0.5 * PrefixEnergy(), num_candidates=2, order="left_to_right")


def test_a_prefix_suffices_only_without_a_suffix():
    left_to_right = make(PrefixEnergy(), num_candidates=2, order="left_to_right")
    left_to_right.fill(torch.tensor([[0, 1, MASK], [0, MASK, MASK], [1, 1, 1]]))
    gap = torch.tensor([[0, 1, MASK], [MASK, 0, MASK]])
    with pytest.raises(
        ValueError, match="PrefixEnergy at scope='step' sees a clean prefix only: .* use scope='sequence'"
    ):
        left_to_right.fill(gap)
    with pytest.raises(ValueError, match="sees a clean prefix only"):
        left_to_right.likelihood_bound(torch.zeros(1, 3, dtype=torch.long), given=torch.tensor([[False, True, False]]))
    make(PrefixEnergy(), num_candidates=2, scope="sequence", order="random").fill(gap)


def test_an_energy_refuses_another_denoiser():
    theirs = WORLD.head()
    theirs.denoiser_identity = DenoiserIdentity("mine", "abc", 3, 3, "")
    with pytest.raises(
        ValueError, match="this energy belongs to denoiser 'mine'; the one given differs: it has no identity"
    ):
        make(theirs)

    class Named(FunctionDenoiser):
        identity = DenoiserIdentity("other", "xyz", 3, 3, "")

    with pytest.raises(ValueError, match="differs: revision 'abc' != 'xyz'"):
        EnergySampler(Named(lambda x_t, t: None, 3, 3), 0.5 * theirs + 0.5 * ZERO, num_steps=2)


@pytest.mark.parametrize(
    ("x_t", "message"),
    [
        ([[0, 4, 3]], r"tokens must lie in 0\.\.2 or be the mask, got 4"),
        ([[0, -1, 3]], r"tokens must lie in 0\.\.2 or be the mask, got -1"),
        ([0, 1, 3], r"tokens must be int64 \[batch, length\], got torch.int64 \[3\]"),
        ([[0.0, 3.0]], r"tokens must be int64 \[batch, length\], got torch.float32 \[1, 2\]"),
    ],
)
def test_what_can_not_be_filled(x_t, message):
    with pytest.raises(ValueError, match=message):
        make().fill(torch.tensor(x_t))


def test_one_seed_a_row():
    for call in (
        lambda: make().sample(3, 3, seeds=[1, 2]),
        lambda: make().fill(torch.full((3, 3), MASK), seeds=[1, 2, 3, 4]),
        lambda: make().likelihood_bound(torch.zeros(3, 3, dtype=torch.long), seeds=[1]),
    ):
        with pytest.raises(ValueError, match=r"seeds must hold one integer a row \(3\), got \d"):
            call()
    with pytest.raises(ValueError, match="seeds must be >= 0, got -1"):
        make().sample(2, 3, seeds=[0, -1])


def test_no_samples_at_all():
    assert make().sample(0, 3).tokens.shape == (0, 3)


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        make().sample(2, 3, batch_size=0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda log_p: log_p[:, :1], r"f must return energies of shape \(2, 3\), got \(2, 1\)"),
        (lambda log_p: log_p.T, r"f must return energies of shape \(2, 3\), got \(3, 2\)"),
        (lambda log_p: log_p.sum(), r"f must return energies of shape \(2, 3\), got \(\)"),
    ],
)
def test_energies_of_a_wrong_shape(answer, message):
    with pytest.raises(ValueError, match=message):
        make(CallableEnergy(lambda candidates, x, log_p: answer(log_p)), num_candidates=3).sample(2, 3)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("k", [1, 3])
def test_nan_and_minus_infinity_raise(bad, k):
    energy = CallableEnergy(
        lambda candidates, x, log_p: torch.where(torch.arange(k) == k - 1, bad, 0.0).expand_as(log_p)
    )
    with pytest.raises(ValueError, match=rf"an energy must be finite or \+inf, got {bad}"):
        make(energy, num_candidates=k, order="random").sample(2, 3)
    if k > 1:
        with pytest.raises(ValueError, match=rf"an energy must be finite or \+inf, got {bad}"):
            make(energy, num_candidates=k).likelihood_bound(torch.zeros(2, 3, dtype=torch.long))


def test_lists_and_integers_are_energies_too():
    energy = CallableEnergy(lambda candidates, x, log_p: (candidates == 1).sum(-1).tolist())
    assert make(energy, num_candidates=3).sample(2, 3, seeds=[0, 1]).steps[0].energies.dtype == torch.float64
