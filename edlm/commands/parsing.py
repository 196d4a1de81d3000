"""The commands: their names, and which modules and configs they have; only that of the requested one is imported."""

import argparse
import importlib
import re
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, get_type_hints

from jsonargparse import ArgumentParser

from edlm import __version__
from edlm.commands.options import bare_parser, nearest, parse_config


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
    """Name of a command and its config, see `parse_config`; None where no command is given, as in `edlm train`.

    Raises:
        ValueError: an unknown command, or an error of `parse_config`.
    """
    words = list(takewhile(lambda word: not word.startswith("-"), argv))
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    if name is None:
        try:
            _overview().parse_args(list(argv))
        except argparse.ArgumentError as error:
            unknown = re.search(r"COMMAND: invalid choice: '(\S+)'", str(error))
            if not unknown:
                raise ValueError(str(error)) from error
            given = " ".join(words[: words.index(unknown[1]) + 1])
            raise ValueError(f"unknown command '{given}'; did you mean '{nearest(given, COMMANDS)}'?") from error
        return " ".join(words), None
    command = COMMANDS[name]
    about = {"prog": f"edlm {name}", "description": command.help, "positional": command.positional}
    return name, parse_config(argv[len(name.split()) :], command.load()[1], **about)


def _overview() -> ArgumentParser:
    """Parser of the commands' names, without their keys, which would need their imports."""
    parser = bare_parser("edlm", "Energy-based reranking for discrete diffusion language models.")
    parser.add_argument("--version", action="version", version=f"edlm {__version__}")
    parser.epilog = "EDLM_DEBUG=1 shows the traceback of an error."
    commands = {"": parser.add_subcommands(required=False, metavar="COMMAND")}
    for name, command in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group not in commands:
            outer = commands[""].add_subcommand(group, bare_parser(group, GROUPS[group]), help=GROUPS[group])
            outer.prog = f"edlm {group}"
            commands[group] = outer.add_subcommands(required=False, metavar="COMMAND")
        commands[group].add_subcommand(last, bare_parser(name, command.help), help=command.help)
    return parser
