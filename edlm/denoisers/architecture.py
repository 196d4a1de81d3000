"""New networks of transformers: their settings, checked before anything is built."""

import difflib
import inspect
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

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
        ValueError: an unknown architecture or setting, with the nearest known one.
    """
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"unknown model_type '{model_type}'; did you mean '{_nearest(model_type, CONFIG_MAPPING)}'?")
    default = CONFIG_MAPPING[model_type]()
    if "intermediate_size" in settings and not hasattr(default, "intermediate_size") and hasattr(default, "hidden_dim"):
        settings = {"hidden_dim" if name == "intermediate_size" else name: x for name, x in settings.items()}
    for name in settings:
        if not _takes(default, name):
            known = [*default.to_dict(), *default.attribute_map]
            raise ValueError(f"unknown setting '{name}' of {model_type}; did you mean '{_nearest(name, known)}'?")
    return AutoConfig.for_model(model_type, **{**defaults, **settings})


def _takes(default: PretrainedConfig, name: str) -> bool:
    """Whether a setting is a field or, as some of older versions, is looked up by its name in the config's code."""
    code = (inspect.getsource(kind) for kind in type(default).__mro__[:-1])
    return hasattr(default, name) or any(f'"{name}"' in text for text in code)


def _nearest(unknown: str, known: Any) -> str:
    return difflib.get_close_matches(unknown, known, 1, 0.0)[0]
