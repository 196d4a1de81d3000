"""The sampler: candidates from the denoiser, weights from the energy, one chosen and revealed."""

from edlm.sampler.output import SampleOutput, StepInfo
from edlm.sampler.proposal import Proposal
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.shims import DreamLogitsHook, RerankLogits
from edlm.sampler.window import FractionMasked, Steps, Times
from edlm.sampler.writing import GenerationOutput, Partial

__all__ = [
    "DreamLogitsHook",
    "EnergySampler",
    "FractionMasked",
    "GenerationOutput",
    "Partial",
    "Proposal",
    "RerankLogits",
    "SampleOutput",
    "StepInfo",
    "Steps",
    "Times",
]
