"""MDLM: hub folders, and Lightning checkpoints of its code, BD3-LM's, DUO's and EDLM's; D3PM: such checkpoints."""

from collections.abc import Callable
from functools import partial
from typing import Any

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
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

# Meaning of the network's outputs, by family; sedd forms scores outside of the network.
_PARAMETERIZATIONS = {"mdlm": ("subs", "sedd"), "d3pm": ("d3pm",)}
_UNIFORM = ("duo", "duo_base", "hyperbolic_duo", "distillation", "ot-finetune")  # of DUO's algo.name


def _load(checkpoint: Checkpoint, options: LoadOptions, family: str) -> DiTDenoiser:
    if checkpoint.model_type == "mdlm":
        network = load_hub_network(checkpoint)
        config, length = checkpoint.config, checkpoint.config.get("model_length")
    elif is_lightning(checkpoint):
        config = settings_of(checkpoint)
        _check_settings(config, family, checkpoint)
        network = load_backbone(checkpoint)
        length = size(config, "model.length", checkpoint.path)
    else:
        raise ValueError(
            f"{checkpoint.path} must be a folder of model_type 'mdlm' or a Lightning checkpoint for "
            f"family={family!r}, got {checkpoint.describe()}"
        )
    tokenizer = checkpoint.tokenizer(options.tokenizer)
    check_mask_is_known(config, tokenizer, options, checkpoint.path)
    return DiTDenoiser(
        network.to(options.dtype),
        tokenizer,
        mask_token_id=options.mask_token_id,
        time_conditioned=flag(config, "time_conditioning", checkpoint.path),
        name=checkpoint.name,
        max_length=length,
    )


def _check_settings(config: dict[str, Any], family: str, checkpoint: Checkpoint) -> None:
    """Refuse networks trained for another task."""
    source, algo = checkpoint.path, config.get("algo")
    name = algo.get("name") if isinstance(algo, dict) else None
    if name in _UNIFORM or config.get("diffusion") == "uniform":
        got = f"algo.name {name!r}" if name in _UNIFORM else "diffusion 'uniform'"
        raise ValueError(f"{source} must be trained with masks, got {got}, whose noise is any token")
    backbone, parameterization = (setting(config, key, source) for key in ("backbone", "parameterization"))
    if "ar" in (backbone, parameterization):
        refuse_autoregressive(source)
    if backbone not in ("dit", "hf_dit"):
        raise ValueError(f"{source}: backbone must be 'dit', got {backbone!r}")
    if flag(config, "cross_attn", source):
        raise ValueError(f"{source} must have no blocks for family={family!r}, got cross_attn true: it is a BD3-LM")
    if parameterization not in _PARAMETERIZATIONS[family]:
        raise ValueError(
            f"{source}: parameterization must be one of {list(_PARAMETERIZATIONS[family])} for family={family!r}, "
            f"got {parameterization!r}"
        )
    if flag(config, "time_conditioning", source):
        check_noise(config, source)


def _recognizes(checkpoint: Checkpoint, family: str) -> bool:
    if is_lightning(checkpoint):
        config = settings_of(checkpoint)
        is_d3pm = config.get("parameterization") == "d3pm"
        return not flag(config, "cross_attn", checkpoint.path) and is_d3pm == (family == "d3pm")
    return checkpoint.model_type == "mdlm" and family == "mdlm"


def _family_of(name: str, wrap: Callable[..., Denoiser]) -> Family:
    return Family(name, partial(_recognizes, family=name), partial(_load, family=name), wrap)


FAMILY, D3PM = _family_of("mdlm", wrap_official), _family_of("d3pm", partial(wrap_official, time_conditioned=True))
