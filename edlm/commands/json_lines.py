"""Files with a JSON object on each line."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from edlm.evaluation.experiment.provenance import json_value
from edlm.files import replacing_text


def read_lines(path: str | Path, check: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """The objects of a file, blank lines left out.

    Args:
        path: The file, UTF-8.
        check: Raises ValueError for an object that is not as it should be.

    Raises:
        OSError: there is no such file.
        ValueError: a line holds no JSON object, or one that fails the check (names the line); or no line does.
    """
    records = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8-sig"))  # its other errors are ValueErrors, too
            if not isinstance(record, dict):
                raise ValueError(f"each line must be a JSON object, got {str(record)[:60]!r}")
            check(record)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        records.append(record)
    if not records:
        raise ValueError(f"data must hold a JSON object on each line, got none in {path}")
    return records


def write_lines(path: str | Path | None, records: Iterable[Mapping[str, Any]]) -> None:
    """Write objects to a file, as a whole, or to the standard output; numbers that are not finite become null."""
    with replacing_text(path) if path is not None else nullcontext(sys.stdout) as target:
        for record in records:
            target.write(json.dumps(json_value(record), ensure_ascii=False, allow_nan=False) + "\n")
