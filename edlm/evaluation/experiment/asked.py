"""From what is asked for to the settings that are measured."""

from __future__ import annotations

from dataclasses import replace

from edlm.config import SamplerConfig
from edlm.energies.loading import load_energy
from edlm.energies.pretrained import PretrainedEnergy
from edlm.evaluation.experiment.measurement import Setting
from edlm.evaluation.experiment.plan import EvaluateConfig, MethodConfig, RatioConfig

_HOW = ("num_candidates", "scope", "group_size", "window", "temperature", "top_p", "top_k")
TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1)


def settings_of(config: EvaluateConfig) -> list[Setting]:
    """The base and every method in each cell of orders and steps.

    Raises:
        ValueError: two of one name in a cell, an energy that can not be loaded, or samples or a frontier are asked of
            what is not there.
    """
    loaded: dict[tuple[str, bool], PretrainedEnergy] = {}
    settings, energies = [], {method: _energy_of(method, loaded, config.device) for method in config.methods}
    for order in config.orders:
        for num_steps in config.num_steps_of.get(order, config.num_steps):
            common = {"order": order, "num_steps": num_steps}
            settings.append(Setting("base", None, SamplerConfig(**common)))
            for m in config.methods:
                if order in (m.orders or config.orders) and num_steps in (m.num_steps or (num_steps,)):
                    how = {name: getattr(m, name) for name in _HOW}
                    if energies[m] is None:
                        how["num_candidates"] = 1  # nothing decides
                    sampled = m.sampled_steps if m.sampled_steps and m.sampled_steps < num_steps else None
                    sampler = SamplerConfig(**common, **how)
                    settings.append(Setting(m.name, energies[m], sampler, sampled, m.inner_draws))
    keys = [setting.key for setting in settings]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"what is measured must be told apart by name, order and steps, got {twice!r} twice")
    _check_named(config, settings)
    return settings


def _check_named(config: EvaluateConfig, settings: list[Setting]) -> None:
    """What samples and frontier are asked of is there."""
    samples, frontier = config.samples, config.frontier
    there = {
        "methods": ({s.name for s in settings}, samples.judged_methods, frontier.methods),
        "orders": ({s.sampler.order for s in settings}, samples.judged_orders, frontier.orders),
        "num_steps": ({s.sampler.num_steps for s in settings}, samples.judged_steps, frontier.num_steps),
    }
    for what, (known, *asked) in there.items():
        if unknown := {name for names in asked for name in names or ()} - known:
            raise ValueError(
                f"{what} of samples and frontier must be among those that are measured ({sorted(known)}), "
                f"got {sorted(unknown)}"
            )


def _energy_of(
    method: MethodConfig, loaded: dict[tuple[str, bool], PretrainedEnergy], device: str
) -> PretrainedEnergy | None:
    """Loaded once for all methods that share it."""
    if method.energy is None:
        return None
    key = (method.energy, method.carry_over)
    if key not in loaded:
        loaded[key] = load_energy(method.energy, carry_over=method.carry_over or None).to(device)
    return loaded[key]


def frontier_of(config: EvaluateConfig, settings: list[Setting]) -> list[Setting]:
    """A setting for each point of the frontier: the base and methods in some cells, at each temperature.

    A method that has a temperature of its own is a single point.
    """
    asked, temperatures = config.frontier, temperatures_of(config)
    if not temperatures or not settings:
        return []
    orders = asked.orders or config.orders[-1:]
    steps = asked.num_steps or (_few_steps([s for s in settings if s.sampler.order in orders]),)
    points = []
    for setting in settings:
        named = setting.is_base or setting.name in (asked.methods or [setting.name])
        if not named or setting.sampler.num_steps not in steps or setting.sampler.order not in orders:
            continue
        own = setting.sampler.temperature
        for temperature in temperatures if own == 1 else (own,):
            points.append(replace(setting, sampler=replace(setting.sampler, temperature=temperature)))
    return points


def temperatures_of(config: EvaluateConfig) -> tuple[float, ...]:
    """Those that are asked for; some where a report is written."""
    if config.frontier.temperatures is not None:
        return config.frontier.temperatures
    return TEMPERATURES if config.folder is not None else ()


def _few_steps(settings: list[Setting]) -> int:
    counts = sorted({s.sampler.num_steps for s in settings})
    return next((count for count in counts if count >= 4), counts[-1])


def rows_in_continuous_time(config: EvaluateConfig) -> int:
    """How many blocks: those that are asked for; some where a report is written."""
    if config.continuous.num_rows is not None:
        return config.continuous.num_rows
    return 64 if config.folder is not None else 0


def ratios_of(config: EvaluateConfig, settings: list[Setting]) -> list[RatioConfig]:
    """Comparisons of time: those that are asked for; where a report is written, each method against the base.

    Raises:
        ValueError: one is of what is not measured.
    """
    if config.time_ratios is not None:
        there = {(s.name, *s.cell) for s in settings}
        for ratio in config.time_ratios:
            lines = {(name, order) for name, order, _ in there}
            than = (ratio.than, ratio.than_order, ratio.than_steps)
            if (ratio.name, ratio.order) not in lines or than not in there:
                raise ValueError(f"time_ratios must compare what is measured ({sorted(there)}), got {ratio}")
        return list(config.time_ratios)
    if config.folder is None or config.samples.timed_batches == 0:
        return []
    most = {}
    for setting in settings:
        if setting.is_base:
            order, steps = setting.cell
            most[order] = max(steps, most.get(order, 0))
    lines = dict.fromkeys((s.name, s.sampler.order) for s in settings)
    first, last = config.orders[0], config.orders[-1]
    ratios = [RatioConfig(name, order, "base", order, most[order]) for name, order in lines if name != "base"]
    if first != last:  # what the order alone brings, and both
        ratios += [RatioConfig(name, order, "base", first, most[first]) for name, order in lines if order == last]
    return ratios
