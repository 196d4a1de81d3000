"""SEDD with absorbing noise: hub folders, and run folders of the official code."""

from functools import partial
from typing import Any

import yaml

from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.families.dit_denoiser import DiTDenoiser, build_dit, wrap_official
from edlm.denoisers.families.family import Family, LoadOptions
from edlm.denoisers.families.lightning import dit_shape, load_averages, setting
from edlm.denoisers.pickles import load_pickle

_RUN, _RUN_CONFIG = "checkpoints-meta/checkpoint.pth", ".hydra/config.yaml"


def _is_run(checkpoint: Checkpoint) -> bool:
    return (checkpoint.path / _RUN).is_file()


def _recognizes(checkpoint: Checkpoint) -> bool:
    return _is_run(checkpoint) or {"tokens", "graph", "noise", "model"} <= checkpoint.config.keys()


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    if not _is_run(checkpoint) or checkpoint.config:
        return checkpoint.config
    path = checkpoint.path / _RUN_CONFIG
    if not path.is_file():
        raise ValueError(f"{checkpoint.path} must hold {_RUN_CONFIG} next to {_RUN}, got none")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(config).__name__}")
    return config


def _load(checkpoint: Checkpoint, options: LoadOptions) -> DiTDenoiser:
    config, source = _config(checkpoint), checkpoint.path
    tokens = setting(config, "tokens", source)
    for name, required in (("graph.type", "absorb"), ("noise.type", "loglinear")):
        value = setting(config, name, source)
        if value != required:
            raise ValueError(f"{source}: {name} must be {required!r}, since a denoiser fills in masks, got {value!r}")
    shape = dit_shape(config, tokens + 1, source)
    if _is_run(checkpoint):
        content = load_pickle(checkpoint.path / _RUN)
        network = build_dit(shape, setting(content, "model", source), source)
        if content.get("ema"):
            load_averages(network, content["ema"], source)
    else:
        network = build_dit(shape, checkpoint.weights(), source)
    return DiTDenoiser(
        network.to(options.dtype),
        checkpoint.tokenizer(options.tokenizer),
        # The extra row, whatever the tokenizer has.
        mask_token_id=tokens if options.mask_token_id is None else options.mask_token_id,
        time_conditioned=True,
        name=checkpoint.name,
        max_length=setting(config, "model.length", source),
    )


FAMILY = Family("sedd", _recognizes, _load, partial(wrap_official, time_conditioned=True))
