"""Energies that are saved: weights, settings, and the denoiser that they belong to."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import huggingface_hub
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import Self

from edlm.denoisers.base import DenoiserIdentity
from edlm.energies.base import Energy
from edlm.energies.saved import SETTINGS, WEIGHTS, find_energy, generated_card


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

    def save_pretrained(
        self,
        path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        model_card: str | None = None,
        base_model: str | None = None,
    ) -> None:
        """Write settings, weights (safetensors), the identity of the denoiser, and a model card (README.md).

        Args:
            path: Folder, made if missing.
            dtype: Type of the weights on disk; their own by default.
            model_card: Text of the card; by default one that says what can be said, without a licence. ``""``: none.
            base_model: Hub id of what the energy was made from, for the generated card.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        described = self._description()
        (path / SETTINGS).write_text(json.dumps(described, indent=2) + "\n")
        save_file(self._named_weights(dtype), path / WEIGHTS, metadata={"format": "pt"})
        self._save_files(path)
        if model_card is None:
            model_card = generated_card(type(self), described, path.name, base_model)
        if model_card:
            (path / "README.md").write_text(model_card, encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        token: str | bool | None = None,
        dtype: torch.dtype | None = None,
        model_card: str | None = None,
        base_model: str | None = None,
    ) -> str:
        """Save to a repository of the hub, made if missing, from where `load_energy` reads it.

        Args:
            repo_id: ``org/name``.
            private: Of a new repository.
            revision: Branch, made if missing; the main one by default.
            commit_message: Says what is new.
            token: Of the hub; by default the one that is logged in.
            dtype: As for `save_pretrained`.
            model_card: As for `save_pretrained`; a card that the repository has already is replaced only by one that is
                given here.
            base_model: As for `save_pretrained`.

        Returns:
            Address of the commit.
        """
        repo_id = huggingface_hub.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        if revision is not None:
            huggingface_hub.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
        if model_card is None:
            has_card = huggingface_hub.file_exists(repo_id, "README.md", revision=revision, token=token)
            generated = generated_card(type(self), self._description(), repo_id, base_model)
            model_card = "" if has_card else generated
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype, model_card=model_card)
            commit = huggingface_hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message or f"{type(self).__name__} of edlm",
                token=token,
            )
        return str(commit)

    def _description(self) -> dict[str, Any]:
        identity = self.denoiser_identity
        return {
            "energy": type(self).__name__,
            "settings": self.settings(),
            "denoiser": asdict(identity) if identity is not None else None,
        }

    def _save_files(self, path: Path) -> None:
        """Write what a kind of energy keeps beside settings and weights."""

    def _load_files(self, path: Path) -> None:
        """Read it."""

    def _named_weights(self, dtype: torch.dtype | None) -> dict[str, Tensor]:
        weights, seen = {}, set()
        for name, weight in self.state_dict().items():
            if weight.data_ptr() not in seen:  # tied weights once
                seen.add(weight.data_ptr())
                weights[name] = weight.to(dtype or weight.dtype).contiguous()
        return weights

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path, revision: str | None = None) -> Self:
        """Read what `save_pretrained` wrote, of this class or a subclass, as float32, in evaluation mode.

        Args:
            path_or_hub_id: Folder or ``org/name``.
            revision: Of the hub's repository: branch, tag or commit.

        Raises:
            FileNotFoundError: no energy is saved there.
            OSError: the hub has no such repository, or cannot be reached.
            ValueError: it is of another class, or its weights do not fit its settings.
        """
        path = find_energy(path_or_hub_id, revision)
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
        energy._load_files(path)
        return energy.float().eval()
