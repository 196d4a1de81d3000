"""Options of the sampler: rules, defaults, and inputs that are refused."""

import inspect
import math
import warnings
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
from edlm.energies.base import Energy
from tests.orders import NAMED
from tests.sampler.brute_force import MASK, World

WORLD = World()
ZERO = CallableEnergy(lambda candidates, x, log_p: torch.zeros_like(log_p))
COMPLETE = CallableEnergy(lambda candidates, x, log_p: torch.zeros_like(log_p), complete=True)


class PrefixEnergy(Energy):
    """Needs a clean prefix only, as an autoregressive model does."""

    reads = "prefix"

    def forward(self, decision):
        return torch.zeros_like(decision.log_proposal)


class Recommending(Energy):
    """Recommends some options, and was trained on three orders."""

    recommended = {"num_candidates": 5, "group_size": 2, "order": "random"}
    trained_orders = ("random", "dilated", "confidence")

    def forward(self, decision):
        return torch.zeros_like(decision.log_proposal)


def make(energy=None, **options):
    return EnergySampler(WORLD.denoiser(), energy, **{"num_steps": 2, **options})


def test_signature_of_the_sampler():
    plain = [
        p.replace(annotation=inspect.Parameter.empty) for p in inspect.signature(EnergySampler).parameters.values()
    ]
    assert str(inspect.Signature(plain)) == (
        "(denoiser, energy=None, *, num_steps, num_candidates='auto', scope='auto', group_size=None, order='auto', "
        "block_length=None, schedule='log_linear', window='auto', weight_temperature=1.0, num_particles=1, "
        "on_impossible='raise', temperature=1.0, top_p=1.0, top_k=None, correct_proposal=False)"
    )


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"num_steps": 0}, "num_steps .*got 0"),
        ({"num_candidates": 0}, "num_candidates .*got 0"),
        ({"scope": "steps"}, "scope .*got 'steps'"),
        ({"group_size": 0}, "group_size .*got 0"),
        ({"group_size": 2, "scope": "sequence"}, "group_size needs scope='step'"),
        ({"order": "dilate"}, "order .*got 'dilate'"),
        ({"schedule": "linear"}, "schedule .*got 'linear'"),
        ({"weight_temperature": 0.0}, "weight_temperature .*got 0.0"),
        ({"weight_temperature": math.nan}, "weight_temperature .*got nan"),
        ({"on_impossible": "skip"}, "on_impossible .*got 'skip'"),
        ({"window": (0.5, 0.2)}, r"window .*got \(0.5, 0.2\)"),
        ({"temperature": 0.0}, "temperature must be > 0 and finite, got 0.0; top_k=1 takes the likeliest token"),
        ({"temperature": math.inf}, "temperature must be > 0 and finite, got inf"),
        ({"temperature": math.nan}, "temperature must be > 0"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p must lie in \(0, 1\], got 1.1"),
        ({"top_k": 0}, "top_k must be >= 1 or None, got 0"),
        ({"window": (0.5,)}, "window must be a pair"),
        ({"window": (-0.1, 1.0)}, "window must be a pair"),
        ({"window": (0.0, math.nan)}, "window must be a pair"),
    ],
)
@pytest.mark.parametrize("energy", [None, ZERO], ids=["base", "energy"])
def test_options_have_rules(options, rule, energy):
    with pytest.raises(ValueError, match=rule):
        make(energy, **{"num_candidates": 2, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": "8"}, "num_steps must be an integer, got '8'"),
        ({"num_steps": None}, "num_steps must be an integer, got None"),
        ({"num_candidates": 2.5}, "num_candidates must be an integer, None or 'auto', got 2.5"),
        ({"num_candidates": True}, "num_candidates must be an integer, None or 'auto', got True"),
        ({"group_size": 2.0}, "group_size must be an integer or None, got 2.0"),
        ({"top_k": 2.5}, "top_k must be an integer or None, got 2.5"),
        ({"window": 2}, "window must be a pair (low, high) with 0 <= low <= high <= 1, or 'auto', got 2"),
        ({"temperature": "1"}, "temperature must be a number, got '1'"),
        ({"correct_proposal": "no"}, "correct_proposal must be True or False, got 'no'"),
        ({"num_step": 3}, "EnergySampler has no option 'num_step'; did you mean 'num_steps'?"),
        ({"energy": len}, "energy must be an Energy or None (load_energy reads one, CallableEnergy makes one of a"),
        ({"denoiser": "tiny"}, "denoiser must be a Denoiser (load_denoiser reads one, wrap_denoiser makes one of a"),
    ],
)
def test_wrong_types_and_names_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError) as error:
        EnergySampler(**{"denoiser": WORLD.denoiser(), "energy": ZERO, "num_steps": 2, "num_candidates": 2, **options})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_numbers_of_numpy_and_torch_are_numbers():
    given = {"num_candidates": np.int64(3), "temperature": np.float32(2), "window": np.array([0.0, 1.0])}
    sampler = make(ZERO, **given, top_k=torch.tensor(2))
    assert sampler.options["num_candidates"] == 3 and type(sampler.num_candidates) is int
    assert sampler.window == (0.0, 1.0) and sampler.top_k == 2 and sampler.temperature == 2.0
    rows = sampler.sample(np.int64(2), np.int64(3), seeds=np.arange(2))
    assert torch.equal(rows.tokens, sampler.sample(2, 3, seeds=[0, 1]).tokens) and rows.seeds == (0, 1)
    one = make().generate([np.array([0])], np.int64(2), seed=np.int64(5), eos_token_id=np.int64(2))
    assert torch.equal(one.tokens[0], make().generate([[0]], 2, seed=5, eos_token_id=2).tokens[0])


