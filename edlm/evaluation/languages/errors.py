"""Sequence error rate on languages with known truth: any mistake fails the whole sequence.

Perplexity per token hardly depends on the length at a fixed number of steps; the share of sequences without a mistake
does, so a sampler that looks good per token can be wrong in almost every sequence (arXiv:2502.09622).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edlm.evaluation.estimates.bootstrap import Interval, share_of
from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.languages.exact import Language
from edlm.evaluation.likelihood.bounds import estimate_bounds
from edlm.sampler.sampler import EnergySampler

QUANTILE = 0.99


@dataclass(frozen=True)
class ErrorRule:
    """What counts as an error at one length: a sequence that data exceed in 1 of 100 cases, or never have.

    Attributes:
        language: The truth.
        length: Tokens of a sequence.
        threshold: 99th percentile of the data's ``-log p_true``, nats of the row.
        num_reference: Sequences of the language from which it was taken.
        data_nats_per_token: Their mean ``-log p_true``: an estimate of the language's entropy.
    """

    language: Language
    length: int
    threshold: float
    num_reference: int
    data_nats_per_token: Estimate

    @classmethod
    def of(cls, language: Language, length: int, *, num_reference: int = 20000, seed: int = 0) -> ErrorRule:
        """The rule from sequences that the language itself draws.

        Raises:
            ValueError: fewer than 100 of them.
        """
        if num_reference < 100:
            raise ValueError(f"num_reference must be >= 100 for a 99th percentile, got {num_reference}")
        x = language.sample(num_reference, length, torch.Generator().manual_seed(seed))
        nats = -language.log_prob(x)
        threshold = nats.quantile(QUANTILE, interpolation="higher").item()
        return cls(language, length, threshold, num_reference, mean_of(nats / length))

    def judge(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which sequences are wrong, which of these the language rules out, and ``-log p_true``.

        Args:
            tokens: Shape ``[n, length]``; a row that still holds a mask is ruled out.

        Returns:
            Bool ``[n]``, bool ``[n]``, and nats of the row, ``[n]``: ``inf`` where ruled out.
        """
        if tokens.ndim != 2 or tokens.shape[1] != self.length:
            raise ValueError(f"tokens must be [n, {self.length}], got {[*tokens.shape]}")
        whole = (tokens != self.language.mask_token_id).all(1)
        nats = torch.full((len(tokens),), torch.inf, dtype=torch.float64)
        valid = torch.zeros_like(whole)
        if whole.any():
            valid[whole] = self.language.is_valid(tokens[whole])
        if valid.any():
            nats[valid] = -self.language.log_prob(tokens[valid])
        # Equal up to rounding is not beyond: all sequences of a uniform language are equally likely.
        beyond = nats > self.threshold + 1e-9 * max(1.0, abs(self.threshold))
        return beyond | ~valid, ~valid, nats


@dataclass(frozen=True)
class SequenceErrors:
    """Errors of one sampler at one length.

    Attributes:
        error_rate: Share of sequences that are ruled out or beyond the data's 99th percentile; data have 1 %.
        invalid_rate: Share that the language rules out.
        nats_per_token: Mean ``-log p_true`` per token of the sequences that it does not rule out; NaN without any.
        kl_per_token: Bound of ``KL(truth || sampler)`` per token: mean of the sampler's bound of ``-log P`` minus
            ``-log p_true`` on the same data, nats; None where it was not measured.
        denoiser_passes: Of a sequence.
        energy_passes: Candidates that the energy judged for a sequence, mean; for exact decisions, tokens.
    """

    error_rate: Interval
    invalid_rate: Interval
    nats_per_token: Estimate
    kl_per_token: Estimate | None
    denoiser_passes: int
    energy_passes: float

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        record = {"n": self.error_rate.n}
        for name, rate in (("error", self.error_rate), ("invalid", self.invalid_rate)):
            record |= {f"{name}_rate": rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high}
        kl = self.kl_per_token or Estimate(None)
        return {
            **record,
            "nats_per_token": self.nats_per_token.value,
            "nats_stderr": self.nats_per_token.stderr,
            "kl_bound_nats_per_token": kl.value,
            "kl_bound_stderr": kl.stderr,
            "kl_n": kl.n,
            "denoiser_passes": self.denoiser_passes,
            "energy_passes": self.energy_passes,
        }


