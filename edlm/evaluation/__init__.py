"""Evaluation: bounds that hold for the sampler that was run, and what others report, with warnings."""

from edlm.evaluation.estimates.units import Likelihood
from edlm.evaluation.likelihood.bounds import BoundEstimate, Gain, estimate_bound, likelihood_bound, paired_gain
from edlm.evaluation.likelihood.nelbo import continuous_nelbo
from edlm.evaluation.likelihood.partition import PartitionEstimate, estimate_partition, log_partition_bounds
from edlm.evaluation.likelihood.published import PublishedPerplexity, published_perplexity
from edlm.evaluation.likelihood.step_spread import StepSpread, step_spreads

__all__ = [
    "BoundEstimate",
    "Gain",
    "Likelihood",
    "PartitionEstimate",
    "PublishedPerplexity",
    "StepSpread",
    "continuous_nelbo",
    "estimate_bound",
    "estimate_partition",
    "likelihood_bound",
    "log_partition_bounds",
    "paired_gain",
    "published_perplexity",
    "step_spreads",
]
