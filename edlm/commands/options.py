"""A config dataclass from words and YAML files: its fields are the keys, and every mistake is one line."""

import argparse
import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from edlm.files import reading
from edlm.rules import described, nearest, suggestion

set_parsing_settings(docstring_parse_attribute_docstrings=True)

_MOST_VALUES = 100_000  # of a config, repeated ones as often as they are


def parse_config(
    words: Sequence[str],
    config: type,
    *,
    prog: str = "edlm",
    description: str = "",
    examples: Sequence[str] = (),
    positional: bool | str = False,
) -> Any:
    """A config: its defaults, then every ``--config FILE.yaml``, then every ``--key value``.

    Dashes in a key are underscores. Texts are taken literally, also ``#``, ``~`` and ``null``; but ``null`` is no text
    where it can only be meant to replace a default.

    Args:
        words: The options.
        config: A dataclass.
        prog: Name of the command, for its help.
        description: What it does, likewise.
        examples: Options that ``--help`` shows, and the keys in them; all others are under ``--help-all``.
        positional: Whether required keys may be given by position, all of them, without ``--key``; or the one key that
            may, as the first word, though it is not required.

    Raises:
        ValueError: an unknown key, a wrong type, a required key without a value, or a value that breaks its rule.
    """
    hints = dict(_hints(config))
    if isinstance(positional, str) and words and not words[0].startswith("-"):
        words = [f"--{positional}={words[0]}", *words[1:]]
    words = _files_first(_gathered([_spelled(word, hints) for word in words], hints))
    given = [*_pairs(words)]
    for key, file in given:
        if key == "config" and Path(file).is_file():
            with reading(file, "hold YAML"):
                _check_mapping(yaml.safe_load(Path(file).read_text(encoding="utf-8")))
    parser = _parser(config, prog, positional and {key for key, _ in given})
    if isinstance(positional, str):
        parser.usage = parser.usage.replace(prog, f"{prog} [{positional.upper()}]", 1)
    parser.description = with_examples(description, [f"{prog} {example}" for example in examples])
    if examples and {"--help", "-h"} & {*words}:
        _hide(parser, {key for example in examples for key, _ in _pairs(shlex.split(example))} | {*_required(config)})
    words = ["--help" if word == "--help_all" else word for word in words]
    try:
        values = vars(parser.instantiate(parser.parse_args(words)))
    except (argparse.ArgumentError, TypeError) as error:  # TypeError: a value in place of a mapping
        raise ValueError(_in_one_line(str(error), hints, dict(given))) from error
    return config(**{key: value for key, value in values.items() if key != "config"})


def _check_mapping(content: Any) -> None:
    """Raise TypeError for content that is no mapping, expands to too many values by aliases, or contains itself."""
    if not isinstance(content, dict):
        raise TypeError(f"{'nothing' if content is None else type(content).__name__} in place of keys and values")
    sizes: dict[int, float] = {}

    def size(value: Any) -> float:
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = math.inf  # of a part of itself
            sizes[id(value)] = 1 + sum(map(size, value.values() if isinstance(value, dict) else value))
        return sizes[id(value)]

    if (number := size(content)) > _MOST_VALUES:
        raise TypeError(f"{number:g} values, more than {_MOST_VALUES}")


