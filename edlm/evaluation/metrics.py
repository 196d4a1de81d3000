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
        "low = good; an upper bound of -log p in expectation",
        "mean over rows of one draw of the sampler's bound each",
        "bound_stderr",
        "n",
    ),
    "perplexity": Metric("Perplexity", "per token", "low = good; an upper bound", "exp of the bound", None, "n"),
    "bits_per_char": Metric(
        "Bits per character",
        "bits",
        "low = good; an upper bound",
        "the bound over characters per token and ln 2",
        None,
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
        "Seconds", "seconds", "low = good", "median over timed batches, wall clock", None, "timed_batch_size"
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
}


def described_metrics() -> dict[str, dict[str, str | None]]:
    """As JSON values."""
    return {name: asdict(metric) for name, metric in METRICS.items()}
