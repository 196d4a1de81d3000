"""Sums of log-probabilities in the widest float that a device has; equal rows; rows without mass."""

import torch
from torch import Tensor


def widest_float(device: torch.device) -> torch.dtype:
    """float64, but on MPS, which has none: float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def precise(x: Tensor) -> Tensor:
    """``x`` in the widest float of its device."""
    return x.to(widest_float(x.device))


def distinct_rows(sequences: Tensor) -> tuple[Tensor, Tensor]:
    """First index of each distinct sequence of integers, and for each sequence the number of the one that equals it.

    Sorting 64-bit keys is much faster than sorting sequences; if two keys collide, all count as distinct.
    """
    count = len(sequences)
    everyone = torch.arange(count, device=sequences.device)
    if count < 2:
        return everyone, everyone
    draw = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, (sequences.shape[1],), generator=draw) * 2 + 1
    kind = (sequences * odd.to(sequences.device)).sum(1).unique(return_inverse=True)[1]
    first = torch.full((int(kind.max()) + 1,), count, device=sequences.device)
    first.scatter_reduce_(0, kind, everyone, "amin")
    if not torch.equal(sequences[first[kind]], sequences):
        return everyone, everyone
    return first, kind


def check_mass(largest: Tensor) -> None:
    """Refuse rows whose largest logit is not finite: they have no mass, or hold NaN or +inf.

    Raises:
        ValueError: names the largest logit of the first such row.
    """
    if not torch.isfinite(largest).all():
        bad = largest[~torch.isfinite(largest)][0].item()
        raise ValueError(f"every masked position needs finite mass on a real token, got a maximum of {bad}")
