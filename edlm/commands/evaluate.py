"""``edlm evaluate``: bounds of samplers on held-out text, beside the base's; then their cost, and their samples."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edlm.commands.sample import decode
from edlm.commands.terminal import console
from edlm.config import SamplerConfig
from edlm.corpus.text import load_blocks
from edlm.denoisers.base import Denoiser
from edlm.denoisers.loading import SHIPPED, load_denoiser
from edlm.energies.pretrained import PretrainedEnergy, load_energy
from edlm.evaluation.diversity import distinct_n, unigram_entropy
from edlm.evaluation.judge import Judge
from edlm.evaluation.plot import plot_curves
from edlm.evaluation.results import Results, curves_of
from edlm.evaluation.samples import draw_timed
from edlm.evaluation.speedup import Curve, time_ratio
from edlm.evaluation.statistics import mean_of
from edlm.evaluation.table import Setting, as_markdown, as_table, measure_bounds
from edlm.training.checkpoints import fingerprint

Order = Literal["ancestral", "random", "dilated", "bisecting", "left_to_right", "confidence"]


@dataclass(frozen=True)
class MethodConfig:
    """A way of deciding that is measured beside the base.

    Args:
        name: What the table calls it.
        energy: Folder of an energy, or a shipped name.
        num_candidates: Candidates k; null decides token by token, exactly.
        scope: What a candidate fills.
        group_size: Tokens decided together; null for all of a step. Exact decisions: drawn at once; null for one.
        carry_over: Autoregressive energies only: count the terms at the slots alone ("coAR").
        orders: Only in these reveal orders; null for all of the table's.
        num_steps: Only at these numbers of steps; null for all of the table's.
        sampled_steps: Estimate the gain from so many steps of each row; null for all of them.
    """

    name: str = "head_exact"
    energy: str = "tinystories"
    num_candidates: int | None = None
    scope: Literal["step", "sequence"] = "step"
    group_size: int | None = None
    carry_over: bool = False
    orders: tuple[Order, ...] | None = None
    num_steps: tuple[int, ...] | None = None
    sampled_steps: int | None = None

    def __post_init__(self) -> None:
        if self.sampled_steps is not None and self.sampled_steps < 1:
            raise ValueError(f"sampled_steps must be >= 1, got {self.sampled_steps}")


@dataclass(frozen=True)
class SamplesConfig:
    """What is drawn to be timed, and what of it is judged.

    Args:
        timed_batches: Batches that are sampled and timed for each setting, on an idle machine; 0 for none.
        max_seconds: But none starts after so many seconds of a setting.
        batch_size: Sequences of a batch.
        judged: Samples whose diversity (and loss under the judge) is measured; 0 for none.
        judged_steps: Numbers of steps at which they are drawn.
        judged_orders: Reveal orders in which they are drawn; null for all.
        judged_methods: Methods that they are drawn from; null for all.
        judge: A causal LM: folder, hub id, a .gguf file, or "package:NAME" of an installed package that holds one.
    """

    timed_batches: int = 3
    max_seconds: float = 60.0
    batch_size: int = 16
    judged: int = 256
    judged_steps: tuple[int, ...] = ()
    judged_orders: tuple[Order, ...] | None = None
    judged_methods: tuple[str, ...] | None = None
    judge: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.judged < 0:
            raise ValueError(f"batch_size must be >= 1 and judged >= 0, got {self.batch_size} and {self.judged}")

    def asks_for(self, setting: Setting) -> bool:
        """Whether samples of the setting are judged."""
        name, sampler = setting.name, setting.sampler
        return (
            self.judged > 0
            and sampler.num_steps in self.judged_steps
            and (self.judged_orders is None or sampler.order in self.judged_orders)
            and (self.judged_methods is None or name in self.judged_methods)
        )


@dataclass(frozen=True)
class RatioConfig:
    """Time that a method needs for the bound that another has somewhere, as a share of the time needed there.

    Args:
        name: The method, or "base".
        order: Its reveal order.
        than: What it is held against.
        than_order: In this reveal order.
        than_steps: At this number of steps.
    """

    name: str
    order: Order
    than: str = "base"
    than_order: Order = "random"
    than_steps: int = 32


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured on what: every method and the base, at every number of steps, in every order.

    Args:
        denoiser: Folder, hub id or shipped name.
        data: Held-out blocks (a file made by ``edlm prepare corpus``); the shipped ones by default.
        num_rows: Blocks to use, from the first.
        methods: Ways of deciding.
        num_steps: Denoiser passes.
        orders: Reveal orders.
        num_steps_of: Denoiser passes in some of these orders, in place of ``num_steps``.
        seed: Of orders, candidates and samples.
        batch_size: Rows at a time, for the bounds.
        samples: What is drawn to be timed and judged.
        output: JSON file to write. The nats of each row go beside it (.rows.safetensors); what is there already, of
            the same denoiser, data, seed and energies, is not measured again. None by default.
        time_ratios: Comparisons of time at equal bound; their methods must be timed.
        markdown: File to write the whole table to.
        plot: Picture of bounds against seconds to draw (.svg or .png).
        plotted: Methods in it; null for all that were timed.
        plotted_orders: Reveal orders in it; null for all.
    """

    denoiser: str = "tinystories"
    data: str | None = None
    num_rows: int = 256
    methods: tuple[MethodConfig, ...] = (MethodConfig(),)
    num_steps: tuple[int, ...] = (4, 8, 16)
    orders: tuple[Order, ...] = field(default=("random", "dilated"))
    num_steps_of: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    batch_size: int = 32
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    output: str | None = None
    time_ratios: tuple[RatioConfig, ...] = ()
    markdown: str | None = None
    plot: str | None = None
    plotted: tuple[str, ...] | None = None
    plotted_orders: tuple[Order, ...] | None = None

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError(f"num_rows must be >= 1, got {self.num_rows}")
        if unknown := set(self.num_steps_of) - set(self.orders):
            raise ValueError(f"num_steps_of must name some of the orders {list(self.orders)}, got {sorted(unknown)}")


