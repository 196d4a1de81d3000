"""Results on disk: what was measured of each setting, so that a long table goes on where it was cut off."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edlm.denoisers.identity import weights_fingerprint
from edlm.energies.pretrained import PretrainedEnergy
from edlm.evaluation.measurement import Measurement, Setting
from edlm.evaluation.provenance import described_result, write_result
from edlm.evaluation.speedup import Curve

_ERRORS = {
    "bound_nats_per_token": "bound_stderr",
    "gain_nats_per_token": "gain_stderr",
    "entropy_nats": "entropy_stderr",
    "judge_nats_per_token": "judge_stderr",
}


class Results:
    """Measurements by setting, and the nats per token of each row, written anew whenever one is added.

    The JSON file holds ``settings``, a list in the order in which they were measured; the rows lie beside it.

    Args:
        path: JSON file; None to keep all in memory.
        config: Dataclass that says what was asked for.
        identity: JSON values of what all settings share (denoiser, data, seed).

    Raises:
        ValueError: the file is there, and of another identity.
    """

    def __init__(self, path: str | Path | None, config: Any, identity: dict[str, Any]):
        self.path = Path(path) if path is not None else None
        self.config = config
        self.identity = identity
        self._measured: dict[str, Measurement] = {}
        self._energies: dict[str, str | None] = {}
        self._rows: dict[str, Tensor] = {}
        self._conclusions: dict[str, Any] = {}
        if self.path is not None and self.path.exists():
            self._load()

    def revision_of(self, setting: Setting) -> str | None:
        """Which energy: its weights and its settings; None without."""
        return _revision(setting)

    def measured(self, settings: Iterable[Setting]) -> list[Measurement]:
        """What is known of these settings, in their order."""
        return [found for setting in settings if (found := self.of(setting)) is not None]

    def everything(self) -> list[Measurement]:
        """All that the file holds, in its order."""
        return list(self._measured.values())

    def of(self, setting: Setting) -> Measurement | None:
        """What is known of a setting; None where nothing is, or of other decisions or weights of its energy."""
        known = self._measured.get(setting.key)
        if known is None or self._energies[setting.key] != _revision(setting):
            return None
        return known if all(getattr(known, name) == value for name, value in setting.described.items()) else None

    def rows_of(self, setting: Setting) -> Tensor:
        """Nats per token of each row, ``[n]``."""
        return self._rows[setting.key]

    def add(self, setting: Setting, measurement: Measurement, rows: Tensor | None = None) -> None:
        """Keep a measurement, and the nats per token of its rows if they are new, ``[n]``."""
        self._measured[setting.key] = measurement
        self._energies[setting.key] = _revision(setting)
        if rows is not None:
            self._rows[setting.key] = rows.float().cpu()
        if self.path is not None:
            self._write()

    @property
    def conclusions(self) -> dict[str, Any]:
        """What was concluded."""
        return self._conclusions

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        return described_result(self.config, **self._content())

    def conclude(self, **conclusions: Any) -> None:
        """Write what follows from the settings beside them, as JSON values; what was concluded before stays."""
        self._conclusions |= conclusions
        if self.path is not None:
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The rows first: after an interrupt there are none missing.
        rows = self.path.with_suffix(".rows.safetensors")
        save_file(self._rows, rows.with_suffix(".new"))
        rows.with_suffix(".new").replace(rows)
        write_result(self.path, self.config, **self._content())

    def _content(self) -> dict[str, Any]:
        settings = [{**asdict(m), "energy": self._energies[key]} for key, m in self._measured.items()]
        return {"identity": self.identity, "settings": settings, **self._conclusions}

    def _load(self) -> None:
        found = json.loads(self.path.read_text())
        if found.get("identity") != self.identity:
            raise ValueError(
                f"{self.path} must hold results of the same denoiser, data and seed ({self.identity}), "
                f"got {found.get('identity')}: remove it, or write elsewhere"
            )
        self._rows = load_file(self.path.with_suffix(".rows.safetensors"))
        for values in found["settings"]:
            energy = values.pop("energy")
            measurement = _measurement_of(values)
            self._measured[measurement.key], self._energies[measurement.key] = measurement, energy


def _measurement_of(fields: dict[str, Any]) -> Measurement:
    """From JSON, which has no tuples, infinities and NaN."""
    for name in ("seconds_of_batches", "examples"):
        if fields.get(name) is not None:
            fields[name] = tuple(fields[name])
    if fields["bound_nats_per_token"] is None:
        fields |= {"bound_nats_per_token": math.inf, "perplexity": math.inf}
    for value, error in _ERRORS.items():
        if fields[value] is not None and fields[error] is None:
            fields[error] = math.nan
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


def _revision(setting: Setting) -> str | None:
    """Which energy: its weights and its settings."""
    if setting.energy is None:
        return None
    settings = setting.energy.settings() if isinstance(setting.energy, PretrainedEnergy) else {}
    return f"{weights_fingerprint(setting.energy)} {json.dumps(settings, sort_keys=True)}"
