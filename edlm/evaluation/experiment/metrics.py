"""The one place that knows what a number is: its name in files, unit, direction, estimator, and how it is printed."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
        stage: What ``measure`` must hold for it.
        digits: After the point.
        spread: Whether it has a standard error, an interval, or neither.
    """

    name: str
    title: str
    unit: str
    direction: Literal["low", "high", "none"]
    stage: Stage
    digits: int = 3
    spread: Literal["stderr", "interval"] | None = "stderr"

    @property
    def names(self) -> dict[str, str]:
        """Keys in ``results.json`` by field of its `Estimate`, as far as it has them."""
        names = {"value": self.name}
        if self.spread == "stderr":
            names["stderr"] = re.sub("_(nats_per_token|nats|rate)$", "", self.name) + "_stderr"
        if self.spread == "interval":
            names |= {"low": f"{self.name}_low", "high": f"{self.name}_high"}
        if self.stage in ("bounds", "samples", "judge", "mauve"):
            names["n"] = "n" if self.stage == "bounds" else "num_samples"
        return names

    @property
    def note(self) -> str:
        """How it is estimated, and what it does not say."""
        return NOTES[self.name]

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
    """One number of a table; what rounds to 0 has no minus."""
    value = round(value, digits) + 0.0
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("inf", "∞")


_METRICS = (
    Metric("bound_nats_per_token", "Bound", "nats per token", "low", "bounds"),
    Metric("perplexity", "Perplexity", "per token", "low", "bounds", 1),
    Metric("bits_per_char", "Bits per character", "bits", "low", "bounds"),
    Metric("perplexity_per_word", "Perplexity per word", "per word between blanks", "low", "bounds", 0),
    Metric("gain_nats_per_token", "Gain", "nats per token", "high", "bounds"),
    Metric("passes_per_sequence", "Passes that write", "passes", "low", "bounds", 1),
    Metric("spans_recovered", "Spans recovered", "share of spans", "high", "bounds"),
    Metric("tokens_recovered", "Tokens recovered", "share of a span's tokens", "high", "bounds"),
    Metric("seconds_per_sequence", "Seconds", "seconds", "low", "time", 4, None),
    Metric("tokens_per_second", "Tokens per second", "tokens per second", "high", "time", 0, None),
    Metric("denoiser_passes", "Denoiser passes", "passes", "low", "time", 0, None),
    Metric("energy_passes", "Energy passes", "candidates, or tokens", "low", "time", 0, None),
    Metric("flops_per_sequence", "FLOP", "floating-point operations", "low", "cost", 0, None),
    Metric("peak_memory_bytes", "Peak memory", "bytes", "low", "cost", 0, None),
    Metric("entropy_nats", "Entropy", "nats", "none", "samples"),
    Metric("distinct_2", "Distinct-2", "share", "none", "samples", 3, None),
    Metric("repeated_4gram_rate", "Repeated 4-grams", "share of 4-grams", "low", "samples", 4),
    Metric("unknown_text_rate", "Samples with an unknown word", "share of samples", "low", "samples"),
    Metric("unknown_word_rate", "Unknown words", "share of words", "low", "samples", 4),
    Metric("judge_nats_per_token", "Judge loss", "nats per token of the judge", "none", "judge"),
    Metric("mauve", "MAUVE", "in [0, 1]", "high", "mauve", 3, "interval"),
)
METRICS = {metric.name: metric for metric in _METRICS}

_PROXY = "a proxy for the error rate: compare it with that of held-out text"
NOTES = {
    "bound_nats_per_token": "mean over rows of one draw of the sampler's bound each; an upper bound of -log p in "
    "expectation, or exact (bound_direction)",
    "perplexity": "exp of the bound; its error by the delta method",
    "bits_per_char": "the bound over characters per token and ln 2",
    "perplexity_per_word": "exp of the bound times tokens per word; its error by the delta method",
    "gain_nats_per_token": "mean of paired differences, the base of the same order and passes minus this; it neither "
    "bounds nor equals the gain in likelihood unless both bounds are exact",
    "passes_per_sequence": "denoiser passes in which some token of a row is written, mean over rows; fewer than "
    "num_steps where the marginals say how many tokens a pass writes",
    "spans_recovered": "gaps that a draw fills with just the held-out tokens",
    "tokens_recovered": "tokens of gaps that a draw fills as the held-out text does, mean over rows",
    "seconds_per_sequence": "median over timed batches (seconds_of_batches), wall clock",
    "tokens_per_second": "length over those seconds",
    "denoiser_passes": "counted",
    "energy_passes": "counted, mean over sequences",
    "flops_per_sequence": "matrix products and attention of a sampled batch, counted by torch.utils.flop_counter",
    "peak_memory_bytes": "of a sampled batch, above what was in use before",
    "entropy_nats": "unigram entropy of a sample, mean; low = repetitive",
    "distinct_2": "distinct bigrams over all bigrams of all samples; low = repetitive",
    "repeated_4gram_rate": f"4-grams of words that occur earlier in the same sample, mean over samples; {_PROXY}",
    "unknown_text_rate": f"samples with a word that the training text lacks, without their first and last; {_PROXY}",
    "unknown_word_rate": f"words that the training text lacks, without the first and last of a sample; {_PROXY}",
    "judge_nats_per_token": "sum of -log p over samples, over their tokens under the judge, encoded anew; low = "
    "plausible to it, which dull text is too: never without the entropy",
    "mauve": "mauve-text on a local model's features, against as many held-out texts; 95 % interval mauve_low, "
    "mauve_high; biased: compare it with that of held-out text",
}


def described_metrics() -> dict[str, dict[str, Any]]:
    """As JSON values."""
    return {name: asdict(metric) | {"note": metric.note, "names": metric.names} for name, metric in METRICS.items()}
