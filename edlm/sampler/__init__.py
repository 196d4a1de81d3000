"""The sampler: candidates from the denoiser, weights from the energy, one chosen and revealed."""

from edlm.sampler.output import SampleOutput, StepInfo
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.window import FractionMasked, Steps, Times

__all__ = ["EnergySampler", "FractionMasked", "SampleOutput", "StepInfo", "Steps", "Times"]
