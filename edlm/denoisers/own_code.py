"""Models built by the Python code that comes with their checkpoint."""

from collections.abc import Callable

from transformers import AutoModel

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.families.family import LoadOptions


def wants_own_code(checkpoint: Checkpoint, options: LoadOptions) -> bool:
    """Whether a checkpoint comes with code, and the caller allows it to run."""
    return options.trust_remote_code and "AutoModel" in checkpoint.config.get("auto_map", {})


def wrap_own_code(checkpoint: Checkpoint, options: LoadOptions, wrap: Callable[..., Denoiser]) -> Denoiser:
    """A denoiser of the module that a checkpoint's own code builds; called only if `wants_own_code`."""
    module = AutoModel.from_pretrained(checkpoint.path, dtype=options.dtype, trust_remote_code=True)
    tokenizer = checkpoint.tokenizer(options.tokenizer, trust_remote_code=True)
    return wrap(module, tokenizer, mask_token_id=options.mask_token_id)
