"""Files of text, by kind: plain text, JSON, tables, and these compressed."""

import csv
import gzip
import importlib.util
import json
import logging
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from io import BufferedReader, BytesIO, RawIOBase, TextIOWrapper
from pathlib import Path
from typing import IO, Any, TypeVar

from edlm.corpus.json_values import values_of
from edlm.files import check_content

_Piece = TypeVar("_Piece")
_LARGEST_RATIO, _SMALL = 200, 2**26  # text shrinks some times; what seems to shrink more is taken only if it is small
logger = logging.getLogger(__name__)
_ROWS, _BYTES, _FEW = 256, 2**16, 2**10  # rows, bytes, and packed bytes that are read at a time


def kind_of(path: Path) -> str | None:
    """Suffix of a kind that `read_file` knows, in lower case, without that of a compression; None of others."""
    suffix = path.suffix.lower()
    suffix = Path(path.stem).suffix.lower() if suffix in _COMPRESSED else suffix
    return suffix if suffix in _KINDS else None


def read_file(path: Path, text_field: str, separator: str) -> Iterator[str | None]:
    """Documents of one file, blank ones included, read as they are asked for; arguments are those of `read_documents`.

    A JSON array or object is read whole, as is a compressed Parquet file.

    Raises:
        ValueError: an unknown kind, content that is not what its suffix says (names the line where there is one), or a
            compression whose package is not installed.
    """
    if (kind := kind_of(path)) is None:
        raise ValueError(f"a text file must end in {known_kinds()}, got {path}")
    check_content(path, "hold text")
    try:
        with _opened(path) as content:
            yield from _KINDS[kind](content, path, text_field, separator)
    except UnicodeDecodeError:
        with _opened(path) as content:
            raise ValueError(f"a text file must be UTF-8, got {_bad_byte(content, path)}") from None
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:  # of the system
            raise
        raise ValueError(f"a compressed file must be whole and of its suffix, got {path}: {error}") from error


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


def check_text_column(features: Mapping[str, Any], name: str | Path, text_field: str) -> None:
    """ValueError, with the names of all, unless there is such a column of text in the features of a data set."""
    if getattr(features.get(text_field), "dtype", None) not in ("string", "large_string"):
        columns = ", ".join(features)
        raise ValueError(f"text_field must be a text column of {name} ({columns}), got {text_field!r}")


def _opened(path: Path) -> IO[bytes]:
    if (unpacked := _COMPRESSED.get(path.suffix.lower())) is None:
        return path.open("rb")
    return BufferedReader(_Unpacked(_bounded(_pieces(unpacked(path)), len, path, path.stat().st_size)))


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(_BYTES):
            yield piece


def _lines(content: IO[bytes], newline: str = "\n") -> TextIOWrapper:
    return TextIOWrapper(content, encoding="utf-8-sig", newline=newline)


def _bad_byte(content: IO[bytes], path: Path) -> str:
    """Which byte of a file is not UTF-8, and in which line."""
    for number, line in enumerate(content, start=1):
        try:
            line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return f"a bad byte (0x{error.object[error.start]:02x}) in {path}:{number}"
    return f"a character that is cut off in {path}"


def _read_text(content: IO[bytes], path: Path, text_field: str, separator: str) -> Iterator[str]:
    is_end, inline, parts, lines = re.compile(rf"{re.escape(separator)}[ \t\r]*\n?").fullmatch, 0, 0, []
    for line in _lines(content):
        if is_end(line):
            yield "".join(lines).strip("\r\n")
            lines, parts = [], parts + 1
        else:
            inline += line.count(separator)
            lines.append(line)
    text = "".join(lines)
    yield text.strip("\r\n") if parts else text
    if inline:
        logger.warning("%s: %d separators that share a line with text are read as text", path, inline)


