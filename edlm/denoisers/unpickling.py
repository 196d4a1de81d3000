"""Read pickled checkpoints without running what they hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch


def load_pickle(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint written by ``torch.save``, on the CPU.

    Raises:
        ValueError: it holds something else than tensors and plain containers, or no dictionary.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} must hold tensors and plain containers only: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(content).__name__}")
    return content
