"""Evaluation: bounds that hold for the sampler that was run, with their errors."""

from edlm.evaluation.likelihood import BoundEstimate, Gain, estimate_bound, likelihood_bound, paired_gain

__all__ = ["BoundEstimate", "Gain", "estimate_bound", "likelihood_bound", "paired_gain"]
