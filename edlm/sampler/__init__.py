"""The sampler: candidates from the denoiser, weights from the energy, one chosen and revealed."""

from edlm.sampler.hooks import DreamLogitsHook, RerankLogits
from edlm.sampler.options import SamplerOptions
from edlm.sampler.output import SampleOutput, StepInfo
from edlm.sampler.proposal import Proposal
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.text.generation import GenerateOptions, GenerationOutput, InfillOptions, Partial
from edlm.sampler.window import FractionMasked, Steps, Times

__all__ = [
    "DreamLogitsHook",
    "EnergySampler",
    "FractionMasked",
    "GenerateOptions",
    "GenerationOutput",
    "InfillOptions",
    "Partial",
    "Proposal",
    "RerankLogits",
    "SampleOutput",
    "SamplerOptions",
    "StepInfo",
    "Steps",
    "Times",
]
