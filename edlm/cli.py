"""The `edlm` command; only the invoked command's module is imported, so `--help` is light."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import yaml

ConfigT = TypeVar("ConfigT")


class Command(NamedTuple):
    """Where a command's config class lives, as `module:class` (`run` is beside it); its help; keys without `--`."""

    config: str
    help: str
    positional: tuple[str, ...] = ()


_AT = "edlm.commands."
COMMANDS: dict[str, Command] = {
    "demo": Command(_AT + "demo:DemoConfig", "see reranking work on a small shipped model"),
    "sample": Command(_AT + "sample:SampleConfig", "write text with a denoiser and an energy"),
    "evaluate": Command(_AT + "evaluate:EvaluateConfig", "measure likelihood and text quality"),
    "compare": Command(_AT + "compare:CompareConfig", "two results of evaluate, in pairs", ("a", "b")),
    "benchmark": Command(_AT + "benchmark:BenchmarkConfig", "seconds per sequence of samplers"),
    "languages oracle": Command(_AT + "languages:OracleConfig", "the tables of the method page, with a perfect energy"),
    "languages truth": Command(_AT + "languages:TruthConfig", "share of a perfect energy's gain that is reached"),
    "languages errors": Command(_AT + "language_errors:ErrorsConfig", "wrong sequences on languages with known truth"),
    "info": Command(_AT + "info:InfoConfig", "say what a checkpoint is: family, ids, shift, time", ("path",)),
    "export": Command(_AT + "export:ExportConfig", "copy trained models to where a package ships them"),
    "plot logs": Command(_AT + "plot_logs:PlotLogsConfig", "draw the curves of training runs"),
    "prepare corpus": Command(_AT + "prepare_corpus:PrepareCorpusConfig", "turn text into tokens"),
    "train denoiser": Command(_AT + "train_denoiser:TrainDenoiserConfig", "train a denoiser"),
    "train autoregressive": Command(
        _AT + "train_autoregressive:TrainAutoregressiveConfig", "train a causal language model"
    ),
    "train energy": Command(_AT + "train_energy:TrainEnergyConfig", "train a denoiser's energy"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; `argv` is the words after `edlm`. Returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    words = list(takewhile(lambda word: not word.startswith("-"), argv))
    options = argv[len(words) :]
    try:
        if _commands_under(words) and options in ([], ["-h"], ["--help"]):
            print(_overview(words))
            return 0 if options else 2
        name = find_command(words)
        module, _, class_name = COMMANDS[name].config.partition(":")
        command = importlib.import_module(module)
        values = words[len(name.split()) :]
        given = [f"--{key}={value}" for key, value in zip(COMMANDS[name].positional, values, strict=False)]
        try:
            config = parse_config([*given, *options], getattr(command, class_name), f"edlm {name}")
        except SystemExit as stop:  # after --help or --print_config
            return int(stop.code or 0)
        getattr(command, name.split()[-1] if name.startswith("languages ") else "run")(config)
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("EDLM_DEBUG") == "1":
            raise
        message = re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(str(error).split()))
        print(f"edlm: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def find_command(words: Sequence[str]) -> str:
    """Name in `COMMANDS` of a command's words, of which the last may be values; ValueError if there is none."""
    for count in range(len(words), 0, -1):
        command = COMMANDS.get(name := " ".join(words[:count]))
        if command is not None and len(words) - count <= len(command.positional):
            return name
    name = " ".join(words)
    raise ValueError(_unknown("command", name, _commands_under(words) or COMMANDS))


def command_of(path: str | os.PathLike[str]) -> str:
    """Command that a config file is for, by its first line: `# edlm train energy --config ...`."""
    line = Path(path).read_text(encoding="utf-8").partition("\n")[0]
    if not line.startswith("# edlm "):
        raise ValueError(f"{path}: line 1 must be '# edlm COMMAND --config ...', got '{line}'")
    return find_command(list(takewhile(lambda word: not word.startswith("-"), line.split()[2:])))


def load_config(path: str | os.PathLike[str], config_class: type[ConfigT]) -> ConfigT:
    """Read one YAML file into a config dataclass; raises what `parse_config` raises."""
    return parse_config(["--config", os.fspath(path)], config_class)


def parse_config(args: Sequence[str], config_class: type[ConfigT], prog: str = "edlm") -> ConfigT:
    """Build a config: its defaults, then every `--config FILE.yaml`, then every `--key value`.

    Raises:
        ValueError: an unknown key, a wrong type, or a required key without a value.
        FileNotFoundError: a config file does not exist.
    """
    from jsonargparse import ArgumentParser

    keys = _config_keys(config_class)
    args = _spelled_out(args, keys)
    parser = ArgumentParser(prog, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below.")
    parser.add_class_arguments(config_class)
    files = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    for key in ["config", *(key for key, hint in keys.items() if is_dataclass(hint))]:
        files.add_argument(f"--{key}", dest=key, action="append", default=[])
    try:
        found, overrides = files.parse_known_args(args)  # so --key beats --config anywhere
        _check_overrides(overrides, keys)
        given = []
        for key, path in ((key, path) for key, paths in vars(found).items() for path in paths):
            values = _read_yaml(path)
            _check_mapping(values, keys, path, "" if key == "config" else f"{key}.")
            given += [f"--{key}={path}"] if values else []  # jsonargparse refuses an empty file
        parsed = parser.instantiate(parser.parse_args([*given, *overrides]))
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    return config_class(**{f.name: parsed[f.name] for f in fields(config_class) if f.init})


def _config_keys(hint: Any, prefix: str = "") -> dict[str, Any]:
    """Every dotted key under a type hint -> its own; the keys of a list's items bear no index."""
    if not is_dataclass(hint):
        parts = () if get_origin(hint) is dict else get_args(hint)
        return {key: own for part in parts for key, own in _config_keys(part, prefix).items()}
    hints, keys = get_type_hints(hint), {}
    for name in (field.name for field in fields(hint) if field.init):
        keys |= {prefix + name: hints[name], **_config_keys(hints[name], f"{prefix}{name}.")}
    return keys


def _spelled_out(args: Sequence[str], keys: Mapping[str, Any]) -> list[str]:
    """With ``--key true`` for a bare ``--key`` that is true or false."""
    following = [*args, "--"][1:]
    return [
        f"{word}=true" if keys.get(word.removeprefix("--")) is bool and after.startswith("--") else word
        for word, after in zip(args, following, strict=True)
    ]


def _check_mapping(values: Any, keys: Mapping[str, Any], source: str, prefix: str) -> None:
    if not isinstance(values, Mapping):
        name = prefix[:-1] or "the file"
        raise ValueError(f"{source}: {name} must map keys to values, got {values!r}")
    for key, value in ((f"{prefix}{name}", value) for name, value in values.items()):
        if key not in keys:
            raise ValueError(f"{source}: {_unknown('key', key, keys)}")
        if is_dataclass(keys[key]):
            _check_mapping(value, keys, source, f"{key}.")
        elif any(other.startswith(f"{key}.") for other in keys):  # an optional one, or a list
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Mapping):
                    _check_mapping(item, keys, source, f"{key}.")


def _check_overrides(overrides: Sequence[str], keys: Mapping[str, Any]) -> None:
    for word in (word for word in overrides if word.startswith("--")):
        key = word[2:].partition("=")[0].removesuffix("+").removesuffix(".help")
        parent = keys.get(key.rpartition(".")[0])  # of a dict, any entry may be set
        if key not in ("help", "print_config", *keys) and dict not in (parent, get_origin(parent)):
            raise ValueError(_unknown("key", key, keys))


def _read_yaml(path: str) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"a config file must exist, got '{path}'")
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be valid YAML: {error}") from error


def _commands_under(words: Sequence[str]) -> list[str]:
    return [name for name in COMMANDS if name.split()[:-1][: len(words)] == list(words)]


def _overview(words: Sequence[str]) -> str:
    shown = {name: " ".join([name, *map(str.upper, COMMANDS[name].positional)]) for name in _commands_under(words)}
    lines = [f"  {usage:<22}{COMMANDS[name].help}" for name, usage in shown.items()]
    usage = "usage: edlm COMMAND [--config FILE.yaml] [--KEY VALUE ...]"
    more = "'edlm COMMAND --help' lists a command's keys; EDLM_DEBUG=1 shows where an error arose."
    return "\n".join([usage, "", *lines, "", more])


def _unknown(kind: str, word: str, words: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(word, words, n=1, cutoff=0.0)
    return f"unknown {kind} '{word}'" + (f"; did you mean '{nearest[0]}'?" if nearest else "")
