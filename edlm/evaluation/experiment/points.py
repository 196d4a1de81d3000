"""Judged samples on disk: entropy and loss of each, so that a frontier goes on where it was cut off."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from edlm.evaluation.experiment.measurement import Setting
from edlm.evaluation.samples.frontier import FrontierPoint

_TABLES = ("entropy", "nats", "num_tokens")


class Points:
    """Points of the frontier by setting and temperature, written anew whenever one is added.

    Args:
        path: Safetensors file; None to keep all in memory.
        identity: JSON values of what all points share; those of another identity are not read.
    """

    def __init__(self, path: Path | None, identity: dict[str, object]):
        self.path = path
        self.identity = json.dumps(identity, sort_keys=True)
        self._points: dict[str, FrontierPoint] = {}
        self._made: dict[str, str] = {}
        if path is not None and path.exists():
            self._load()

    def of(self, setting: Setting, temperature: float, made_by: object) -> FrontierPoint | None:
        """A point; None where there is none, or one that was made by something else."""
        key = _key(setting, temperature)
        return self._points.get(key) if self._made.get(key) == _stable(made_by) else None

    def add(self, setting: Setting, point: FrontierPoint, made_by: object) -> None:
        """Keep a point; ``made_by`` is JSON values: the energy, the judge, the seeds."""
        key = _key(setting, point.temperature)
        self._points[key], self._made[key] = point, _stable(made_by)
        if self.path is not None:
            self._write()

    def _write(self) -> None:
        tables = {f"{key}/{name}": getattr(p, name).contiguous() for key, p in self._points.items() for name in _TABLES}
        described = {
            key: [p.name, p.order, p.num_steps, p.temperature, p.distinct_2, self._made[key]]
            for key, p in self._points.items()
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        save_file(tables, new, metadata={"identity": self.identity, "points": json.dumps(described)})
        new.replace(self.path)

    def _load(self) -> None:
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("identity") != self.identity:
                return
            for key, (name, order, steps, temperature, distinct, made) in json.loads(metadata["points"]).items():
                tables = {table: file.get_tensor(f"{key}/{table}") for table in _TABLES}
                self._points[key] = FrontierPoint(name, order, steps, temperature, **tables, distinct_2=distinct)
                self._made[key] = made


def _stable(made_by: object) -> str:
    return json.dumps(made_by, sort_keys=True)


def _key(setting: Setting, temperature: float) -> str:
    return f"{setting.key}, temperature {temperature:g}"
