"""From the options to the settings that are measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch

from edlm.denoisers.base import Denoiser
from edlm.denoisers.identity import weights_fingerprint
from edlm.energies.base import Energy
from edlm.energies.card import EnergyCard
from edlm.energies.loading import load_energy
from edlm.evaluation.experiment.config import DEFAULT_ORDERS, EvaluateConfig
from edlm.evaluation.experiment.orders import options_of_order
from edlm.evaluation.experiment.parts import MethodConfig, RatioConfig
from edlm.evaluation.experiment.rows import Row
from edlm.sampler.sampler import EnergySampler

_OF_SEQUENCES = 16  # draws inside of the bound


@dataclass(frozen=True)
class Setting:
    """A sampler that is measured: one row of the results.

    Attributes:
        name: Name of its method, or "base".
        order: Reveal order, as the table names it, see `options_of_order`.
        sampler: The sampler; without an energy for the base.
        sampled_steps: Estimate the gain over the base from so many steps of each row (`likelihood_bounds`), for
            energies that cost many passes; the bound is then the base's, measured at all steps, less this gain.
        inner_draws: Draws inside of the bound's logarithm, see `EnergySampler.likelihood_bound`.
    """

    name: str
    order: str
    sampler: EnergySampler
    sampled_steps: int | None = None
    inner_draws: int = 1

    @property
    def energy(self) -> Energy | None:
        """Energy of its sampler."""
        return self.sampler.energy

    @cached_property
    def card(self) -> EnergyCard | None:
        """What the energy is; None without."""
        return EnergyCard.of(self.energy) if self.energy is not None else None

    @cached_property
    def row(self) -> Row:
        """Its row, before anything is measured."""
        card, network = self.card, getattr(self.sampler.reveal_order, "network", None)
        return Row(
            {
                "name": self.name,
                **self.sampler.options,
                "order": self.order,
                "window": list(self.sampler.energy_window),
                "num_candidates": 1 if self.energy is None else self.sampler.num_candidates,
                "sampled_steps": self.sampled_steps,
                "inner_draws": self.inner_draws,
                "carry_over": card is not None and card.carry_over,
                "energy": card.fingerprint if card is not None else None,
                "order_network": weights_fingerprint(network) if network is not None else None,
            }
        )

    @property
    def temperature(self) -> float:
        """Temperature of its proposal."""
        return self.sampler.temperature


def settings_of(
    config: EvaluateConfig, denoiser: Denoiser, models: Mapping[str, Any] = MappingProxyType({})
) -> list[Setting]:
    """The base and every method in each cell of orders and steps; in each order the bases come first.

    Energies that are in ``models``, by their names in the config, are not loaded.

    Raises:
        ValueError: two settings have one name, order and number of steps, an energy cannot be loaded or does not fit,
            or samples, frontier or time ratios name something that is not measured.
    """
    methods = _with_energies(config, denoiser.device, models)
    of_methods = [order for m, energy in methods for order in m.orders or _trained_orders(energy)]
    orders = config.orders or tuple(dict.fromkeys(of_methods)) or DEFAULT_ORDERS
    settings = []
    for order in orders:
        of_order, counts = options_of_order(order), config.num_steps_of.get(order, config.num_steps)
        cells = [{**of_order, "num_steps": steps} for steps in counts]
        settings += [Setting("base", order, EnergySampler(denoiser, **cell)) for cell in cells]
        settings += [
            _setting(m, order, denoiser, energy, cell)
            for cell in cells
            for m, energy in methods
            if order in (m.orders or config.orders or _trained_orders(energy) or orders)
            and cell["num_steps"] in (m.num_steps or (cell["num_steps"],))
        ]
    _check_names(config, [setting.row for setting in settings])
    return settings


def _trained_orders(energy: Energy | None) -> tuple[str, ...]:
    return (energy.trained_orders if energy is not None else None) or ()


def _with_energies(
    config: EvaluateConfig, device: torch.device, models: Mapping[str, Any]
) -> list[tuple[MethodConfig, Energy | None]]:
    """Each method with its energy; methods that share one get the same object."""
    loaded: dict[tuple[str, bool], Energy] = {}
    for m in config.methods:
        key = (m.energy, m.carry_over)
        if m.energy is not None and key not in loaded:
            energy = models.get(m.energy) or load_energy(m.energy, carry_over=m.carry_over or None)
            loaded[key] = energy.to(device)
    return [(m, loaded.get((m.energy, m.carry_over))) for m in config.methods]


def _setting(
    m: MethodConfig, order: str, denoiser: Denoiser, energy: Energy | None, cell: Mapping[str, Any]
) -> Setting:
    sampled = m.sampled_steps if m.sampled_steps and m.sampled_steps < cell["num_steps"] else None
    sampler = EnergySampler(denoiser, energy, **cell, **m.sampler_options)
    has_sequences = sampler.scope == "sequence" and sampler.candidates_weighed > 1
    return Setting(m.name, order, sampler, sampled, m.inner_draws or (_OF_SEQUENCES if has_sequences else 1))


def _check_names(config: EvaluateConfig, rows: Sequence[Row]) -> None:
    """Check that rows differ, and that every name in the options of samples, frontier and ratios is one of theirs."""
    keys = [row.key for row in rows]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"methods must differ in name, order or steps, got {twice!r} twice")
    samples, frontier = config.samples, config.frontier
    for what, measured, *requested in (
        ("methods", {row.name for row in rows}, samples.judged_methods, frontier.methods),
        ("orders", {row.order for row in rows}, samples.judged_orders, frontier.orders),
        ("num_steps", {row.num_steps for row in rows}, samples.judged_steps, frontier.num_steps),
    ):
        if unknown := {name for names in requested for name in names or ()} - measured:
            rule = f"{what} of samples and frontier must be among those that are measured ({sorted(measured)})"
            raise ValueError(f"{rule}, got {sorted(unknown)}")
    ratios_of(config, rows)


def judged_settings(config: EvaluateConfig, settings: Sequence[Setting]) -> list[Setting]:
    """Those whose samples are measured."""
    samples = config.samples
    wanted = {"num_steps": samples.judged_steps, "order": samples.judged_orders, "name": samples.judged_methods}
    if not {"samples", "judge", "mauve"} & set(config.measure):
        return []
    return [s for s in settings if all(v is None or getattr(s.row, name) in v for name, v in wanted.items())]


def frontier_settings(config: EvaluateConfig, settings: Sequence[Setting]) -> list[Setting]:
    """A setting for each point of the frontier: the base and methods in some cells, at each temperature.

    A method that has a temperature of its own is a single point.
    """
    frontier, table_orders = config.frontier, list(dict.fromkeys(s.row.order for s in settings))
    if "frontier" not in config.measure or not settings:
        return []
    orders = frontier.orders or table_orders[-1:]
    counts = sorted({s.row.num_steps for s in settings if s.row.order in orders})
    steps = frontier.num_steps or (next((count for count in counts if count >= 4), counts[-1]),)
    points = []
    for s in settings:
        named = s.row.is_base or s.name in (frontier.methods or [s.name])
        if named and s.row.num_steps in steps and s.row.order in orders:
            for temperature in frontier.temperatures if s.temperature == 1 else (s.temperature,):
                points.append(replace(s, sampler=replace(s.sampler, temperature=temperature)))
    return points


def ratios_of(config: EvaluateConfig, rows: Sequence[Row]) -> list[RatioConfig]:
    """Comparisons of time as configured, or in a report each method against the base.

    Raises:
        ValueError: one is of a method that is not measured.
    """
    if config.time_ratios is not None:
        measured = {(row.name, *row.cell) for row in rows}
        lines = {key[:2] for key in measured}
        for ratio in config.time_ratios:
            than = (ratio.than, ratio.than_order, ratio.than_steps)
            if (ratio.name, ratio.order) not in lines or than not in measured:
                raise ValueError(f"time_ratios must compare what is measured ({sorted(measured)}), got {ratio}")
        return list(config.time_ratios)
    if not config.report or "time" not in config.measure:
        return []
    most: dict[str, int] = {}
    for row in rows:
        if row.is_base:
            most[row.order] = max(row.num_steps, most.get(row.order, 0))
    used = [row for row in rows if row.is_base or row.options["window"][0] < row.options["window"][1]]
    lines = dict.fromkeys((row.name, row.order) for row in used)
    first, last = next(iter(most)), list(most)[-1]
    ratios = [RatioConfig(name, order, "base", order, most[order]) for name, order in lines if name != "base"]
    if first != last:  # what the order alone brings, and both
        ratios += [RatioConfig(name, order, "base", first, most[first]) for name, order in lines if order == last]
    return ratios
