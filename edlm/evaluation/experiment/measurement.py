"""A setting of a sampler, and what was measured of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edlm.config import SamplerConfig
from edlm.denoisers.identity import weights_fingerprint
from edlm.energies.base import Energy
from edlm.energies.pretrained import PretrainedEnergy
from edlm.evaluation.estimates.units import Direction


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        name: What it is called.
        energy: What judges; None for the base.
        sampler: How to sample.
        sampled_steps: Estimate the gain over the base from so many steps of each row (`likelihood_bounds`), for
            energies that cost many passes; the bound is then the base's, measured at all steps, less this gain.
        inner_draws: Draws inside of the bound's logarithm, see `EnergySampler.likelihood_bound`.
    """

    name: str
    energy: Energy | None
    sampler: SamplerConfig
    sampled_steps: int | None = None
    inner_draws: int = 1

    @property
    def key(self) -> str:
        """Name, order and number of steps."""
        return _key(self.name, self.sampler.order, self.sampler.num_steps)

    @property
    def cell(self) -> tuple[str, int]:
        """Order and number of steps, where it is held against the base."""
        return self.sampler.order, self.sampler.num_steps

    @property
    def is_base(self) -> bool:
        """Whether it is the denoiser alone: no energy, and tokens drawn from its own marginals."""
        s = self.sampler
        return self.energy is None and (s.temperature, s.top_p, s.top_k) == (1.0, 1.0, None)

    @property
    def is_control(self) -> bool:
        """Whether its energy is a head that is blind to the step's other tokens: it corrects marginals only."""
        return getattr(getattr(self.energy, "shape", None), "blind", False)

    @cached_property
    def revision(self) -> str | None:
        """Which energy: its weights and its settings; None without."""
        if self.energy is None:
            return None
        settings = self.energy.settings() if isinstance(self.energy, PretrainedEnergy) else {}
        return f"{weights_fingerprint(self.energy)} {json.dumps(settings, sort_keys=True)}"

    @property
    def described(self) -> dict[str, Any]:
        """Fields of its `Measurement` that are known before anything is measured."""
        return {
            "name": self.name,
            "order": self.sampler.order,
            "num_steps": self.sampler.num_steps,
            "num_candidates": self.sampler.num_candidates if self.energy is not None else 1,
            "group_size": self.sampler.group_size,
            "scope": self.sampler.scope,
            "sampled_steps": self.sampled_steps,
            "inner_draws": self.inner_draws,
            "window": tuple(self.sampler.window),
            "temperature": self.sampler.temperature,
            "top_p": self.sampler.top_p,
            "top_k": self.sampler.top_k,
        }


