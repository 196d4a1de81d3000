"""The commands, and their options from words and YAML files; only the module of the requested command is imported."""

import argparse
import difflib
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import takewhile
from typing import Any, NamedTuple, get_args, get_type_hints

from jsonargparse import ArgumentParser, set_parsing_settings

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class Command(NamedTuple):
    """`module:function` below `edlm.commands`; its one argument is a config dataclass, whose fields are the keys."""

    path: str
    help: str
    positional: bool = False  # whether required keys may be given by position, all of them, without `--key`

    def load(self) -> tuple[Callable[[Any], None], type]:
        """The function and the class of its config."""
        from transformers.utils import logging  # not for `edlm --help`

        logging.disable_progress_bar()  # of loading weights: it would stand between a command's own lines
        module, _, name = self.path.partition(":")
        function = getattr(importlib.import_module(f"edlm.commands.{module}"), name)
        return function, get_type_hints(function)["config"]


COMMANDS: dict[str, Command] = {
    "demo": Command("demo:run", "compare the shipped model with and without its energy"),
    "sample": Command("sample:run", "write text with a denoiser and an energy"),
    "evaluate": Command("evaluate:run", "measure likelihood, cost and text quality of samplers; write a report"),
    "rerank": Command("rerank:run", "choose among finished texts of any generator", positional=True),
    "score": Command("score:run", "the likelihood of texts under a sampler"),
    "compare": Command("compare:run", "compare the bounds of two results of evaluate", positional=True),
    "benchmark": Command("benchmark:run", "compare the speed of samplers"),
    "info": Command("info:run", "describe a checkpoint: family, token ids, shift, time input", positional=True),
    "export": Command("export:run", "copy trained models to a folder that a package ships"),
    "languages oracle": Command("languages:oracle", "the published oracle tables: what a perfect energy gains"),
    "languages truth": Command("languages:truth", "share of a perfect energy's gain that trained energies reach"),
    "languages errors": Command("language_errors:errors", "rate of wrong sequences"),
    "plot logs": Command("plot_logs:run", "plot the validation losses of training runs"),
    "prepare corpus": Command("prepare_corpus:run", "turn text, or a synthetic language, into blocks of tokens"),
    "train all": Command("train_all:run", "run a pipeline: train and measure everything in a number of minutes"),
    "train denoiser": Command("train_denoiser:run", "train a masked diffusion model"),
    "train autoregressive": Command("train_autoregressive:run", "train a causal language model"),
    "train energy": Command("train_energy:run", "train an energy for a frozen denoiser"),
}
GROUPS = {
    "languages": "measure on synthetic languages with known truth",
    "plot": "plot training runs",
    "prepare": "prepare data",
    "train": "train a model",
}


def parse(argv: Sequence[str]) -> tuple[str, Any]:
    """Name and config of a command: its defaults, then every `--config FILE.yaml`, then every `--key value`.

    The config is None where no command is given, as in `edlm train`.

    Raises:
        ValueError: an unknown command or key, a wrong type, or a required key without a value.
    """
    words = list(takewhile(lambda word: not word.startswith("-"), argv))
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    options = _files_first(argv[len(name.split()) :]) if name else list(argv)
    parser = _command_parser(name, options) if name else _overview()
    try:
        values = vars(parser.instantiate(parser.parse_args(options)))
    except (argparse.ArgumentError, TypeError) as error:  # TypeError: a value in place of a mapping
        raise ValueError(_with_hint(str(error), name, words)) from error
    if name is None:
        return " ".join(words), None
    return name, COMMANDS[name].load()[1](**{key: value for key, value in values.items() if key != "config"})


def _overview() -> ArgumentParser:
    """Parser of the commands' names, without their keys, which would need their imports."""
    parser = _bare_parser("edlm", "Energy-based reranking for discrete diffusion language models.")
    parser.epilog = "EDLM_DEBUG=1 shows the traceback of an error."
    commands = {"": parser.add_subcommands(required=False, metavar="COMMAND")}
    for name, command in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group not in commands:
            outer = commands[""].add_subcommand(group, _bare_parser(group, GROUPS[group]), help=GROUPS[group])
            outer.prog = f"edlm {group}"
            commands[group] = outer.add_subcommands(required=False, metavar="COMMAND")
        commands[group].add_subcommand(last, _bare_parser(name, command.help), help=command.help)
    return parser


def _command_parser(name: str, options: Sequence[str]) -> ArgumentParser:
    parser = _bare_parser(f"edlm {name}", COMMANDS[name].help)
    parser.add_argument("--config", action="config", help="YAML file with any of the keys; later files win.")
    config = COMMANDS[name].load()[1]
    required = {f"--{key.name}" for key in fields(config) if key.default is key.default_factory is MISSING}
    positional = COMMANDS[name].positional and not required & {word.partition("=")[0] for word in options}
    parser.add_class_arguments(config, as_group=False, as_positional=positional)
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:  # `--key` alone means `--key true`
            action.nargs, action.const = "?", True
    return parser


def _bare_parser(prog: str, description: str) -> ArgumentParser:
    return ArgumentParser(prog, exit_on_error=False, allow_abbrev=False, description=description)


def _files_first(options: Sequence[str]) -> list[str]:
    """Options with every `--config FILE` before the keys, which override files wherever they are written."""
    files = {
        i
        for i, word in enumerate(options)
        if word.startswith("--config=") or "--config" in options[max(i - 1, 0) : i + 1]
    }
    return [options[i] for i in sorted(range(len(options)), key=lambda i: i not in files)]


def _with_hint(message: str, name: str | None, words: Sequence[str]) -> str:
    """An error of jsonargparse; where a command or a key is unknown, with the nearest known one."""
    command = re.search(r"COMMAND: invalid choice: '(\S+)'", message)
    key = re.search(
        r"(?:Option '|arguments: --)([\w.+-]+)", re.sub(r"Group '(\S+)' .* option '", r"Option '\1.", message)
    )
    if command:
        kind, unknown, known = "command", " ".join(words[: words.index(command[1]) + 1]), list(COMMANDS)
    elif key and name:
        kind, unknown, known = "key", key[1], [*_keys(COMMANDS[name].load()[1])]
    else:
        return message
    return f"unknown {kind} '{unknown}'; did you mean '{difflib.get_close_matches(unknown, known, 1, 0.0)[0]}'?"


def _keys(hint: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key below a type; those of optional and listed dataclasses also as such errors name them, bare."""
    if not is_dataclass(hint):
        for part in get_args(hint):
            yield from (*_keys(part, prefix), *_keys(part))
        return
    for name, inner in ((field.name, get_type_hints(hint)[field.name]) for field in fields(hint) if field.init):
        yield from (prefix + name, *_keys(inner, f"{prefix}{name}."))
