"""The exact law of a sampler, finite k included, where the fillings of a decision can be enumerated."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.corpus.language import Language
from edlm.diffusion.plan import name_of_order
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowStreams
from edlm.energies.decision import Step
from edlm.energies.proposal import make_decision
from edlm.evaluation.languages.exact import check_mask_token
from edlm.numerics import precise
from edlm.sampler.reweighting import log_weights
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.step import begin_step

MOST_SEQUENCES = 2**16
STEP = 0.25  # of the trapezoids in log lambda: their error is below 1e-15


@dataclass(frozen=True)
class ExactDistance:
    """Divergences between the law of a sampler and a language, summed over all sequences.

    Attributes:
        kl_to_truth: ``KL(sampler || truth)``, nats of a sequence; inf where the sampler writes impossible ones.
        kl_from_truth: ``KL(truth || sampler)``, nats of a sequence.
        total_variation: Half the sum of absolute differences.
        invalid: Probability of a sequence that the language rules out.
    """

    kl_to_truth: float
    kl_from_truth: float
    total_variation: float
    invalid: float


def log_chosen(log_p: Tensor, log_w: Tensor, num_candidates: int) -> Tensor:
    """Log-probability of each outcome of choosing one of ``k`` candidates by weight, nats; exact up to rounding.

    ``P_k(m) = k p_m E[ w_m / (w_m + sum of k - 1 others) ] = k p_m w_m integral of exp(-l w_m) phi(l)^(k - 1) dl``

    with ``phi(l) = sum_j p_j exp(-l w_j)``, over ``l`` in (0, inf), by trapezoids in ``log l``.

    Args:
        log_p: Law of a candidate, nats, normalised here, shape ``[batch, m]``; ``-inf`` allowed.
        log_w: Log weights, finite, shape ``[batch, m]``.
        num_candidates: ``k >= 1``.

    Returns:
        float64, shape ``[batch, m]``.

    Raises:
        ValueError: a weight is not finite.

    Example:
        >>> log_p, log_w = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[3.0, 1.0]]).log()
        >>> log_chosen(log_p, log_w, 2).exp()  # 1/4 + 1/2 * 3/4 and 1/4 + 1/2 * 1/4
        tensor([[0.6250, 0.3750]], dtype=torch.float64)
    """
    log_p, log_w = precise(log_p).log_softmax(1), precise(log_w)
    if not log_w.isfinite().all():
        raise ValueError(f"weights must be finite, got a log weight of {log_w[~log_w.isfinite()][0].item()}")
    if num_candidates == 1:
        return log_p
    log_w = log_w - log_w.amax(1, keepdim=True)
    total = torch.full_like(log_w, -torch.inf)
    for s in _grid(log_w, num_candidates):
        decay = -(s + log_w).exp()
        phi = (log_p + decay).logsumexp(1, keepdim=True)
        total = torch.logaddexp(total, s + decay + (num_candidates - 1) * phi)
    return math.log(num_candidates) + log_p + log_w + total + math.log(STEP)


def _grid(log_w: Tensor, num_candidates: int) -> Tensor:
    """Values of ``log l`` at which some outcome's integrand is not below ``exp(-40)`` of its largest value."""
    centers, reach = (-log_w).unique(), 40 + math.log(num_candidates)  # phi^(k - 1) falls off from l = 1/k
    grid = torch.arange(-reach, centers[-1].item() + 4, STEP, dtype=torch.float64)
    following = torch.searchsorted(centers, grid - 4).clamp(max=len(centers) - 1)
    return grid[(centers[following] - grid).abs() <= reach]


