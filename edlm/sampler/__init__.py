"""The sampler: candidates from the denoiser, weights from the energy, one chosen and revealed."""

from edlm.energies.proposal import Proposal
from edlm.sampler.hooks import DreamLogitsHook, RerankLogits
from edlm.sampler.one_step import StepOptions, rerank_step
from edlm.sampler.options import SamplerOptions
from edlm.sampler.output import SampleOutput, StepInfo, Steps
from edlm.sampler.reranking import RerankOptions, RerankOutput, rerank
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.text.choosing import ChooseOptions, ChooseOutput
from edlm.sampler.text.generation import GenerationOutput, Partial
from edlm.sampler.text.options import GenerateOptions, InfillOptions

__all__ = [
    "ChooseOptions",
    "ChooseOutput",
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
    "StepOptions",
    "Steps",
    "rerank",
    "rerank_step",
]