@pytest.mark.parametrize("order", NAMED)
@pytest.mark.parametrize("energy", [None, ZERO, COMPLETE], ids=["base", "slots", "sequence"])
@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (0, 0)])
def test_rows_without_positions_and_batches_without_rows(shape, energy, order):
    sampler = make(energy, num_candidates=1 if energy is None else 2, order=order)
    assert sampler.sample(*shape).tokens.shape == sampler.fill(torch.full(shape, MASK)).tokens.shape == shape
    assert sampler.likelihood_bound(torch.zeros(shape, dtype=torch.long)).tolist() == [0.0] * shape[0]


@pytest.mark.parametrize(
    ("energy", "options", "rule"),
    [
        (ZERO, {"num_candidates": None}, "can be drawn from .*, got CallableEnergy"),
        (0.5 * WORLD.head() + 0.5 * WORLD.head(), {"num_candidates": None}, "can be drawn from .*, got WeightedSum"),
        (WORLD.head(), {"num_candidates": None, "scope": "sequence"}, "needs scope='step'"),
        (WORLD.head(), {"num_candidates": None, "weight_temperature": 0.5}, "weight_temperature must be 1"),
        (WORLD.head(), {"num_candidates": None, "correct_proposal": True, "top_k": 2}, "correct_proposal with"),
        (COMPLETE, {"scope": "step", "order": "left_to_right"}, "use scope='sequence'; got"),
        (PrefixEnergy(), {"scope": "step", "order": "random"}, "use scope='sequence', or order='left_to_right'; got"),
        (0.5 * COMPLETE + 0.5 * PrefixEnergy(), {"scope": "step", "order": "left_to_right"}, "use scope='sequence'; g"),
        (ZERO, {}, "num_candidates must be given: CallableEnergy recommends none"),
    ],
)
def test_energies_have_rules(energy, options, rule):
    with pytest.raises(ValueError, match=rule):
        make(energy, **options)


def test_tokenwise_is_a_normalised_energy_without_candidates():
    assert make(WORLD.head(), num_candidates=None, correct_proposal=True).tokenwise
    assert not make(WORLD.head(), num_candidates=2).tokenwise and not make(None, num_candidates=None).tokenwise


