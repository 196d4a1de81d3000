"""Tensors of mixtures of experts: published one expert at a time, run by transformers as one tensor of a layer."""

import re

import torch
from torch import Tensor
from transformers import PretrainedConfig

_EXPERT = re.compile(r"(.+\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


def stack_experts(weights: dict[str, Tensor], config: PretrainedConfig, source: object) -> dict[str, Tensor]:
    """Weights with the experts of each layer in ``experts.gate_up_proj`` and ``experts.down_proj``.

    Shapes are ``[num_experts, 2 * inner, hidden]`` and ``[num_experts, hidden, inner]``; none changes without experts.

    Raises:
        ValueError: names the tensors that are missing, unexpected or of another shape, and the ``source``.
    """
    found = {name: match for name in weights if (match := _EXPERT.fullmatch(name))}
    if not found:
        return weights
    hidden, inner, count = config.hidden_size, config.moe_intermediate_size, config.num_experts
    shapes = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    layers = sorted({match[1] for match in found.values()})
    wanted = {f"{layer}.{i}.{part}_proj.weight" for layer in layers for i in range(count) for part in shapes}
    missing, unexpected = sorted(wanted - found.keys()), sorted(found.keys() - wanted)
    if missing or unexpected:
        raise ValueError(f"{source}: weights missing {missing[:5]}, unexpected {unexpected[:5]}")
    for name, match in found.items():
        if tuple(weights[name].shape) != shapes[match[3]]:
            got = list(weights[name].shape)
            raise ValueError(f"{source}: weight {name} must have shape {list(shapes[match[3]])}, got {got}")
    stacked, left = {name: weight for name, weight in weights.items() if name not in found}, dict(weights)
    for layer in layers:
        parts = {part: [left.pop(f"{layer}.{i}.{part}_proj.weight") for i in range(count)] for part in shapes}
        stacked[f"{layer}.gate_up_proj"] = torch.stack(
            [torch.cat(pair) for pair in zip(parts["gate"], parts["up"], strict=True)]
        )
        stacked[f"{layer}.down_proj"] = torch.stack(parts["down"])
    return stacked
