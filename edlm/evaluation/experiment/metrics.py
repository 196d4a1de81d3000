"""The one place that knows what a number is: its name in files, unit, direction, estimator, and how it is printed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

from edlm.evaluation.estimates.estimate import Estimate

Stage = Literal["bounds", "time", "cost", "samples", "judge", "mauve", "frontier", "continuous", "energies"]
DASH = "–"


@dataclass(frozen=True)
class Metric:
    """A number that is measured of a setting.

    Attributes:
        name: Key of its value in ``results.json``, column of the CSV file, name in wandb.
        title: What people call it.
        unit: Its unit.
        direction: "low" or "high" is good, or "none": neither by itself.
        note: How it is estimated, and what it does not say.
        stage: What ``measure`` must hold for it.
        digits: After the point.
        error_name: Key of its standard error; None without one.
        n_name: Key of the number of values that it is the mean of; None where it is counted.
        low_name: Key of the lower end of its interval; None without one.
        high_name: Key of the upper end.
    """

    name: str
    title: str
    unit: str
    direction: Literal["low", "high", "none"]
    note: str
    stage: Stage
    digits: int = 3
    error_name: str | None = None
    n_name: str | None = None
    low_name: str | None = None
    high_name: str | None = None

    @property
    def names(self) -> dict[str, str]:
        """Key of each field of its `Estimate`."""
        keys = (self.name, self.error_name, self.n_name, self.low_name, self.high_name)
        return {field: key for field, key in zip(Estimate._fields, keys, strict=True) if key is not None}

    def format(self, estimate: Estimate | None) -> str:
        """The estimate in its digits."""
        return format_estimate(estimate, self.digits)


def format_estimate(estimate: Estimate | None, digits: int, *, signed: bool = False) -> str:
    """Value, then its standard error or its interval; a dash where it was not measured.

    Args:
        estimate: The number, or None.
        digits: After the point.
        signed: With a plus before positive values.

    Example:
        >>> format_estimate(Estimate(1.25, 0.5, 4), 2), format_estimate(Estimate(2.0, None, 4, 1.5, 2.5), 1)
        ('1.25 ± 0.50', '2.0 [1.5, 2.5]')
        >>> format_estimate(None, 2), format_estimate(Estimate(math.inf, math.nan, 1), 2)
        ('–', '∞')
    """
    if estimate is None or math.isnan(estimate.value):
        return DASH
    text = format_number(estimate.value, digits, signed=signed)
    if estimate.stderr is not None and math.isfinite(estimate.stderr):
        return f"{text} ± {estimate.stderr:.{digits}f}"
    if estimate.low is not None and not math.isnan(estimate.low):
        return f"{text} [{format_number(estimate.low, digits)}, {format_number(estimate.high, digits)}]"
    return text


def format_number(value: float, digits: int, *, signed: bool = False) -> str:
    """One number of a table."""
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("inf", "∞")


_AS_BOUND = {"direction": "low", "stage": "bounds", "n_name": "n"}
_OF_SAMPLES = {"stage": "samples", "n_name": "num_samples"}
_PROXY = "; a proxy for the error rate: compare it with that of held-out text"
_METRICS = (
    Metric(
        "bound_nats_per_token",
        "Bound",
        "nats per token",
        note="mean over rows of one draw of the sampler's bound each; an upper bound of -log p in expectation, or "
        "exact (bound_direction)",
        error_name="bound_stderr",
        **_AS_BOUND,
    ),
    Metric(
        "perplexity",
        "Perplexity",
        "per token",
        note="exp of the bound; its error by the delta method",
        digits=1,
        error_name="perplexity_stderr",
        **_AS_BOUND,
    ),
    Metric(
        "bits_per_char",
        "Bits per character",
        "bits",
        note="the bound over characters per token and ln 2",
        error_name="bits_per_char_stderr",
        **_AS_BOUND,
    ),
    Metric(
        "perplexity_per_word",
        "Perplexity per word",
        "per word between blanks",
        note="exp of the bound times tokens per word; its error by the delta method",
        digits=0,
        error_name="perplexity_per_word_stderr",
        **_AS_BOUND,
    ),
    Metric(
        "gain_nats_per_token",
        "Gain",
        "nats per token",
        "high",
        "mean of paired differences, the base of the same order and passes minus this; it neither bounds nor equals "
        "the gain in likelihood unless both bounds are exact",
        "bounds",
        error_name="gain_stderr",
        n_name="n",
    ),
    Metric(
        "spans_recovered",
        "Spans recovered",
        "share of spans",
        "high",
        "gaps that a draw fills with just the held-out tokens",
        "bounds",
        error_name="spans_recovered_stderr",
        n_name="n",
    ),
    Metric(
        "tokens_recovered",
        "Tokens recovered",
        "share of a span's tokens",
        "high",
        "tokens of gaps that a draw fills as the held-out text does, mean over rows",
        "bounds",
        error_name="tokens_recovered_stderr",
        n_name="n",
    ),
    Metric(
        "seconds_per_sequence",
        "Seconds",
        "seconds",
        "low",
        "median over timed batches (seconds_of_batches), wall clock",
        "time",
        digits=4,
    ),
    Metric(
        "tokens_per_second",
        "Tokens per second",
        "tokens per second",
        "high",
        "length over those seconds",
        "time",
        digits=0,
    ),
    Metric("denoiser_passes", "Denoiser passes", "passes", "low", "counted", "time", digits=0),
    Metric(
        "energy_passes",
        "Energy passes",
        "candidates, or tokens",
        "low",
        "counted, mean over sequences",
        "time",
        digits=0,
    ),
    Metric(
        "flops_per_sequence",
        "FLOP",
        "floating-point operations",
        "low",
        "matrix products and attention of a sampled batch, counted by torch.utils.flop_counter",
        "cost",
        digits=0,
    ),
    Metric(
        "peak_memory_bytes",
        "Peak memory",
        "bytes",
        "low",
        "of a sampled batch, above what was in use before",
        "cost",
        digits=0,
    ),
    Metric(
        "entropy_nats",
        "Entropy",
        "nats",
        "none",
        "unigram entropy of a sample, mean; low = repetitive",
        error_name="entropy_stderr",
        **_OF_SAMPLES,
    ),
    Metric(
        "distinct_2",
        "Distinct-2",
        "share",
        "none",
        "distinct bigrams over all bigrams of all samples; low = repetitive",
        **_OF_SAMPLES,
    ),
    Metric(
        "repeated_4gram_rate",
        "Repeated 4-grams",
        "share of 4-grams",
        "low",
        f"4-grams of words that occur earlier in the same sample, mean over samples{_PROXY}",
        digits=4,
        error_name="repeated_4gram_stderr",
        **_OF_SAMPLES,
    ),
    Metric(
        "unknown_text_rate",
        "Samples with an unknown word",
        "share of samples",
        "low",
        f"samples with a word that the training text lacks, their first and last word left out{_PROXY}",
        error_name="unknown_text_stderr",
        **_OF_SAMPLES,
    ),
    Metric(
        "unknown_word_rate",
        "Unknown words",
        "share of words",
        "low",
        f"words that the training text lacks, over all words but the first and last of each sample{_PROXY}",
        digits=4,
        error_name="unknown_word_stderr",
        **_OF_SAMPLES,
    ),
    Metric(
        "judge_nats_per_token",
        "Judge loss",
        "nats per token of the judge",
        "none",
        "sum of -log p over samples, over their tokens under the judge, encoded anew; low = plausible to it, which "
        "dull text is too: never without the entropy",
        "judge",
        error_name="judge_stderr",
        n_name="num_samples",
    ),
    Metric(
        "mauve",
        "MAUVE",
        "in [0, 1]",
        "high",
        "mauve-text on a local model's features, against as many held-out texts; 95 % interval mauve_low, mauve_high; "
        "biased: compare it with that of held-out text",
        "mauve",
        n_name="num_samples",
        low_name="mauve_low",
        high_name="mauve_high",
    ),
)
METRICS = {metric.name: metric for metric in _METRICS}


def described_metrics() -> dict[str, dict[str, str | None]]:
    """As JSON values."""
    return {name: asdict(metric) for name, metric in METRICS.items()}
