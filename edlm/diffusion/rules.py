"""The orders that look at the marginals, by name."""

from edlm.diffusion.adaptive import Confidence, ConfidenceThreshold, EntropyBounded, MarginalRule
from edlm.diffusion.dependency import DependencyBounded

RULES: dict[str, type[MarginalRule]] = {
    "confidence": Confidence,
    "confidence_threshold": ConfidenceThreshold,
    "entropy_bounded": EntropyBounded,
    "dependency_bounded": DependencyBounded,
}
