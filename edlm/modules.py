"""What networks of torch share."""

import torch
from torch import Tensor, nn

WIDE = 4096  # outputs of a layer
FEW, FEW_OF_WIDE = 4, 16  # rows


class ShortRepr:
    """A module whose repr is its class and its size, not a tree of its parts."""

    def __repr__(self) -> str:
        size = sum(weight.numel() for weight in self.parameters())
        return f"{type(self).__name__}({f'{size:,} parameters' if size else ''})"


def apply_output_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``; of few rows and a wide linear layer faster on a CPU, see `apply_to_few`.

    A single row is computed twice: a product with a vector is slower.
    """
    if not isinstance(layer, nn.Linear) or layer.out_features < WIDE:
        return layer(x)
    if x.shape[:-1].numel() == 1 and _can_exchange(layer, x):
        return apply_to_few(layer, torch.cat([x.flatten()[None]] * 2))[:1].view(*x.shape[:-1], -1)
    return apply_to_few(layer, x, FEW_OF_WIDE)


def apply_to_few(layer: nn.Module, x: Tensor, most: int = FEW) -> Tensor:
    """``layer(x)``, of a linear layer and few rows on a CPU as ``(weight @ x^T)^T``, which is faster there.

    Rounding differs. Layers whose forward is not that of `torch.nn.Linear`, or is watched, are called as they are.

    Args:
        layer: Linear.
        x: Shape ``[..., in_features]``.
        most: Rows up to which it pays.
    """
    rows = x.shape[:-1].numel()
    if not 1 < rows <= most or not _can_exchange(layer, x):
        return layer(x)
    columns = x.reshape(rows, -1).t()
    product = layer.weight @ columns if layer.bias is None else layer.bias[:, None].addmm(layer.weight, columns)
    return product.t().contiguous().view(*x.shape[:-1], -1)


def is_plain_linear(layer: nn.Module) -> bool:
    """Whether a layer does nothing but multiply by weights that are there as they are, and add a bias."""
    if type(layer) is not nn.Linear or type(layer.weight) is not nn.Parameter or "forward" in vars(layer):
        return False
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return not any(hooks)


def _can_exchange(layer: nn.Module, x: Tensor) -> bool:
    return is_plain_linear(layer) and x.device.type == layer.weight.device.type == "cpu"
