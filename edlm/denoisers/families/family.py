"""What a family of published denoisers must provide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint


@dataclass(frozen=True)
class LoadOptions:
    """How a checkpoint is loaded.

    Attributes:
        tokenizer: A tokenizer or its name; by default the checkpoint's own, where it has one.
        mask_token_id: By default the family's.
        dtype: Of the weights.
        trust_remote_code: Run the Python code that comes with the checkpoint.
    """

    tokenizer: Any = None
    mask_token_id: int | None = None
    dtype: torch.dtype = torch.float32
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Family:
    """One way in which denoisers are published.

    Attributes:
        name: What ``family=`` calls it.
        recognizes: Whether a checkpoint is of this family, from its files, configuration and key names.
        load: The denoiser of a checkpoint, on the CPU; runs no code of the checkpoint unless the options say so.
        wrap: ``wrap(module, tokenizer, mask_token_id=None, **options)``: a denoiser of a module already built, which
            is called as the family's own code calls it.
    """

    name: str
    recognizes: Callable[[Checkpoint], bool]
    load: Callable[[Checkpoint, LoadOptions], Denoiser]
    wrap: Callable[..., Denoiser]


def first_given(*values: int | None, of: str) -> int:
    """The first that is not None.

    Raises:
        ValueError: all are None; ``of`` says what was asked for.
    """
    for value in values:
        if value is not None:
            return value
    raise ValueError(f"{of} must be given: neither the checkpoint nor its tokenizer says it")


def unwrap_logits(output: Any) -> torch.Tensor:
    """Logits of whatever a module returns: an output object, a tuple, or the tensor itself."""
    if isinstance(output, torch.Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output[0]


def check_module(module: Any) -> None:
    """Refuse what is no module.

    Raises:
        TypeError: says what it is.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"wrap_denoiser needs a torch module, got {type(module).__name__}")
