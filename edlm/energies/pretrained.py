"""Energies that are saved: weights, settings, and the denoiser that they belong to."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import Self

from edlm.denoisers.base import DenoiserIdentity
from edlm.denoisers.loading import SHIPPED
from edlm.energies.base import Energy

SETTINGS, WEIGHTS = "energy.json", "model.safetensors"


class PretrainedEnergy(Energy):
    """An energy that is made of settings (JSON) and weights, and saved alone, without its denoiser."""

    _kinds: ClassVar[dict[str, type[PretrainedEnergy]]] = {}

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        PretrainedEnergy._kinds[cls.__name__] = cls

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON values from which `from_settings` builds the same network."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """A network of these settings; its weights are about to be loaded."""

    def save_pretrained(self, path: str | Path, *, dtype: torch.dtype | None = None, model_card: str = "") -> None:
        """Write settings, weights (safetensors) and the identity of the denoiser.

        Args:
            path: Folder, made if missing.
            dtype: Type of the weights on disk; their own by default.
            model_card: Text of the folder's README.md; none is written without.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        identity = self.denoiser_identity
        described = {
            "energy": type(self).__name__,
            "settings": self.settings(),
            "denoiser": asdict(identity) if identity is not None else None,
        }
        (path / SETTINGS).write_text(json.dumps(described, indent=2) + "\n")
        save_file(self._named_weights(dtype), path / WEIGHTS, metadata={"format": "pt"})
        if model_card:
            (path / "README.md").write_text(model_card)

    def _named_weights(self, dtype: torch.dtype | None) -> dict[str, Tensor]:
        weights, seen = {}, set()
        for name, weight in self.state_dict().items():
            if weight.data_ptr() not in seen:  # tied weights once
                seen.add(weight.data_ptr())
                weights[name] = weight.to(dtype or weight.dtype).contiguous()
        return weights

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Read what `save_pretrained` wrote, of this class or a subclass, as float32, in evaluation mode.

        Raises:
            FileNotFoundError: no energy is saved there.
            ValueError: it is of another class, or its weights do not fit its settings.
        """
        path = Path(path)
        if not (path / SETTINGS).is_file():
            raise FileNotFoundError(f"an energy folder must hold {SETTINGS}, got {path}")
        described = json.loads((path / SETTINGS).read_text())
        kind = PretrainedEnergy._kinds.get(described["energy"])
        if kind is None or not issubclass(kind, cls):
            raise ValueError(f"{path} must hold an energy of class {cls.__name__}, got {described['energy']}")
        energy = kind.from_settings(described["settings"])
        missing, unexpected = energy.load_state_dict(load_file(path / WEIGHTS), strict=False)
        tied = {name for name, _ in energy.named_parameters(remove_duplicate=False)} - {
            name for name, _ in energy.named_parameters()
        }
        if unexpected or set(missing) - tied:
            raise ValueError(f"{path}: weights missing {sorted(set(missing) - tied)}, unexpected {unexpected}")
        if described["denoiser"] is not None:
            energy.denoiser_identity = DenoiserIdentity(**described["denoiser"])
        return energy.float().eval()


def load_energy(path_or_name: str | Path) -> PretrainedEnergy:
    """Load any saved energy from a folder, or a shipped one.

    Args:
        path_or_name: Folder; ``"tinystories"`` for the shipped head, or the name of another energy beside it
            (``"tinystories/autoregressive"``).

    Raises:
        FileNotFoundError: no energy is saved there.
    """
    for shipped in (SHIPPED / path_or_name / "head", SHIPPED / path_or_name):
        if not Path(path_or_name).is_absolute() and (shipped / SETTINGS).is_file():
            return PretrainedEnergy.from_pretrained(shipped)
    return PretrainedEnergy.from_pretrained(path_or_name)
