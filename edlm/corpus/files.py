"""Files of text, by kind: plain text, JSON, tables, and these compressed."""

import csv
import gzip
import importlib.util
import io
import json
import logging
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from edlm.files import check_content

_Piece = TypeVar("_Piece")
_LARGEST_RATIO, _SMALL = 200, 2**26  # text shrinks some times; what seems to shrink more is taken only if it is small
_PIECE, _FEW, _ROWS = 2**20, 2**10, 256  # bytes out, bytes in and rows that are unpacked at a time
logger = logging.getLogger(__name__)


def kind_of(path: Path) -> str | None:
    """Suffix of a kind that `read_file` knows, in lower case, without that of a compression; None of others."""
    suffix = path.suffix.lower()
    suffix = Path(path.stem).suffix.lower() if suffix in _COMPRESSED else suffix
    return suffix if suffix in _KINDS else None


def read_file(path: Path, text_field: str, separator: str) -> list[str]:
    """Documents of one file, blank ones included; arguments are those of `read_documents`.

    Raises:
        ValueError: an unknown kind, content that is not what its suffix says (names the line where there is one), or a
            compression whose package is not installed.
    """
    if (kind := kind_of(path)) is None:
        raise ValueError(f"a text file must end in {known_kinds()}, got {path}")
    check_content(path, "hold text")
    content = path.read_bytes()
    if (unpack := _COMPRESSED.get(path.suffix.lower())) is not None:
        try:
            content = b"".join(_bounded(unpack(content), len, path, len(content)))
        except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            raise ValueError(f"a compressed file must be whole and of its suffix, got {path}: {error}") from error
    return _KINDS[kind](content, path, text_field, separator)


def _bounded(pieces: Iterable[_Piece], size: Callable[[_Piece], int], path: Path, packed: int) -> Iterator[_Piece]:
    """Pieces of what was packed in a file, up to a size that text may have."""
    total, limit = 0, max(_SMALL, _LARGEST_RATIO * packed)
    for piece in pieces:
        total += size(piece)
        if total > limit:
            raise ValueError(
                f"a compressed file must hold at most {_LARGEST_RATIO} times its own size, got more in {path} "
                f"({packed} bytes)"
            )
        yield piece


def known_kinds() -> str:
    """The suffixes of `read_file`, in words."""
    return f"{', '.join(_KINDS)}, or one of these and {', '.join(_COMPRESSED)}"


def text_column(dataset: Any, name: str | Path, text_field: str) -> list[str | None]:
    """A column of a `datasets.Dataset`; ValueError, with the names of all, unless there is such a column of text."""
    _check_column({column: getattr(kind, "dtype", None) for column, kind in dataset.features.items()}, name, text_field)
    return list(dataset[text_field])


def _check_column(kinds: Mapping[str, str | None], name: str | Path, text_field: str) -> None:
    if kinds.get(text_field) not in ("string", "large_string"):
        raise ValueError(f"text_field must be a text column of {name} ({', '.join(kinds)}), got {text_field!r}")


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise ValueError(f"a text file must be UTF-8, got a bad byte (0x{byte:02x}) in {path}:{line}") from error


def _read_text(content: bytes, path: Path, text_field: str, separator: str) -> list[str]:
    parts = re.split(rf"^{re.escape(separator)}[ \t\r]*$", _decode(content, path), flags=re.MULTILINE)
    if inline := sum(part.count(separator) for part in parts):
        logger.warning("%s: %d separators that share a line with text are read as text", path, inline)
    return parts if len(parts) == 1 else [part.strip("\r\n") for part in parts]


def _read_json(content: bytes, path: Path, text_field: str, separator: str) -> list[str]:
    text = _decode(content, path)
    is_array = kind_of(path) == ".json" and text.lstrip().startswith("[")
    documents = []
    for number, line in enumerate([text] if is_array else text.split("\n"), start=1):
        try:
            records = json.loads(line) if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f"JSON must be valid, got {error.msg} in {path}:{number + error.lineno - 1}") from error
        except (ValueError, RecursionError) as error:  # numbers and nesting beyond all measure
            raise ValueError(f"JSON must be valid, got {error} in {path}:{number}") from error
        for record in records if isinstance(records, list) else [records]:
            found = record.get(text_field) if isinstance(record, dict) else None
            if not isinstance(found, str) or re.search("[\ud800-\udfff]", found):
                got = f"{str(record)[:60]!r} in {path}:{number} (record {len(documents) + 1})"
                raise ValueError(f"each record must have valid Unicode text in {text_field!r}, got {got}")
            documents.append(found)
    return documents


def _read_table(content: bytes, path: Path, text_field: str, separator: str, *, dialect: str) -> list[str]:
    csv.field_size_limit(2**31 - 1)  # a document may be longer than the limit of 128 KiB that Python starts with
    reader = csv.DictReader(io.StringIO(_decode(content, path), newline=""), dialect=dialect, strict=True)
    try:
        columns = reader.fieldnames or []
        if text_field not in columns:
            raise ValueError(f"text_field must be a column of {path} ({', '.join(columns)}), got {text_field!r}")
        documents = []
        for row in reader:
            if row[text_field] is None:
                raise ValueError(
                    f"each row must have a column {text_field!r}, got a shorter one in {path}:{reader.line_num}"
                )
            documents.append(row[text_field])
        return documents
    except csv.Error as error:
        raise ValueError(f"a table must be valid, got {error} in {path}, after line {reader.line_num}") from error


def _read_parquet(content: bytes, path: Path, text_field: str, separator: str) -> list[str | None]:
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
        _check_column({field.name: str(field.type) for field in file.schema_arrow}, path, text_field)
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        sizes = (group.total_byte_size for group in groups)  # as they say; small parts may repeat, too
        _ = [*_bounded(sizes, lambda size: size, path, len(content))]
        batches = file.iter_batches(_ROWS, columns=[text_field])
        batches = _bounded(batches, lambda batch: batch.nbytes, path, len(content))
        return [text for batch in batches for text in batch.column(0).to_pylist()]
    except (ArrowException, OSError) as error:
        raise ValueError(f"a .parquet file must be whole, got {path}: {error}") from error


def _unpack_by(opened: Callable[[IO[bytes]], IO[bytes]], content: bytes) -> Iterator[bytes]:
    with opened(io.BytesIO(content)) as file:
        while piece := file.read(_PIECE):
            yield piece


def _unpack_zst(content: bytes) -> Iterator[bytes]:
    if importlib.util.find_spec("zstandard") is None:
        raise ValueError("a .zst file needs the package zstandard: pip install zstandard")
    import zstandard

    start = 0
    while start < len(content):  # a file may hold several frames
        frame = zstandard.ZstdDecompressor().decompressobj()
        while not frame.eof:
            if start >= len(content):
                raise EOFError("it ends before its end marker")
            some = content[start : start + _FEW]
            try:
                yield frame.decompress(some)
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from error
            start += len(some) - len(frame.unused_data)


_Reader = Callable[[bytes, Path, str, str], list[str | None]]
_KINDS: dict[str, _Reader] = {
    **dict.fromkeys((".txt", ".md"), _read_text),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _read_json),
    ".csv": partial(_read_table, dialect="excel"),
    ".tsv": partial(_read_table, dialect="excel-tab"),
    ".parquet": _read_parquet,
}
_COMPRESSED: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    ".gz": partial(_unpack_by, lambda file: gzip.GzipFile(fileobj=file)),
    ".xz": partial(_unpack_by, lzma.LZMAFile),
    ".zst": _unpack_zst,
}
