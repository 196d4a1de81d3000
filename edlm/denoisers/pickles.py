"""Read pickled checkpoints without running what they hold."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.serialization import StorageType, _is_torchscript_zip, _is_zipfile, _open_zipfile_reader

from edlm.denoisers.standins import Global, StandIn, collect

# Their objects are data, of which only names and values are kept; nothing of these packages is imported or called.
_KEPT_AS_NAMES = frozenset(
    "antlr4 argparse datetime enum hydra lightning lightning_fabric lightning_utilities numpy omegaconf pathlib"
    " pytorch_lightning tokenizers torchmetrics transformers typing".split()
)
_TYPES = {
    f"builtins.{kind.__name__}": kind
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, slice, range)
} | {"builtins.long": int, "builtins.unicode": str, "builtins.xrange": range, "builtins.object": object}
_TORCH_FUNCTIONS = {
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
}
_STORAGES = {
    "torch.UntypedStorage": torch.UntypedStorage,
    "torch.storage.UntypedStorage": torch.UntypedStorage,
}
_MODULES_OF_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # protocol 2 writes these


def load_pickle(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint written by ``torch.save``, on the CPU; nothing that it names is run.

    Tensors and plain containers come as they are. Objects of packages that checkpoints often hold (omegaconf,
    transformers, lightning, numpy, ...) come as `StandIn`: their name, arguments and state.

    Args:
        path: A file in torch's zip format, or in the pickle format before it.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it names anything else (a function, a class of the user), is TorchScript or a tar archive, is
            damaged, or holds no dictionary.
    """
    module = SimpleNamespace(__name__="restricted_pickle", Unpickler=_Unpickler, load=_load)
    try:
        _check_format(path)
        content = torch.load(str(path), map_location="cpu", pickle_module=module, weights_only=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # of any kind, in a damaged file
        raise ValueError(f"{path} must hold tensors and plain containers only: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(content).__name__}")
    return content


def _check_format(path: str | Path) -> None:
    """Refuse what ``torch.load`` would not hand to our unpickler: TorchScript, and the tar archives of torch 0.1."""
    with open(path, "rb") as opened:
        if _is_zipfile(opened):
            with _open_zipfile_reader(opened) as archive:
                if _is_torchscript_zip(archive):
                    raise ValueError("it is a TorchScript archive")
            return
    if tarfile.is_tarfile(path):
        raise ValueError("it is a tar archive")


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler (its slow version, all in Python), in which every way to a call is closed or checked."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        module = _MODULES_OF_PYTHON_2.get(module, module)
        full = f"{module}.{name}"
        for known in (_TYPES, _TORCH_FUNCTIONS, _STORAGES, _BUILDERS):
            if full in known:
                return known[full]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.partition(".")[0] in _KEPT_AS_NAMES:
            return Global(full)
        raise pickle.UnpicklingError(f"the global {full} is not allowed")

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError(f"extension code {code} is not allowed")

    def _call(self, function: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        """Only of what `find_class` gives: a stand-in for names, the call itself for the few known functions."""
        if not isinstance(args, tuple):
            raise pickle.UnpicklingError(f"arguments must be a tuple, got {type(args).__name__}")
        if type(function) is Global:
            return StandIn(function.name, args, dict(kwargs or {}))
        if kwargs or not _is_callable(function):
            raise pickle.UnpicklingError(f"a call of {type(function).__name__} is not allowed")
        return function(*args)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj(self) -> None:
        self.load_reduce()  # cls.__new__(cls, *args): known classes are called

    def load_newobj_ex(self) -> None:
        kwargs, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args, kwargs)

    def _instantiate(self, klass: Any, args: Any) -> None:  # opcodes INST and OBJ
        self.append(self._call(klass, tuple(args)))

    def load_build(self) -> None:
        state, owner = self.stack.pop(), self.stack[-1]
        if type(owner) is StandIn:
            owner.state = state
        elif type(owner) is not dict:  # that of an OrderedDict, such as _metadata, is dropped
            raise pickle.UnpicklingError(f"a state of {type(owner).__name__} is not allowed")

    def load_append(self) -> None:
        value = self.stack.pop()
        collect(self.stack[-1], [value])

    def load_appends(self) -> None:
        values = self.pop_mark()
        collect(self.stack[-1], values)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        collect(self.stack[-1], [(key, value)], pairs=True)

    def load_setitems(self) -> None:
        flat = self.pop_mark()
        collect(self.stack[-1], list(zip(flat[::2], flat[1::2], strict=True)), pairs=True)

    def load_persid(self) -> None:
        raise pickle.UnpicklingError("a persistent id must be a tuple")

    def load_binpersid(self) -> None:
        saved_id = self.stack.pop()
        kind = saved_id[1] if type(saved_id) is tuple and len(saved_id) > 1 and saved_id[0] == "storage" else None
        if not (kind is torch.UntypedStorage or type(kind) is StorageType):
            raise pickle.UnpicklingError("a persistent id must name the storage of a tensor")
        self.append(self.persistent_load(saved_id))


for _opcode, _method in {
    pickle.REDUCE: _Unpickler.load_reduce,
    pickle.NEWOBJ: _Unpickler.load_newobj,
    pickle.NEWOBJ_EX: _Unpickler.load_newobj_ex,
    pickle.BUILD: _Unpickler.load_build,
    pickle.APPEND: _Unpickler.load_append,
    pickle.APPENDS: _Unpickler.load_appends,
    pickle.ADDITEMS: _Unpickler.load_appends,
    pickle.SETITEM: _Unpickler.load_setitem,
    pickle.SETITEMS: _Unpickler.load_setitems,
    pickle.PERSID: _Unpickler.load_persid,
    pickle.BINPERSID: _Unpickler.load_binpersid,
}.items():
    _Unpickler.dispatch[_opcode[0]] = _method


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return dict(pairs)


def _defaultdict(factory: Any = None) -> dict[Any, Any]:
    return {}


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if type(text) is not str or encoding != "latin1":
        raise pickle.UnpicklingError(f"_codecs.encode of {type(text).__name__} to {encoding!r} is not allowed")
    return text.encode("latin1")


def _reconstructor(cls: Any, base: Any, state: Any) -> StandIn:
    """How protocols 0 and 1 make objects."""
    if type(cls) is not Global or base is not object:
        raise pickle.UnpicklingError("an object must be of a class that is kept as a name")
    return StandIn(cls.name, (), {})


_BUILDERS = {
    "collections.OrderedDict": _ordered,
    "collections.Counter": _ordered,
    "collections.defaultdict": _defaultdict,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstructor,
}
_CALLED = tuple({**_TYPES, **_TORCH_FUNCTIONS, **_BUILDERS}.values())


def _is_callable(function: Any) -> bool:
    return any(function is known for known in _CALLED)
