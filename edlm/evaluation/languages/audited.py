"""Samplers that an audit takes: ours, with the exact energy of a language, and those of hooks in others' loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.streams import RowStreams
from edlm.energies.base import Energy
from edlm.energies.oracle import OracleEnergy
from edlm.evaluation.languages.audit import Sampler
from edlm.evaluation.languages.exact import Language, exact_denoiser, truth_energy
from edlm.sampler.hooks import DreamLogitsHook, RerankLogits
from edlm.sampler.one_step import rerank_step
from edlm.sampler.sampler import EnergySampler

MANY = 1024  # candidates: so many that the bias of k candidates, of order 1 / k, is not seen in some thousand samples


@dataclass(frozen=True)
class Audited:
    """A sampler, and the law that it is meant to follow: None for that of the language."""

    sampler: Sampler
    law: EnergySampler | None = None


def energy_sampler(energy: Energy | None = None, **options: Any) -> Sampler:
    """An `EnergySampler` with these options."""

    def sample(denoiser: Denoiser, x_t: Tensor, seeds: list[int]) -> Tensor:
        return EnergySampler(denoiser, energy, **options).fill(x_t, seeds=seeds).tokens

    return sample


def rerank_step_loop(energy: Energy | None, num_steps: int, **options: Any) -> Sampler:
    """A loop that decides an equal share of the masks at a time by `rerank_step`, left to right."""

    def sample(denoiser: Denoiser, x_t: Tensor, seeds: list[int]) -> Tensor:
        rank = (x_t == denoiser.mask_token_id).cumsum(1) - 1
        share = -(-(rank.amax(1, keepdim=True) + 1) // num_steps)
        for step in range(num_steps):
            masked = x_t == denoiser.mask_token_id
            reveal = masked & (rank < (step + 1) * share)
            if reveal.any():
                given = {"reveal": reveal, "seeds": seeds, "step": step, **options}
                x_t, _ = rerank_step(x_t, denoiser.log_probs(x_t), None, energy, denoiser, **given)
        return x_t

    return sample


def logits_loop(energy: Energy, num_candidates: int, **options: Any) -> Sampler:
    """A pass of a loop that takes the largest logit at every mask, which `RerankLogits` has chosen."""

    def sample(denoiser: Denoiser, x_t: Tensor, seeds: list[int]) -> Tensor:
        rerank = RerankLogits(denoiser.mask_token_id, energy, num_candidates, seed=seeds, **options)
        largest = rerank(x_t, denoiser.log_probs(x_t)).argmax(-1)
        return torch.where(x_t == denoiser.mask_token_id, largest, x_t)

    return sample


def dream_loop(energy: Energy, num_candidates: int, num_steps: int, **options: Any) -> Sampler:
    """Dream's loop (``alg="origin"``) with `DreamLogitsHook`: a step writes each mask with a chance of its own."""

    def sample(denoiser: Denoiser, x_t: Tensor, seeds: list[int]) -> Tensor:
        hook = DreamLogitsHook(denoiser.mask_token_id, energy, num_candidates, seed=seeds, **options)
        streams, everywhere = RowStreams(seeds), torch.full((len(x_t),), x_t.shape[1])
        uniforms = streams.order().uniform(everywhere, num_steps).view(*x_t.shape, num_steps)
        for step in range(num_steps):
            drawn = hook(step, x_t, denoiser.log_probs(x_t)).argmax(-1)
            written = (x_t == denoiser.mask_token_id) & (uniforms[..., step] < 1 / (num_steps - step))
            x_t = torch.where(written, drawn, x_t)
        return x_t

    return sample


def candidates_of_truth(language: Language) -> Audited:
    """16 candidates in 2 passes, weighed by the exact energy: not the language, but a law that is known."""
    options = {"num_steps": 2, "num_candidates": 16, "order": "bisecting"}
    energy = truth_energy(language)
    return Audited(energy_sampler(energy, **options), EnergySampler(exact_denoiser(language), energy, **options))


SAMPLERS: dict[str, Callable[[Language, int], Audited]] = {
    "base": lambda _, length: Audited(energy_sampler(num_steps=length, order="random")),
    "few_passes": lambda *_: Audited(energy_sampler(num_steps=2)),
    "exact": lambda language, _: Audited(energy_sampler(OracleEnergy(language), num_steps=2, num_candidates=None)),
    "candidates": lambda language, _: candidates_of_truth(language),
    "rerank_step": lambda language, _: Audited(rerank_step_loop(OracleEnergy(language), 2, num_candidates=None)),
    "rerank_logits": lambda language, _: Audited(logits_loop(truth_energy(language), MANY)),
    "dream": lambda language, _: Audited(dream_loop(truth_energy(language), MANY, 2)),
}
"""By name, for a language and a length."""
