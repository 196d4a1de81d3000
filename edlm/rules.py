"""Checks of options: values against type hints, names against a list; errors say the rule and what was given."""

import difflib
import re
from collections import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from operator import index
from os import PathLike, fspath
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

_Class = TypeVar("_Class", bound=type)
_PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, range, NoneType)
_NAMES = {int: "integer", float: "number", str: "text", bool: "bool", NoneType: "None"}
MAX_COUNT = 2**31 - 1  # of anything: more is taken for a typing error, and is refused before anything is allocated
MAX_SEED = 2**63 - 1  # that every generator takes
_SHOWN = 80  # characters of a value in a message


def check(name: str, value: Any, hint: Any, rule: str | None = None) -> Any:
    """The value, if it is what a type hint says; NumPy's numbers become Python's, sequences become lists.

    Args:
        name: Of the value, for the message.
        value: Anything.
        hint: ``int`` (no bool, no float), ``float``, ``Sequence[...]`` (no text), a ``Literal``, a class and so on.
        rule: What it must be, in words; by default a description of the hint.

    Raises:
        ValueError: the value is something else.

    Example:
        >>> check("window", [0, 1], tuple[float, float])
        (0.0, 1.0)
        >>> check("top_k", 2.5, int | None)
        Traceback (most recent call last):
        ValueError: top_k must be an integer or None, got 2.5
    """
    try:
        return _converted(value, hint)
    except (TypeError, ValueError, RuntimeError):
        got = f"{shown(value)}{suggestion(value, hint)}"
        raise ValueError(f"{name} must be {rule or described(hint)}, got {got}") from None


def check_least(least: int, **values: Any) -> None:
    """Refuse numbers below ``least``; values that are None or a text, such as "auto", are left alone."""
    for name, value in values.items():
        if value is not None and not isinstance(value, str) and not value >= least:
            raise ValueError(f"{name} must be >= {least}, got {shown(value)}")


def check_most(most: int, **values: Any) -> None:
    """Refuse numbers above ``most``; values that are None or a text are left alone."""
    for name, value in values.items():
        if value is not None and not isinstance(value, str) and not value <= most:
            raise ValueError(f"{name} must be <= {most}, got {shown(value)}")


def check_given(**names: Any) -> None:
    """Refuse names of models and files that are empty: as a path that is the current folder."""
    for name, value in names.items():
        if value is not None and not str(value).strip():
            raise ValueError(f"{name} must be a name or a path, got {shown(value)}")


def check_unicode(name: str, text: str) -> str:
    """The text, if it is valid Unicode: a byte that is no UTF-8 arrives as half of a pair of surrogates."""
    if re.search("[\ud800-\udfff]", text):
        raise ValueError(f"{name} must be valid Unicode, got {shown(text)}")
    return text


class Config:
    """Base of dataclasses of options: refuses integers below 1 or above 2**31 - 1, and texts and lists that are empty.

    ``least`` and ``most`` of a field's metadata replace these; a ``seed`` is in 0..2**63 - 1. Defaults are not checked.

    Example:
        >>> from edlm.commands.demo import DemoConfig
        >>> DemoConfig(num_rows=0)
        Traceback (most recent call last):
        ValueError: num_rows must be >= 1, got 0
    """

    def __post_init__(self) -> None:
        for option in fields(self):
            value, least = getattr(self, option.name), option.metadata.get("least", option.name != "seed")
            if value == option.default:
                continue
            several = isinstance(value, str | list | tuple)
            if several and len(value) < least:
                raise ValueError(f"{option.name} must not be empty, got {shown(value)}")
            if several and "" in [*value]:
                raise ValueError(f"{option.name} must hold no empty text, got {shown(value)}")
            for number in value if several else [value]:
                if isinstance(number, int) and not isinstance(number, bool):
                    check_least(1 if several else int(least), **{option.name: number})
                    most = MAX_SEED if option.name == "seed" else MAX_COUNT
                    check_most(option.metadata.get("most", most), **{option.name: number})


def check_options(cls: _Class) -> _Class:
    """Decorator of a dataclass: refuses unknown names of options, and values that are not what their hints say.

    The ``rule`` of a field's metadata describes it in the message. Checks of a subclass of its own, in
    ``__post_init__``, find the values as `check` gives them.
    """
    init, hints = cls.__init__, get_type_hints(cls)
    taken = {field.name: field for field in fields(cls) if field.init}
    by_place = [name for name, field in taken.items() if not field.kw_only]

    def checked(name: str, value: Any) -> Any:
        return check(name, value, hints[name], taken[name].metadata.get("rule"))

    @wraps(init)
    def checking_init(self: Any, *args: Any, **options: Any) -> None:
        check_names(type(self).__name__, options, list(taken))
        placed = [checked(name, value) for name, value in zip(by_place, args, strict=False)]
        named = {name: checked(name, value) for name, value in options.items()}
        init(self, *placed, *args[len(placed) :], **named)

    cls.__init__ = checking_init
    return cls


