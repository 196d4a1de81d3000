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

from edlm.corpus.language import Language
from edlm.evaluation.estimates.bootstrap import share_of
from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.languages.exact import check_mask_token
from edlm.evaluation.likelihood.bounds import estimate_bound
from edlm.sampler.sampler import EnergySampler

QUANTILE = 0.99


@dataclass(frozen=True)
class ErrorRule:
    """Criterion for wrong sequences of one length: less likely than 99 of 100 sequences of the language, or impossible.

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
        """Which sequences are wrong, which the language rules out, and their ``-log p_true``.

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


def errors_of_data(rule: ErrorRule, num_samples: int, *, seed: int = 1) -> dict[str, Any]:
    """Errors of fresh sequences of the language, those of a perfect sampler; see `measure_sequence_errors`."""
    tokens = rule.language.sample(num_samples, rule.length, torch.Generator().manual_seed(seed))
    return _record(rule, tokens) | {"denoiser_passes": 0, "energy_passes": 0.0}


def measure_sequence_errors(
    sampler: EnergySampler,
    rule: ErrorRule,
    *,
    num_samples: int = 500,
    num_bound_rows: int = 0,
    seed: int = 0,
    batch_size: int = 500,
) -> dict[str, Any]:
    """Draw sequences and judge them by the truth.

    Args:
        sampler: Its denoiser gives the language's own exact marginals, or is a trained one.
        rule: Of the language and the length.
        num_samples: Sequences that are drawn.
        num_bound_rows: Data on which the sampler's bound is measured, for the divergence; 0 for none.
        seed: Sequence ``i`` has the seed ``seed + i``; the data are drawn with ``seed`` too.
        batch_size: Sequences at a time.

    Returns:
        JSON values:

        - ``n``: sequences.
        - ``error_rate``: share of sequences that are ruled out or beyond the data's 99th percentile (data have 1 %),
          with the ends of its interval, ``error_low`` and ``error_high``.
        - ``invalid_rate``, ``invalid_low``, ``invalid_high``: share that the language rules out.
        - ``nats_per_token``, ``nats_stderr``: mean ``-log p_true`` of the sequences that it does not rule out; NaN
          without any.
        - ``kl_bound_nats_per_token``, ``kl_bound_stderr``, ``kl_n``: bound of ``KL(truth || sampler)`` per token, the
          mean of the sampler's bound of ``-log P`` minus ``-log p_true`` on the same data; None if not measured.
        - ``denoiser_passes``: of a sequence.
        - ``energy_passes``: candidates that the energy judged for a sequence, mean; for exact decisions, tokens.

    Raises:
        ValueError: the sampler's mask token is not the language's, or ``num_samples`` is below 1.

    Note:
        The mean ``-log p_true`` may fall below the language's entropy where a sampler avoids unlikely sequences. The
        bound of the divergence shows that, since it covers all of the data.
    """
    language = rule.language
    check_mask_token(sampler.denoiser, language)
    if num_samples < 1:
        raise ValueError(f"num_samples must be >= 1, got {num_samples}")
    output = sampler.sample(num_samples, rule.length, batch_size=batch_size, seeds=range(seed, seed + num_samples))
    divergence = None
    if num_bound_rows:
        x_0 = language.sample(num_bound_rows, rule.length, torch.Generator().manual_seed(seed))
        bound = estimate_bound(sampler, x_0, seed=seed, batch_size=batch_size)
        divergence = mean_of((bound.nats_per_row + language.log_prob(x_0)) / rule.length)
    taken = output.steps.taken.values()
    return _record(rule, output.tokens.cpu(), divergence) | {
        "denoiser_passes": sum(step.denoiser_calls for step in taken) // math.ceil(num_samples / batch_size),
        "energy_passes": sum(step.judged for step in taken).double().mean().item(),
    }


def _record(rule: ErrorRule, tokens: Tensor, divergence: Estimate | None = None) -> dict[str, Any]:
    wrong, invalid, nats = rule.judge(tokens)
    record = {"n": len(tokens)}
    for name, flags in (("error", wrong), ("invalid", invalid)):
        share = share_of(flags)
        record |= {f"{name}_rate": share.value, f"{name}_low": share.low, f"{name}_high": share.high}
    valid = nats[~invalid] / rule.length
    mean = mean_of(valid) if len(valid) else Estimate(math.nan, math.nan, 0)
    kl = divergence or Estimate(None)
    return record | {
        "nats_per_token": mean.value,
        "nats_stderr": mean.stderr,
        "kl_bound_nats_per_token": kl.value,
        "kl_bound_stderr": kl.stderr,
        "kl_n": kl.n,
    }


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
        yield {"name": "data", "num_steps": None, **of_length, **errors_of_data(rule, rule.num_reference)}
    for rule, of_length in zip(rules, common, strict=True):
        for (name, steps), sampler in samplers.items():
            if steps <= rule.length:
                errors = measure_sequence_errors(sampler, rule, **options)
                yield {"name": name, "num_steps": steps, **of_length, **errors}
