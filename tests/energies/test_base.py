"""The contract of energies: any function, sums, identities, folders."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from edlm.denoisers import DenoiserIdentity, FunctionDenoiser, MaskedLMDenoiser
from edlm.energies import (
    AutoregressiveEnergy,
    CallableEnergy,
    Energy,
    PretrainedEnergy,
    SequenceEnergy,
    WeightedSum,
    load_energy,
)
from edlm.energies.card import TrainedFor
from edlm.sampler import EnergySampler
from tests.chance import assert_law
from tests.energies.heads import disturbed_head, modernbert
from tests.enumerable import BOS, MASK, decide, fillings, random_causal_lm, random_denoiser

INF = float("inf")


def decision():
    x_t = torch.tensor([[3, 3, 1], [2, 0, 1], [0, 3, 3]])
    filled = torch.stack([fillings(x_t[0]), x_t[1].expand(9, -1), fillings(x_t[2])])
    return decide(random_denoiser(), x_t, filled[:, [0, 5, 7, 8]])


def first_symbol(candidates, x_partial, log_proposal):
    """Asymmetric in rows, candidates and positions."""
    return (candidates * torch.tensor([0.7, -1.3, 0.2])).sum(-1)


def second_symbol(candidates, x_partial, log_proposal):
    return candidates[..., 1].double() ** 2 - log_proposal


def masked_lm(seed=0, name="tiny"):
    torch.manual_seed(seed)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = ModernBertConfig(vocab_size=5, pad_token_id=None, **shape)
    return MaskedLMDenoiser(ModernBertForMaskedLM(config).eval(), mask_token_id=4, name=name)


class Constant(Energy):
    def __init__(self, value, **attributes):
        super().__init__()
        self.value = value
        for name, attribute in attributes.items():
            setattr(self, name, attribute)

    def forward(self, decision):
        return torch.full_like(decision.log_proposal, self.value)


class Trained(Constant):
    def __init__(self, num_candidates, *orders):
        super().__init__(1.0)
        self.num_candidates, self.orders = num_candidates, orders

    recommended = property(lambda self: {"num_candidates": self.num_candidates})
    trained_orders = property(lambda self: self.orders)


def test_callable_gets_all_rows_in_order_and_k_candidates():
    asked, seen = decision(), []

    def f(*args):
        seen.extend(args)
        return first_symbol(*args)

    energies = CallableEnergy(f)(asked)
    assert [tuple(tensor.shape) for tensor in seen] == [(3, 4, 3), (3, 3), (3, 4)]
    assert torch.equal(seen[0], asked.candidates) and torch.equal(seen[1], asked.x_partial)
    assert energies[0, 1].item() == pytest.approx(0.7 * 1 - 1.3 * 2 + 0.2 * 1)  # filled to 1, 2, 1
    assert energies[2, 3].item() == pytest.approx(0.7 * 0 - 1.3 * 2 + 0.2 * 2)  # filled to 0, 2, 2
    assert energies.dtype == asked.log_proposal.dtype


@pytest.mark.parametrize("scope", ["step", "sequence"])
def test_callable_is_called_with_whole_batches_by_the_sampler(scope):
    shapes = set()

    def f(candidates, x_partial, log_proposal):
        shapes.add((tuple(candidates.shape), tuple(x_partial.shape), tuple(log_proposal.shape)))
        assert ((candidates == x_partial[:, None]) | (x_partial[:, None] == MASK)).all()
        return log_proposal

    sampler = EnergySampler(random_denoiser(), CallableEnergy(f), num_steps=3, num_candidates=5, scope=scope)
    sampler.fill(torch.tensor([[3, 3, 3], [1, 3, 2]]), seeds=[3, 4])
    assert shapes == {((2, 5, 3), (2, 3), (2, 5))}


def test_callable_of_numpy_or_python_numbers():
    asked = decision()
    energies = CallableEnergy(lambda c, x, p: c.numpy().sum(-1))(asked)
    assert torch.equal(energies, asked.candidates.sum(-1).double())
    energies = CallableEnergy(lambda c, x, p: [[1, 2, 3, INF]] * 3)(asked)
    assert energies.tolist() == [[1, 2, 3, INF]] * 3


@pytest.mark.parametrize("shape", [(3,), (4, 3), (3, 4, 1), (3, 1)])
def test_callable_of_another_shape_is_an_error(shape):
    with pytest.raises(ValueError, match=r"shape \(3, 4\), got \(" + ", ".join(map(str, shape))):
        CallableEnergy(lambda c, x, p: torch.zeros(shape))(decision())


@pytest.mark.parametrize("bad", [float("nan"), -INF])
def test_sampler_refuses_energies_that_are_no_energies(bad):
    energy = CallableEnergy(lambda c, x, p: torch.full_like(p, bad))
    sampler = EnergySampler(random_denoiser(), energy, num_steps=1, num_candidates=2)
    with pytest.raises(ValueError, match="an energy must be finite or \\+inf"):
        sampler.sample(2, 3, seeds=[0, 1])


def test_complete_callables_need_sequence_scope():
    energy = CallableEnergy(first_symbol, complete=True)
    with pytest.raises(ValueError, match="CallableEnergy needs complete sequences: use scope='sequence'; got"):
        EnergySampler(random_denoiser(), energy, num_steps=2, scope="step", order="left_to_right")
    complete = []
    energy = CallableEnergy(lambda c, x, p: complete.append((c != MASK).all()) or p, complete=True)
    sampler = EnergySampler(random_denoiser(), energy, num_steps=2, num_candidates=2, scope="sequence")
    sampler.sample(2, 3, seeds=[0, 1])
    assert complete and all(complete)


def test_weighted_sum_by_hand():
    asked, a, b = decision(), CallableEnergy(first_symbol), CallableEnergy(second_symbol)
    expected = 0.25 * a(asked) + 0.75 * b(asked)
    torch.testing.assert_close((0.25 * a + 0.75 * b)(asked), expected)
    torch.testing.assert_close((a + b)(asked), a(asked) + b(asked))


def test_arithmetic_of_energies():
    asked, a, b = decision(), CallableEnergy(first_symbol), CallableEnergy(second_symbol)
    for total, expected in (
        (-a, -a(asked)),
        (a - b, a(asked) - b(asked)),
        (a / 2, a(asked) / 2),
        (a * 0.5, a(asked) / 2),
        (sum([a, b]), a(asked) + b(asked)),
        (a - 0.5 * (b - a), 1.5 * a(asked) - 0.5 * b(asked)),
    ):
        torch.testing.assert_close(total(asked), expected)
    for wrong in (lambda: a + 1, lambda: a * b, lambda: a - 1.0):
        with pytest.raises(TypeError, match="unsupported operand"):
            wrong()
    for wrong in (lambda: a / 0, lambda: "2" * a, lambda: a * None):
        with pytest.raises(ValueError, match="(weight|divisor) must"):
            wrong()


def test_a_normalised_energy_of_weight_one_is_itself():
    h, other = Constant(1.0, is_normalized=True), Constant(2.0, is_normalized=True)
    assert 1.0 * h is h and 0.5 * h + 0.5 * h is h and 3 * h / 3 is h and h + other - other is h and sum([h]) is h
    assert not (0.5 * h).is_normalized and not (0.5 * h + 0.5 * other).is_normalized and not (h + h).is_normalized


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_includes_log_proposal_makes_correct_proposal_sample_p_ar(temperature):
    p, ar = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    denoiser = FunctionDenoiser(lambda x, t: p.log().expand(*x.shape, 3), mask_token_id=3, vocab_size=3)
    energy = CallableEnergy(lambda c, x, log_q: log_q - ar.log()[c[..., 0]], includes_log_proposal=True)
    how = {"num_steps": 1, "num_candidates": 256, "temperature": temperature}
    for corrects in (False, True):
        sampler = EnergySampler(denoiser, energy, **how, correct_proposal=corrects)
        tokens = sampler.sample(4000, 1, seeds=range(4000)).tokens[:, 0]
        assert_law(tokens.bincount(minlength=3), ar)


def test_nested_sums_are_flat():
    a, b, c = CallableEnergy(first_symbol), CallableEnergy(second_symbol), Constant(1.5)
    nested = 0.5 * (a + 2 * b) + 3 * (0.1 * c)
    assert nested.weights == pytest.approx([0.5, 1.0, 0.3])
    assert list(nested.energies) == [a, b, c]
    asked = decision()
    expected = 0.5 * a(asked) + b(asked) + 0.3 * c(asked)
    torch.testing.assert_close(nested(asked), expected)


def test_a_weight_of_zero_switches_an_infinite_energy_off():
    asked, finite = decision(), CallableEnergy(first_symbol)
    never = Constant(INF)
    torch.testing.assert_close((1 * finite + 0 * never)(asked), finite(asked))
    assert torch.isposinf((0.5 * finite + 0.5 * never)(asked)).all()
    assert torch.equal((0 * never)(asked), torch.zeros(3, 4).double())
    assert torch.equal((0 * (finite + never))(asked), torch.zeros(3, 4).double())


def test_a_sum_needs_what_its_terms_need():
    plain = Constant(1.0)
    prefix = Constant(1.0, reads="prefix")
    whole = Constant(1.0, reads="sequence")
    greedy = Constant(1.0, needs_every_row=True, reads_hidden=True)
    assert (plain + plain).reads == "slots"
    both = plain + prefix
    assert both.reads == "prefix"
    assert (prefix + whole).reads == (whole + prefix).reads == "sequence"
    every = plain + greedy
    assert every.needs_every_row and every.reads_hidden
    assert not both.needs_every_row and not both.reads_hidden


def test_recommended_options_follow_from_reads_and_combine_in_sums():
    whole = {"num_candidates": 8, "scope": "sequence"}
    assert Constant(1.0).recommended == CallableEnergy(first_symbol).recommended == {}
    assert Constant(1.0, reads="prefix").recommended == CallableEnergy(first_symbol, complete=True).recommended == whole
    few, many, lm = Trained(3, "random", "dilated"), Trained(5, "bisecting", "dilated"), Constant(1.0, reads="sequence")
    assert (few + many + Constant(1.0)).recommended == {"num_candidates": 5} and (few + lm).recommended == whole
    assert (few + many + lm).trained_orders == ("dilated",) and lm.trained_orders is None is (lm + lm).trained_orders


@pytest.mark.parametrize("weight", [INF, float("nan")])
def test_a_sum_refuses_weights_that_are_not_finite(weight):
    with pytest.raises(ValueError, match="at least one term and finite weights"):
        weight * Constant(1.0)
    with pytest.raises(ValueError, match="at least one term"):
        WeightedSum([])


def test_check_denoiser_says_what_differs():
    mine = masked_lm()
    energy = SequenceEnergy.from_denoiser(mine)
    EnergySampler(mine, energy, num_steps=1, scope="sequence")
    EnergySampler(masked_lm(name="renamed"), energy, num_steps=1, scope="sequence")
    with pytest.raises(ValueError, match="belongs to denoiser 'tiny'; the one given differs: revision"):
        EnergySampler(masked_lm(seed=1), energy, num_steps=1, scope="sequence")
    with pytest.raises(ValueError, match="it has no identity"):
        EnergySampler(random_denoiser(), energy, num_steps=1, scope="sequence")
    with pytest.raises(ValueError, match="differs: revision"):  # also inside of a sum
        EnergySampler(masked_lm(seed=1), 1 * energy + Constant(0.0), num_steps=1, scope="sequence")
    energy.denoiser_identity = replace(mine.identity, vocab_size=6, mask_token_id=5, vocabulary="x")
    with pytest.raises(ValueError, match="vocab_size 6 != 5; mask_token_id 5 != 4; vocabulary 'x' != ''"):
        energy.check_denoiser(mine)
    Constant(0.0).check_denoiser(mine)  # belongs to none


def test_folder_holds_settings_weights_and_identity(tmp_path):
    denoiser = masked_lm()
    SequenceEnergy.from_denoiser(denoiser).save_pretrained(tmp_path / "a", model_card="# Tiny")
    assert (tmp_path / "a" / "README.md").read_text() == "# Tiny"
    described = json.loads((tmp_path / "a" / "energy.json").read_text())
    assert described["energy"] == "SequenceEnergy"
    assert DenoiserIdentity(**described["denoiser"]) == denoiser.identity
    for kind in (PretrainedEnergy, SequenceEnergy):
        loaded = kind.from_pretrained(tmp_path / "a")
        assert not loaded.training and loaded.denoiser_identity == denoiser.identity
    with pytest.raises(ValueError, match="class AutoregressiveEnergy, got SequenceEnergy"):
        AutoregressiveEnergy.from_pretrained(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="must hold energy.json"):
        load_energy(tmp_path / "b")


def test_weights_that_do_not_fit_are_an_error(tmp_path):
    AutoregressiveEnergy(random_causal_lm(), bos_token_id=BOS).save_pretrained(tmp_path)
    described = json.loads((tmp_path / "energy.json").read_text())
    described["settings"]["config"]["n_layer"] = 2
    (tmp_path / "energy.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="weights missing .*transformer.h.1"):
        load_energy(tmp_path)


def test_sums_of_heads_are_weighed_in_an_order_that_all_were_trained_on():
    denoiser = modernbert()
    a, b = disturbed_head(denoiser), disturbed_head(denoiser)
    a.trained_for, b.trained_for = (TrainedFor((order,), (2,), (1,), None) for order in ("bisecting", "random"))
    assert (2 * a).recommended == (a - a / 2).recommended == {"num_candidates": 8, "order": "bisecting"}
    assert (a + b).recommended == {"num_candidates": 8} and (a + b).trained_orders is None
    assert len(EnergySampler(denoiser, a + b, num_steps=2).generate(None, 4, seed=0).tokens) == 1
    assert repr(2 * a + b) == "2 * ResidualHead(2,480 parameters) + 1 * ResidualHead(2,480 parameters)"
