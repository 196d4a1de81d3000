"""Results of older versions, which had no store: bounds, times and costs are taken over from their rows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

import torch

from edlm.denoisers.identity import weights_fingerprint
from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.metrics import METRICS
from edlm.evaluation.experiment.plan import Setting
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.experiment.store import Entry, Store, record_of


def take_over(results: Results, settings: Sequence[Setting], length: int, store: Store) -> None:
    """Put what is known of these settings into a store.

    Args:
        results: Results without a store.
        settings: What is requested; rows of other options or energies are left out.
        length: Tokens of a row.
        store: Of the same identity.

    Raises:
        ValueError: the results are of another denoiser, data or seed.
    """
    store.check(json.dumps(results.record["identity"], sort_keys=True), results.path)
    rows = {row.key: row for row in results.rows}
    for setting in settings:
        row = rows.get(setting.row.key)
        if row is not None and _is_of(row, setting):
            options = dict(setting.row.options)
            nats = results.nats_of(row) * length
            tensors = {"nats": nats, "tokens": torch.full_like(nats, length, dtype=torch.int64)}
            direction = row.notes.get("bound_direction", "upper bound of -log p")
            bound = record_of(_of_stage(row, "bounds"), bound_direction=direction)
            store.put(f"bound/{row.key}", [options, None], Entry(bound, tensors))
            seconds, size = row.notes.get("seconds_of_batches", []), row.notes.get("timed_batch_size")
            for n in range(1, len(seconds) + 1):
                median = statistics.median(seconds[:n])
                rates = {"seconds_per_sequence": Estimate(median), "tokens_per_second": Estimate(length / median)}
                times = record_of(_of_stage(row, "time") | rates, timed_batch_size=size, seconds_of_batches=seconds[:n])
                store.put(f"time/{row.key}, {n} batches", [options, size], Entry(times))
            if size := row.notes.get("cost_batch_size"):
                cost = record_of(_of_stage(row, "cost"), cost_batch_size=size)
                store.put(f"cost/{row.key}", [options, size], Entry(cost))


def _is_of(row: Row, setting: Setting) -> bool:
    """Whether a row has the options of a setting, and its energy, of which older files have the weights' digest."""
    weights = None if setting.energy is None else weights_fingerprint(setting.energy)
    energies = (setting.row.options["energy"], weights)
    return row.options["energy"] in energies and {**row.options, "energy": None} == {
        **setting.row.options,
        "energy": None,
    }


def _of_stage(row: Row, stage: str) -> dict[str, Estimate]:
    return {name: estimate for name, estimate in row.metrics.items() if METRICS[name].stage == stage}
