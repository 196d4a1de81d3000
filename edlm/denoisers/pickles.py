"""Read pickled checkpoints without running what they hold."""

from __future__ import annotations

import builtins
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals

from edlm.files import what_is_wrong

# Objects of these packages are read as data; nothing of the packages is imported or called.
_STAND_INS = frozenset(
    "antlr4 argparse datetime enum hydra lightning lightning_fabric lightning_utilities numpy omegaconf pathlib"
    " pytorch_lightning tokenizers torchmetrics transformers typing".split()
)
_HARMLESS = "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple".split()
_REFUSED_GLOBAL = re.compile(r"GLOBAL (\S+) was not an allowed global")


class StandIn:
    """Represents an object whose class is not imported; each class has a subclass of its own.

    Attributes:
        name: Of the object's class, or of the function that would make it, as ``module.name``.
        args: Arguments of that.
        state: What its attributes would be set from; None without.
    """

    name: str
    args: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *args: Any) -> StandIn:
        stand_in = super().__new__(cls)
        stand_in.args = args
        return stand_in

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"<stand-in for {self.name}>"

    @classmethod
    def named(cls, name: str) -> type[StandIn]:
        """The subclass for one class or function."""
        return type("StandIn", (cls,), {"name": name})


def _defaultdict(factory: Any = None) -> dict[Any, Any]:
    return {}


def load_pickle(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint written by ``torch.save``, on the CPU; nothing that it names is run.

    Tensors and plain containers are returned as they are. Objects of packages that checkpoints often hold
    (omegaconf, transformers, lightning, numpy, ...) become a `StandIn`.

    Args:
        path: A file in torch's zip format, or in the older pickle format.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it names anything else (a function, a class of the user), is TorchScript or a tar archive, is
            damaged, or holds no dictionary.
    """
    allowed: dict[str, Any] = {f"builtins.{name}": getattr(builtins, name) for name in _HARMLESS}
    allowed["collections.defaultdict"] = _defaultdict
    while True:
        try:
            with safe_globals([(value, name) for name, value in allowed.items()]):
                # Mapped, since a file is read again for each class that needs a stand-in.
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            break
        except FileNotFoundError:
            raise
        except Exception as error:  # of any kind, in a damaged file
            refused = _REFUSED_GLOBAL.search(str(error))
            name = refused[1] if refused else ""
            if name in allowed or name.partition(".")[0] not in _STAND_INS:
                reason = what_is_wrong(path, _first(error))
                raise ValueError(f"{path} must hold tensors and plain containers only: {reason}") from error
            allowed[name] = StandIn.named(name)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(content).__name__}")
    return content


def _first(error: BaseException) -> BaseException:
    """What was raised first; torch wraps it in the advice to allow what was refused."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def plain(config: Any) -> Any:
    """Dictionaries, lists and values of an omegaconf configuration that `load_pickle` has read as stand-ins.

    Args:
        config: A stand-in of a ``DictConfig``, ``ListConfig`` or node, or containers of such. Interpolations
            (``${...}``) and missing values (``???``) stay as they are written.

    Returns:
        The same in plain containers; stand-ins of other packages are left in place.

    Example:
        >>> node, config = StandIn.named("omegaconf.nodes.AnyNode")(), StandIn.named("omegaconf.DictConfig")()
        >>> node.state, config.state = {"_val": 7}, {"_content": {"length": node}}
        >>> plain({"config": config})
        {'config': {'length': 7}}
    """
    if isinstance(config, StandIn):
        if config.name.startswith("omegaconf.") and isinstance(config.state, dict):
            for key in ("_content", "_val"):
                if key in config.state:
                    return plain(config.state[key])
        return config
    if isinstance(config, dict):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(value) for value in config]
    return config
