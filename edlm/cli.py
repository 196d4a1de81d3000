"""The `edlm` command; only the module of the requested command is imported, so `edlm --help` does not load torch."""

import os
import sys
import warnings
from collections.abc import Sequence

from edlm.commands.options import parse_config
from edlm.commands.parsing import COMMANDS, parse

__all__ = ["main", "parse", "parse_config"]

_LESS_MEMORY = "lower batch_size (of generate rows_per_item, of training trainer.batch_size), or the lengths"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is the words after `edlm`. Returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.formatwarning = lambda message, *about: f"edlm: warning: {message}\n"  # without a place in the code
    try:
        try:
            name, config = parse(argv)
        except SystemExit as stop:  # after --help or --print_config
            return int(stop.code or 0)
        if config is None:
            main([*name.split(), "--help"])
            return 2
        COMMANDS[name].load()[0](config)
        return 0
    except Exception as error:
        if "TORCHELASTIC_ERROR_FILE" in os.environ:  # one of several processes
            from edlm.processes import record_failure

            record_failure(error)
        plain = isinstance(error, (ValueError, OSError, ImportError))  # ImportError: a package is missing
        if os.environ.get("EDLM_DEBUG") == "1" or not (plain or _is_out_of_memory(error)):
            raise
        advice = "" if plain else f"; {_LESS_MEMORY}"
        print(f"edlm: error: {' '.join(str(error).split()) or 'no memory is left'}{advice}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _is_out_of_memory(error: Exception) -> bool:
    from edlm.memory import is_out_of_memory  # not for `edlm --help`

    return is_out_of_memory(error)