def errors_of_data(rule: ErrorRule, num_samples: int, *, seed: int = 1) -> SequenceErrors:
    """Errors of fresh sequences of the language: those of a perfect sampler."""
    generator = torch.Generator().manual_seed(seed)
    return _errors(rule, rule.language.sample(num_samples, rule.length, generator), None, 0, 0.0)


def measure_sequence_errors(
    sampler: EnergySampler,
    rule: ErrorRule,
    *,
    num_samples: int = 500,
    num_bound_rows: int = 0,
    seed: int = 0,
    batch_size: int = 500,
) -> SequenceErrors:
    """Draw sequences and judge them by the truth.

    Args:
        sampler: Its denoiser gives the language's own exact marginals, or is a trained one.
        rule: Of the language and the length.
        num_samples: Sequences that are drawn.
        num_bound_rows: Data on which the sampler's bound is measured, for the divergence; 0 for none.
        seed: Sequence ``i`` has the seed ``seed + i``; the data are drawn with ``seed`` too.
        batch_size: Sequences at a time.

    Raises:
        ValueError: the sampler's mask token is not the language's, or ``num_samples`` is below 1.

    Note:
        The mean ``-log p_true`` may fall below the language's entropy where a sampler avoids unlikely sequences. The
        bound of the divergence shows that, since it covers all of the data.
    """
    language, mask_token_id = rule.language, sampler.denoiser.mask_token_id
    if mask_token_id != language.mask_token_id:
        expected = f"the denoiser's mask token must be the language's ({language.mask_token_id})"
        raise ValueError(f"{expected}, got {mask_token_id}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be >= 1, got {num_samples}")
    output = sampler.sample(num_samples, rule.length, batch_size=batch_size, seeds=range(seed, seed + num_samples))
    passes = sum(step.denoiser_calls for step in output.steps) // math.ceil(num_samples / batch_size)
    judged = sum(step.judged for step in output.steps).double().mean().item()
    divergence = None
    if num_bound_rows:
        x_0 = language.sample(num_bound_rows, rule.length, torch.Generator().manual_seed(seed))
        (bound,) = estimate_bounds([sampler], x_0, seed=seed, batch_size=batch_size)
        divergence = mean_of((bound.nats_per_row + language.log_prob(x_0)) / rule.length)
    return _errors(rule, output.tokens.cpu(), divergence, passes, judged)


def sequence_error_table(
    rules: Sequence[ErrorRule], samplers: Mapping[tuple[str, int], EnergySampler], **options: Any
) -> Iterator[dict[str, Any]]:
    """Every sampler at every length.

    Args:
        rules: One a length.
        samplers: By name and ``num_steps``; those with more steps than a length are left out there.
        options: Those of `measure_sequence_errors`; every cell has the same seeds.

    Yields:
        Records: first the data's at each length (``name`` "data", ``num_steps`` None), then one cell at a time.
    """
    common = [{"length": rule.length, "data_nats_per_token": rule.data_nats_per_token.value} for rule in rules]
    for rule, of_length in zip(rules, common, strict=True):
        data = errors_of_data(rule, rule.num_reference)
        yield {"name": "data", "num_steps": None, **of_length, **data.as_record()}
    for rule, of_length in zip(rules, common, strict=True):
        for (name, steps), sampler in samplers.items():
            if steps <= rule.length:
                errors = measure_sequence_errors(sampler, rule, **options)
                yield {"name": name, "num_steps": steps, **of_length, **errors.as_record()}


def _errors(rule: ErrorRule, tokens: Tensor, kl: Estimate | None, passes: int, judged: float) -> SequenceErrors:
    wrong, invalid, nats = rule.judge(tokens)
    valid = nats[~invalid] / rule.length
    mean = mean_of(valid) if len(valid) else Estimate(math.nan, math.nan, 0)
    return SequenceErrors(share_of(wrong), share_of(invalid), mean, kl, passes, judged)
