"""Padded rows for networks that know no padding."""

from collections.abc import Callable

import torch
from torch import Tensor


def run_unpadded(
    run: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, t: Tensor, attention_mask: Tensor | None
) -> Tensor:
    """Run rows of equal length together, without their padding, so that each gives what it gives alone.

    Args:
        run: ``run(x_t[n, l], t[n]) -> features[n, l, width]``.
        x_t: Tokens, right-padded, shape ``[batch, length]``.
        t: Times, shape ``[batch]``.
        attention_mask: False (0) at padding, shape ``[batch, length]``; None without padding.

    Returns:
        Features, shape ``[batch, length, width]``; 0 at padding.

    Raises:
        ValueError: the mask has another shape, is not right padding, or keeps no token.

    Note:
        One call for each distinct length.

    Example:
        >>> def running_mean(x_t, t):
        ...     return x_t.float().mean(1, keepdim=True).expand(x_t.shape)[..., None]
        >>> mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
        >>> run_unpadded(running_mean, torch.tensor([[1, 3, 9], [1, 3, 8]]), torch.ones(2), mask)[..., 0]
        tensor([[2., 2., 0.],
                [4., 4., 4.]])
    """
    if attention_mask is None:
        return run(x_t, t)
    lengths = lengths_of(attention_mask, x_t)
    if bool((lengths == x_t.shape[1]).all()):
        return run(x_t, t)
    features = None
    for length in lengths.unique().tolist():
        if length == 0:
            continue
        rows = (lengths == length).nonzero()[:, 0]
        output = run(x_t[rows, :length], t[rows])
        if features is None:
            features = output.new_zeros(*x_t.shape, output.shape[-1])
        padded = torch.nn.functional.pad(output, (0, 0, 0, x_t.shape[1] - length))
        features = features.index_put((rows,), padded)
    if features is None:
        raise ValueError(f"attention_mask must keep some tokens, got a mask of {x_t.shape[0]} rows that keeps none")
    return features


def unpadded(run: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """`run_unpadded` of ``run(x_t, t)``, as a function of ``(x_t, t, attention_mask)``."""
    return lambda x_t, t, attention_mask: run_unpadded(run, x_t, t, attention_mask)


def lengths_of(attention_mask: Tensor, x_t: Tensor) -> Tensor:
    """Lengths of right-padded rows, shape ``[batch]``.

    Raises:
        ValueError: the mask is of another shape than the tokens, or some row has a gap or padding on its left.
    """
    if attention_mask.shape != x_t.shape:
        raise ValueError(
            f"attention_mask must have the shape {list(x_t.shape)} of the tokens, got {list(attention_mask.shape)}"
        )
    is_token = attention_mask.bool()
    if (is_token[:, 1:] & ~is_token[:, :-1]).any():
        row = int((is_token[:, 1:] & ~is_token[:, :-1]).any(1).nonzero()[0, 0])
        raise ValueError(f"rows must be padded on the right, got {is_token[row].int().tolist()} in row {row}")
    return is_token.sum(1)
