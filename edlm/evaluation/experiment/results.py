"""Everything that an evaluation measured, as the report, comparisons and wandb read it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from edlm.evaluation.estimates.estimate import document_values, mean_of
from edlm.evaluation.experiment.provenance import json_value, write_json
from edlm.evaluation.experiment.rows import Row, check_options_of, flat, row_of_flat
from edlm.evaluation.likelihood.speedup import Curve
from edlm.evaluation.samples.frontier import FrontierPoint
from edlm.files import load_safetensors, read_json, reading, write_atomically
from edlm.rules import check

DOCUMENTS = "documents"  # of the rows, in their file
ROWS, STORE = ".rows.safetensors", ".store.safetensors"  # next to the JSON file


@dataclass(frozen=True)
class Results:
    """What was measured; the report adds what follows from it.

    Attributes:
        record: JSON values, what ``results.json`` holds next to ``settings``: ``config``, ``identity``, ``data``
            (rows, documents, length, characters_per_token, tokens_per_word), ``energies`` (cards by fingerprint, with
            ``is_control``), ``judge``, ``held_out_text``, ``continuous``, ``energy_spreads``, ``memory``, ``earlier``
            (other revisions and machines), and of the machine; what was not measured is absent.
        rows: One for each setting, in the order of the plan.
        nats: Bound of each held-out row, nats per token, ``[n]``, float32, by `Row.key`.
        documents: Index of each held-out row's document, ``[n]``; None: each row is one.
        points: Samples of the frontier; empty in results that were read from a file.
        centred: Energies less their decision's mean, for the picture, by the index of ``energy_spreads``; likewise.
        path: The JSON file; None where nothing was written.
    """

    record: Mapping[str, Any]
    rows: Sequence[Row]
    nats: Mapping[str, Tensor] = field(default_factory=dict)
    points: Sequence[FrontierPoint] = ()
    centred: Sequence[Tensor] = ()
    path: Path | None = None
    documents: Tensor | None = None

    @property
    def controls(self) -> list[str]:
        """Names of methods whose energy cannot see the step's other tokens: they correct marginals only."""
        energies = self.record.get("energies") or {}
        if "controls" in self.record:
            return list(self.record["controls"])
        names = [row.name for row in self.rows if energies.get(row.options["energy"], {}).get("is_control")]
        return list(dict.fromkeys(names))

    def nats_of(self, row: Row) -> Tensor:
        """Bound of each document, nats per token, ``[documents]``, float64, see `document_values`."""
        return document_values(self.nats[row.key], self.documents)

    def curves(self) -> list[Curve]:
        """Bound against seconds over numbers of steps, for each method and order that was timed.

        A setting that was timed on fewer batches than others has its median in those that it lacks.
        """
        timed = self._timed()
        lines = {(row.name, row.order): None for row in self.rows if row in timed}
        return [self._curve(*line, [row for row in timed if (row.name, row.order) == line]) for line in lines]

    def base_curve(self) -> Curve | None:
        """The base in all orders, of which it has the best at every time; None where it was not timed."""
        bases = [row for row in self._timed() if row.is_base]
        return self._curve("base", "any", bases) if bases else None

    def _timed(self) -> list[Row]:
        """By number of steps."""
        timed = [row for row in self.rows if "seconds_of_batches" in row.notes and row.key in self.nats]
        return sorted(timed, key=lambda row: row.num_steps)

    def _curve(self, name: str, order: str, rows: Sequence[Row]) -> Curve:
        seconds = [row.notes["seconds_of_batches"] for row in rows]
        most = max(map(len, seconds))
        filled = [[*of_row, *[statistics.median(of_row)] * (most - len(of_row))] for of_row in seconds]
        nats = torch.stack([self.nats_of(row) for row in rows])
        return Curve(name, order, tuple(row.num_steps for row in rows), nats, torch.tensor(filled, dtype=torch.float64))

    def write(self, **conclusions: Any) -> dict[str, Any]:
        """Content of ``results.json``, with what follows from the results; with a path it is written, with the nats."""
        content = json_value({**self.record, "settings": [flat(row) for row in self.rows], **conclusions})
        if self.path is not None:
            documents = {} if self.documents is None else {DOCUMENTS: self.documents}
            write_atomically(self.path.with_suffix(ROWS), save({**self.nats, **documents}))
            write_json(self.path, content)
        return content

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read a folder that ``edlm evaluate`` wrote, or its JSON file; of this version or an older one.

        Raises:
            FileNotFoundError: it does not exist, or the nats of its rows do not.
            ValueError: it is no result of ``edlm evaluate``.
        """
        path = Path(path)
        path = path / "results.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"a result must be a folder or .json file of edlm evaluate, got no {path}")
        record = read_json(path)
        if "identity" not in record or "settings" not in record:
            raise ValueError(f"a result must hold identity and settings, got {sorted(record)} in {path}")
        of_rows = path.with_suffix(ROWS)
        if not of_rows.is_file():
            raise FileNotFoundError(f"a result must have its rows next to it, got no {of_rows}")
        with reading(path, "be a result of edlm evaluate"):
            check("identity", record["identity"], dict)
            rows = [row_of_flat(setting) for setting in record.pop("settings")]
            for row in rows:
                check_options_of(row)
        nats = load_safetensors(of_rows)
        loaded = cls(record, rows, documents=nats.pop(DOCUMENTS, None), nats=nats, path=path)
        with reading(of_rows, f"hold the rows of {path}"):
            loaded._check_nats()
        return loaded

    def _check_nats(self) -> None:
        """Raise KeyError or ValueError where nats are not those of the rows' bounds."""
        if unknown := self.nats.keys() - {row.key for row in self.rows}:
            raise ValueError(f"rows of {min(unknown)!r}, which is no setting")
        for row in self.rows:
            if (bound := row.get("bound_nats_per_token")) is None:
                continue
            nats = self.nats[row.key]
            if nats.dtype != torch.float32 or nats.ndim != 1 or nats.isnan().any():
                raise ValueError(f"{nats.dtype} {[*nats.shape]} or NaN of {row.key}, in place of float32 [n]")
            mean = mean_of(self.nats_of(row))
            for name in ("value", "stderr"):
                here, there = getattr(mean, name), getattr(bound, name)
                if there is not None and not math.isclose(here, there, rel_tol=1e-4, abs_tol=1e-6):
                    if not (math.isnan(here) and math.isnan(there)):
                        raise ValueError(f"{row.key} of {name} {here:g}, in place of {there:g}")
