"""Checkpoints of the MDLM code base, hub folders and Lightning files: settings, weights and their moving averages."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from edlm.denoisers.checkpoint import LARGEST, PICKLES, Checkpoint
from edlm.denoisers.families.dit import DiT, DiTShape
from edlm.denoisers.families.dit_denoiser import NOISE_EPS, build_dit
from edlm.denoisers.families.family import LoadOptions
from edlm.denoisers.pickles import plain
from edlm.files import reading
from edlm.rules import check, check_least, check_most, shown

ENERGY = "ebm."  # of EDLM's checkpoints
_PREFIX, _COMPILED, _EMBEDDING = "backbone.", "_orig_mod.", "vocab_embed.embedding"
_NOISE_BOUNDS = {"sampling_eps_min", "sampling_eps_max"}  # that a BD3-LM was trained with
_SAME = {"score": "sedd", "mean": "d3pm"}  # parameterizations under DUO's names and MDLM's
_LOG_LINEAR = ("loglinear", "log-linear")


def is_lightning(checkpoint: Checkpoint) -> bool:
    """Whether it is one pickle that holds weights and the settings that they were trained with."""
    files = checkpoint.weight_files
    if checkpoint.config or len(files) != 1 or files[0].suffix not in PICKLES:
        return False
    return {"state_dict", "hyper_parameters"} <= checkpoint.weight_names


def settings_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration of a Lightning file in plain containers, as MDLM names and places the settings.

    BD3-LM and DUO keep some of them in a section ``algo``, which also stays as it is.

    Raises:
        ValueError: there is none.
    """
    parameters = plain(checkpoint.pickles[0]["hyper_parameters"])
    if not isinstance(parameters, dict) or not isinstance(parameters.get("config"), dict):
        raise ValueError(f"{checkpoint.path}: hyper_parameters must hold a config, got {type(parameters).__name__}")
    config, algo = parameters["config"], parameters["config"].get("algo")
    if not isinstance(algo, dict):
        return config
    named = algo.get("parameterization")
    return {**config, **algo, "parameterization": _SAME.get(named, named) if isinstance(named, str) else named}


def setting(config: dict[str, Any], path: str, source: object) -> Any:
    """A value of nested dictionaries, such as ``model.n_heads``; of ``${model.n_heads}``, what that refers to.

    Raises:
        ValueError: there is none.
    """
    value = _found(config, path, source)
    reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    return _found(config, reference[1], source) if reference else value


def _found(config: dict[str, Any], path: str, source: object) -> Any:
    value: Any = config
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"{source}: the configuration must have {path}, got {sorted(map(str, config))}")
        value = value[name]
    return value


def size(config: dict[str, Any], path: str, source: object) -> int:
    """A `setting` that is a size; ValueError if it is none, or too large to be meant."""
    value = setting(config, path, source)
    with reading(source, "hold the sizes of a network"):
        check_least(1, **{path: check(path, value, int)})
        check_most(LARGEST, **{path: value})
    return value


def flag(config: dict[str, Any], name: str, source: object, default: bool = False) -> bool:
    """A setting that is true or false; ValueError if it is neither."""
    value = config.get(name)
    with reading(source, "hold the settings of a network"):
        return default if value is None else check(name, value, bool)


def check_noise(config: dict[str, Any], source: object) -> None:
    """Refuse noise other than the log-linear one, whose level `total_noise` gives."""
    noise = setting(config, "noise.type", source)
    if noise not in _LOG_LINEAR:
        raise ValueError(f"{source}: noise.type must be 'loglinear' with time_conditioning, got {noise!r}")
    if (eps := config["noise"].get("eps", NOISE_EPS)) != NOISE_EPS:
        raise ValueError(f"{source}: noise.eps must be {NOISE_EPS} with time_conditioning, got {eps!r}")


def refuse_autoregressive(source: object) -> None:
    """Say what to do with a network that is no denoiser."""
    raise ValueError(
        f"{source} must be a diffusion model, got an autoregressive one: "
        "it makes an energy, see edlm.energies.MDLMCausalLM.from_checkpoint"
    )


def check_mask_is_known(config: dict[str, Any], tokenizer: Any, options: LoadOptions, source: object) -> None:
    """The mask is an extra row for GPT-2's tokenizer, but not for one that has a mask token: refuse that.

    Nothing is checked where the mask or the tokenizer is given.
    """
    if tokenizer is not None or options.mask_token_id is not None:
        return
    data = config.get("data")
    name = data.get("tokenizer_name_or_path") if isinstance(data, dict) else None
    if name is not None and not str(name).startswith("gpt2"):
        raise ValueError(
            f"{source}: mask_token_id or the tokenizer must be given, since it was trained with {shown(name)}"
        )


