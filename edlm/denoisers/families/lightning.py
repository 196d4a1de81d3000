"""Checkpoints of the MDLM code base, hub folders and Lightning files: settings, weights and their moving averages."""

from typing import Any

import torch
from torch import Tensor, nn

from edlm.denoisers.checkpoint import PICKLES, Checkpoint
from edlm.denoisers.families.dit import DiT, DiTShape
from edlm.denoisers.families.dit_denoiser import build_dit
from edlm.denoisers.pickles import plain

_PREFIX, _COMPILED = "backbone.", "_orig_mod."
_NOISE_BOUNDS = {"sampling_eps_min", "sampling_eps_max"}  # that a BD3-LM was trained with


def is_lightning(checkpoint: Checkpoint) -> bool:
    """Whether it is one pickle that holds weights and the settings that they were trained with."""
    files = checkpoint.weight_files
    if checkpoint.config or len(files) != 1 or files[0].suffix not in PICKLES:
        return False
    return {"state_dict", "hyper_parameters"} <= checkpoint.weight_names


def settings_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration in plain containers; ValueError if there is none."""
    parameters = plain(checkpoint.pickles[0]["hyper_parameters"])
    if not isinstance(parameters, dict) or not isinstance(parameters.get("config"), dict):
        raise ValueError(f"{checkpoint.path}: hyper_parameters must hold a config, got {type(parameters).__name__}")
    return parameters["config"]


def setting(config: dict[str, Any], path: str, source: object) -> Any:
    """A value of nested dictionaries, such as ``model.n_heads``; ValueError if there is none."""
    value: Any = config
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"{source}: the configuration must have {path}, got {sorted(map(str, config))}")
        value = value[name]
    return value


def dit_shape(config: dict[str, Any], vocab_size: int, source: object, *, conditioned: bool = True) -> DiTShape:
    """Sizes of a network from the ``model`` section that MDLM's and SEDD's configurations share."""
    names = ("hidden_size", "n_blocks", "n_heads", "cond_dim")[: 4 if conditioned else 3]
    return DiTShape(vocab_size, *(setting(config, f"model.{name}", source) for name in names))


def load_hub_network(checkpoint: Checkpoint, *, conditioned: bool = True) -> DiT:
    """The network in a hub folder of MDLM or BD3-LM.

    Raises:
        ValueError: a size is missing in its configuration, or its weights do not fit.
    """
    names = ("vocab_size", "hidden_dim", "n_blocks", "n_heads", "cond_dim")[: 5 if conditioned else 4]
    shape = DiTShape(*(setting(checkpoint.config, name, checkpoint.path) for name in names))
    weights = {name.removeprefix(_PREFIX): weight for name, weight in checkpoint.weights().items()}
    return build_dit(shape, {name: weights[name] for name in weights.keys() - _NOISE_BOUNDS}, checkpoint.path)


def load_backbone(checkpoint: Checkpoint, *, conditioned: bool = True) -> DiT:
    """The network in a Lightning file, with its averaged weights where there are any.

    Raises:
        ValueError: weights, averages and configuration disagree.
    """
    content, source = checkpoint.pickles[0], checkpoint.path
    named = {name.replace(_COMPILED, ""): weight for name, weight in content["state_dict"].items()}
    # EDLM's own checkpoints keep its energy in the backbone too; they average only that, since the rest is frozen.
    holds_energy = any(name.startswith("ebm.") for name in named)
    weights = {
        name.removeprefix(_PREFIX): weight
        for name, weight in named.items()
        if name.startswith(_PREFIX) and not name.startswith(_PREFIX + "ebm.")
    }
    if "vocab_embed.embedding" not in weights:
        raise ValueError(f"{source}: state_dict must hold {_PREFIX}vocab_embed.embedding, got {sorted(named)[:5]}")
    rows = len(weights["vocab_embed.embedding"])
    shape = dit_shape(settings_of(checkpoint), rows, source, conditioned=conditioned)
    network = build_dit(shape, weights, source)
    if content.get("ema") and not holds_energy:
        num_of_noise = sum(name.startswith("noise.") for name in named)
        load_averages(network, content["ema"], source, num_further=num_of_noise)
    return network


@torch.no_grad()
def load_averages(network: nn.Module, averages: dict[str, Any], source: object, *, num_further: int = 0) -> None:
    """Replace the network's parameters, in their published order, by the unnamed list ``shadow_params``.

    At most ``num_further`` averages of other modules may follow. ValueError if their number or a shape is wrong.
    """
    shadows: list[Tensor] = averages.get("shadow_params") if isinstance(averages, dict) else None
    parameters = list(network.named_parameters())
    count = len(parameters)
    if not isinstance(shadows, list) or not count <= len(shadows) <= count + num_further:
        wanted = f"{count} tensors" + (f" and at most {num_further} of the noise" if num_further else "")
        got = len(shadows) if isinstance(shadows, list) else type(shadows).__name__
        raise ValueError(f"{source}: ema.shadow_params must be a list of {wanted}, one a parameter, got {got}")
    for (name, parameter), shadow in zip(parameters, shadows, strict=False):
        if shadow.shape != parameter.shape:
            raise ValueError(
                f"{source}: the average of {name} must have shape {list(parameter.shape)}, got {list(shadow.shape)}"
            )
        parameter.copy_(shadow)
