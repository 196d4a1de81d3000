"""The loop over all measurements; every value is kept as soon as it is measured."""

import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import Any

from accelerate import PartialState
from torch import Tensor
from tqdm.auto import tqdm

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.bounds import bound_key, measure_bound, measure_infilling
from edlm.evaluation.experiment.job import Job
from edlm.evaluation.experiment.lab import Lab, energies_of_judge
from edlm.evaluation.experiment.once import (
    MOST_ROWS,
    energies_by_name,
    measure_continuous,
    measure_held_out_text,
    measure_spreads,
    nearest,
)
from edlm.evaluation.experiment.plan import Setting
from edlm.evaluation.experiment.provenance import described_result
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import Row
from edlm.evaluation.experiment.sampling import sample_jobs, samples_key
from edlm.evaluation.experiment.store import Entry, record_of
from edlm.evaluation.samples.cost import draw_timed, measure_cost
from edlm.evaluation.samples.frontier import FrontierPoint
from edlm.processes import from_main_process


def measure(lab: Lab) -> Results:
    """Measure what the output lacks, and collect everything that was requested; in all processes alike.

    Raises:
        KeyboardInterrupt: after the results so far were written.
    """
    PartialState().wait_for_everyone()  # one writes the store that all have read
    deadline = time.monotonic() + 60 * (lab.config.max_minutes or math.inf)
    try:
        with tqdm(disable=None if lab.store.writes else True, leave=False) as bar:
            for job in jobs(lab):
                bar.set_description(job.key)
                lab.store.get(job.key, job.made_from, job.measured)
                bar.update()
                if from_main_process(lambda: time.monotonic() > deadline):
                    break
    finally:
        results = collect(lab)
        if lab.store.is_kept:  # else a call that resumes would take the results for those of an older version
            results.write()
    return results


def jobs(lab: Lab) -> Iterator[Job]:
    """All that is measured, in order; what a setting is timed next depends on what is in the store."""
    return chain(row_jobs(lab), record_jobs(lab), frontier_jobs(lab))


def row_jobs(lab: Lab) -> Iterator[Job]:
    """What is measured of each setting, stage after stage."""
    requested = lab.config.measure
    if "bounds" in requested:
        for s in sorted(lab.settings, key=lambda s: s.sampled_steps is not None):
            yield Job(*bound_key(lab, s), partial(measure_bound, lab, s), s, is_shared=True)
            if lab.given is not None:
                made_from = [dict(s.row.options), lab.config.given]
                measure = partial(measure_infilling, lab, s)
                yield Job(f"infilling/{s.row.key}", made_from, measure, s, is_shared=True)
    if "time" in requested:
        yield from _time_jobs(lab)
    if "cost" in requested:
        size = lab.config.samples.batch_size
        for s in lab.settings:
            yield Job(f"cost/{s.row.key}", [dict(s.row.options), size], partial(_cost, lab, s), s)
    for s in lab.judged:
        yield from sample_jobs(lab, s, lab.config.samples.judged, requested)


def record_jobs(lab: Lab) -> Iterator[Job]:
    """What is measured once; the key is that of ``results.json``."""
    config, requested = lab.config, lab.config.measure
    if lab.judged and lab.texts is not None:
        yield Job("held_out_text", [config.samples.judged, lab.texts.identity], partial(measure_held_out_text, lab))
    if "continuous" in requested:
        energies = {name: s.row.options["energy"] for name, s in energies_by_name(lab.settings).items()}
        made_from, measure = [asdict(config.continuous), energies], partial(measure_continuous, lab)
        yield Job("continuous", made_from, measure, is_shared=True)
    if "energies" in requested:
        options = [dict(s.row.options) for s in nearest(lab.settings)]
        made_from = [options, min(config.samples.batch_size, MOST_ROWS)]
        yield Job("energy_spreads", made_from, partial(measure_spreads, lab))


def frontier_jobs(lab: Lab) -> Iterator[Job]:
    """Judged samples of each point of the frontier; a setting at its own temperature is not sampled twice."""
    for setting in lab.frontier:
        for job in sample_jobs(lab, setting, lab.frontier_samples, ("judge",)):
            yield job._replace(setting=None)