def dit_shape(config: dict[str, Any], vocab_size: int, source: object, *, conditioned: bool = True) -> DiTShape:
    """Sizes of a network from the ``model`` section that MDLM's and SEDD's configurations share."""
    names = ("hidden_size", "n_blocks", "n_heads", "cond_dim")[: 4 if conditioned else 3]
    sizes = [size(config, f"model.{name}", source) for name in names]
    with reading(source, "hold the sizes of a network"):
        return DiTShape(vocab_size, *sizes)


def load_hub_network(checkpoint: Checkpoint, *, conditioned: bool = True) -> DiT:
    """The network in a hub folder of MDLM or BD3-LM.

    Raises:
        ValueError: a size is missing in its configuration, or its weights do not fit.
    """
    names = ("vocab_size", "hidden_dim", "n_blocks", "n_heads", "cond_dim")[: 5 if conditioned else 4]
    sizes = [size(checkpoint.config, name, checkpoint.path) for name in names]
    with reading(checkpoint.path, "hold the sizes of a network"):
        shape = DiTShape(*sizes)
    weights = {name.removeprefix(_PREFIX): weight for name, weight in checkpoint.weights().items()}
    return build_dit(shape, {name: weights[name] for name in weights.keys() - _NOISE_BOUNDS}, checkpoint.path)


def load_backbone(checkpoint: Checkpoint, *, conditioned: bool = True, averaged: bool = True) -> DiT:
    """The network in a Lightning file.

    In an EDLM's file it is the denoiser, which was frozen, so that it has no averages: those are the energy's.

    Args:
        checkpoint: The file.
        conditioned: It is conditioned on the noise level.
        averaged: Take its averaged weights, where there are any.

    Raises:
        ValueError: weights, averages and configuration disagree.
    """
    named = _named(checkpoint)
    # A network that came from the hub is a module of its wrapper there.
    prefix = _PREFIX * 2 if _PREFIX * 2 + _EMBEDDING in named else _PREFIX
    weights = {name: weight for name, weight in _under(prefix, named).items() if not name.startswith(ENERGY)}
    network = _build(checkpoint, weights, prefix, DiT, conditioned)
    if averaged and not _under(ENERGY, named):
        _load_averages_of(network, checkpoint, named)
    return network


def load_energy_network(checkpoint: Checkpoint, kind: type[DiT]) -> DiT:
    """The network of the energy in an EDLM's file, with its averaged weights where there are any.

    Raises:
        ValueError: weights, averages and configuration disagree, or it holds no energy.
    """
    named = _named(checkpoint)
    network = _build(checkpoint, _under(ENERGY, named), ENERGY, kind, conditioned=True)
    _load_averages_of(network, checkpoint, named)
    return network


def _named(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All tensors by name, as if nothing had been compiled."""
    state = checkpoint.pickles[0]["state_dict"]
    if not isinstance(state, dict):
        raise ValueError(f"{checkpoint.path}: state_dict must be a dictionary, got {type(state).__name__}")
    return {str(name).replace(_COMPILED, ""): weight for name, weight in state.items() if isinstance(weight, Tensor)}


def _under(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in named.items() if name.startswith(prefix)}


def _build(checkpoint: Checkpoint, weights: dict[str, Tensor], prefix: str, kind: type[DiT], conditioned: bool) -> DiT:
    source = checkpoint.path
    if _EMBEDDING not in weights or weights[_EMBEDDING].ndim != 2:
        names = sorted(_named(checkpoint))[:5]
        raise ValueError(f"{source}: state_dict must hold a matrix {prefix}{_EMBEDDING}, got {names}")
    shape = dit_shape(settings_of(checkpoint), len(weights[_EMBEDDING]), source, conditioned=conditioned)
    return build_dit(shape, weights, source, kind)


def _load_averages_of(network: DiT, checkpoint: Checkpoint, named: dict[str, Tensor]) -> None:
    averages = checkpoint.pickles[0].get("ema")
    if averages:
        load_averages(network, averages, checkpoint.path, num_further=len(_under("noise.", named)))


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
        shape = list(shadow.shape) if isinstance(shadow, Tensor) else type(shadow).__name__
        if shape != list(parameter.shape):
            raise ValueError(f"{source}: the average of {name} must have shape {list(parameter.shape)}, got {shape}")
        parameter.copy_(shadow)
