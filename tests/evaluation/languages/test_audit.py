"""Audits: our samplers and hooks pass, planted faults are found, and p-values are those of chance."""

import json
import math

import pytest
import torch

import edlm
from edlm import EnergySampler
from edlm.cli import main
from edlm.corpus.languages import Dyck
from edlm.energies import OracleEnergy
from edlm.evaluation.estimates.goodness import chi_square, excess
from edlm.evaluation.languages.audit import audit, reference_chain
from edlm.evaluation.languages.audited import SAMPLERS, candidates_of_truth, energy_sampler
from edlm.evaluation.languages.exact import exact_denoiser, truth_energy
from edlm.evaluation.languages.law import all_sequences, exact_law

CHAIN = reference_chain()
EXACT = energy_sampler(OracleEnergy(CHAIN), num_steps=2, num_candidates=None)


def from_the_law(denoiser, x_t, seeds):
    """Draws of the language itself: each row by its own seed, given tokens kept."""
    every = all_sequences(3, 4)
    fits = ((x_t[:, None] == every) | (x_t == 3)[:, None]).all(2)
    p = torch.where(fits, CHAIN.log_prob(every).exp(), 0.0)
    rows = zip(p, seeds, strict=True)
    chosen = [row.multinomial(1, generator=torch.Generator().manual_seed(seed)) for row, seed in rows]
    return every[torch.cat(chosen)]


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("few_passes", "dream")])
def test_our_samplers_and_hooks_pass(name):
    audited = SAMPLERS[name](CHAIN, 4)
    report = audit(audited.sampler, CHAIN, law=audited.law, num_samples=600)
    assert report.passed, str(report)
    assert report["seeds"].passed and report.passes == {"base": 4, "rerank_logits": 1}.get(name, 2)
    assert (report.distance_to_truth > 0.01) == (name == "candidates")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact", "dream", "rerank_logits"])
def test_they_pass_with_other_seeds_and_more_samples(name):
    audited = SAMPLERS[name](CHAIN, 4)
    assert all(audit(audited.sampler, CHAIN, law=audited.law, seed=seed).passed for seed in (10_000, 20_000))


def test_few_passes_do_not_follow_the_law_but_their_own():
    sampler = energy_sampler(num_steps=2, order="bisecting")
    report = audit(sampler, CHAIN, num_samples=1000)
    assert not report.passed and "does NOT follow the law" in str(report)
    assert not (report["pairs"].passed or report["sequences"].passed or report["likelihood"].passed)
    law = EnergySampler(exact_denoiser(CHAIN), num_steps=2, order="bisecting")
    own = audit(sampler, CHAIN, law=law, num_samples=1000)
    assert own.passed, str(own)
    exact = 0.5 * (exact_law(law, 4).exp() - CHAIN.log_prob(all_sequences(3, 4)).exp()).abs().sum().item()
    assert own.distance_to_truth == pytest.approx(exact)
    assert report.total_variation.value > 0.04 and abs(own.total_variation.value) < 3 * own.total_variation.stderr


def flipped(denoiser, x_t, seeds):
    return energy_sampler(-truth_energy(CHAIN), num_steps=2, num_candidates=16)(denoiser, x_t, seeds)


def likeliest(denoiser, x_t, seeds):
    return energy_sampler(num_steps=4, top_k=1)(denoiser, x_t, seeds)


def cold_proposal(denoiser, x_t, seeds):
    return energy_sampler(num_steps=4, temperature=0.8)(denoiser, x_t, seeds)


def energy_never_used(denoiser, x_t, seeds):
    return energy_sampler(num_steps=2)(denoiser, x_t, seeds)


def energy_at_the_last_step_alone(denoiser, x_t, seeds):
    options = {"num_steps": 2, "num_candidates": None, "window": (0.0, 0.5)}
    return energy_sampler(OracleEnergy(CHAIN), **options)(denoiser, x_t, seeds)


def tokens_of_another_row(denoiser, x_t, seeds):
    """The masks of a row get what was drawn for the next one."""
    return torch.where(x_t == 3, EXACT(denoiser, x_t, seeds).roll(1, 0), x_t)


