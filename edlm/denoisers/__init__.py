"""Denoisers: any network that gives ``log p_theta(x_0^i | x_t)``, behind one protocol."""

from edlm.denoisers.base import Denoiser
from edlm.denoisers.decoder import DecoderDenoiser
from edlm.denoisers.encoding import Encoding
from edlm.denoisers.families.masked_lm import MaskedLMDenoiser
from edlm.denoisers.function import FunctionDenoiser
from edlm.denoisers.identity import DenoiserIdentity
from edlm.denoisers.loading import load_denoiser, wrap_denoiser
from edlm.denoisers.logits import LogitsDenoiser
from edlm.denoisers.vocabulary import Vocabulary

__all__ = [
    "DecoderDenoiser",
    "Denoiser",
    "DenoiserIdentity",
    "Encoding",
    "FunctionDenoiser",
    "LogitsDenoiser",
    "MaskedLMDenoiser",
    "Vocabulary",
    "load_denoiser",
    "wrap_denoiser",
]
