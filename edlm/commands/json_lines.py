"""Files with a JSON object on each line."""

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from edlm.evaluation.experiment.provenance import json_value


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a file, blank lines left out.

    Raises:
        OSError: there is no such file.
        ValueError: a line holds no JSON object (names the line), or no line does.
    """
    records = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8-sig"))
        except ValueError as error:  # bytes that are not UTF-8, too
            raise ValueError(f"each line must be a JSON object, got {error} in {path}:{number}") from error
        if not isinstance(record, dict):
            raise ValueError(f"each line must be a JSON object, got {str(record)[:60]!r} in {path}:{number}")
        records.append(record)
    if not records:
        raise ValueError(f"data must hold a JSON object on each line, got none in {path}")
    return records


def write_lines(path: str | Path | None, records: Iterable[Mapping[str, Any]]) -> None:
    """Write objects to a file, or to the standard output; numbers that are not finite become null."""
    with open(path, "w", encoding="utf-8") if path is not None else nullcontext(sys.stdout) as target:
        for record in records:
            target.write(json.dumps(json_value(record), ensure_ascii=False, allow_nan=False) + "\n")
