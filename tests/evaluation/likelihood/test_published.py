"""The published formula: below the truth on two bits, an AR model's own perplexity by construction; never bare."""

import math

import pytest
import torch

from edlm.corpus.blocks import load_blocks
from edlm.corpus.languages import MarkovChain
from edlm.denoisers import FunctionDenoiser
from edlm.denoisers.loading import SHIPPED, load_denoiser
from edlm.diffusion.slots import Slots
from edlm.energies import AutoregressiveEnergy, CallableEnergy, OracleEnergy, load_energy
from edlm.energies.decision import Step
from edlm.evaluation import published_perplexity
from edlm.evaluation.estimates.estimate import TextUnits
from edlm.evaluation.languages.exact import exact_denoiser
from edlm.evaluation.likelihood.continuous import ContinuousTime
from tests.chance import SIGMAS
from tests.enumerable import BOS, SEQUENCES, fillings, log_p_ar, random_causal_lm, random_denoiser

BITS = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
SCORES = torch.randn(27, generator=torch.Generator().manual_seed(7))


def two_bits(rho: float):
    language = MarkovChain([[rho, 1 - rho], [1 - rho, rho]], [0.5, 0.5])
    p = language.log_prob(BITS).exp()
    return language, BITS[p > 0], p[p > 0]


def in_bits(likelihood, p) -> float:
    return (likelihood.nats_per_row * p).sum().item() / math.log(2)


def score_energy() -> CallableEnergy:
    """Energies of all 27 sequences: asymmetric, so that a flipped sign shows."""
    return CallableEnergy(lambda candidates, x, log_p: SCORES[(candidates * torch.tensor([9, 3, 1])).sum(-1)])


@pytest.mark.parametrize(("rho", "truth", "joint"), [(0.9, 1.469, 1.204), (1.0, 1.0, 0.5)])
def test_two_bits_seem_cheaper_than_they_are(rho, truth, joint):
    """method.md section 4: with the joint the formula is below the entropy; with marginals it equals it."""
    language, x_0, p = two_bits(rho)
    formula = published_perplexity(exact_denoiser(language), OracleEnergy(language), x_0, estimator="enumerated")
    assert in_bits(formula.with_lower, p) == in_bits(formula.with_upper, p) == pytest.approx(joint, abs=6e-4)
    assert in_bits(formula.marginal, p) == pytest.approx(truth, abs=5e-4)
    exact = -(p * p.log2()).sum().item()
    assert in_bits(formula.with_lower, p) < exact - 0.2
    assert "not a bound" in formula.warning and "1.469" in formula.warning and "1.204" in formula.warning


@pytest.mark.parametrize("estimator", ["times", "counts"])
def test_two_bits_by_draws(estimator):
    language, x_0, p = two_bits(0.9)
    rows = x_0[torch.multinomial(p, 4000, replacement=True, generator=torch.Generator().manual_seed(1))]
    options = {"estimator": estimator, "num_draws": 4, "batch_size": 4000}
    formula = published_perplexity(exact_denoiser(language), OracleEnergy(language), rows, **options).with_lower
    entropy = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    exact = 0.5 * (1 + entropy) + entropy  # both masked with weight 1/2, one of two with weight 1
    assert exact == pytest.approx(1.204, abs=6e-4)
    away = abs(2 * formula.value / math.log(2) - exact)
    assert away < SIGMAS * 2 * formula.stderr / math.log(2) + 0.002 and formula.stderr < 0.02


def test_co_ar_gives_the_ar_models_own_perplexity_by_construction():
    model = random_causal_lm()
    energy = AutoregressiveEnergy(model, bos_token_id=BOS, carry_over=True)
    formula = published_perplexity(random_denoiser(), energy, SEQUENCES, normalized=True, estimator="enumerated")
    expected = -log_p_ar(model, SEQUENCES).sum(1)
    torch.testing.assert_close(formula.with_lower.nats_per_row, expected, atol=1e-5, rtol=1e-5)
    assert formula.perplexity("lower") == formula.perplexity("upper")
    assert (formula.marginal.nats_per_row - expected).abs().max() > 0.1  # though the denoiser is another model
    assert formula.num_candidates == 0 and formula.untrusted == 0


