"""BD3-LM: block diffusion; each block is denoised given the blocks before it."""

from typing import Any

from torch import nn

from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.families.dit import DiT
from edlm.denoisers.families.dit_denoiser import DiTDenoiser, wrap_official
from edlm.denoisers.families.family import Family, LoadOptions
from edlm.denoisers.families.lightning import (
    check_mask_is_known,
    check_noise,
    flag,
    is_lightning,
    load_backbone,
    load_hub_network,
    refuse_autoregressive,
    setting,
    settings_of,
    size,
)
from edlm.denoisers.logits import LogitsDenoiser


def _recognizes(checkpoint: Checkpoint) -> bool:
    if is_lightning(checkpoint):
        return flag(settings_of(checkpoint), "cross_attn", checkpoint.path)
    return checkpoint.model_type == "bd3lm"


def _load(checkpoint: Checkpoint, options: LoadOptions) -> DiTDenoiser:
    source = checkpoint.path
    if not _recognizes(checkpoint):
        raise ValueError(
            f"{source} must be a folder of model_type 'bd3lm' or its Lightning checkpoint, got {checkpoint.describe()}"
        )
    tokenizer = checkpoint.tokenizer(options.tokenizer)
    if is_lightning(checkpoint):
        config, network = settings_of(checkpoint), _lightning_network(checkpoint)
        has_blocks, length = True, size(config, "model.length", source)
        check_mask_is_known(config, tokenizer, options, source)
    else:
        config, network = checkpoint.config, _hub_network(checkpoint)
        # Baselines published in this layout (MDLM, SEDD) have no blocks.
        has_blocks, length = flag(config, "cross_attn", source, default=True), config.get("model_length")
    return DiTDenoiser(
        network.to(options.dtype),
        tokenizer,
        mask_token_id=options.mask_token_id,
        time_conditioned=flag(config, "time_conditioning", source),
        name=checkpoint.name,
        block_size=size(config, "block_size", source) if has_blocks else None,
        max_length=length,
    )


def _hub_network(checkpoint: Checkpoint) -> DiT:
    config = checkpoint.config
    if config.get("causal", False):
        refuse_autoregressive(checkpoint.path)
    return load_hub_network(checkpoint, conditioned=config.get("adaln", True))


def _lightning_network(checkpoint: Checkpoint) -> DiT:
    config, source = settings_of(checkpoint), checkpoint.path
    for name, allowed in (("backbone", ("dit", "hf_dit")), ("parameterization", ("subs",))):
        if (value := setting(config, name, source)) not in allowed:
            raise ValueError(f"{source}: {name} must be {allowed[0]!r}, got {value!r}")
    if flag(config, "time_conditioning", source):
        check_noise(config, source)
    return load_backbone(checkpoint)


def _wrap(module: nn.Module, tokenizer: Any = None, *, block_size: int | None = None, **options: Any) -> LogitsDenoiser:
    """As `wrap_official`; the module is called with ``sample_mode=True`` and needs ``attn_backend='sdpa'``.

    ``block_size`` is by default that of the module's configuration.

    Raises:
        ValueError: the block size is not known, or the module attends with another backend.
    """
    config = getattr(module, "config", None)
    block_size = block_size if block_size is not None else getattr(config, "block_size", None)
    if block_size is None:
        raise ValueError(f"block_size must be given, since {type(module).__name__} has none in its configuration")
    backend = getattr(config, "attn_backend", "sdpa")
    if backend != "sdpa":
        raise ValueError(f"the module's attn_backend must be 'sdpa' to take x_t alone, got {backend!r}")
    call_options = {"sample_mode": True, **options.pop("call_options", {})}
    return wrap_official(module, tokenizer, block_size=block_size, call_options=call_options, **options)


FAMILY = Family("bd3lm", _recognizes, _load, _wrap)