def values_of(sampler):
    return sampler.num_candidates, sampler.scope, sampler.group_size, sampler.order


@pytest.mark.parametrize(
    ("energy", "options", "values"),
    [
        (None, {}, (1, "step", None, "bisecting")),
        (WORLD.head(), {}, (None, "step", None, "bisecting")),
        (WORLD.head(), {"num_candidates": 3, "order": "random"}, (3, "step", None, "random")),
        (COMPLETE, {}, (8, "sequence", None, "bisecting")),
        (COMPLETE, {"num_candidates": 2}, (2, "sequence", None, "bisecting")),
        (PrefixEnergy(), {"group_size": 1, "order": "left_to_right"}, (8, "step", 1, "left_to_right")),
        (Recommending(), {}, (5, "step", 2, "random")),
        (Recommending(), {"group_size": 3}, (5, "step", 3, "random")),
        (Recommending(), {"scope": "sequence"}, (5, "sequence", None, "random")),
        (Recommending(), {"num_candidates": 4}, (4, "step", None, "random")),
    ],
)
def test_auto_options_are_what_the_energy_recommends(energy, options, values):
    sampler = make(energy, **options)
    assert values_of(sampler) == values
    assert sampler.options == {**sampler.options, **options}
    assert values_of(replace(sampler, temperature=0.5)) == values


def test_another_order_than_that_of_training_warns_once():
    energy = Recommending()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for options in ({}, {"order": "dilated"}):
            make(energy, **options)
        make(ZERO, num_candidates=2, order="left_to_right")
    assert not caught
    with pytest.warns(UserWarning, match="on orders random, dilated and confidence, not on bisecting") as caught:
        for _ in range(3):
            make(energy, order="bisecting")
    assert len(caught) == 1 and caught[0].filename == __file__