def exact_formula(x_0: torch.Tensor, of_log_z) -> float:
    """The formula, subset by subset; ``of_log_z(p, v)`` of the law and the negative energies of all fillings."""
    total = 0.0
    for subset in range(1, 8):
        masked = torch.tensor([bool(subset >> i & 1) for i in range(3)])
        x_t = torch.where(masked, 3, x_0)
        fills = fillings(x_t)
        log_p = random_denoiser().log_probs(x_t[None])[0].double()[torch.arange(3), fills].sum(1)
        v = -SCORES[(fills * torch.tensor([9, 3, 1])).sum(1)].double()
        at, m = (fills == x_0).all(1).nonzero().item(), int(masked.sum())
        total += (of_log_z(log_p.exp(), v) - log_p[at] - v[at]).item() / (m * math.comb(3, m))
    return total


def lower_of_two(p, v):
    """Mean lower estimate over all pairs of draws."""
    return (p[:, None] * p * (torch.logaddexp(v[:, None], v) - math.log(2))).sum()


def upper_of_two(p, v):
    """Mean upper estimate: (2n - 1) T_2 - 2 (n - 1) T_1 with n = 2."""
    return 3 * lower_of_two(p, v) - 2 * (p * v).sum()


def test_the_two_estimates_of_log_z_enclose_the_formula_with_the_exact_one():
    x_0 = SEQUENCES[[5]]
    exact = exact_formula(x_0[0], lambda p, v: torch.logsumexp(p.log() + v, 0))
    options = {"estimator": "enumerated", "num_candidates": 32, "batch_size": 3000}
    formula = published_perplexity(random_denoiser(), score_energy(), x_0.expand(3000, -1), **options)
    for end, sign in ((formula.with_lower, -1), (formula.with_upper, 1)):
        nats = end.nats_per_row
        assert -4 * nats.std() / 3000**0.5 < sign * (nats.mean() - exact) < 0.05
    assert formula.with_lower.value < formula.with_upper.value
    assert formula.num_candidates == 32 and 0.5 < formula.spread < 1.5 and 5 < formula.ess < 32
    flipped = CallableEnergy(lambda *args: -score_energy().f(*args))
    other = published_perplexity(random_denoiser(), flipped, x_0.expand(300, -1), **options)
    assert abs(other.with_lower.nats_per_row.mean() - exact) > 0.2


def test_log_z_is_of_fresh_draws_alone():
    """The data's own energy is none of them: with two draws each mean is a sum over all pairs."""
    x_0 = SEQUENCES[[5]]
    options = {"estimator": "enumerated", "num_candidates": 2, "batch_size": 6000}
    formula = published_perplexity(random_denoiser(), score_energy(), x_0.expand(6000, -1), **options)
    for end, of_log_z in ((formula.with_lower, lower_of_two), (formula.with_upper, upper_of_two)):
        error, expected = end.nats_per_row.std().item() / 6000**0.5, exact_formula(x_0[0], of_log_z)
        assert abs(end.nats_per_row.mean().item() - expected) < SIGMAS * error and error < 0.01


def test_every_noisy_version_of_a_row_has_draws_of_its_own():
    seen = []
    energy = CallableEnergy(lambda candidates, x, log_p: seen.append(candidates[:, 1:, 0]) or torch.zeros_like(log_p))
    flat = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 50), 50, 50)
    options = {"estimator": "counts", "num_draws": 3, "num_candidates": 16}
    published_perplexity(flat, energy, torch.tensor([[7], [8]]), **options)  # one token: it is masked in each of them
    rows = torch.stack(seen)
    assert rows.shape == (3, 2, 16) and len(rows.flatten(0, 1).unique(dim=0)) == 6


def test_z_is_1_where_the_energy_is_normalized():
    language, x_0, _ = two_bits(0.9)
    energy = OracleEnergy(language)
    assert published_perplexity(exact_denoiser(language), energy, x_0).num_candidates == 0
    energy.is_normalized = False
    assert published_perplexity(exact_denoiser(language), energy, x_0).num_candidates == 16
    assert published_perplexity(exact_denoiser(language), energy, x_0, normalized=True).num_candidates == 0