@torch.no_grad()
def exact_law(sampler: EnergySampler, length: int) -> Tensor:
    """Exact ``log P`` of every sequence that a sampler may draw, nats, also for a finite number of candidates.

    Args:
        sampler: At step scope, in an order that is not random.
        length: Tokens of a sequence.

    Returns:
        float64, in the order of `all_sequences` over the columns before the mask's, shape ``[symbols ** length]``.

    Raises:
        ValueError: a random order, sequence scope or ``correct_proposal``; more than 65536 sequences; infinite
            energies; columns after the mask token's; or, where candidates are weighed, an order in which rows differ
            in the number of tokens of a step, or a denoiser that writes in blocks of its own.
    """
    if sampler.order in ("ancestral", "random") or sampler.scope != "step":
        raise ValueError(f"an exact law needs step scope and a fixed order, got {sampler.scope!r}, {sampler.order!r}")
    if sampler.correct_proposal:
        raise ValueError("an exact law needs correct_proposal=False, got True")
    if sampler.num_particles > 1:
        raise ValueError(f"an exact law needs num_particles=1, got {sampler.num_particles}")
    symbols = _num_symbols(sampler)
    x_0 = all_sequences(symbols, length)
    if sampler.candidates_weighed == 1:  # the bound is exact
        return -sampler.likelihood_bound(x_0, seeds=[0] * len(x_0)).double()
    x_t, log_p = torch.full((1, length), sampler.denoiser.mask_token_id), torch.zeros(1, dtype=torch.float64)
    plan = sampler.plan(torch.ones_like(x_t, dtype=torch.bool), RowStreams([0]))
    if plan.is_adaptive or sampler.denoiser.block_size is not None:
        got = f"order {name_of_order(sampler.order)!r}, a denoiser with block_size {sampler.denoiser.block_size}"
        raise ValueError(f"an exact law of candidates needs rows whose steps are alike, got {got}")
    for i in range(plan.total_steps):
        x_t, log_p = _law_of_step(sampler, i, x_t, log_p)
    powers = symbols ** torch.arange(length - 1, -1, -1)
    return log_p[(x_t * powers).sum(1).argsort()]


def _num_symbols(sampler: EnergySampler) -> int:
    """Columns of real tokens: those before the mask."""
    size, mask = sampler.denoiser.vocab_size, sampler.denoiser.mask_token_id
    if mask < size - 1:
        raise ValueError(f"an exact law needs the mask token after all others, got {mask} of {size} columns")
    return mask


def _law_of_step(sampler: EnergySampler, i: int, x_t: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """All ``x_s`` after step ``i`` and their log-probabilities, from those of all ``x_t[n, length]`` before it."""
    x_partial, g = x_t, 0
    while True:
        step = begin_step(sampler, i, x_t)
        groups = step.slots.groups(sampler.group_size)
        if g == len(groups):
            return x_partial, log_p
        decision, log_chosen_ = _law_of_group(sampler, step, groups[g], x_partial)
        x_partial, log_p = decision.flatten(0, 1), (log_p[:, None] + log_chosen_).flatten()
        x_t, g = x_t.repeat_interleave(decision.shape[1], 0), g + 1


def _law_of_group(sampler: EnergySampler, step: Step, group: Slots, x_partial: Tensor) -> tuple[Tensor, Tensor]:
    """Every filling of each row's slots, ``[n, fillings, length]``, and the log-probability of choosing it."""
    log_probs = step.denoiser.slot_log_probs(step.encoding, group)
    log_q = sampler.proposal(log_probs)
    fillings = all_sequences(_num_symbols(sampler), int(group.counts[0]))
    decision = make_decision(step, group, x_partial, log_probs, fillings.T[group.ranks], log_q)
    # Fillings that the proposal rules out are never drawn, so their weights do not matter.
    judged = step.uses[:, None] & decision.log_proposal.isfinite()
    weights = log_weights(torch.where(judged, sampler.energy(decision), 0.0), sampler.weight_temperature)
    chosen = log_chosen(decision.log_proposal, weights, sampler.num_candidates)
    return decision.candidates, torch.where(step.uses[:, None], chosen, precise(decision.log_proposal))


def all_sequences(vocab_size: int, length: int) -> Tensor:
    """All ``vocab_size ** length`` sequences, the first position most significant, ``[n, length]``.

    Raises:
        ValueError: there are more than 65536.
    """
    if vocab_size**length > MOST_SEQUENCES:
        raise ValueError(f"at most {MOST_SEQUENCES} sequences are enumerated, got {vocab_size} ** {length}")
    powers = vocab_size ** torch.arange(length - 1, -1, -1)
    return torch.arange(vocab_size**length)[:, None] // powers % vocab_size


def exact_distance(sampler: EnergySampler, language: Language, length: int) -> ExactDistance:
    """Divergences between a sampler and a small language, summed over all its sequences.

    Raises:
        ValueError: as `exact_law`; or the denoiser's mask token is not the language's.
    """
    check_mask_token(sampler.denoiser, language)
    log_p = exact_law(sampler, length)
    log_true = language.log_prob(all_sequences(language.vocab_size, length))
    p, true = log_p.exp(), log_true.exp()
    return ExactDistance(
        kl_to_truth=torch.where(p > 0, p * (log_p - log_true), 0.0).sum().item(),
        kl_from_truth=torch.where(true > 0, true * (log_true - log_p), 0.0).sum().item(),
        total_variation=0.5 * (p - true).abs().sum().item(),
        invalid=p[true == 0].sum().item(),
    )
