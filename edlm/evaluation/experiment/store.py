"""Measured values on disk, each with what it was made from, so that an interrupted evaluation resumes."""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from edlm.evaluation.estimates.estimate import Estimate
from edlm.files import open_safetensors, reading, write_atomically


@dataclass(frozen=True)
class Entry:
    """A measured value.

    Attributes:
        value: JSON values; NaN and infinities are allowed.
        tensors: By name.
        origin: Revision and machine, as JSON, of the call that measured it.
    """

    value: Any = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    origin: str = ""


class Store:
    """Values by key; one is made anew only where what it was made from changed.

    All lie in one file, which is replaced as a whole whenever one is added: after an interrupt at any moment it holds
    every value that was finished. Values that were not requested since it was opened stay.

    Args:
        path: Safetensors file; None to keep all in memory.
        identity: JSON values of what all values share.
        origin: JSON values of this call, which are kept with each value that it adds.
        writes: Whether this process writes the file; others that measure the same values read it only.

    Raises:
        ValueError: the file exists and is of another identity.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any], origin: Any = None, writes: bool = True):
        self.path, self.writes = path, writes
        self.identity, self.origin = _stable(identity), _stable(origin)
        self._entries: dict[str, tuple[str, Entry]] = {}
        if path is not None and path.exists():
            self._load(path)

    @property
    def is_kept(self) -> bool:
        """Whether its file holds a value, or there is to be none."""
        return self.path is None or self.path.exists()

    def find(self, key: str, made_from: Any) -> Entry | None:
        """The value of a key, or None where there is none or it was made from something else (JSON values)."""
        made, entry = self._entries.get(key, ("", None))
        return entry if made == _stable(made_from) else None

    def put(self, key: str, made_from: Any, entry: Entry) -> Entry:
        """Keep a value, in place of any other of its key."""
        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in entry.tensors.items()
        }
        self._entries[key] = _stable(made_from), Entry(json.loads(json.dumps(entry.value)), tensors, self.origin)
        self._write()
        return self._entries[key][1]

    def get(self, key: str, made_from: Any, make: Callable[[], Entry]) -> Entry:
        """The value of a key, made where it is not known."""
        entry = self.find(key, made_from)
        return self.put(key, made_from, make()) if entry is None else entry

    def drop(self, key: str) -> None:
        """Forget a key."""
        if self._entries.pop(key, None) is not None:
            self._write()

    def _write(self) -> None:
        if self.path is None or not self.writes:
            return
        tensors = {f"{key}/{name}": t for key, (_, entry) in self._entries.items() for name, t in entry.tensors.items()}
        entries = {
            key: [made, entry.value, [*entry.tensors], entry.origin] for key, (made, entry) in self._entries.items()
        }
        described = json.dumps(entries)
        metadata = {"identity": self.identity, "entries": described, "crc32": _crc(described, tensors)}
        write_atomically(self.path, save(tensors, metadata))

    def _load(self, path: Path) -> None:
        with open_safetensors(path) as file:
            metadata = file.metadata() or {}
            if self.identity != (identity := metadata.get("identity")):
                raise ValueError(
                    f"{path} must hold results of the same denoiser, data and seed ({self.identity}), got {identity}: "
                    "remove it, or write elsewhere"
                )
            with reading(path, "hold what edlm evaluate measured"):
                whole = {name: file.get_tensor(name) for name in file.keys()}
                if metadata.get("crc32", crc := _crc(metadata["entries"], whole)) != crc:  # earlier versions had none
                    raise ValueError("values that have changed since they were written: remove it, or write elsewhere")
                for key, (made, value, names, origin) in json.loads(metadata["entries"]).items():
                    tensors = {name: file.get_tensor(f"{key}/{name}") for name in names}
                    self._entries[key] = made, Entry(value, tensors, origin)


def _stable(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _crc(entries: str, tensors: Mapping[str, Tensor]) -> str:
    crc = zlib.crc32(entries.encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {[*tensor.shape]}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"


def record_of(metrics: Mapping[str, Estimate], **notes: Any) -> dict[str, Any]:
    """What the store keeps of a setting: its metrics by name, and notes that belong to them."""
    return {"metrics": {name: list(estimate) for name, estimate in metrics.items()}, "notes": notes}
