"""New networks of transformers: their settings, checked before anything is built."""

import inspect
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel

from edlm.disk import in_one_line
from edlm.rules import nearest

# 2, 15 and 105 million parameters of a ModernBERT with a vocabulary of 8,192.
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
PRESETS = {"tiny": (128, 6, 4, 256), "small": (384, 8, 6, 768), "base": (768, 12, 12, 2560)}


def preset(name: str, model_type: str, length: int) -> dict[str, Any]:
    """Settings of a size for blocks of ``length``; all layers of a ModernBERT see the whole block, as heads need it.

    Raises:
        ValueError: there is no such size.
    """
    if name not in PRESETS:
        raise ValueError(f"model must be one of {', '.join(PRESETS)}, or a mapping of settings, got {name}")
    settings = dict(zip(_SIZES, PRESETS[name], strict=True)) | {"max_position_embeddings": length + 2}
    return settings | ({"global_attn_every_n_layers": 1} if model_type == "modernbert" else {})


def new_config(model_type: str, settings: dict[str, Any], **defaults: Any) -> PretrainedConfig:
    """The configuration of a new network, as ``AutoConfig.for_model``, which keeps unknown settings unused.

    Args:
        model_type: Architecture, by its transformers name.
        settings: As in its transformers config, under their names today or those of older versions.
        defaults: Settings of all architectures, which one may lack.

    Raises:
        ValueError: an unknown architecture or setting, with the nearest known one; or a value that it cannot have.
    """
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"unknown model_type '{model_type}'; did you mean '{nearest(model_type, CONFIG_MAPPING)}'?")
    default = CONFIG_MAPPING[model_type]()
    if "intermediate_size" in settings and not hasattr(default, "intermediate_size") and hasattr(default, "hidden_dim"):
        settings = {"hidden_dim" if name == "intermediate_size" else name: x for name, x in settings.items()}
    for name in settings:
        if name == "model_type" or not _takes(default, name):
            known = [*default.to_dict(), *default.attribute_map]
            raise ValueError(f"unknown setting '{name}' of {model_type}; did you mean '{nearest(name, known)}'?")
    with building(model_type):
        return AutoConfig.for_model(model_type, **{**defaults, **settings})


@contextmanager
def building(model_type: str) -> Iterator[None]:
    """Whatever transformers and torch say of settings that do not fit is one ValueError."""
    try:
        yield
    except Exception as error:
        got = f"{in_one_line(error)} ({type(error).__name__})"
        raise ValueError(f"model must hold settings that a {model_type} can be built of, got {got}") from error


@torch.no_grad()
def try_out(network: PreTrainedModel) -> None:
    """Run a network on a row of two tokens, and write its settings: either raises what does not fit."""
    was_training = network.training
    network.eval()(input_ids=torch.zeros(1, 2, dtype=torch.long))
    network.train(was_training)
    with tempfile.TemporaryDirectory() as folder:
        network.config.save_pretrained(folder)


def _takes(default: PretrainedConfig, name: str) -> bool:
    """Whether a setting is a field or, as some of older versions, is looked up by its name in the config's code."""
    code = (inspect.getsource(kind) for kind in type(default).__mro__[:-1])
    return hasattr(default, name) or any(f'"{name}"' in text for text in code)
