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
from huggingface_hub import save_torch_state_dict
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from typing_extensions import Self

from edlm.denoisers.base import DenoiserIdentity
from edlm.denoisers.checkpoint import SHARD_SIZE, Checkpoint, check_finite, filling_with_weights
from edlm.denoisers.loading import SHIPPED
from edlm.energies.base import Energy
from edlm.energies.card import EnergyCard, TrainedFor, generated_card
from edlm.energies.gains import Window, gaining_window
from edlm.files import read_json, reading, write_atomically
from edlm.hub import finding
from edlm.rules import check

SETTINGS = "energy.json"
_FETCHED = ["*.json", "*.safetensors", "*.md"]
BEST_FIRST = ("bisecting", "dilated", "random", "ancestral", "left_to_right")  # reveal orders, by bound at few steps


class PretrainedEnergy(Energy):
    """An energy that is made of settings (JSON) and weights, and saved alone, without its denoiser.

    Attributes:
        trained_for: The decisions that it was trained on; None if it was not trained, or they are unknown.
    """

    trained_for: TrainedFor | None = None
    _kinds: ClassVar[dict[str, type[PretrainedEnergy]]] = {}

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        PretrainedEnergy._kinds[cls.__name__] = cls

    @property
    def card(self) -> EnergyCard:
        """What it is, in JSON values."""
        return EnergyCard.of(self)

    @property
    def trained_orders(self) -> tuple[str, ...] | None:
        return self.trained_for.orders if self.trained_for is not None else None

    @property
    def recommended(self) -> dict[str, Any]:
        """Those of its kind, and of the orders that it was trained on the one with the best bounds at few steps."""
        options = super().recommended
        for order in BEST_FIRST:
            if order in (self.trained_orders or ()):
                return {**options, "order": order}
        return options

    def gaining_window(self, order: str, num_steps: int, block_length: int | None) -> Window:
        gains = self.trained_for.gains if self.trained_for is not None else ()
        return gaining_window(gains, order, num_steps, block_length)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON values from which `from_settings` builds the same network."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """A network of these settings; its weights are about to be loaded."""

    def can_start_from(self, other: PretrainedEnergy) -> bool:
        """Whether the weights of another energy fit, so that it can be trained further as this one."""
        return type(other) is type(self) and other.settings() == self.settings()

    def save_pretrained(
        self,
        path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        model_card: str | None = None,
        base_model: str | None = None,
        max_shard_size: str = SHARD_SIZE,
    ) -> None:
        """Write settings, weights (safetensors), the identity of the denoiser, and a model card (README.md).

        Args:
            path: Folder, made if missing.
            dtype: Type of the weights on disk; their own by default.
            model_card: Text of the card; a generated one, without a licence, by default. ``""``: no card.
            base_model: Hub id of what the energy was made from, for the generated card.
            max_shard_size: Largest weight file, such as "15MB"; larger weights are written to several.
        """
        described = self._description()
        if model_card is None:
            model_card = generated_card(type(self), described, Path(path).name, base_model)
        with filling_with_weights(path) as folder:
            write_atomically(folder / SETTINGS, json.dumps(described, indent=2) + "\n")
            save_torch_state_dict(self._named_weights(dtype), folder, max_shard_size=max_shard_size)
            self._save_files(folder)
            if model_card:
                write_atomically(folder / "README.md", model_card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        token: str | bool | None = None,
        **saving: Any,
    ) -> str:
        """Save to a repository of the hub, made if missing, from where `load_energy` reads it.

        Args:
            repo_id: ``org/name``.
            private: Of a new repository.
            revision: Branch, made if missing; the main one by default.
            commit_message: Says what is new.
            token: Of the hub; by default the one that is logged in.
            saving: Options of `save_pretrained`; a model card that the repository has already is replaced only by one
                that is given here.

        Returns:
            Address of the commit.
        """
        repo_id = huggingface_hub.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        if revision is not None:
            huggingface_hub.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
        if saving.get("model_card") is None:
            has_card = huggingface_hub.file_exists(repo_id, "README.md", revision=revision, token=token)
            generated = generated_card(type(self), self._description(), repo_id, saving.get("base_model"))
            saving["model_card"] = "" if has_card else generated
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, **saving)
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
            **({} if self.trained_for is None else {"trained_for": asdict(self.trained_for)}),
        }

    def _save_files(self, path: Path) -> None:
        """Write the files that a class has in addition to settings and weights."""

    def _load_files(self, path: Path) -> None:
        """Read them."""

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
        with finding("energy", path_or_hub_id, shipped_energies()):
            path = find_energy(path_or_hub_id, revision)
        described = read_json(path / SETTINGS)
        with reading(path / SETTINGS, "describe an energy"):
            name, settings, identity = (described[key] for key in ("energy", "settings", "denoiser"))
            name = check("energy", name, str)
            identity = None if identity is None else DenoiserIdentity(**identity)
            trained_for = TrainedFor.from_json(described["trained_for"]) if "trained_for" in described else None
            if settings.pop("form", "normalized") == "unnormalized":  # saved before its class had a name of its own
                name = "ScalarHead"
        kind = PretrainedEnergy._kinds.get(name)
        if kind is None or not issubclass(kind, cls):
            raise ValueError(f"{path} must hold an energy of class {cls.__name__}, got {name}")
        with reading(path / SETTINGS, f"hold the settings of a {name}"):
            energy = kind.from_settings(settings)
        weights = Checkpoint.open(path).weights()
        with reading(path, "hold weights that fit its settings"):
            missing, unexpected = energy.load_state_dict(weights, strict=False)
        tied = {name for name, _ in energy.named_parameters(remove_duplicate=False)} - {
            name for name, _ in energy.named_parameters()
        }
        if unexpected or set(missing) - tied:
            raise ValueError(f"{path}: weights missing {sorted(set(missing) - tied)}, unexpected {unexpected}")
        check_finite(energy, path)
        energy.denoiser_identity, energy.trained_for = identity, trained_for
        energy._load_files(path)
        return energy.float().eval()


def shipped_energies() -> list[str]:
    """Names of the energies that are shipped."""
    names = [file.parent.relative_to(SHIPPED).as_posix() for file in SHIPPED.glob(f"*/*/{SETTINGS}")]
    return sorted([name.removesuffix("/head") for name in names] + [name for name in names if name.endswith("/head")])


def find_energy(path_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """The folder of a saved energy; from the hub, only JSON, safetensors and Markdown files are fetched.

    Raises:
        FileNotFoundError: no energy is saved there; says how to load it if it is a causal LM.
        OSError: the hub has no such repository, or cannot be reached.
    """
    path, named = Path(path_or_hub_id), str(path_or_hub_id)
    if (path / SETTINGS).is_file():
        return path
    is_lm = named.startswith("package:") or path.suffix == ".gguf"
    local = path.exists() or path.is_absolute() or len(path.parts) > 2
    if is_lm or local or (len(path.parts) == 2 and path.parent.exists()):
        raise FileNotFoundError(_no_energy(named, is_lm or (path / "config.json").is_file()))
    try:
        huggingface_hub.hf_hub_download(named, SETTINGS, revision=revision)
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"an energy must be a folder, a shipped name or a hub id, got {named}: no such folder, and {error}"
        ) from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(_no_energy(f"{named} on the hub", True)) from error
    except HFValidationError as error:
        raise FileNotFoundError(_no_energy(named, False)) from error
    return Path(huggingface_hub.snapshot_download(named, revision=revision, allow_patterns=_FETCHED))


def _no_energy(given: str, is_model: bool) -> str:
    hint = (
        "; if it is a causal LM, make it an energy by AutoregressiveEnergy.from_causal_lm (over the denoiser's tokens) "
        "or TextEnergy.from_causal_lm (any tokenizer), by name 'causal:PATH' or 'text:PATH'"
    )
    return f"an energy folder must hold {SETTINGS}, got {given}{hint if is_model else ''}"
