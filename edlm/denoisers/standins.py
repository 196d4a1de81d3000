"""What stands in checkpoints for objects that are neither imported nor made."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Global:
    """The name of a class or function; it cannot be called.

    Attributes:
        name: As ``module.name``.
    """

    name: str


@dataclass(eq=False)
class StandIn:
    """What a pickle says of an object whose class is not imported.

    Attributes:
        name: Of its class or of the function that would make it, as ``module.name``.
        args: Arguments of that.
        kwargs: Keyword arguments of that.
        state: What its attributes would be set from; None without.
        items: What would be appended, or set as ``(key, value)``.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<stand-in for {self.name}>"


def collect(owner: Any, values: list[Any], *, pairs: bool = False) -> None:
    """Fill a list, set, dictionary or stand-in.

    Raises:
        UnpicklingError: it is something else.
    """
    if type(owner) is StandIn:
        owner.items.extend(values)
    elif pairs and type(owner) is dict:
        owner.update(values)
    elif not pairs and type(owner) in (list, set):
        (owner.extend if type(owner) is list else owner.update)(values)
    else:
        raise pickle.UnpicklingError(f"items of {type(owner).__name__} are not allowed")


def plain(config: Any) -> Any:
    """Dictionaries, lists and values of an omegaconf configuration, where `load_pickle` kept a stand-in of it.

    Args:
        config: A stand-in of a ``DictConfig``, ``ListConfig`` or node, or containers of such. Interpolations
            (``${...}``) and missing values (``???``) stay as they are written.

    Returns:
        The same in plain containers; stand-ins of other packages are left in place.

    Example:
        >>> node = StandIn("omegaconf.nodes.AnyNode", (), {}, {"_val": 7})
        >>> plain({"config": StandIn("omegaconf.dictconfig.DictConfig", (), {}, {"_content": {"length": node}})})
        {'config': {'length': 7}}
    """
    if isinstance(config, StandIn):
        if config.name.startswith("omegaconf.") and isinstance(config.state, dict):
            for held in ("_content", "_val"):
                if held in config.state:
                    return plain(config.state[held])
        return config
    if isinstance(config, dict):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(value) for value in config]
    return config
