"""The contract of energies: our own pass as test classes, and each breach is found by its own check."""

import functools

import pytest
import torch

from edlm import AutoregressiveEnergy, CallableEnergy, FunctionDenoiser, SequenceEnergy
from edlm.corpus.languages import MarkovChain
from edlm.energies import Energy, OracleEnergy, ResidualHead
from edlm.energies.contract import CHECKS
from edlm.evaluation.languages.exact import exact_denoiser, truth_energy
from edlm.testing import EnergyContract
from tests.energies.heads import disturbed_head, modernbert
from tests.enumerable import random_causal_lm

CHAIN = MarkovChain([[0.05, 0.85, 0.1], [0.15, 0.05, 0.8], [0.7, 0.2, 0.1]], [0.5, 0.3, 0.2])


class OfChain(EnergyContract):
    def make_denoiser(self):
        return exact_denoiser(CHAIN)

    def make_data(self):
        return CHAIN.sample(100, 6, torch.Generator().manual_seed(0))


class TestOracle(OfChain):
    def make_energy(self):
        return OracleEnergy(CHAIN)


class TestTruth(OfChain):
    def make_energy(self):
        return truth_energy(CHAIN)


class TestSum(OfChain):
    def make_energy(self):
        return 0.5 * OracleEnergy(CHAIN) + 0.5 * truth_energy(CHAIN)


class TestCausalLM(EnergyContract):
    carry_over = False

    def make_energy(self):
        return AutoregressiveEnergy(random_causal_lm(), bos_token_id=0, carry_over=self.carry_over)


class TestMaskedTerms(TestCausalLM):
    carry_over = True


class OfNetwork(EnergyContract):
    def make_denoiser(self):
        return modernbert()


class TestResidualHead(OfNetwork):
    def make_energy(self):
        return disturbed_head(modernbert())


class TestScalarHead(OfNetwork):
    def make_energy(self):
        return disturbed_head(modernbert(), form="unnormalized")


class TestSequence(OfNetwork):
    def make_energy(self):
        return SequenceEnergy.from_denoiser(modernbert())


class TestNoRepeats(EnergyContract):
    def make_energy(self):
        return CallableEnergy(lambda x, *_: 2.0 * (x[..., 1:] == x[..., :-1]).sum(-1))


def test_each_check_is_a_test():
    assert {f"test_{name}" for name in CHECKS} == {name for name in dir(EnergyContract) if name.startswith("test_")}
    with pytest.raises(NotImplementedError, match="must have a method make_energy"):
        EnergyContract().test_shape()


def energy(f, **attributes):
    """From a function of the decision."""
    made = type("Mine", (Energy,), {"forward": lambda self, decision: f(decision), **attributes})()
    return made


def log_true(decision):
    return torch.stack([CHAIN.log_prob(x) for x in decision.candidates], 0)


def residual(decision):
    return decision.log_p - log_true(decision) + CHAIN.log_prob(decision.x_partial)[:, None]


def in_place(decision):
    energies = residual(decision)
    decision.candidates[:, 0] = 0
    return energies


def unstable(decision, calls=[]):  # noqa: B006
    calls.append(1)
    return residual(decision) + 1e-3 * len(calls)


BREACHES = {
    "shape": lambda d: residual(d).sum(1),
    "values": lambda d: torch.where(residual(d) == residual(d).max(), torch.nan, residual(d)),
    "type": lambda d: (100 * residual(d)).long(),
    "repeated": unstable,
    "inputs": in_place,
    "batch": lambda d: residual(d) + residual(d).std(0).mean(),
    "candidates": lambda d: residual(d) - residual(d).mean(1, keepdim=True),
    "normalized": lambda d: residual(d) + 0.01,
    "sign": lambda d: -residual(d),
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_found(name):
    mine = energy(BREACHES[name], is_normalized=name == "normalized")
    data = CHAIN.sample(100, 6, torch.Generator().manual_seed(0))
    report = mine.check(exact_denoiser(CHAIN), data)
    assert report[name].passed is False and not report.passed, str(report)
    if name not in ("shape", "values", "repeated", "batch"):  # which break others too
        assert [verdict.name for verdict in report.failed] == [name]
    assert f"FAILED  {name}" in str(report)


def test_minus_infinity_is_a_breach_and_infinity_is_not():
    for value, passed in ((-torch.inf, False), (torch.inf, True)):
        mine = energy(lambda d, value=value: torch.where(d.candidates[..., -1] == 0, value, d.log_p))
        assert mine.check(exact_denoiser(CHAIN)).passed == passed


def test_an_error_is_a_finding_of_one_line():
    def broken(decision):
        raise RuntimeError("two\nlines")

    report = energy(broken).check(exact_denoiser(CHAIN))
    assert report["shape"].text == "RuntimeError: two lines" and report["denoiser"].passed
    assert report["normalized"].passed is None and report["sign"].passed is None


def test_a_normaliser_off_in_log_prob_alone_is_found():
    class Off(OracleEnergy):
        def log_prob(self, step, tokens, round_size=1):
            return super().log_prob(step, tokens, round_size) + 0.1

    report = Off(CHAIN).check(exact_denoiser(CHAIN))
    assert report["normalized"].passed is False and "log_prob must be log p - E" in report["normalized"].text


def test_a_head_of_another_denoiser_and_large_vocabularies():
    head = disturbed_head(modernbert())
    assert isinstance(head, ResidualHead) and head.check(modernbert()).passed
    large = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 5000), 5000, 5000)
    mine = energy(lambda d: d.log_p - d.log_p, is_normalized=True)
    assert mine.check(large)["normalized"].passed is None and mine.check(large).passed
    with pytest.raises(ValueError, match="num_candidates must be >= 2"):
        mine.check(large, num_candidates=1)
    assert functools.reduce(lambda a, b: a and b, (v.passed is not False for v in mine.check(large).verdicts))
