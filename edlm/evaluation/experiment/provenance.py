"""Where a result came from: versions, revision, machine."""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from edlm.files import write_atomically
from edlm.packages import versions


def provenance() -> dict[str, Any]:
    """What a reader needs to run it again: command, revision, versions, machine."""
    program, *words = sys.argv
    is_script = program.endswith(".py") and Path(program).name != "__main__.py"
    command = " ".join([f"python {program}" if is_script else "edlm", *words])
    return {"command": command, "versions": versions(), **origin()}


def origin() -> dict[str, Any]:
    """Revision (None outside a git checkout) and machine (its GPU is None where this process did not use it)."""
    return {
        "revision": revision_of(Path(__file__).parents[2]),
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
        },
    }


def in_words(about: Mapping[str, Any]) -> str:
    """Command, machine and revision of a `provenance`."""
    of_machine = (about["machine"][name] for name in ("processor", "threads", "gpu"))
    return "`{}` ({}, threads: {}, GPU: {}, revision {})".format(about["command"], *of_machine, about["revision"])


def described_result(config: Any, **content: Any) -> dict[str, Any]:
    """JSON values: the config dataclass, where the result came from, and its content.

    Numbers that are not finite become None.
    """
    return json_value({"config": asdict(config), **provenance(), **content})


def write_result(path: str | Path, config: Any, **content: Any) -> None:
    """Write `described_result` to a JSON file, which is replaced as a whole."""
    write_json(Path(path), described_result(config, **content))


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole; numbers that are not finite become null."""
    write_atomically(path, (json.dumps(json_value(value), indent=1, allow_nan=False) + "\n").encode())


@cache
def revision_of(package: Path) -> str | None:
    """Git revision of a package, with "-dirty" if its own files are not those of the revision.

    None without git, and where the checkout around the package does not track it: a package that is installed in the
    environment of some project is not of that project's revision. Other files of the checkout do not matter. It is
    looked up once: the code was loaded at the start.
    """

    def git(*words: str) -> str:
        call = ["git", "-C", str(package), *words]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", "--", "."):
            return None
        return git("describe", "--always") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def json_value(value: Any) -> Any:
    """With lists for tuples, and None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
