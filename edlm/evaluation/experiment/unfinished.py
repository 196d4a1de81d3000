"""Bounds of the rows that are done while others are not: what an interrupt would lose."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


class Unfinished:
    """Measurements that go on, row by row, on disk while they do.

    Args:
        path: Safetensors file.
        identity: JSON values of what all measurements share (denoiser, data, seed).
    """

    def __init__(self, path: Path, identity: Any):
        self.path = path
        self.identity = identity

    def of(self, made_by: Any) -> Tensor | None:
        """Nats of the first rows, ``[m, done]``, float64; None where none are kept. ``made_by`` is JSON values."""
        return self._everything().get(self._key(made_by))

    def keep(self, made_by: Any, nats: Tensor) -> None:
        """Write nats of the first rows, ``[m, done]``, in place of those of the same measurement."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        save_file(self._everything() | {self._key(made_by): nats.to(torch.float64).contiguous()}, new)
        new.replace(self.path)

    def clear(self) -> None:
        """All is done."""
        self.path.unlink(missing_ok=True)

    def _everything(self) -> dict[str, Tensor]:
        return load_file(self.path) if self.path.exists() else {}

    def _key(self, made_by: Any) -> str:
        return hashlib.sha256(json.dumps([self.identity, made_by], sort_keys=True).encode()).hexdigest()
