"""The files of a published model, read before anything of it is built or run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from edlm.denoisers.pickles import load_pickle
from edlm.files import check_weights, filling, load_safetensors, open_safetensors, read_json, reading
from edlm.hub import load_tokenizer
from edlm.rules import check, check_least, check_most

SHARD_SIZE = "5GB"  # largest weight file that is written, unless told otherwise
SAFETENSORS, PICKLES = (".safetensors",), (".ckpt", ".pth", ".th", ".bin", ".pt")
_NOT_MODELS = ("optimizer.bin", "training_args.bin", "scheduler.pt", "optimizer.pt", "rng_state.pth")
_SIZES = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "n_embd", "n_layer", "n_head"}
LARGEST = 2**24  # of any of these: more is damage, and is refused before anything is allocated


@dataclass(frozen=True)
class Checkpoint:
    """A folder or a single file that holds a model.

    Attributes:
        path: The folder or file.
        name: Its name, for people.
    """

    path: Path
    name: str

    def __post_init__(self):
        for file in self.weight_files:  # whose index is checked, before anything, transformers included, reads them
            check_weights(file)

    @classmethod
    def open(cls, path_or_hub_id: str | Path, revision: str | None = None, *, code: bool = False) -> Checkpoint:
        """Find a folder or file, or fetch a repository of the hub.

        Args:
            path_or_hub_id: Folder, file or ``org/name``.
            revision: Of the hub's repository.
            code: Fetch its Python files too; they run only with ``trust_remote_code``.

        Raises:
            FileNotFoundError: there is no such path, and it cannot be a hub id; or a shard is missing.
            ValueError: the index of the shards is none, or names a file outside of the folder; or weights are damaged.
            OSError: the hub has no such repository, or cannot be reached.
        """
        path = Path(path_or_hub_id)
        if path.exists():
            return cls(path, path.name)
        parts = path.parts
        message = f"a checkpoint must be a folder, a file, a hub id or a shipped name, got {path}"
        if path.is_absolute() or len(parts) > 2 or (len(parts) == 2 and path.parent.exists()):
            raise FileNotFoundError(message)
        ignored = ["*.msgpack", "*.h5", "*.onnx", "onnx/*", "original/*", *([] if code else ["*.py"])]
        try:
            folder = snapshot_download(str(path_or_hub_id), revision=revision, ignore_patterns=ignored)
        except HFValidationError as error:
            raise FileNotFoundError(message) from error
        return cls(Path(folder), path.name)

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Names of the files, without subfolders; for a single file, its name."""
        if not self.path.is_dir():
            return (self.path.name,)
        return tuple(sorted(file.name for file in self.path.iterdir() if file.is_file()))

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of ``config.json``; empty without one, ValueError if that holds no JSON object."""
        if not self.path.is_dir() or "config.json" not in self.files:
            return {}
        config = read_json(self.path / "config.json")
        with reading(self.path / "config.json", "hold the sizes of a network"):
            check("model_type", config.get("model_type"), str | None)
            for name in _SIZES & config.keys():
                check_least(1, **{name: check(name, config[name], int)})
                check_most(LARGEST, **{name: config[name]})
        return config

    @property
    def model_type(self) -> str | None:
        return self.config.get("model_type")

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """Files with weights: safetensors if there are any, else pickles; of a sharded model those of its index."""
        if SAFE_WEIGHTS_INDEX_NAME in self.files and SAFE_WEIGHTS_NAME not in self.files:  # as transformers does
            return _shards(self.folder / SAFE_WEIGHTS_INDEX_NAME)
        files = [self.folder / name for name in self.files]
        safe = [file for file in files if file.suffix in SAFETENSORS]
        pickles = [file for file in files if file.suffix in PICKLES and file.name not in _NOT_MODELS]
        return tuple(safe or pickles)

    @cached_property
    def pickles(self) -> tuple[dict[str, Any], ...]:
        """Content of the weight files that are pickles, read without running any code in them.

        Raises:
            ValueError: one holds anything but tensors and plain containers.
        """
        return tuple(load_pickle(file) for file in self.weight_files if file.suffix in PICKLES)

    @cached_property
    def weight_names(self) -> frozenset[str]:
        """Names of the tensors in safetensors files; of pickles, the top-level keys of their content."""
        names = {str(key) for content in self.pickles for key in content}
        for file in self.weight_files:
            if file.suffix in SAFETENSORS:
                with open_safetensors(file) as opened:
                    names |= set(opened.keys())
        return frozenset(names)

    def weights(self) -> dict[str, Tensor]:
        """All tensors by name, from safetensors or from pickled state dicts, on the CPU; ValueError without any."""
        if not self.weight_files:
            wanted = ", ".join(SAFETENSORS + PICKLES)
            raise ValueError(f"{self.path} must hold weights ({wanted}), got {list(self.files)}")
        weights: dict[str, Tensor] = {}
        for content in self.pickles or map(load_safetensors, self.weight_files):
            weights |= {name: value for name, value in content.items() if isinstance(value, Tensor)}
        return weights

    def tokenizer(self, given: Any = None, *, trust_remote_code: bool = False) -> Any:
        """The tokenizer passed (itself or by name), else the one in the folder, else None."""
        if given is not None and not isinstance(given, (str, Path)):
            return given
        if given is None and not {"tokenizer.json", "tokenizer_config.json", "vocab.txt"} & set(self.files):
            return None
        return load_tokenizer(given or self.path, trust_remote_code=trust_remote_code)

    def describe(self) -> str:
        """Files, configuration and weights, for an error message."""
        parts = [f"files {list(self.files)}"]
        if self.config:
            parts.append(f"model_type {self.model_type!r}, architectures {self.config.get('architectures')}")
        if self.weight_files:
            names = sorted(self.weight_names)
            parts.append(f"weights {names[:4]}{'...' if len(names) > 4 else ''}")
        return ", ".join(parts)


@contextmanager
def filling_with_weights(path: str | Path) -> Iterator[Path]:
    """As `filling`, with a model's files, in place of the weights that are there, in whatever number of files."""
    with filling(path) as folder:
        yield folder
        written = {file.name for file in folder.iterdir()}
    for pattern in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, "model-*-of-*.safetensors"):
        for file in Path(path).glob(pattern):
            if file.name not in written:
                file.unlink()


