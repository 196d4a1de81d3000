"""Damage of files by seeds: bytes, JSON values, and the header and the tensors of safetensors files."""

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Change = Callable[[bytes], bytes]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
OTHER_VALUES = (
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    "",
    "../x",
    "é\u202e",
    [],
    [None],
    {},
    {"a": 1},
    "x" * 5000,
)


def of_bytes(content: bytes, seed: int) -> Iterator[tuple[str, Change]]:
    """Names and changes that no reader of a format with a structure can take for the file."""
    chance = random.Random(seed)
    yield "empty", lambda _: b""
    yield "pointer", lambda _: POINTER
    yield "zeros", lambda x: bytes(len(x))
    yield "noise", lambda x: random.Random(seed).randbytes(len(x))
    yield "not_utf8", lambda x: b"\xff\xfe\x00\x81" + x
    for i in range(3):
        size = chance.randrange(1, max(2, len(content) - 1))
        yield f"cut_{i}", lambda x, size=size: x[:size]


def of_json(content: bytes, seed: int, number: int, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, Change]]:
    """Changes of some values of a JSON file: one is gone, or is another one; by the path of keys to it."""
    chance, places = random.Random(seed), [*_places(json.loads(content))]
    places = [place for place in places if not {*map(str, place)} & {*skip}]
    for i in range(number):
        place = chance.choice(places)
        old = _at(json.loads(content), place)
        value = chance.choice((..., *(new for new in OTHER_VALUES if not _alike(new, old))))
        name = f"{'.'.join(map(str, place))}={'gone' if value is ... else repr(value)[:12]}_{i}"
        yield name, lambda x, place=place, value=value: json.dumps(_changed(json.loads(x), place, value)).encode()


def _places(value: Any, above: tuple = ()) -> Iterator[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*above, key)
        yield from _places(inner, (*above, key))


def _at(value: Any, place: tuple) -> Any:
    for key in place:
        value = value[key]
    return value


def _alike(new: Any, old: Any) -> bool:
    """Whether one value of a file is as good as another, for all that its reader can know."""
    numbers = (int, float)
    return type(new) is type(old) or isinstance(new, numbers) and isinstance(old, numbers)


def _changed(value: Any, place: tuple, new: Any) -> Any:
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = new
    return value


def of_safetensors(content: bytes, seed: int, number: int) -> Iterator[tuple[str, Change]]:
    """Lies of a header: sizes, offsets, types, shapes and names that do not fit the data."""
    chance = random.Random(seed)
    yield "header_huge", lambda x: struct.pack("<Q", 2**40) + x[8:]
    yield "header_short", lambda x: struct.pack("<Q", 5) + x[8:]
    yield "tail", lambda x: x + b"more"
    names = [name for name in _header(content) if name != "__metadata__"]
    for i in range(number):
        name, what = (
            chance.choice(names),
            chance.choice(("shape", "huge", "dtype", "offsets", "renamed", "gone", "extra")),
        )
        yield f"{name}_{what}_{i}", lambda x, name=name, what=what: _lied(x, name, what)


def _header(content: bytes) -> dict[str, Any]:
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])


def _lied(content: bytes, name: str, what: str) -> bytes:
    header, data = _header(content), content[8 + struct.unpack("<Q", content[:8])[0] :]
    entry = header[name]
    if what == "shape":
        entry["shape"] = [*entry["shape"][::-1], 1]
    elif what == "huge":
        entry["shape"] = [2**40, 2**20]
    elif what == "dtype":
        entry["dtype"] = "I64" if entry["dtype"] != "I64" else "F16"
    elif what == "offsets":
        entry["data_offsets"] = [10**15, 10**15 + 8]
    elif what == "renamed":
        header["another"] = header.pop(name)
    elif what == "gone":  # its data, too, since a file without holes is well formed
        del header[name]
    else:
        header["extra"] = {"dtype": "U8", "shape": [0], "data_offsets": [len(data), len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def rewritten(path: str, change: Change) -> Callable[[Path], None]:
    """Damage of a file of a world."""

    def damage(folder: Path) -> None:
        content = (folder / path).read_bytes()
        (folder / path).unlink()
        (folder / path).write_bytes(change(content))

    return damage