class _Help(DefaultHelpFormatter):
    """Fills paragraphs, and leaves lines that are indented, such as examples, as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = (
            line if line[:1] == " " else super(_Help, self)._fill_text(line, width, indent) for line in text.split("\n")
        )
        return "\n".join(filled)


def bare_parser(prog: str, description: str) -> ArgumentParser:
    """A parser that raises its errors."""
    options = {"exit_on_error": False, "allow_abbrev": False, "formatter_class": _Help}
    return ArgumentParser(prog, description=description, **options)


def with_examples(description: str, examples: Sequence[str]) -> str:
    """A description for the help, with commands below it."""
    return "\n".join([description, "", "examples:", *(f"  {example}" for example in examples)])


def _parser(config: type, prog: str, given: set[str] | bool) -> ArgumentParser:
    """Its required keys are positional unless ``given`` is False or holds one of them."""
    parser = bare_parser(prog, "")
    parser.add_argument("--config", action="config", help="YAML file with any of the keys; later files win.")
    required = [*_required(config)]
    by_position = given is not False and not given & {*required}
    needed = (name.upper() if by_position else f"--{name} {name.rpartition('.')[2].upper()}" for name in required)
    parser.usage = " ".join([prog, *needed, "[--key value ...]"])
    parser.add_class_arguments(config, as_group=False, as_positional=by_position)
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        if hint is bool:  # `--key` alone means `--key true`
            action.nargs, action.const = "?", True
        elif {str, NoneType} <= set(get_args(hint)):
            action._check_type_ = partial(_check_text, action._check_type_, action.default)
    return parser


def _hide(parser: ArgumentParser, shown: set[str]) -> None:
    """Leave keys out of the help that are not among those shown, and say so."""
    for action in parser._actions:
        if action.dest not in {"help", *shown}:
            action.help = argparse.SUPPRESS
    for group in parser._action_groups:
        if all(action.help == argparse.SUPPRESS for action in group._group_actions):
            group.title = group.description = None
    parser.epilog = "--help-all shows all keys; --config FILE.yaml reads them from a file."


def _required(config: type, prefix: str = "") -> Iterator[str]:
    """Dotted keys without a default."""
    hints = get_type_hints(config)
    for key in fields(config):
        if key.default is key.default_factory is MISSING:
            inner, name = hints[key.name], prefix + key.name
            yield from _required(inner, f"{name}.") if is_dataclass(inner) else [name]


def _check_text(check: Callable[..., Any], default: Any, value: Any, **context: Any) -> Any:
    """A text as it is, whatever YAML would make of it; what is not one, or may be a list or a mapping, is checked."""
    is_text = isinstance(value, str) and not value.startswith(("[", "{")) and (value != "null" or default is None)
    return value if is_text else check(value, **context)


def _files_first(words: Sequence[str]) -> list[str]:
    """Words with every `--config FILE` before the keys, which override files wherever they are written."""
    files = {
        i for i, word in enumerate(words) if word.startswith("--config=") or "--config" in words[max(i - 1, 0) : i + 1]
    }
    return [words[i] for i in sorted(range(len(words)), key=lambda i: i not in files)]


def _spelled(word: str, hints: Mapping[str, Any]) -> str:
    """A word; if it is a known key with dashes, with underscores in their place."""
    key, equals, value = word.partition("=")
    whole, head = key[2:].replace("-", "_"), key[2:].rpartition(".")[0].replace("-", "_")
    if not word.startswith("--") or not {whole, head} & {*hints, "print_config", "help_all"}:
        return word
    spelled = whole if whole in {*hints, "print_config", "help_all"} else f"{head}.{key.rpartition('.')[2]}"
    return f"--{spelled}{equals}{value}"


def _gathered(words: Sequence[str], hints: Mapping[str, Any]) -> list[str]:
    """Words in which several values of a key that takes them, one after the other or each with the key, are a list."""
    several, gathered, key = {}, [], None
    for word in words:
        name, equals, value = word[2:].partition("=") if word.startswith("--") else (key, "", word)
        if _parts_of(hints.get(name)) is None:
            gathered.append(word)
            key = None
            continue
        if name not in several:
            gathered.append(f"--{name}")
        several.setdefault(name, []).extend([value] if equals or not word.startswith("--") else [])
        key = None if equals else name
    for name, values in several.items():
        is_text, is_list = str in _parts_of(hints[name]), len(values) == 1 and _is_one_value(values[0], hints[name])
        if len(values) > 1 or is_list:
            if "[]" in values:
                raise ValueError(f"{name} must not be empty, got []")
            plain = [str(part) for value in values for part in _listed(value)]
            values = [f"[{', '.join(json.dumps(x) if is_text else x for x in plain)}]"]
        place = gathered.index(f"--{name}")
        gathered[place : place + 1] = [f"--{name}={values[0]}"] if values else [f"--{name}"]
    return gathered


def _listed(text: str) -> list[Any]:
    """The parts of a list in YAML; of what is none, itself."""
    try:
        value = yaml.safe_load(text) if text[:1] == "[" else None
    except yaml.YAMLError:
        value = None
    return value if isinstance(value, list) else [text]


def _is_one_value(text: str, hint: Any) -> bool:
    """Whether a word for a key that takes several values is one of these: no list, and nothing else that it takes."""
    return not text.startswith("[") and text != "null" and str not in get_args(hint)


def _parts_of(hint: Any) -> tuple[Any, ...] | None:
    """Types of the values of a key that takes several; None for one that takes one."""
    return next((get_args(kind) for kind in (hint, *get_args(hint)) if get_origin(kind) is tuple), None)


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Keys with the texts that were given for them."""
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            yield key, value if equals else after


def _in_one_line(message: str, hints: Mapping[str, Any], given: Mapping[str, str]) -> str:
    """An error of jsonargparse: an unknown key with the nearest known one, a wrong type with what it must be."""
    scope = [*dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', message))]
    unknown = re.search(
        r"Group '(\S+)' does not accept option '([^']+)'|Option '([^']+)' is|arguments: --([\w.+-]+)", message
    )
    if unknown:
        key = ".".join([*scope, *filter(None, unknown.groups())])
        return f"unknown key '{key}'; did you mean '{nearest(key, hints)}'?"
    key, value = ".".join(scope), re.search(r"(?:Got|Given) value: (.*)", message)
    if key not in hints:
        return message
    got = given.get(key, value[1] if value else "another")
    return f"{key} must be {described(hints[key])}, got {got}{suggestion(got, hints[key])}"


def _hints(hint: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key below a type with its own type, also those of optional and listed dataclasses."""
    if not is_dataclass(hint):
        for part in get_args(hint):
            yield from _hints(part, prefix)
        return
    of_fields = get_type_hints(hint)
    for name in (field.name for field in fields(hint) if field.init):
        yield from ((prefix + name, of_fields[name]), *_hints(of_fields[name], f"{prefix}{name}."))
