"""The sampler: candidates from the denoiser, weights from the energy, one chosen and revealed."""

from edlm.sampler.output import SampleOutput, StepInfo
from edlm.sampler.proposal import Proposal
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.window import FractionMasked, Steps, Times
from edlm.sampler.writing import GenerationOutput, Partial

__all__ = [
    "EnergySampler",
    "FractionMasked",
    "GenerationOutput",
    "Partial",
    "Proposal",
    "SampleOutput",
    "StepInfo",
    "Steps",
    "Times",
]