def run(config: EvaluateConfig) -> None:
    """Measure what is not in the output yet, write it after each setting, print the table, draw the picture."""
    denoiser = load_denoiser(config.denoiser)
    blocks = load_blocks(config.data or SHIPPED / "tinystories" / "valid.safetensors")
    x_0 = blocks.tokens[: config.num_rows]
    settings = _settings(config)
    identity = {"denoiser": asdict(denoiser.identity), "data": fingerprint(x_0), "seed": config.seed}
    results = Results(config.output, config, identity)
    _measure_bounds(config, denoiser, x_0, blocks.characters_per_token, settings, results)
    _measure_times(config, denoiser, x_0.shape[1], settings, results)
    _measure_samples(config, denoiser, x_0.shape[1], settings, results)
    console().print(as_table(results.of(setting) for setting in settings))
    curves = {(curve.name, curve.order): curve for curve in curves_of(results, settings)}
    ratios = [_time_ratio(curves, ratio, config.seed) for ratio in config.time_ratios]
    results.conclude(time_ratios=ratios)
    said = [
        "{name} ({order}) reaches the bound of {than} ({than_order}, {than_steps} steps) in {value:.3f} "
        "[{low:.3f}, {high:.3f}] of its time".format(**ratio)
        for ratio in ratios  # inf: never
    ]
    print("\n".join(said))
    if config.markdown:
        table = as_markdown(results.of(setting) for setting in settings)
        Path(config.markdown).write_text("\n".join([table, *(f"- {line}" for line in said)]) + "\n")
    if config.plot:
        shown = [
            curve
            for (name, order), curve in curves.items()
            if name in (config.plotted or [name]) and order in (config.plotted_orders or [order])
        ]
        plot_curves(shown, config.plot, title=f"{len(x_0)} held-out blocks of {x_0.shape[1]} tokens")


def _time_ratio(curves: dict[tuple[str, str], Curve], ratio: RatioConfig, seed: int) -> dict[str, Any]:
    pair = []
    for name, order in ((ratio.name, ratio.order), (ratio.than, ratio.than_order)):
        if (name, order) not in curves:
            raise ValueError(f"time_ratios needs methods that were timed ({sorted(curves)}), got {(name, order)}")
        pair.append(curves[name, order])
    generator = torch.Generator().manual_seed(seed)
    found = time_ratio(*pair, ratio.than_steps, generator=generator)
    return {**asdict(ratio), **asdict(found)}


