"""Exact marginals and exact joint of a language with known truth, also given tokens that the language rules out."""

import math

import torch
from torch import Tensor

from edlm.corpus.language import Language
from edlm.denoisers.base import Denoiser
from edlm.denoisers.function import FunctionDenoiser
from edlm.energies.callable import CallableEnergy
from edlm.numerics import distinct_rows

IMPOSSIBLE_ENERGY = 1000.0  # nats: finite, so that sampling continues where all candidates of a step are impossible


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

    def log_marginals(x_t: Tensor, t: Tensor) -> Tensor:
        posterior = torch.full((*x_t.shape, size), -math.log(size), dtype=torch.float64)
        possible = language.log_prob(x_t).isfinite()
        if possible.any():
            posterior[possible] = language.log_marginals(x_t[possible])
        return posterior

    return FunctionDenoiser(log_marginals, language.mask_token_id, size)


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

    return CallableEnergy(energy, includes_log_proposal=True)


def _log_prob(language: Language, x: Tensor) -> Tensor:
    """``language.log_prob``, of each distinct row once: candidates of few tokens are often equal."""
    first, kind = distinct_rows(x)
    return language.log_prob(x[first])[kind]
