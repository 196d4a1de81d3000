"""The sampler: candidates from the denoiser, weights from the energy, one chosen and revealed."""

from edlm.sampler.hooks import DreamLogitsHook, RerankLogits
from edlm.sampler.options import SamplerOptions
from edlm.sampler.output import SampleOutput, StepInfo
from edlm.sampler.proposal import Proposal
from edlm.sampler.reranking import RerankOptions, RerankOutput, rerank
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.text.generation import GenerateOptions, GenerationOutput, InfillOptions, Partial

__all__ = [
    "DreamLogitsHook",
    "EnergySampler",
    "GenerateOptions",
    "GenerationOutput",
    "InfillOptions",
    "Partial",
    "Proposal",
    "RerankLogits",
    "RerankOptions",
    "RerankOutput",
    "SampleOutput",
    "SamplerOptions",
    "StepInfo",
    "rerank",
]