def _read_json(content: IO[bytes], path: Path, text_field: str, separator: str) -> Iterator[str]:
    lines, num_records = _lines(content), 0
    for number, value in values_of(lines) if kind_of(path) == ".json" else enumerate(lines, start=1):
        if not value.strip():
            continue
        try:
            records = json.loads(value.removesuffix("\n"))
        except json.JSONDecodeError as error:
            raise ValueError(f"JSON must be valid, got {error.msg} in {path}:{number + error.lineno - 1}") from error
        except (ValueError, RecursionError) as error:  # numbers and nesting beyond all measure
            raise ValueError(f"JSON must be valid, got {error} in {path}:{number}") from error
        for record in records if isinstance(records, list) else [records]:
            num_records += 1
            found = record.get(text_field) if isinstance(record, dict) else None
            if not isinstance(found, str) or re.search("[\ud800-\udfff]", found):
                got = f"{str(record)[:60]!r} in {path}:{number} (record {num_records})"
                advice = ": text_field names another field" if isinstance(record, dict) and found is None else ""
                raise ValueError(f"each record must have valid Unicode text in {text_field!r}, got {got}{advice}")
            yield found


def _read_table(content: IO[bytes], path: Path, text_field: str, separator: str, *, dialect: str) -> Iterator[str]:
    csv.field_size_limit(2**31 - 1)  # a document may be longer than the limit of 128 KiB that Python starts with
    reader = csv.DictReader(_lines(content, newline=""), dialect=dialect, strict=True)
    try:
        columns = reader.fieldnames or []
        if text_field not in columns:
            raise ValueError(f"text_field must be a column of {path} ({', '.join(columns)}), got {text_field!r}")
        if columns.count(text_field) > 1:
            got = f"several of {text_field!r} ({', '.join(columns)})"
            raise ValueError(f"text_field must be one column of {path}, got {got}")
        for row in reader:
            if row[text_field] is None:
                raise ValueError(
                    f"each row must have a column {text_field!r}, got a shorter one in {path}:{reader.line_num}"
                )
            if any(row.get(None, ())):  # cells beyond the last column, as of text with commas but without quotes
                number = len(columns) + len(row[None])
                raise ValueError(
                    f"each row must have at most the {len(columns)} columns of the first line, got {number} in "
                    f"{path}:{reader.line_num}: put text with a separator in it in quotes"
                )
            yield row[text_field]
    except csv.Error as error:
        raise ValueError(f"a table must be valid, got {error} in {path}, after line {reader.line_num}") from error


def _read_parquet(content: IO[bytes], path: Path, text_field: str, separator: str) -> Iterator[str | None]:
    from datasets import Features
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    size = path.stat().st_size
    content = content if path.suffix.lower() not in _COMPRESSED else BytesIO(content.read())
    try:
        file = ParquetFile(content, page_checksum_verification=True)
        check_text_column(Features.from_arrow_schema(file.schema_arrow), path, text_field)
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        _ = [*_bounded((group.total_byte_size for group in groups), int, path, size)]  # as they say
        for batch in _bounded(file.iter_batches(_ROWS, columns=[text_field]), lambda x: x.nbytes, path, size):
            yield from batch.column(0).to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(f"a .parquet file must be whole, got {path}: {error}") from error


def _open_zst(path: Path) -> IO[bytes]:
    if importlib.util.find_spec("zstandard") is None:
        raise ValueError("a .zst file needs the package zstandard: pip install zstandard")
    return BufferedReader(_Unpacked(_unpack_zst(path)))


def _unpack_zst(path: Path) -> Iterator[bytes]:
    import zstandard

    frame, is_open = None, False
    with path.open("rb") as file:
        while content := file.read(_FEW):
            while content:  # a file may hold several frames
                frame = frame if is_open else zstandard.ZstdDecompressor().decompressobj()
                try:
                    yield frame.decompress(content)
                except zstandard.ZstdError as error:
                    raise OSError(str(error)) from error
                is_open, content = not frame.eof, frame.unused_data
    if is_open:
        raise EOFError("it ends before its end marker")


class _Unpacked(RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and (piece := next(self._pieces, None)) is not None:
            self._rest = piece
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


_Reader = Callable[[IO[bytes], Path, str, str], Iterator[str | None]]
_KINDS: dict[str, _Reader] = {
    **dict.fromkeys((".txt", ".md"), _read_text),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _read_json),
    ".csv": partial(_read_table, dialect="excel"),
    ".tsv": partial(_read_table, dialect="excel-tab"),
    ".parquet": _read_parquet,
}
_COMPRESSED: dict[str, Callable[[Path], IO[bytes]]] = {".gz": gzip.open, ".xz": lzma.open, ".zst": _open_zst}
