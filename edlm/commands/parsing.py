"""Words of a command line: which command they name, and its config."""

import argparse
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from jsonargparse import ArgumentParser

from edlm import __version__
from edlm.commands.options import bare_parser, parse_config, with_examples
from edlm.commands.table import COMMANDS, GROUPS
from edlm.rules import nearest


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
    about = {"description": command.help, "examples": command.examples, "positional": command.positional}
    return name, parse_config(argv[len(name.split()) :], command.load()[1], prog=f"edlm {name}", **about)


def _overview() -> ArgumentParser:
    """Parser of the commands' names, without their keys, which would need their imports."""
    about = "Energy-based reranking for discrete diffusion language models."
    parser = bare_parser("edlm", with_examples(about, _examples(["demo", "sample", "evaluate"])))
    parser.add_argument("--version", action="version", version=f"edlm {__version__}")
    parser.epilog = "EDLM_DEBUG=1 shows the traceback of an error."
    commands = {"": parser.add_subcommands(required=False, metavar="COMMAND")}
    for name, command in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group not in commands:
            inside = [name for name in COMMANDS if name.startswith(f"{group} ")]
            described = with_examples(GROUPS[group], _examples(inside))
            outer = commands[""].add_subcommand(group, bare_parser(group, described), help=GROUPS[group])
            outer.prog = f"edlm {group}"
            commands[group] = outer.add_subcommands(required=False, metavar="COMMAND")
        commands[group].add_subcommand(last, bare_parser(name, command.help), help=command.help)
    return parser


def _examples(names: Sequence[str]) -> list[str]:
    """Three of some commands, the first of each before others."""
    return [f"edlm {name} {COMMANDS[name].examples[i]}".strip() for i in range(3) for name in names][:3]
