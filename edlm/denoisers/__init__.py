"""Denoisers: any network that gives ``log p_theta(x_0^i | x_t)``, behind one protocol."""

from edlm.denoisers.base import Denoiser, DenoiserIdentity, Encoding, FunctionDenoiser
from edlm.denoisers.loading import load_denoiser, wrap_denoiser
from edlm.denoisers.masked_lm import MaskedLMDenoiser

__all__ = [
    "Denoiser",
    "DenoiserIdentity",
    "Encoding",
    "FunctionDenoiser",
    "MaskedLMDenoiser",
    "load_denoiser",
    "wrap_denoiser",
]
