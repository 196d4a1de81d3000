"""What each number of a setting is: unit, direction, estimator, and where its error and its n stand."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Metric:
    """A number of a `Measurement`.

    Attributes:
        title: What people call it.
        unit: Its unit.
        direction: Which way is good, or what kind of number it is.
        estimator: How it is found.
        error: Field that holds its standard error; None without.
        n: Field that holds how many values it is the mean of; None where it is counted.
    """

    title: str
    unit: str
    direction: str
    estimator: str
    error: str | None = None
    n: str | None = None


METRICS = {
    "bound_nats_per_token": Metric(
        "Bound",
        "nats per token",
        "low = good; an upper bound of -log p in expectation, or exact (bound_direction)",
        "mean over rows of one draw of the sampler's bound each",
        "bound_stderr",
        "n",
    ),
    "perplexity": Metric(
        "Perplexity",
        "per token",
        "low = good; as the bound",
        "exp of the bound; its error by the delta method",
        "perplexity_stderr",
        "n",
    ),
    "bits_per_char": Metric(
        "Bits per character",
        "bits",
        "low = good; as the bound",
        "the bound over characters per token and ln 2",
        "bits_per_char_stderr",
        "n",
    ),
    "perplexity_per_word": Metric(
        "Perplexity per word",
        "per word between blanks",
        "low = good; as the bound",
        "exp of the bound times tokens per word; its error by the delta method",
        "perplexity_per_word_stderr",
        "n",
    ),
    "gain_nats_per_token": Metric(
        "Gain",
        "nats per token",
        "high = good; it neither bounds nor equals the gain in likelihood unless both bounds are exact",
        "mean of paired differences, the base of the same order and passes minus this",
        "gain_stderr",
        "n",
    ),
    "seconds_per_sequence": Metric(
        "Seconds", "seconds", "low = good", "median over timed batches (seconds_of_batches), wall clock"
    ),
    "tokens_per_second": Metric("Tokens per second", "tokens per second", "high = good", "length over those seconds"),
    "flops_per_sequence": Metric(
        "FLOP",
        "floating-point operations",
        "low = good",
        "matrix products and attention of a sampled batch, counted by torch.utils.flop_counter",
    ),
    "peak_memory_bytes": Metric(
        "Peak memory", "bytes", "low = good", "of a sampled batch, above what was in use before"
    ),
    "denoiser_passes": Metric("Denoiser passes", "passes", "low = good", "counted"),
    "energy_passes": Metric("Energy passes", "candidates, or tokens", "low = good", "counted, mean over sequences"),
    "entropy_nats": Metric(
        "Entropy", "nats", "low = repetitive", "unigram entropy of a sample, mean", "entropy_stderr", "num_samples"
    ),
    "distinct_2": Metric(
        "Distinct-2",
        "share",
        "low = repetitive",
        "distinct bigrams over all bigrams of all samples",
        None,
        "num_samples",
    ),
    "judge_nats_per_token": Metric(
        "Judge loss",
        "nats per token of the judge",
        "low = plausible to it, which dull text is too: never without the entropy",
        "sum of -log p over samples, over their tokens under the judge, encoded anew",
        "judge_stderr",
        "num_samples",
    ),
    "unknown_text_rate": Metric(
        "Samples with an unknown word",
        "share of samples",
        "low = good; a stand-in for an error rate: compare it with that of held-out text",
        "samples with a word that the training text lacks, their first and last word left out",
        "unknown_text_stderr",
        "num_samples",
    ),
    "unknown_word_rate": Metric(
        "Unknown words",
        "share of words",
        "low = good; a stand-in for an error rate: compare it with that of held-out text",
        "words that the training text lacks, over all words but the first and last of each sample",
        "unknown_word_stderr",
        "num_samples",
    ),
    "repeated_4gram_rate": Metric(
        "Repeated 4-grams",
        "share of 4-grams",
        "low = good; a stand-in for an error rate: compare it with that of held-out text",
        "4-grams of words that stood in the same sample before, mean over samples",
        "repeated_4gram_stderr",
        "num_samples",
    ),
    "mauve": Metric(
        "MAUVE",
        "in [0, 1]",
        "high = good; biased, compare it with that of held-out text",
        "mauve-text on a local model's features, against as many held-out texts; 95 % interval mauve_low, mauve_high",
        None,
        "num_samples",
    ),
}


def described_metrics() -> dict[str, dict[str, str | None]]:
    """As JSON values."""
    return {name: asdict(metric) for name, metric in METRICS.items()}