def _shards(index: Path) -> tuple[Path, ...]:
    content = read_json(index)
    with reading(index, "hold a weight_map from tensors to files"):
        names = sorted(set(content["weight_map"].values()))
    for name in names:
        if not isinstance(name, str) or PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ValueError(f"{index} must name files of its folder, got {name!r}")
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index} names {name}, which is missing")
    return tuple(index.parent / name for name in names)


def check_finite(module: torch.nn.Module, source: object) -> None:
    """Refuse weights that are NaN or infinite, by a ValueError that names the first of them."""
    for name, weight in module.named_parameters():
        if not torch.isfinite(weight.detach().sum()) and not torch.isfinite(weight).all():  # a sum is fast
            raise ValueError(f"{source}: weights must be finite, got NaN or infinity in {name}")


def load_strictly(module: torch.nn.Module, weights: dict[str, Tensor], source: object, *, assign: bool = False) -> None:
    """Load all weights of a module; ``assign`` uses the tensors themselves, for a module on the meta device.

    Raises:
        ValueError: names what is missing, unexpected, or of another shape, and the ``source``.
    """
    state = module.state_dict()
    missing, unexpected = sorted(state.keys() - weights.keys()), sorted(weights.keys() - state.keys())
    if missing or unexpected:
        raise ValueError(f"{source}: weights missing {missing[:5]}, unexpected {unexpected[:5]}")
    for name, weight in weights.items():
        if weight.shape != state[name].shape:
            raise ValueError(
                f"{source}: weight {name} must have shape {list(state[name].shape)}, got {list(weight.shape)}"
            )
    module.load_state_dict(weights, assign=assign)
