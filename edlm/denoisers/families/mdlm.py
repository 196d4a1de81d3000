"""MDLM: hub folders, and Lightning checkpoints of the official code; D3PM with absorbing noise: such checkpoints."""

from collections.abc import Callable
from functools import partial
from typing import Any

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.families.dit_denoiser import DiTDenoiser, wrap_official
from edlm.denoisers.families.family import Family, LoadOptions
from edlm.denoisers.families.lightning import is_lightning, load_backbone, load_hub_network, setting, settings_of

# Meaning of the network's outputs, by family; sedd forms scores outside of the network.
_PARAMETERIZATIONS = {"mdlm": ("subs", "sedd"), "d3pm": ("d3pm",)}


def _load(checkpoint: Checkpoint, options: LoadOptions, family: str) -> DiTDenoiser:
    if checkpoint.model_type == "mdlm":
        network = load_hub_network(checkpoint)
        config, length = checkpoint.config, checkpoint.config.get("model_length")
    elif is_lightning(checkpoint):
        config = settings_of(checkpoint)
        _check_settings(config, family, checkpoint)
        network = load_backbone(checkpoint)
        length = setting(config, "model.length", checkpoint.path)
    else:
        raise ValueError(
            f"{checkpoint.path} must be a folder of model_type 'mdlm' or a Lightning checkpoint for "
            f"family={family!r}, got {checkpoint.describe()}"
        )
    tokenizer = checkpoint.tokenizer(options.tokenizer)
    if tokenizer is None and options.mask_token_id is None:
        _check_last_row_is_mask(config, checkpoint)
    return DiTDenoiser(
        network.to(options.dtype),
        tokenizer,
        mask_token_id=options.mask_token_id,
        time_conditioned=bool(config.get("time_conditioning", False)),
        name=checkpoint.name,
        max_length=length,
    )


def _check_settings(config: dict[str, Any], family: str, checkpoint: Checkpoint) -> None:
    """Refuse networks trained for another task."""
    source = checkpoint.path
    if setting(config, "backbone", source) == "ar" or setting(config, "parameterization", source) == "ar":
        raise ValueError(
            f"{source} must be a diffusion model, got an autoregressive one: "
            "it makes an energy, see edlm.energies.MDLMCausalLM.from_checkpoint"
        )
    if config["backbone"] not in ("dit", "hf_dit"):
        raise ValueError(f"{source}: backbone must be 'dit', got {config['backbone']!r}")
    if config["parameterization"] not in _PARAMETERIZATIONS[family]:
        raise ValueError(
            f"{source}: parameterization must be one of {list(_PARAMETERIZATIONS[family])} for family={family!r}, "
            f"got {config['parameterization']!r}"
        )
    if config.get("time_conditioning"):
        noise = setting(config, "noise.type", source)
        if noise != "loglinear":
            raise ValueError(f"{source}: noise.type must be 'loglinear' with time_conditioning, got {noise!r}")


def _check_last_row_is_mask(config: dict[str, Any], checkpoint: Checkpoint) -> None:
    """The mask is an extra row for GPT-2's tokenizer, but not for one that has a mask token."""
    data = config.get("data")
    name = data.get("tokenizer_name_or_path") if isinstance(data, dict) else None
    if name is not None and not str(name).startswith("gpt2"):
        raise ValueError(
            f"{checkpoint.path}: mask_token_id or the tokenizer must be given, since it was trained with {name!r}"
        )


def _recognizes(checkpoint: Checkpoint, family: str) -> bool:
    if is_lightning(checkpoint):
        is_d3pm = settings_of(checkpoint).get("parameterization") == "d3pm"
        return is_d3pm == (family == "d3pm")
    return checkpoint.model_type == "mdlm" and family == "mdlm"


def _family_of(name: str, wrap: Callable[..., Denoiser]) -> Family:
    return Family(name, partial(_recognizes, family=name), partial(_load, family=name), wrap)


FAMILY, D3PM = _family_of("mdlm", wrap_official), _family_of("d3pm", partial(wrap_official, time_conditioned=True))