def test_given_tokens_are_not_counted():
    given = torch.tensor([[True, False, False], [False, True, True]])
    options = {"given": given, "normalized": True, "estimator": "enumerated"}
    nothing = CallableEnergy(lambda candidates, x, log_p: torch.zeros_like(log_p))
    flat = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 3), 3, 3)
    formula = published_perplexity(flat, nothing, SEQUENCES[[5, 7]], **options)
    for likelihood in (formula.with_lower, formula.with_upper, formula.marginal):
        assert likelihood.value == pytest.approx(math.log(3)) and likelihood.tokens_per_row.tolist() == [2, 1]


def test_a_head_reads_the_hidden_states_of_the_denoiser():
    """By hand from its own log q, one noisy version at a time."""
    denoiser, head = load_denoiser("tinystories"), load_energy("tinystories/head")
    x_0 = load_blocks(SHIPPED / "tinystories" / "valid.safetensors").tokens[:2, :4]
    formula = published_perplexity(denoiser, head, x_0, estimator="enumerated")
    expected = torch.zeros(2, dtype=torch.float64)
    for draw in ContinuousTime(estimator="enumerated").draws(torch.ones_like(x_0, dtype=torch.bool), range(2)):
        x_t, slots = x_0.masked_fill(draw.masked, denoiser.mask_token_id), Slots.where(draw.masked)
        encoding = denoiser.encode(x_t, draw.t, keep_hidden=True)
        log_q = head.log_prob(Step(denoiser, x_t, draw.t, encoding, slots), slots.gather(x_0))
        expected -= (draw.weight * log_q).detach()
    torch.testing.assert_close(formula.with_lower.nats_per_row, expected, rtol=1e-4, atol=1e-3)


def test_an_energy_of_nothing_leaves_the_bound_of_the_base():
    nothing = CallableEnergy(lambda candidates, x, log_p: torch.zeros_like(log_p))
    formula = published_perplexity(random_denoiser(), nothing, SEQUENCES[:5], num_candidates=2, num_draws=3)
    for end in (formula.with_lower, formula.with_upper):
        torch.testing.assert_close(end.nats_per_row, formula.marginal.nats_per_row)
    assert formula.spread == 0 and formula.marginal.direction == "upper bound of -log p"
    assert formula.with_lower.direction == "estimate"


def test_the_result_is_no_number_and_its_record_warns_first():
    formula = published_perplexity(random_denoiser(), score_energy(), SEQUENCES[:3], num_candidates=2)
    with pytest.raises(TypeError):
        float(formula)
    record = formula.as_record(TextUnits())
    assert next(iter(record)) == "warning" and record["warning"] == formula.warning
    assert record["with_lower"]["direction"] == "estimate" and "not" in record["warning"]
    # Two draws are too few for any trust in log Z, and the warning says so.
    assert formula.untrusted == 1 and "too few draws" in formula.warning
    assert formula.perplexity("lower") == formula.with_lower.perplexity != formula.perplexity("upper")
    assert formula.perplexity("upper") == formula.with_upper.perplexity
    assert "lower log Z from 2 draws" in formula.with_lower.estimator


def test_rows_have_their_own_seeds_whatever_the_batch_size():
    options = {"num_candidates": 4, "num_draws": 3, "seed": 4}
    whole = published_perplexity(random_denoiser(), score_energy(), SEQUENCES[:6], **options)
    parts = published_perplexity(random_denoiser(), score_energy(), SEQUENCES[:6], batch_size=2, **options)
    for one, other in ((whole.with_lower, parts.with_lower), (whole.with_upper, parts.with_upper)):
        torch.testing.assert_close(one.nats_per_row, other.nats_per_row)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="this energy belongs to denoiser"):
        published_perplexity(random_denoiser(), load_energy("tinystories/head"), SEQUENCES[:2])
    with pytest.raises(ValueError, match="num_candidates"):
        published_perplexity(random_denoiser(), score_energy(), SEQUENCES[:3], num_candidates=1)
    with pytest.raises(ValueError, match="log_z"):
        published_perplexity(random_denoiser(), score_energy(), SEQUENCES[:3]).perplexity("mean")
