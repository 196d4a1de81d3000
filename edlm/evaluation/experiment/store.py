"""Results on disk: what was measured of each setting, so that a long table goes on where it was cut off."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edlm.evaluation.experiment.measurement import Measurement, Setting
from edlm.evaluation.experiment.metrics import METRICS
from edlm.evaluation.experiment.provenance import described_result, provenance, write_result
from edlm.evaluation.likelihood.speedup import Curve


class Results:
    """Measurements by setting, and the nats per token of each row, written anew whenever one is added.

    The JSON file holds ``settings``, a list in the order in which they were measured, and ``others``, which earlier
    calls asked for and this one does not; the rows lie beside it.

    Args:
        path: JSON file; None to keep all in memory.
        config: Dataclass that says what was asked for.
        identity: JSON values of what all settings share (denoiser, data, seed).
        settings: What this call asks for; None for all that is there.

    Attributes:
        earlier: Revision and machine of earlier calls that left something, where they were others.

    Raises:
        ValueError: the file is there, and of another identity.
    """

    def __init__(
        self,
        path: str | Path | None,
        config: Any,
        identity: dict[str, Any],
        settings: Sequence[Setting] | None = None,
    ):
        self.path = Path(path) if path is not None else None
        self.config = config
        self.identity = identity
        self.settings = settings
        self.earlier: list[dict[str, Any]] = []
        self._measured: dict[str, Measurement] = {}
        self._energies: dict[str, str | None] = {}
        self._rows: dict[str, Tensor] = {}
        self._once: dict[str, tuple[Any, Any]] = {}
        self._asked: set[str] = set()
        self._conclusions: dict[str, Any] = {}
        if self.path is not None and self.path.exists():
            self._load()

    def beside(self, what: str) -> Path | None:
        """File of tensors beside the JSON file; None where all is in memory."""
        return self.path.with_suffix(f".{what}.safetensors") if self.path is not None else None

    def shown(self) -> list[Measurement]:
        """What the file holds as ``settings``, in its order."""
        asked = self._asked_for()
        return [measured for key, measured in self._measured.items() if key in asked]

    def _asked_for(self) -> Collection[str]:
        """Keys of what this call asks for and is there."""
        if self.settings is None:
            return self._measured.keys()
        return {setting.key for setting in self.settings if self.of(setting) is not None}

    def measured(self, settings: Iterable[Setting]) -> list[Measurement]:
        """What is known of these settings, in their order."""
        return [found for setting in settings if (found := self.of(setting)) is not None]

    def of(self, setting: Setting) -> Measurement | None:
        """What is known of a setting; None where nothing is, or of other decisions or weights of its energy."""
        known = self._measured.get(setting.key)
        if known is None or self._energies[setting.key] != setting.revision:
            return None
        return known if all(getattr(known, name) == value for name, value in setting.described.items()) else None

    def rows_of(self, setting: Setting) -> Tensor:
        """Nats per token of each row, ``[n]``."""
        return self._rows[setting.key]

    def add(self, setting: Setting, measurement: Measurement, rows: Tensor | None = None) -> None:
        """Keep a measurement, and the nats per token of its rows if they are new, ``[n]``."""
        self._measured[setting.key] = measurement
        self._energies[setting.key] = setting.revision
        if rows is not None:
            self._rows[setting.key] = rows.float().cpu()
        if self.path is not None:
            self._write()

    def once(self, name: str, made_by: Any, measure: Callable[[], Any]) -> Any:
        """What the file holds as ``name``, or what ``measure`` gives, which is kept.

        Args:
            name: Key in the file; JSON values.
            made_by: JSON values of all that it depends on beside the identity: of others it is measured anew.
            measure: Called where nothing is known.
        """
        self._asked.add(name)
        made_by = json.loads(json.dumps(made_by))
        if name not in self._once or self._once[name][0] != made_by:
            self._once[name] = made_by, measure()
            if self.path is not None:
                self._write()
        return self._once[name][1]

    @property
    def conclusions(self) -> dict[str, Any]:
        """What was concluded."""
        return self._conclusions

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        return described_result(self.config, **self._content())

    def conclude(self, **conclusions: Any) -> None:
        """Write what follows from the settings beside them, as JSON values; what was concluded before stays.

        What was measured `once` in an earlier call, and not asked for in this one, goes.
        """
        self._conclusions |= conclusions
        self._once = {name: self._once[name] for name in self._once if name in self._asked}
        if self.path is not None:
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The rows first: after an interrupt there are none missing.
        rows = self.beside("rows")
        save_file(self._rows, rows.with_suffix(".new"))
        rows.with_suffix(".new").replace(rows)
        write_result(self.path, self.config, **self._content())

    def _content(self) -> dict[str, Any]:
        records = {key: {**asdict(m), "energy": self._energies[key]} for key, m in self._measured.items()}
        asked = self._asked_for()
        content = {"identity": self.identity, "earlier": self.earlier}
        content["settings"] = [record for key, record in records.items() if key in asked]
        content["others"] = [record for key, record in records.items() if key not in asked]
        once = {name: value for name, (_, value) in self._once.items()}
        made_by = {name: made_by for name, (made_by, _) in self._once.items()}
        return {**content, **once, "made_by": made_by, **self._conclusions}

    def _load(self) -> None:
        found = json.loads(self.path.read_text())
        if found.get("identity") != self.identity:
            raise ValueError(
                f"{self.path} must hold results of the same denoiser, data and seed ({self.identity}), "
                f"got {found.get('identity')}: remove it, or write elsewhere"
            )
        self._rows = load_file(self.beside("rows"))
        for values in [*found["settings"], *found.get("others", [])]:
            energy = values.pop("energy")
            measurement = _measurement_of(values)
            self._measured[measurement.key], self._energies[measurement.key] = measurement, energy
        self._once = {name: (made_by, found[name]) for name, made_by in found.get("made_by", {}).items()}
        now = _call(provenance())
        self.earlier = [call for call in [*found.get("earlier", []), _call(found)] if call != now]
        self.earlier = [call for i, call in enumerate(self.earlier) if call not in self.earlier[:i]]


def _call(described: Mapping[str, Any]) -> dict[str, Any]:
    return {name: described.get(name) for name in ("revision", "machine")}


def _measurement_of(fields: dict[str, Any]) -> Measurement:
    """From JSON, which has no tuples, infinities and NaN."""
    for name in ("seconds_of_batches", "examples", "window"):
        if fields.get(name) is not None:
            fields[name] = tuple(fields[name])
    for name in ("bound_nats_per_token", "perplexity"):
        if fields[name] is None:
            fields[name] = math.inf
    for name, metric in METRICS.items():  # a number that is there has an error, though that of one row is NaN
        if metric.error_name in fields and fields[name] is not None and fields[metric.error_name] is None:
            fields[metric.error_name] = math.nan
    return Measurement(**fields)


def curves_of(results: Results, settings: Iterable[Setting]) -> list[Curve]:
    """A curve for each method and order that was timed: bound against seconds over numbers of steps."""
    groups: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings:
        if results.of(setting).seconds_of_batches is not None:
            groups.setdefault((setting.name, setting.sampler.order), []).append(setting)
    return [_curve(results, name, order, group) for (name, order), group in groups.items()]


def _curve(results: Results, name: str, order: str, settings: list[Setting]) -> Curve:
    """Its settings; one that was timed on fewer batches than others has its median in those that it lacks."""
    settings = sorted(settings, key=lambda setting: setting.sampler.num_steps)
    seconds = [results.of(setting).seconds_of_batches for setting in settings]
    most = max(map(len, seconds))
    filled = [(*of_setting, *[statistics.median(of_setting)] * (most - len(of_setting))) for of_setting in seconds]
    return Curve(
        name=name,
        order=order,
        num_steps=tuple(setting.sampler.num_steps for setting in settings),
        nats=torch.stack([results.rows_of(setting).double() for setting in settings]),
        seconds=torch.tensor(filled, dtype=torch.float64),
    )
