"""Evaluation: bounds that hold for the sampler that was run, and the formulas of the literature, with warnings."""

from edlm.evaluation.estimates.estimate import Likelihood
from edlm.evaluation.evaluation import Evaluation, evaluate
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.likelihood.bounds import estimate_bound, estimate_bounds, likelihood_bound, paired_gain
from edlm.evaluation.likelihood.continuous import continuous_nelbo
from edlm.evaluation.likelihood.partition import (
    PartitionEstimate,
    StepSpread,
    estimate_partition,
    log_partition_bounds,
    step_spreads,
)
from edlm.evaluation.likelihood.published import PublishedPerplexity, published_perplexity

__all__ = [
    "EvaluateConfig",
    "Evaluation",
    "Likelihood",
    "PartitionEstimate",
    "PublishedPerplexity",
    "Results",
    "StepSpread",
    "continuous_nelbo",
    "estimate_bound",
    "estimate_bounds",
    "estimate_partition",
    "evaluate",
    "likelihood_bound",
    "log_partition_bounds",
    "paired_gain",
    "published_perplexity",
    "step_spreads",
]
