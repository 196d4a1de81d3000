"""Probe which tokens the outputs of a denoiser read, by changing one of them."""

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser

_LENGTH = 8  # of a row without blocks
_CLEAR = 1000  # times as much on one side as on the other


def ordinary_row(denoiser: Denoiser, length: int) -> Tensor:
    """Tokens that text may hold, the same each time, ``[1, length]``, on the denoiser's device."""
    tokens = denoiser.vocabulary.possible_ids
    drawn = torch.randint(len(tokens), (1, length), generator=torch.Generator().manual_seed(0))
    return tokens[drawn].to(denoiser.device)


@torch.no_grad()
def check_reach(denoiser: Denoiser) -> None:
    """Refuse a denoiser that does not see what its layout says: both sides, or blocks up to a token's own.

    A few short rows are run, which differ in one token. What reads no other token, as a table does, or is not the same
    each time, or does not run on such rows, tells nothing and passes.

    Raises:
        ValueError: only outputs on the right of a token read it (it is causal, or its blocks are smaller); or outputs
            read a token of a later block.
    """
    size = denoiser.block_size
    length = _LENGTH if size is None else 2 * size
    if denoiser.max_length is not None and denoiser.max_length < length + denoiser.shift:
        return
    changed = length // 2 if size is None else size - 1
    try:
        moved, tolerance = _moved(denoiser, length, changed)
        leaked = 0.0 if size is None else _moved(denoiser, length, size)[0][:size].amax().item()
    except Exception:  # of any module: it is told when it is run
        return
    left = moved[:changed] if size is None else moved[:1]  # a whole block is seen, and no window assumed without blocks
    right = moved[changed + 1 :].amax()
    if leaked > tolerance:
        raise ValueError(f"{denoiser.name} must see blocks of {size} tokens, but reads tokens of later blocks")
    if (changed and right > tolerance) and left.amax() * _CLEAR < right:
        wanted = "both sides of a token" if size is None else f"whole blocks of {size} tokens"
        raise ValueError(f"{denoiser.name} must see {wanted}, but does not read what is on the right: it is causal")


def _moved(denoiser: Denoiser, length: int, changed: int) -> tuple[Tensor, float]:
    """How far the output at each position moves with the token ``changed``, ``[length]``; and what is no movement."""
    row = ordinary_row(denoiser, length + denoiser.shift)
    other = row.clone()
    other[0, changed] = next(x for x in ordinary_row(denoiser, 4 * length)[0] if x != row[0, changed])
    first, again, second = (_outputs(denoiser, x) for x in (row, row, other))
    if not torch.equal(first, again):
        raise ValueError("outputs must be the same each time")
    tolerance = torch.finfo(first.dtype).eps ** 0.75 * first.abs().amax().item()
    return (first - second).abs().amax(-1).float(), tolerance


def _outputs(denoiser: Denoiser, row: Tensor) -> Tensor:
    """What the network gives at each position, before any shift, ``[length, width]``; infinities count as 0."""
    outputs = denoiser.encode_tokens(row, torch.full((1,), 0.5, device=row.device), None, False)[0]()[0]
    return torch.nan_to_num(outputs[denoiser.shift :], posinf=0.0, neginf=0.0)