@dataclass(frozen=True)
class Measurement:
    """What was measured of a setting; nats, low = good, but for the gain and the diversity.

    Attributes:
        name: Of the setting.
        order: Reveal order.
        num_steps: Denoising steps.
        num_candidates: k; None for exact decisions.
        group_size: Tokens decided together; None for a whole step.
        scope: "step" or "sequence".
        sampled_steps: Steps of each row that the gain was estimated from; None for all.
        n: Rows.
        bound_nats_per_token: The bound.
        bound_stderr: Its standard error over rows.
        perplexity: exp of the bound, per token.
        bits_per_char: The bound in bits per character; None where the text is not known.
        gain_nats_per_token: Bound of the base at the same steps and order, minus this one; None for the base.
        gain_stderr: Standard error of the paired differences.
        timed_batch_size: Sequences sampled at a time for the seconds.
        seconds_per_sequence: Of sampling: median over batches; None where not sampled.
        seconds_of_batches: Of each timed batch, per sequence.
        denoiser_passes: Of a sequence.
        energy_passes: Candidates that the energy judged for a sequence; for exact decisions, tokens.
        num_samples: Samples that the following were measured on; None where none were.
        entropy_nats: Unigram entropy of a sample, mean (low = repetitive).
        entropy_stderr: Its standard error.
        distinct_2: Share of bigrams that are distinct, over all samples.
        judge_nats_per_token: Loss of the samples' text under the judge, per token of the judge.
        judge_stderr: Its standard error.
        temperature: Of the proposal.
        top_p: Mass of the proposal's nucleus.
        top_k: Tokens that the proposal keeps; None for all.
        tokens_per_second: Of sampling, at that batch size.
        flops_per_sequence: Floating-point operations of sampling one, see `edlm.evaluation.samples.cost`.
        peak_memory_bytes: Of sampling a batch, see `edlm.evaluation.samples.cost`; None where it is not known.
        cost_batch_size: Sequences of the batch that operations and memory are of.
        judge: Name and weights of the judge; None where not known.
        judged_cut: Samples that the judge read the beginning of, since they were longer than its context.
        examples: Texts of the first samples; the seed of the first is the table's.
        window: Times (low, high] at which the energy is used.
        inner_draws: Draws inside of the bound's logarithm: more of them make it tighter.
        bound_direction: "upper bound of -log p", or "exact" where the bound is ``-log p`` itself.
        perplexity_stderr: Standard error of the perplexity.
        bits_per_char_stderr: Standard error of the bits per character.
        perplexity_per_word: exp of the bound per word.
        perplexity_per_word_stderr: Its standard error.
        unknown_text_rate: Share of samples with a word that the training text lacks; a stand-in for errors.
        unknown_text_stderr: Its standard error.
        unknown_word_rate: Share of the samples' words that the training text lacks; a stand-in for errors.
        unknown_word_stderr: Its standard error.
        repeated_4gram_rate: Share of a sample's 4-grams of words that it repeats, mean; a stand-in for errors.
        repeated_4gram_stderr: Its standard error.
        mauve: Nearness of the samples' law to that of held-out text, in [0, 1]; high = good.
        mauve_low: Lower end of its interval.
        mauve_high: Upper end.
        mauve_references: Held-out texts that it is against.
        texts_held_against: What the rates and MAUVE depend on: words, model, reference texts.
    """

    name: str
    order: str
    num_steps: int
    num_candidates: int | None
    group_size: int | None
    scope: str
    sampled_steps: int | None
    n: int
    bound_nats_per_token: float
    bound_stderr: float
    perplexity: float
    bits_per_char: float | None
    gain_nats_per_token: float | None
    gain_stderr: float | None
    timed_batch_size: int | None = None
    seconds_per_sequence: float | None = None
    seconds_of_batches: tuple[float, ...] | None = None
    denoiser_passes: int | None = None
    energy_passes: float | None = None
    num_samples: int | None = None
    entropy_nats: float | None = None
    entropy_stderr: float | None = None
    distinct_2: float | None = None
    judge_nats_per_token: float | None = None
    judge_stderr: float | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    tokens_per_second: float | None = None
    flops_per_sequence: float | None = None
    peak_memory_bytes: int | None = None
    judge: str | None = None
    judged_cut: int | None = None
    examples: tuple[str, ...] | None = None
    window: tuple[float, float] = (0.0, 1.0)
    inner_draws: int = 1
    bound_direction: Direction = "upper bound of -log p"
    perplexity_stderr: float | None = None
    bits_per_char_stderr: float | None = None
    perplexity_per_word: float | None = None
    perplexity_per_word_stderr: float | None = None
    unknown_text_rate: float | None = None
    unknown_text_stderr: float | None = None
    unknown_word_rate: float | None = None
    unknown_word_stderr: float | None = None
    repeated_4gram_rate: float | None = None
    repeated_4gram_stderr: float | None = None
    mauve: float | None = None
    mauve_low: float | None = None
    mauve_high: float | None = None
    mauve_references: int | None = None
    texts_held_against: str | None = None
    cost_batch_size: int | None = None

    @property
    def key(self) -> str:
        """The key of its setting."""
        return _key(self.name, self.order, self.num_steps)


def _key(name: str, order: str, num_steps: int) -> str:
    return f"{name}, {order}, {num_steps} steps"
