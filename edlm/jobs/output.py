"""Rows of text as a file for other programs, by its suffix: JSON lines, or Parquet."""

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

from edlm.files import replacing

Rows = Iterable[Mapping[str, Any]]

_ROWS_PER_GROUP = 4096


def check_output(path: str | Path) -> None:
    """Refuse a file that `write_rows` cannot write, by a ValueError."""
    if Path(path).suffix not in _WRITERS or Path(path).is_dir():
        folder = "the folder " if Path(path).is_dir() else ""
        raise ValueError(f"output must be a file that ends in {' or '.join(_WRITERS)}, got {folder}{path}")


def write_rows(path: str | Path, rows: Rows) -> None:
    """Write rows with the same columns, the file as a whole: the same rows are the same bytes.

    Raises:
        ValueError: an unknown suffix, or a folder.
    """
    check_output(path)
    with replacing(path) as file:
        _WRITERS[Path(path).suffix](file, rows)


def _write_json_lines(file: IO[bytes], rows: Rows) -> None:
    for row in rows:
        file.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())


def _write_parquet(file: IO[bytes], rows: Rows) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    numbers, texts = ("index", "prompt_index", "seed", "passes"), ("prompt", "text", "marginals")
    kinds = {**dict.fromkeys(numbers, pa.int64()), **dict.fromkeys(texts, pa.string()), "tokens": pa.list_(pa.int32())}
    rows = iter(rows)
    first = [*islice(rows, _ROWS_PER_GROUP)]
    schema = pa.schema([(name, kinds[name]) for name in first[0]])
    with ParquetWriter(file, schema) as writer:
        while first:
            writer.write_table(pa.Table.from_pylist(first, schema))
            first = [*islice(rows, _ROWS_PER_GROUP)]


_WRITERS: dict[str, Callable[[IO[bytes], Rows], None]] = {".jsonl": _write_json_lines, ".parquet": _write_parquet}