def test_replace_checks_again_and_keeps_the_class():
    sampler = make(WORLD.head(), num_candidates=2)
    other = replace(sampler, temperature=0.5)
    assert type(other) is EnergySampler and (other.proposal.temperature, sampler.proposal.temperature) == (0.5, 1)
    for changes in ({"temperature": 0.0}, {"num_candidates": 0}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            replace(sampler, **changes)
    with pytest.raises(FrozenInstanceError):
        sampler.num_steps = 4


def rightmost_first(rows):
    """A user's order: from the right, all but the last step of one token."""
    from_the_right = rows.counts[:, None] - 1 - rows.nth
    return from_the_right, from_the_right.clamp(max=rows.num_steps - 1)


def test_an_order_may_be_a_function():
    output = make(order=rightmost_first).sample(3, 3, seeds=[0, 1, 2])
    assert [step.num_revealed.tolist() for step in output.steps] == [[1] * 3, [2] * 3]
    first = make(order=rightmost_first).stream(None, 3, seed=0)
    assert (next(first).tokens[0] == MASK).tolist() == [True, True, False]
    x_0 = torch.tensor([[0, 1, 2]])
    sampler = make(order=rightmost_first)
    same = make(order=lambda rows: (-rows.nth.double(), torch.tensor([[1, 1, 0]])))
    assert torch.equal(sampler.likelihood_bound(x_0, seeds=[0]), same.likelihood_bound(x_0, seeds=[0]))
    assert not sampler.bound_is_exact  # a function may draw
    for steps in ([[0, 1, 2]], [[0, 1, 0]], [[-1, 0, 1]], [[0, 1]], [[0.0, 1.0, 1.0]]):
        with pytest.raises(ValueError, match="an order's steps"):
            make(order=lambda rows, steps=steps: (rows.nth.double(), torch.tensor(steps))).sample(1, 3, seeds=[0])


def test_a_prefix_suffices_only_without_a_suffix():
    left_to_right = make(PrefixEnergy(), scope="step", order="left_to_right")
    left_to_right.fill(torch.tensor([[0, 1, MASK], [0, MASK, MASK], [1, 1, 1]]))
    gap = torch.tensor([[0, 1, MASK], [MASK, 0, MASK]])
    with pytest.raises(ValueError, match="clean prefix"):
        left_to_right.fill(gap)
    with pytest.raises(ValueError, match="clean prefix"):
        left_to_right.likelihood_bound(torch.zeros(1, 3, dtype=torch.long), given=torch.tensor([[False, True, False]]))
    make(PrefixEnergy(), num_candidates=2, scope="sequence", order="random").fill(gap)


def bound(x_0, **options):
    return make().likelihood_bound(torch.tensor(x_0), **{"seeds": range(len(x_0)), **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make().fill(torch.tensor([[0, 4, 3]])), r"tokens must lie in 0\.\.2 or be the mask, got 4"),
        (
            lambda: make().fill(torch.tensor([0, 1, 3])),
            r"tokens must be int64 \[batch, length\], got torch.int64 \[3\]",
        ),
        (lambda: make().fill(torch.tensor([[0.0, 3.0]])), r"got torch.float32 \[1, 2\]"),
        (lambda: make().fill(torch.full((3, 3), MASK), seeds=[1, 2, 3, 4]), r"one seed a row \(3\), got 4"),
        (lambda: make().sample(3, 3, seeds=[1, 2]), r"one seed a row \(3\), got 2"),
        (lambda: make().sample(2, 3, seeds=[0, -1]), "seeds must be >= 0, got -1"),
        (lambda: make().fill([[0, MASK]]), r"tokens must be int64 \[batch, length\], got \[\[0, 3\]\]"),
        (lambda: make().sample(2.0, 3), "num_samples must be an integer, got 2.0"),
        (lambda: make().sample(1, 10**12), "a row must be at most 16777216 tokens long, got 1000000000000"),
        (lambda: make().generate([[1]], 10**12), "max_new_tokens must be <= 16777216, got 1000000000000"),
        (
            lambda: make().sample(1, 3, seeds=[0.5]),
            r"seeds must be an integer, .*got \[0.5\]",
        ),
        (lambda: bound([[0, 1]], inner_draws=1.5), "inner_draws must be an integer, got 1.5"),
        (lambda: make().sample(2, 3, batch_size=0), "batch_size must be >= 1, got 0"),
        (lambda: bound([[0, 0, 0]] * 3, seeds=[1]), r"one seed a row \(3\), got 1"),
        (lambda: bound([[0, 1, MASK]]), "x_0 must hold no mask token where it is predicted, got 3"),
        (lambda: bound([[0, -1, 2]]), r"tokens must lie in 0\.\.2 or be the mask, got -1"),
        (lambda: bound([[0, 1, 2]], given=torch.ones(1, 3)), r"given must be bool \[1, 3\], got torch.float32"),
        (
            lambda: bound([[0, 1]], given=torch.tensor([[True]])),
            r"given must be bool \[1, 2\], got torch.bool \[1, 1\]",
        ),
        (lambda: bound([[0, 1]], inner_draws=0), r"inner_draws must be >= 1, one for each of 1 samplers, got \[0\]"),
    ],
)
def test_what_can_not_be_sampled_or_scored(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert make().sample(0, 3).tokens.shape == (0, 3)


# Windows


def steps_with_energy(window, num_steps, length=60, order="left_to_right"):
    """Steps at which the energy is called, in a run that reveals something at each."""
    steps, denoised = [], []
    uniform = FunctionDenoiser(lambda x_t, t: denoised.append(t) or torch.zeros(*x_t.shape, 3), MASK, 3)
    energy = CallableEnergy(lambda c, x, log_p: steps.append(len(denoised) - 1) or torch.zeros_like(log_p))
    options = {"num_steps": num_steps, "num_candidates": 2, "order": order, "window": window}
    EnergySampler(uniform, energy, **options).sample(1, length, seeds=[0])
    return steps


def test_times_are_open_below_and_closed_above():
    assert steps_with_energy((0.0, 1.0), 4) == [0, 1, 2, 3]
    assert steps_with_energy((0.5, 1.0), 4) == [0, 1]  # t = 1, 0.75, 0.5, 0.25
    assert steps_with_energy((0.25, 0.75), 4) == [1, 2]
    assert steps_with_energy((0.0, 0.25), 4) == [3]
    assert steps_with_energy((0.8, 1.0), 10) == [0, 1]  # the paper's w = 0.2


@pytest.mark.parametrize("window", [(1.0, 1.0), (0.3, 0.3), (0.0, 0.2)])
def test_a_window_without_a_step_is_refused_if_there_is_an_energy(window):
    with pytest.raises(ValueError, match="window must hold the time of a step, 4 in all, got"):
        make(ZERO, num_candidates=2, num_steps=4, window=window)
    make(num_steps=4, window=window)


def test_candidates_without_an_energy_to_weigh_them_warn():
    with pytest.warns(UserWarning, match="num_candidates must be 1 without an energy to weigh them, got 8"):
        sampler = make(num_candidates=8)
    assert torch.equal(sampler.sample(4, 3, seeds=range(4)).tokens, make().sample(4, 3, seeds=range(4)).tokens)


@pytest.mark.parametrize(
    ("window", "num_steps", "expected"), [((0.3, 1.0), 10, 7), ((2 / 3, 1.0), 3, 1), ((0, 2 / 3), 3, 2)]
)
def test_times_at_the_windows_edge_do_not_round(window, num_steps, expected):
    assert len(steps_with_energy(window, num_steps)) == expected


def test_outside_the_window_only_what_is_written_is_decoded():
    """The paper's w = 0.2 saves the whole-sequence candidates of the other steps, not their energies alone."""
    decoded = []

    class Counting(FunctionDenoiser):
        def decode(self, features):
            decoded.append(len(features))
            return features

    denoiser = Counting(lambda x_t, t: torch.zeros(*x_t.shape, 3), 3, 3)
    energy = CallableEnergy(lambda c, x, log_p: torch.zeros_like(log_p), complete=True)
    options = {"num_steps": 5, "scope": "sequence", "order": "random", "num_candidates": 2}
    EnergySampler(denoiser, energy, window=(0.8, 1.0), **options).sample(1, 10, seeds=[0])
    assert decoded == [10, 2, 2, 2, 2]


# The sampler as an object


def test_a_sampler_is_called_moved_and_shown_in_one_line():
    sampler = make(WORLD.head(), num_candidates=2, temperature=0.5)
    called, generated = sampler([[0]], 2, seed=1), sampler.generate([[0]], 2, seeds=[1])
    assert torch.equal(called.tokens[0], generated.tokens[0]) and called.seeds == (1,)
    assert sampler.to("cpu") is sampler and sampler.device == torch.device("cpu")
    text = repr(sampler)
    assert text.startswith("EnergySampler(FunctionDenoiser, ") and "temperature=0.5" in text and "\n" not in text
    assert "top_p" not in text and len(text) < 200


def test_a_call_may_have_its_own_number_of_steps_and_a_bar(capsys):
    sampler = make()
    short = sampler.generate([[0]], 2, seed=0, num_steps=1, progress=True)
    assert len(short.steps) == 1 and sampler.num_steps == 2 and "steps" in capsys.readouterr().err
    assert torch.equal(short.tokens[0], make(num_steps=1).generate([[0]], 2, seed=0).tokens[0])
    with pytest.raises(ValueError, match=r"seed and seeds are one option, got 0 and \[0\]"):
        sampler.generate([[0]], 2, seed=0, seeds=[0])
    with pytest.raises(ValueError, match="num_steps must be >= 1, got 0"):
        sampler.generate([[0]], 2, num_steps=0)
