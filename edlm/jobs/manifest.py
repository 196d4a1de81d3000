"""The manifest of a job: what decides its items, and the checksums of its parts once they are finished."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edlm.files import read_json, reading, write_atomically
from edlm.jobs.parts import Parts
from edlm.rules import check, shown


@dataclass(frozen=True)
class Manifest:
    """``manifest.json`` in the folder of a job's parts.

    Attributes:
        identity: JSON values that decide what the items are: options, fingerprints of models, versions.
        num_items: Number of items.
        checksums: SHA-256 of each part, by name; none until all items are finished.
    """

    identity: Mapping[str, Any]
    num_items: int
    checksums: Mapping[str, str]

    def save(self, folder: Path) -> None:
        """Write the file whole."""
        write_atomically(path_in(folder), (json.dumps(vars(self), indent=1) + "\n").encode())


def path_in(folder: Path) -> Path:
    """Of the manifest."""
    return folder / "manifest.json"


def check_manifest(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder of another job, or with parts that have changed since they were finished.

    Args:
        folder: Of the parts; nothing is wrong with one that is not there.
        identity: As `Manifest.identity`, or some of its entries, which alone are then compared.

    Raises:
        ValueError: names what differs.
    """
    path = path_in(folder)
    if not path.exists():
        if Parts(folder).files():
            raise ValueError(f"parts must have a manifest, got none in {folder}: remove it, or write elsewhere")
        return
    manifest = read_json(path)
    with reading(path, "hold the manifest of a job"):
        there = check("identity", manifest["identity"], dict)
        checksums = check("checksums", manifest["checksums"], dict)
        for name in checksums:
            check(name, checksums[name], str)
        check("num_items", manifest["num_items"], int)
    if differing := differences({name: there.get(name) for name in identity}, identity):
        raise ValueError(
            f"{folder} must hold parts of this very job, got others ({', '.join(differing)}): "
            "remove it, or write elsewhere"
        )
    Parts(folder).check(checksums)


def differences(there: Any, here: Any) -> list[str]:
    """What differs between two values, of which the second is made `plain`, in words."""
    return [*_differences(there, plain(here))]


def plain(value: Any) -> Any:
    """As JSON gives it back; what JSON does not know, such as a function, is known by its name."""
    return json.loads(json.dumps(value, default=lambda other: getattr(other, "__name__", repr(other))))


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}".removeprefix("."))
    elif there != here:
        yield f"{name} is {shown(there)} there and {shown(here)} here"
