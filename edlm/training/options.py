"""Options of training from Python, and the record of a run."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from importlib.metadata import version
from typing import Any

from edlm import __version__
from edlm.energies.head_settings import HeadOptions
from edlm.energies.neighbour_head import NeighbourOptions
from edlm.rules import check_names
from edlm.training.mixtures import EnergyObjectiveConfig
from edlm.training.trainer_config import TrainerConfig

_OPTIONS = (EnergyObjectiveConfig, HeadOptions, NeighbourOptions)


def split_options(
    config: type, trainer: TrainerConfig | None, options: dict[str, Any]
) -> tuple[TrainerConfig, dict[str, Any]]:
    """The trainer's config, made of its fields among ``options`` unless it is given; and the other options.

    Raises:
        ValueError: both are given, or neither ``trainer`` nor ``output_dir``; or an option is neither the trainer's nor
            of the dataclass ``config``.
    """
    known = [field.name for kind in (config, TrainerConfig) for field in fields(kind)]
    check_names(f"training by a {config.__name__}", options, known)
    names = {field.name for field in fields(TrainerConfig)} & options.keys()
    if (trainer is None) != ("output_dir" in names) or (trainer is not None and names):
        raise ValueError(
            f"trainer or output_dir (and other fields of TrainerConfig) must be given, got {sorted(names)}"
        )
    others = {name: value for name, value in options.items() if name not in names}
    for field in fields(config):
        if is_dataclass(field.default_factory) and isinstance(others.get(field.name), Mapping):
            others[field.name] = field.default_factory(**others[field.name])
    return trainer or TrainerConfig(**{name: options[name] for name in names}), others


def describe(config: Any) -> dict[str, Any]:
    """Everything of a run but the trainer's options, and versions, in values of YAML, for its ``config.yaml``."""
    values = {field.name: getattr(config, field.name) for field in fields(config) if field.name != "trainer"}
    versions = {name: version(name) for name in ("torch", "transformers", "accelerate")}
    return {
        **{name: _plain(value) for name, value in values.items()},
        "versions": {"edlm": __version__, "python": platform.python_version(), **versions},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, _OPTIONS):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
