"""Bounds of the rows that are done while others are not: what an interrupt would lose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


class Unfinished:
    """One measurement that goes on, row by row, on disk while it does.

    Args:
        path: Safetensors file.
        identity: JSON values of what all measurements share (denoiser, data, seed).
    """

    def __init__(self, path: Path, identity: Any):
        self.path = path
        self.identity = identity

    def of(self, made_by: Any) -> Tensor | None:
        """Nats of the first rows, ``[m, done]``, float64; None where there are none, or of another measurement."""
        if not self.path.exists():
            return None
        with safe_open(self.path, "pt") as file:
            if (file.metadata() or {}).get("made_by") != self._stable(made_by):
                return None
            return file.get_tensor("nats")

    def keep(self, made_by: Any, nats: Tensor) -> None:
        """Write nats of the first rows, ``[m, done]``, in place of what is there; ``made_by`` is JSON values."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        save_file({"nats": nats.to(torch.float64).contiguous()}, new, metadata={"made_by": self._stable(made_by)})
        new.replace(self.path)

    def clear(self) -> None:
        """Nothing is under way."""
        self.path.unlink(missing_ok=True)

    def _stable(self, made_by: Any) -> str:
        return json.dumps([self.identity, made_by], sort_keys=True)
