"""Sums of log-probabilities in the widest float that a device has."""

import torch
from torch import Tensor


def widest_float(device: torch.device) -> torch.dtype:
    """float64, but on MPS, which has none: float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def precise(x: Tensor) -> Tensor:
    """``x`` in the widest float of its device."""
    return x.to(widest_float(x.device))