def seeds_in_pairs(denoiser, x_t, seeds):
    return EXACT(denoiser, x_t, [seed // 2 for seed in seeds])


def seeds_of_the_batch(denoiser, x_t, seeds):
    return EXACT(denoiser, x_t, [seed % 50 for seed in seeds])


def given_tokens_written(denoiser, x_t, seeds):
    return EXACT(denoiser, torch.full_like(x_t, 3), seeds)


def a_mask_is_left(denoiser, x_t, seeds):
    tokens = EXACT(denoiser, x_t, seeds)
    return torch.where((torch.tensor(seeds) % 100 == 0)[:, None], x_t, tokens)


FAULTS = {
    flipped: "likelihood",
    likeliest: "sequences",
    cold_proposal: "likelihood",
    energy_never_used: "pairs",
    energy_at_the_last_step_alone: "sequences",
    tokens_of_another_row: "pairs",
    seeds_in_pairs: "rows",
    seeds_of_the_batch: "sequences",
    given_tokens_written: "carry-over",
    a_mask_is_left: "complete",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault):
    report = audit(fault, CHAIN, num_samples=1200 if fault is cold_proposal else 600)
    assert report[FAULTS[fault]].passed is False, str(report)


OWN_FAULTS = {
    "cold weights": {"weight_temperature": 0.7},
    "warm weights": {"weight_temperature": 1.5},
    "always the energy": {"window": (0.0, 1.0)},
    "never the energy": {"num_candidates": 1},
    "fewer candidates": {"num_candidates": 4},
    "other groups": {"group_size": 1},
}


@pytest.mark.parametrize("fault", OWN_FAULTS)
def test_a_fault_is_found_against_the_samplers_own_law(fault):
    options = {"num_steps": 1, "num_candidates": 16, "order": "left_to_right"}
    if "always" in fault:  # the energy is meant for the second of two steps alone
        options |= {"num_steps": 2, "window": (0.0, 0.5)}
    energy = truth_energy(CHAIN)
    law = EnergySampler(exact_denoiser(CHAIN), energy, **options)
    report = audit(energy_sampler(energy, **{**options, **OWN_FAULTS[fault]}), CHAIN, law=law, num_samples=1000)
    assert not report["sequences"].passed and not report.passed, str(report)


def test_brackets_that_do_not_match_are_impossible():
    brackets = Dyck(2, 2)
    audited = candidates_of_truth(brackets)
    report = audit(energy_sampler(num_steps=2), brackets, num_samples=300)
    assert report["possible"].passed is False and report["errors"].passed is False
    assert report.kl.value == math.inf and report.error_rate.value > 0.015 > report.law_error_rate
    own = audit(audited.sampler, brackets, law=audited.law, num_samples=500)
    assert own.passed and own.law_error_rate < 0.01, str(own)


def test_distances_of_a_right_sampler_are_zero_but_for_chance():
    reports = [audit(from_the_law, CHAIN, num_samples=200, seed=1000 * seed) for seed in range(16)]
    assert all(report.passed for report in reports)
    for name in ("total_variation", "kl"):
        estimates = [getattr(report, name) for report in reports]
        mean = sum(estimate.value for estimate in estimates) / 16
        assert abs(mean) < 5 * sum(estimate.stderr for estimate in estimates) / 16 / 4


def test_chi_square_gives_p_values_of_chance_and_pools_rare_cells():
    generator = torch.Generator().manual_seed(0)
    law = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.006, 0.004, 0.0], dtype=torch.float64)
    draws = law.expand(1000, -1).multinomial(300, replacement=True, generator=generator)
    values = torch.tensor([chi_square(torch.bincount(row, minlength=7), law) for row in draws])
    for level in (0.01, 0.1, 0.5, 0.9):
        assert abs((values < level).double().mean().item() - level) < 5 * math.sqrt(level * (1 - level) / 1000) + 0.005
    assert chi_square(torch.tensor([100, 100, 100, 0, 0, 0, 0]), law) < 1e-9
    assert chi_square(torch.tensor([5]), torch.tensor([1.0])) == 1


def test_excess_is_the_distance_beyond_that_of_the_law_itself():
    law, wrong = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.4, 0.3, 0.3]).double()

    def distance(p):
        return 0.5 * (p - law).abs().sum(-1)

    generator = torch.Generator().manual_seed(0)
    estimate, p = excess(distance, 10_000 * wrong, law, generator)
    assert estimate.value == pytest.approx(0.1, abs=0.01) and estimate.low < 0.1 < estimate.high + 0.01 and p < 1e-9
    estimate, p = excess(distance, 10_000 * law, law, generator)
    assert estimate.value < 0 and p > 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: audit(lambda *_: 3), "sampler must return int64 tokens .* got int"),
        (lambda: audit(lambda d, x, s: x[:1]), "got torch.int64"),
        (lambda: audit(3), "sampler must be a function"),
        (lambda: audit(EXACT, num_samples=5), "num_samples must be >= 100"),
        (lambda: audit(EXACT, length=12), "at most 65536 sequences"),
        (lambda: audit(EXACT, law=torch.zeros(3)), "law must be log-probabilities of 81"),
        (lambda: audit(lambda d, x, s: x, num_samples=100), "must fill masks"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


MODULE = """
import torch
from edlm import EnergySampler

def right(denoiser, x_t, seeds):
    return EnergySampler(denoiser, num_steps=4).fill(x_t, seeds=seeds).tokens

def greedy(denoiser, x_t, seeds):
    return torch.where(x_t == 3, denoiser.log_probs(x_t).argmax(-1), x_t)
"""


def test_command_audits_a_function_of_a_module(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_samplers.py").write_text(MODULE)
    words = ["--num_samples", "400", "--output", "audit.json"]
    assert main(["audit", "my_samplers:right", *words]) == 0
    result = json.loads((tmp_path / "audit.json").read_text())
    assert result["passed"] and result["passes"] == 4 and len(result["verdicts"]) == 11
    assert "No difference from the law was found (400 sequences, 4 passes)" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["audit", "my_samplers:greedy", *words])
    assert stop.value.code == 1 and not json.loads((tmp_path / "audit.json").read_text())["passed"]
    assert "FAILED" in capsys.readouterr().out
    for name, message in {
        "nothing": "MODULE:FUNCTION or one of base",
        "my_samplers:missing": "a function of my_samplers, got 'missing'",
        "no_such_module:f": "sampler must name a module that can be imported, got 'no_such_module:f'",
    }.items():
        assert main(["audit", name]) == 2
        assert message in capsys.readouterr().err


def test_public_name():
    assert edlm.audit is audit
