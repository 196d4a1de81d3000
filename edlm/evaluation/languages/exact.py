"""Exact marginals and exact joint of a language with known truth, also given tokens that the language rules out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edlm.corpus.languages import Dyck, HiddenMarkov, MarkovChain
from edlm.denoisers.base import Denoiser, FunctionDenoiser
from edlm.energies.callable import CallableEnergy

Language = MarkovChain | HiddenMarkov | Dyck

IMPOSSIBLE_ENERGY = 1000.0  # nats: finite, so that sampling continues where all candidates of a step are impossible
ENTRIES_AT_ONCE = 2**22  # of the tables of intervals


def check_mask_token(denoiser: Denoiser, language: Language) -> None:
    """Raise ValueError unless the denoiser has the language's mask token."""
    if denoiser.mask_token_id != language.mask_token_id:
        rule = f"the denoiser's mask token must be the language's ({language.mask_token_id})"
        raise ValueError(f"{rule}, got {denoiser.mask_token_id}")


def exact_denoiser(language: Language) -> FunctionDenoiser:
    """The language's own marginals ``log p_true(x^i | observed tokens)`` as a denoiser.

    Note:
        Observed tokens that the language rules out have no posterior: all tokens are then equally likely, since the
        sequence is wrong whatever follows.
    """
    size = language.vocab_size
    return FunctionDenoiser(lambda x_t, t: _marginals(language, x_t), language.mask_token_id, size)


def truth_energy(language: Language) -> CallableEnergy:
    """``E = log q' - log p_true(candidate | x_partial)``: the residual energy of a perfect model, for any language.

    Note:
        Candidates that the language rules out have `IMPOSSIBLE_ENERGY`; if it rules out ``x_partial``, all energies are
        0. `OracleEnergy` also decides token by token, but does not support languages with impossible sequences.
    """

    def energy(candidates: Tensor, x_partial: Tensor, log_proposal: Tensor) -> Tensor:
        batch, k, length = candidates.shape
        log_joint = _log_prob(language, candidates.reshape(-1, length)).view(batch, k)
        log_given = _log_prob(language, x_partial)[:, None]
        residual = log_proposal - (log_joint - log_given)
        residual = torch.where(log_joint.isneginf(), IMPOSSIBLE_ENERGY, residual)
        return torch.where(log_given.isneginf(), 0.0, residual)

    return CallableEnergy(energy)


def _log_prob(language: Language, x: Tensor) -> Tensor:
    """``language.log_prob``, of each distinct row once: candidates of few tokens are often equal."""
    keys = torch.randint(2**62, x.shape[1:], generator=torch.Generator().manual_seed(0))
    _, kind = (x * (2 * keys + 1)).sum(1).unique(return_inverse=True)  # wraps around: a hash of 64 bits
    first = torch.empty_like(kind).scatter_(0, kind.flip(0), torch.arange(len(kind) - 1, -1, -1))[: kind.max() + 1]
    return language.log_prob(x[first])[kind]


def _marginals(language: Language, x_t: Tensor) -> Tensor:
    """Posterior of every position, uniform in rows that are ruled out, nats, ``[batch, length, vocab_size]``."""
    if isinstance(language, Dyck):
        return dyck_log_marginals(language, x_t)
    posterior = torch.full((*x_t.shape, language.vocab_size), -math.log(language.vocab_size), dtype=torch.float64)
    possible = language.log_prob(x_t).isfinite()
    if possible.any():
        posterior[possible] = language.log_marginals(x_t[possible])
    return posterior


def dyck_log_marginals(language: Dyck, x_t: Tensor) -> Tensor:
    """Exact posterior ``log p(x^i = v | observed tokens)`` of every position, nats.

    The number of balanced strings that agree with a row is a polynomial in what each position allows,
    ``allowed[i, v]`` in {0, 1}; its share of strings with ``v`` at ``i`` is ``d log count / d log allowed[i, v]``.

    Args:
        language: Balanced brackets.
        x_t: Integers, shape ``[batch, length]``, ids in ``0..mask_token_id``.

    Returns:
        float64, shape ``[batch, length, vocab_size]``; uniform in rows that no balanced string agrees with.
    """
    size, length = language.vocab_size, x_t.shape[1]
    top = min(language.max_depth, length // 2)
    at_once = max(1, ENTRIES_AT_ONCE // (top * length**2))
    return torch.cat([_dyck_rows(language, rows, top) for rows in x_t.split(at_once)]).view(*x_t.shape, size)


def _dyck_rows(language: Dyck, x_t: Tensor, top: int) -> Tensor:
    size = language.vocab_size
    observed = torch.nn.functional.one_hot(x_t.clamp(max=size - 1), size).double()
    allowed = torch.where((x_t == language.mask_token_id)[..., None], 1.0, observed)
    with torch.enable_grad():
        allowed.requires_grad_()
        count = _num_balanced(allowed.permute(1, 2, 0), language.num_pairs, top)
        (slope,) = torch.autograd.grad(count.sum(), allowed)
    with_token, count = (allowed * slope).detach(), count.detach()
    posterior = with_token / torch.where(count > 0, count, 1.0)[:, None, None]
    return torch.where((count > 0)[:, None, None], posterior, 1 / size).log()


def _num_balanced(allowed: Tensor, num_pairs: int, top: int) -> Tensor:
    """Balanced strings, at most ``top`` deep, weighted by ``allowed[length, vocab_size, rows]``; ``[rows]``.

    ways[p][h, s]: of the p pairs that start at s, at most h deep; the first bracket closes after q inner pairs.
    """
    length, _, rows = allowed.shape
    opens, closes = allowed[:, :num_pairs], allowed[:, num_pairs:]
    fits = [(opens[: length - gap] * closes[gap:]).sum(1) for gap in range(1, length, 2)]
    ways = [allowed.new_ones(top + 1, length + 1, rows)]
    for p in range(1, length // 2 + 1):
        n = length - 2 * p + 1
        terms = [
            fits[q][:n] * ways[q][:-1, 1 : n + 1] * ways[p - 1 - q][1:, 2 * q + 2 : 2 * q + 2 + n] for q in range(p)
        ]
        total = torch.stack(terms).sum(0)
        ways.append(torch.cat([torch.zeros_like(total[:1]), total]))
    return ways[-1][top, 0]
