"""New networks of transformers: their settings, checked before anything is built."""

import difflib
import inspect
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig


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
