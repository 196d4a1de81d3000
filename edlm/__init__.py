"""Energy-based reranker for discrete diffusion language models (arXiv:2410.21357)."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "EnergySampler": "edlm.sampler",
    "DreamLogitsHook": "edlm.sampler",
    "RerankLogits": "edlm.sampler",
    "Denoiser": "edlm.denoisers",
    "FunctionDenoiser": "edlm.denoisers",
    "MaskedLMDenoiser": "edlm.denoisers",
    "load_denoiser": "edlm.denoisers",
    "wrap_denoiser": "edlm.denoisers",
    "Energy": "edlm.energies",
    "AutoregressiveEnergy": "edlm.energies",
    "CallableEnergy": "edlm.energies",
    "OracleEnergy": "edlm.energies",
    "ResidualHead": "edlm.energies",
    "SequenceEnergy": "edlm.energies",
    "TextEnergy": "edlm.energies",
    "WeightedSum": "edlm.energies",
    "load_energy": "edlm.energies",
}
_SUBPACKAGES = ("corpus", "denoisers", "diffusion", "energies", "evaluation", "sampler", "training")

__all__ = sorted([*_EXPORTS, *_SUBPACKAGES])


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``edlm --help`` does not wait for torch."""
    if name in _SUBPACKAGES:
        return import_module(f"edlm.{name}")
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'edlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
