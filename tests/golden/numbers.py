"""Numbers as JSON, one line for each, and how they are compared."""

import json
import math
from pathlib import Path
from typing import Any

import torch

from tests.golden.names import EXACT

PATH = Path(__file__).with_suffix(".json")
CLOSE = {"world": 1e-9, "network": 1e-6, "shipped": 1e-6}  # relative, by the first word of an entry


def described(*names: str, **options: Any) -> str:
    """Name of an entry, which does not depend on the value that requests exact decisions."""
    if options.get("num_candidates", 1) == EXACT:
        options["num_candidates"] = "exact"
    return ", ".join(["/".join(names), *(f"{key}={value}" for key, value in options.items())])


def plain(value: Any) -> Any:
    """Tensors as lists, to the last digit."""
    return value.tolist() if isinstance(value, torch.Tensor) else value


def save(entries: dict[str, dict[str, Any]]) -> None:
    blocks = []
    for name, numbers in entries.items():
        lines = [f"  {json.dumps(key)}: {json.dumps(plain(value))}" for key, value in numbers.items()]
        blocks.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    PATH.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def load() -> dict[str, dict[str, Any]]:
    return json.loads(PATH.read_text(encoding="utf-8"))


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Each number or text by its path; an empty list or mapping is a leaf."""
    value = plain(value)
    if not isinstance(value, (dict, list, tuple)):
        return {path: value}
    if not value:
        return {path: "empty"}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {p: leaf for key, inner in pairs for p, leaf in leaves(inner, f"{path}/{key}").items()}


def differences(name: str, golden: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """One line for each number that is missing or differs; additional numbers do not count."""
    close, now, messages = CLOSE[name.split("/")[0]], leaves(measured), []
    for path, before in leaves(golden).items():
        if path not in now:
            messages.append(f"{path} is gone, was {before!r}")
        elif not _same(before, now[path], close):
            messages.append(f"{path} is {now[path]!r}, was {before!r}{_by(before, now[path])}")
    return messages


def _same(a: Any, b: Any, close: float) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=close, abs_tol=1e-3 * close) or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and a == b


def _by(a: Any, b: Any) -> str:
    return f", by {b - a:.3g}" if isinstance(a, float) and isinstance(b, float) else ""
