"""What joint decisions cost beside the base, and beside a plain program; each ratio within one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edlm.denoisers.families.masked_lm import MaskedLMDenoiser
from edlm.energies.autoregressive import AutoregressiveEnergy
from edlm.energies.base import Energy
from edlm.evaluation.samples.cost import matmul_rate, measure_cost, peak_memory
from edlm.evaluation.samples.plain import plain_samples
from edlm.evaluation.samples.shares import seconds_of_parts
from edlm.evaluation.samples.turns import ratio_of, time_in_turns
from edlm.sampler.sampler import EnergySampler

PASSES, LM_PASSES, LM_BATCHES = 4, 2, (1, 4)
STEP = {"order": "bisecting", "num_steps": PASSES}
SEQUENCE = {"scope": "sequence", "order": "random", "num_steps": LM_PASSES}
LEFT = {"scope": "step", "order": "left_to_right", "num_steps": LM_PASSES}


@dataclass(frozen=True)
class Models:
    """What is measured together.

    Attributes:
        name: Of the size.
        denoiser: A masked LM.
        energies: By the names that `SETTINGS` uses; settings of others are left out.
        causal_lm: Over the same tokens.
        length: Tokens of a row.
    """

    name: str
    denoiser: MaskedLMDenoiser
    energies: Mapping[str, Energy]
    causal_lm: AutoregressiveEnergy
    length: int


@dataclass(frozen=True)
class Setting:
    """A way to sample.

    Attributes:
        energy: Name of an energy; "" for none, "LM" for the causal LM, "plain" for the plain program.
        options: Of the sampler.
        versus: Index of the setting, in the same list, whose time and memory are 1.
    """

    energy: str
    options: dict[str, Any]
    versus: int = 0


SETTINGS = {
    "base": Setting("", STEP),
    "Markov head": Setting("Markov", {**STEP, "num_candidates": None}),
    "chain head": Setting("chain", {**STEP, "num_candidates": None}),
    "head, exact": Setting("head", {**STEP, "num_candidates": None}),
    "head, exact, rounds of 4": Setting("head", {**STEP, "num_candidates": None, "group_size": 4}),
    "head, k = 16, whole step": Setting("head", {**STEP, "num_candidates": 16}),
    "listed head, exact": Setting("listed", {**STEP, "num_candidates": None}),
    "listed head, exact, rounds of 4": Setting("listed", {**STEP, "num_candidates": None, "group_size": 4}),
    "listed head, k = 16, whole step": Setting("listed", {**STEP, "num_candidates": 16}),
}
ONE = {"num_candidates": 1, "on_impossible": "redraw"}  # so that it is judged, though there is no choice
LM_SETTINGS = {
    "LM, k = 1, sequences": Setting("LM", {**SEQUENCE, **ONE}),
    "LM, k = 4, sequences": Setting("LM", {**SEQUENCE, "num_candidates": 4}),
    "LM, k = 16, sequences": Setting("LM", {**SEQUENCE, "num_candidates": 16}),
    "plain program, k = 4": Setting("plain", {"num_steps": LM_PASSES, "num_candidates": 4}, 1),
    "plain program, k = 16": Setting("plain", {"num_steps": LM_PASSES, "num_candidates": 16}, 2),
    "LM, k = 1, left to right": Setting("LM", {**LEFT, **ONE}, 5),
    "LM, k = 16, left to right": Setting("LM", {**LEFT, "num_candidates": 16}, 5),
    "NCE, k = 4, sequences": Setting("NCE", {**SEQUENCE, "num_candidates": 4}),
}
MANY = {
    "LM, k = 256, sequences": Setting("LM", {**SEQUENCE, "num_steps": 1, "num_candidates": 256}),
    "head, k = 256, whole step": Setting("head", {**STEP, "num_candidates": 256}),
}


def measure_ratios(models: Models, *, batch_sizes: Sequence[int], repeats: int, seed: int) -> list[dict[str, Any]]:
    """Seconds a step and peak memory of every setting, timed in turns, as ratios to others.

    Args:
        models: What is measured.
        batch_sizes: Of the settings without a causal LM; those with one have batches of 1 and 4.
        repeats: Turns; after one that warms up.
        seed: Of the samples.

    Returns:
        For each setting ``model``, ``setting``, ``batch_size``, ``num_steps``, ``seconds_per_step`` (median),
        ``versus`` with ``ratio``, ``low``, ``high`` (see `Ratio`), ``peak_memory_bytes`` and ``memory_ratio``. Those of
        256 candidates are run once, and have no ratios.
    """
    tables = [(SETTINGS, size) for size in batch_sizes] + [(LM_SETTINGS, size) for size in LM_BATCHES]
    rows = [row for table, size in tables for row in _measure(models, table, size, repeats, seed)]
    return rows + [_measure_once(models, name, setting, seed) for name, setting in _known(models, MANY)]


def measure_shares(models: Models, *, repeats: int, seed: int) -> list[dict[str, Any]]:
    """Seconds a step, batch 1, of each setting by parts; and the floor, the matrix products of a base step.

    Returns:
        For each setting ``model``, ``setting``, ``seconds_per_step`` by part (that of the quickest of the repeats), and
        ``floor``: floating-point operations of the base, by `matmul_rate`.
    """
    rows, rate = [], matmul_rate(models.denoiser.device)
    for name, setting in [*_known(models, SETTINGS), *_known(models, LM_SETTINGS)]:
        if setting.energy == "plain":
            continue
        sampler, steps = _sampler(models, setting), setting.options["num_steps"]
        found = [seconds_of_parts(sampler, 1, models.length, seed) for _ in range(repeats + 1)]
        least = min(found[1:], key=lambda parts: sum(parts.values()))
        base = EnergySampler(models.denoiser, num_steps=steps, order=setting.options["order"])
        operations = measure_cost(base, models.length, batch_size=1, seed=seed).flops_per_sequence
        parts = {part: seconds / steps for part, seconds in least.items()}
        floor = operations / rate / steps
        rows.append({"model": models.name, "setting": name, "seconds_per_step": parts, "floor": floor})
    return rows


def _measure(
    models: Models, table: Mapping[str, Setting], batch_size: int, repeats: int, seed: int
) -> list[dict[str, Any]]:
    settings, names = dict(_known(models, table)), list(table)
    runs = {name: _run(models, setting, batch_size, seed) for name, setting in settings.items()}
    seconds = time_in_turns(runs, repeats)
    device = models.denoiser.device
    peaks = {name: peak_memory(device, run)[0] for name, run in runs.items()}
    rows = []
    for name, setting in settings.items():
        versus = names[setting.versus]
        ratio, peak = ratio_of(seconds[name], seconds[versus]), peaks[name]
        steps = setting.options["num_steps"]
        rows.append(
            {
                **{"model": models.name, "setting": name, "batch_size": batch_size, "num_steps": steps},
                **{"seconds_per_step": statistics.median(seconds[name]) / steps, "versus": versus},
                **{"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "peak_memory_bytes": peak},
                "memory_ratio": peak / peaks[versus] if peak is not None and peaks[versus] else None,
            }
        )
    return rows


def _measure_once(models: Models, name: str, setting: Setting, seed: int) -> dict[str, Any]:
    run = _run(models, setting, 1, seed)
    peak = peak_memory(models.denoiser.device, run)[0]
    steps = setting.options["num_steps"]
    return {"model": models.name, "setting": name, "batch_size": 1, "num_steps": steps, "peak_memory_bytes": peak}


def _known(models: Models, table: Mapping[str, Setting]) -> Iterator[tuple[str, Setting]]:
    known = {"", "LM", "plain", *models.energies}
    return ((name, setting) for name, setting in table.items() if setting.energy in known)


def _run(models: Models, setting: Setting, batch_size: int, seed: int) -> Callable[[], object]:
    if setting.energy == "plain":
        special = (models.denoiser.mask_token_id, models.causal_lm.bos_token_id)
        networks = (models.denoiser.network, models.causal_lm.model)
        counts = (setting.options["num_steps"], setting.options["num_candidates"])
        return lambda: plain_samples(*networks, (batch_size, models.length), special, *counts)
    sampler = _sampler(models, setting)
    return lambda: sampler.sample(batch_size, models.length, seeds=range(seed, seed + batch_size))


def _sampler(models: Models, setting: Setting) -> EnergySampler:
    energies = {"": None, "LM": models.causal_lm, **models.energies}
    return EnergySampler(models.denoiser, energies[setting.energy], **setting.options)
