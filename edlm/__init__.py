"""Energy-based reranker for discrete diffusion language models (arXiv:2410.21357)."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "edlm.sampler": ("EnergySampler", "SamplerOptions", "DreamLogitsHook", "RerankLogits", "rerank", "rerank_step"),
    "edlm.evaluation.languages.audit": ("audit",),
    "edlm.integrations.transformers": ("hf_generate",),
    "edlm.denoisers": ("Denoiser", "FunctionDenoiser", "load_denoiser", "wrap_denoiser"),
    "edlm.energies": (
        "Energy",
        "AutoregressiveEnergy",
        "CallableEnergy",
        "ResidualHead",
        "SequenceEnergy",
        "TextEnergy",
        "load_energy",
    ),
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}
_SUBPACKAGES = ("corpus", "denoisers", "diffusion", "energies", "evaluation", "integrations", "sampler", "training")

__all__ = sorted([*_MODULES, *_SUBPACKAGES])


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``edlm --help`` does not load torch."""
    if name in _SUBPACKAGES:
        return import_module(f"edlm.{name}")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'edlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