def check_names(owner: str, names: Iterable[str], known: list[str]) -> None:
    """ValueError for a name of an option that is not known, with the nearest one that is."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise ValueError(f"{owner} has no option {name!r}; {advice}")


def shown(value: Any) -> str:
    """A value in one short line."""
    if not isinstance(value, _PLAIN) and not hasattr(value, "tolist"):
        return _with_article(value.__name__ if isinstance(value, type) else type(value).__name__)
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def nearest(unknown: str, known: Iterable[str]) -> str:
    """What an unknown name was meant to be: the known one with the nearest last part, or the nearest as a whole."""

    def closeness(name: str) -> float:
        a, b = unknown.lower(), name.lower()
        ratios = (difflib.SequenceMatcher(None, *pair).ratio() for pair in ((a, b), (_last(a), _last(b))))
        return max(ratios)

    return max(known, key=closeness)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _converted(value: Any, hint: Any) -> Any:
    """Raises TypeError, ValueError or RuntimeError if the value is something else."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _first(value, args)
    if hint is Any or (hint is Callable or origin is abc.Callable) and callable(value):
        return value
    plain = value.tolist() if hasattr(value, "tolist") else value  # of NumPy and torch
    is_bool = isinstance(plain, bool)
    if origin is Literal and isinstance(plain, str) and plain in args:
        return plain
    if hint is int and not is_bool:
        return index(plain)
    if hint is float and not is_bool and not isinstance(plain, str | bytes):
        return float(plain)
    if hint is str and isinstance(value, PathLike):
        return fspath(value)
    if hint is bool and is_bool:
        return plain
    if origin in (tuple, abc.Sequence) and isinstance(plain, Iterable) and not isinstance(plain, str | bytes | dict):
        parts = list(plain)
        if origin is tuple and len(parts) == len(args):
            return tuple(map(_converted, parts, args))
        if origin is abc.Sequence:
            return [_converted(part, args[0]) for part in parts]
    if origin is None and hint not in (int, float, bool) and isinstance(value, NoneType if hint is None else hint):
        return value
    raise TypeError


def _first(value: Any, hints: Iterable[Any]) -> Any:
    for hint in hints:
        try:
            return _converted(value, hint)
        except (TypeError, ValueError, RuntimeError):
            continue
    raise TypeError


def suggestion(value: Any, hint: Any) -> str:
    """``"; did you mean 'x'?"`` where a value is, or a list holds, a misspelt choice of a type hint; else nothing."""
    choices = {arg for part in _parts(hint) if get_origin(part) is Literal for arg in get_args(part)}
    words = [word for word in re.findall(r"\w+", shown(value)) if word not in choices]
    near = [match for word in words for match in difflib.get_close_matches(word, choices, 1)]
    return f"; did you mean {near[0]!r}?" if near else ""


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in get_args(hint):
        yield from _parts(part)


def described(hint: Any, plural: bool = False) -> str:
    """A type hint in words, such as "an integer or None"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        *first, last = [part for arg in args for part in _choices(arg, plural)]
        return f"{', '.join(first)} or {last}"
    if origin is Literal:
        return " or ".join([", ".join(map(repr, args[:-1])), repr(args[-1])]) if args[1:] else repr(args[0])
    if origin is abc.Sequence or args[1:] == (...,):
        return f"{'lists' if plural else 'a list'} of {described(args[0], plural=True)}"
    if origin is tuple:
        return f"{len(args)} {described(args[0], plural=True)}"
    if hint is bool and not plural:
        return "True or False"
    if is_dataclass(hint) or dict in (hint, origin):
        return "mappings" if plural else "a mapping"
    name = "function" if Callable in (hint, origin) or origin is abc.Callable else _NAMES.get(hint, hint.__name__)
    return f"{name}s" if plural else name if hint is NoneType else _with_article(name)


def _choices(hint: Any, plural: bool) -> list[str]:
    return [repr(arg) for arg in get_args(hint)] if get_origin(hint) is Literal else [described(hint, plural)]


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
