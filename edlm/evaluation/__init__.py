"""Evaluation: bounds that hold for the sampler that was run, and what others report, with warnings."""

from edlm.evaluation.likelihood import BoundEstimate, Gain, estimate_bound, likelihood_bound, paired_gain
from edlm.evaluation.nelbo import continuous_nelbo
from edlm.evaluation.partition import PartitionEstimate, estimate_partition, log_partition_bounds
from edlm.evaluation.published import PublishedPerplexity, published_perplexity
from edlm.evaluation.step_spread import StepSpread, step_spreads
from edlm.evaluation.units import Likelihood

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