def _measure_bounds(
    config: EvaluateConfig,
    denoiser: Denoiser,
    x_0: Tensor,
    characters_per_token: float,
    settings: list[Setting],
    results: Results,
) -> None:
    missing = [setting for setting in settings if results.of(setting) is None]
    bases = {(s.sampler.order, s.sampler.num_steps): s for s in settings if s.energy is None}
    # A gain is paired with the rows of its base, which is measured along.
    wanted = dict.fromkeys([*(bases[s.sampler.order, s.sampler.num_steps] for s in missing), *missing])
    how = {"seed": config.seed, "batch_size": config.batch_size, "characters_per_token": characters_per_token}
    for setting, measurement, bound in measure_bounds(denoiser, wanted, x_0, **how):
        if setting in missing:
            results.add(setting, measurement, bound.nats_per_row / bound.length)


def _energy_of(method: MethodConfig) -> PretrainedEnergy:
    energy = load_energy(method.energy)
    if method.carry_over:
        energy.carry_over = True
    return energy


def _settings(config: EvaluateConfig) -> list[Setting]:
    settings, energies = [], {method: _energy_of(method) for method in config.methods}
    for order in config.orders:
        for num_steps in config.num_steps_of.get(order, config.num_steps):
            common = {"order": order, "num_steps": num_steps}
            settings.append(Setting("base", None, SamplerConfig(**common)))
            for m in config.methods:
                if order in (m.orders or config.orders) and num_steps in (m.num_steps or (num_steps,)):
                    how = {name: getattr(m, name) for name in ("num_candidates", "scope", "group_size")}
                    sampled = m.sampled_steps if m.sampled_steps and m.sampled_steps < num_steps else None
                    settings.append(Setting(m.name, energies[m], SamplerConfig(**common, **how), sampled))
    keys = [setting.key for setting in settings]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"what is measured must be told apart by name, order and steps, got {twice!r} twice")
    return settings


def _measure_times(
    config: EvaluateConfig, denoiser: Denoiser, length: int, settings: list[Setting], results: Results
) -> None:
    """Time a batch of each setting, then another of each: a machine that slows down does so for all of them."""
    how = config.samples
    for n in range(how.timed_batches):
        for setting in tqdm(settings, desc=f"times, batch {n + 1} of {how.timed_batches}", disable=None, leave=False):
            before = results.of(setting).seconds_of_batches or ()
            if len(before) > n or how.batch_size * sum(before) > how.max_seconds:
                continue
            sampler = setting.sampler.build(denoiser, setting.energy)
            seed = config.seed + n * how.batch_size
            drawn = draw_timed(sampler, length, batch_size=how.batch_size, num_batches=1, seed=seed)
            seconds = (*before, *drawn.seconds_of_batches)
            measured = replace(
                results.of(setting),
                timed_batch_size=how.batch_size,
                seconds_per_sequence=statistics.median(seconds),
                seconds_of_batches=seconds,
                denoiser_passes=drawn.denoiser_passes,
                energy_passes=drawn.energy_passes,
            )
            results.add(setting, measured)


def _measure_samples(
    config: EvaluateConfig, denoiser: Denoiser, length: int, settings: list[Setting], results: Results
) -> None:
    how, judge = config.samples, None
    wanted = "judge_nats_per_token" if how.judge else "entropy_nats"
    missing = [s for s in settings if how.asks_for(s) and getattr(results.of(s), wanted) is None]
    for setting in tqdm(missing, desc="samples", disable=None):
        sampler = setting.sampler.build(denoiser, setting.energy)
        seeds = range(config.seed, config.seed + how.judged)
        tokens = sampler.sample(how.judged, length, batch_size=how.batch_size, seeds=seeds).tokens.cpu()
        entropy = mean_of(unigram_entropy(tokens))
        fields = {"num_samples": len(tokens), "entropy_nats": entropy.value, "entropy_stderr": entropy.stderr}
        fields["distinct_2"] = distinct_n(tokens, 2)
        if how.judge:
            judge = judge or Judge.from_pretrained(how.judge)
            loss = judge.score([decode(denoiser, row) for row in tokens]).nats_per_token
            fields |= {"judge_nats_per_token": loss.value, "judge_stderr": loss.stderr}
        results.add(setting, replace(results.of(setting), **fields))