def collect(lab: Lab) -> Results:
    """Everything that was requested and is measured."""
    measured = [(job, entry) for job in jobs(lab) if (entry := lab.store.find(job.key, job.made_from)) is not None]
    entries = {job.key: entry for job, entry in measured}
    metrics, notes, record = defaultdict(dict), defaultdict(dict), {}
    for job, entry in measured:
        if job.setting is not None:
            key = job.setting.row.key
            metrics[key] |= {name: Estimate(*values) for name, values in entry.value["metrics"].items()}
            notes[key] |= entry.value["notes"]
            record |= entry.value.get("record", {})
        elif "/" not in job.key:  # those with one are points of the frontier
            record[job.key] = entry.value
    points = {samples_key(s, lab.frontier_samples): s for s in lab.frontier}
    bounds = {s.row.key: entries.get(bound_key(lab, s)[0]) for s in lab.settings}
    return Results(
        described_result(lab.config, **_about(lab, {entry.origin for entry in entries.values()}), **record),
        [Row(s.row.options, metrics[s.row.key], notes[s.row.key]) for s in lab.settings if s.row.key in metrics],
        {key: _nats_per_token(entry) for key, entry in bounds.items() if entry is not None},
        [
            _point(s, entries[f"samples/{k}"], entries[f"judge/{k}"])
            for k, s in points.items()
            if f"judge/{k}" in entries
        ],
        [*entries["energy_spreads"].tensors.values()] if "energy_spreads" in entries else [],
        lab.config.json_path if lab.store.writes else None,
        lab.documents,
    )


def _nats_per_token(bound: Entry) -> Tensor:
    """Of each row, ``[n]``, float32."""
    return (bound.tensors["nats"] / bound.tensors["tokens"]).float()


def _point(setting: Setting, samples: Entry, judged: Entry) -> FrontierPoint:
    """The point of samples that were measured and judged."""
    distinct_2 = samples.value["metrics"]["distinct_2"][0]
    of = (setting.name, *setting.row.cell, setting.temperature)
    return FrontierPoint(*of, **samples.tensors, **judged.tensors, distinct_2=distinct_2)


def _about(lab: Lab, origins: set[str]) -> dict[str, Any]:
    """What holds for all rows."""
    judge = None
    if lab.judge is not None:
        names = energies_of_judge(lab.judge, [*lab.judged, *lab.frontier])
        judge = {**lab.judge.describe(), "is_energy_of": names}
    energies = {s.card.fingerprint: s for s in lab.settings if s.card is not None}
    return {
        "identity": json.loads(lab.store.identity),
        "earlier": [json.loads(origin) for origin in sorted(origins - {lab.store.origin})],
        "data": {
            **{"rows": len(lab.x_0), "documents": lab.num_documents, "clusters": lab.clusters, "length": lab.length},
            **asdict(lab.units),
        },
        "energies": {
            key: {**asdict(s.card), "settings": getattr(s.energy, "settings", dict)()} for key, s in energies.items()
        },
        "judge": judge,
    }


def _time_jobs(lab: Lab) -> Iterator[Job]:
    """A batch of each setting, then another of each: a machine that slows down does so for all of them.

    None starts after ``max_seconds`` of a setting.
    """
    samples, seconds = lab.config.samples, {}
    for n in range(samples.timed_batches):
        for s in lab.settings:
            before = seconds.get(s.row.key, [])
            if len(before) == n and samples.batch_size * sum(before) <= samples.max_seconds:
                key, made_from = f"time/{s.row.key}, {n + 1} batches", [dict(s.row.options), samples.batch_size]
                yield Job(key, made_from, partial(_time, lab, s, before), s)
                entry = lab.store.find(key, made_from)
                seconds[s.row.key] = entry.value["notes"]["seconds_of_batches"] if entry is not None else before


def _time(lab: Lab, setting: Setting, before: list[float]) -> Entry:
    """Seconds of a batch, with those of the batches before."""
    size = lab.config.samples.batch_size
    seed = lab.config.seed + len(before) * size
    timed = draw_timed(setting.sampler, lab.length, batch_size=size, num_batches=1, seed=seed)
    seconds = [*before, *timed.seconds_of_batches]
    median = statistics.median(seconds)
    metrics = {
        "seconds_per_sequence": median,
        "tokens_per_second": lab.length / median,
        "denoiser_passes": timed.denoiser_passes,
        "energy_passes": timed.energy_passes,
    }
    counted = {name: Estimate(value) for name, value in metrics.items()}
    return Entry(record_of(counted, timed_batch_size=size, seconds_of_batches=seconds))


def _cost(lab: Lab, setting: Setting) -> Entry:
    """Floating-point operations and memory."""
    size = lab.config.samples.batch_size
    cost = measure_cost(setting.sampler, lab.length, batch_size=size, seed=lab.config.seed)
    metrics = {"flops_per_sequence": Estimate(cost.flops_per_sequence)}
    if cost.peak_memory_bytes is not None:
        metrics["peak_memory_bytes"] = Estimate(cost.peak_memory_bytes)
    return Entry({**record_of(metrics, cost_batch_size=size), "record": {"memory": cost.memory}})
