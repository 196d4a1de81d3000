"""The `edlm` command; only the module of the requested command is imported, so `edlm --help` does not load torch."""

import os
import re
import sys
from collections.abc import Sequence

from edlm.commands.parsing import COMMANDS, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is the words after `edlm`. Returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
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
    except (ValueError, OSError) as error:
        if os.environ.get("EDLM_DEBUG") == "1":
            raise
        message = re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(str(error).split()))
        print(f"edlm: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
