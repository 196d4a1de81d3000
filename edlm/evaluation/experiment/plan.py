"""What ``edlm evaluate`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edlm.diffusion.reveal import Order
from edlm.evaluation.experiment.measurement import Setting


@dataclass(frozen=True)
class MethodConfig:
    """A way of deciding that is measured beside the base.

    Args:
        name: What the table calls it.
        energy: Folder of an energy, a shipped name, or a causal LM ("causal:PATH", "text:PATH"); null for the denoiser
            alone, with a proposal of its own.
        num_candidates: Candidates k; null decides token by token, exactly.
        scope: What a candidate fills.
        group_size: Tokens decided together; null for all of a step. Exact decisions: drawn at once; null for one.
        carry_over: Autoregressive energies only: count the terms at the slots alone ("coAR").
        orders: Only in these reveal orders; null for all of the table's.
        num_steps: Only at these numbers of steps; null for all of the table's.
        sampled_steps: Estimate the gain from so many steps of each row; null for all of them.
        inner_draws: Draws inside of the bound's logarithm: more of them cost energy passes and make it tighter, which
            matters at sequence scope.
        window: Times (low, high] at which the energy is used; the first step has time 1.
        temperature: Tokens are drawn from the marginals at this temperature.
        top_p: Tokens are drawn from the likeliest that hold so much mass.
        top_k: Tokens are drawn from so many likeliest; null for all.
    """

    name: str = "head_exact"
    energy: str | None = "tinystories"
    num_candidates: int | None = None
    scope: Literal["step", "sequence"] = "step"
    group_size: int | None = None
    carry_over: bool = False
    orders: tuple[Order, ...] | None = None
    num_steps: tuple[int, ...] | None = None
    sampled_steps: int | None = None
    inner_draws: int = 1
    window: tuple[float, float] = (0.0, 1.0)
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.sampled_steps is not None and self.sampled_steps < 1:
            raise ValueError(f"sampled_steps must be >= 1, got {self.sampled_steps}")
        if self.inner_draws < 1:
            raise ValueError(f"inner_draws must be >= 1, got {self.inner_draws}")


@dataclass(frozen=True)
class SamplesConfig:
    """What is drawn to be timed, and what of it is judged.

    Args:
        timed_batches: Batches that are sampled and timed for each setting, on an idle machine; 0 for none.
        max_seconds: But none starts after so many seconds of a setting.
        batch_size: Sequences of a batch.
        judged: Samples whose diversity (and loss under the judge) is measured; 0 for none.
        judged_steps: Numbers of steps at which they are drawn; null for all.
        judged_orders: Reveal orders in which they are drawn; null for all.
        judged_methods: Methods that they are drawn from; null for all.
        judge: A causal LM: folder, hub id, a .gguf file, "package:NAME" of an installed package that holds one, or
            an autoregressive energy. "auto" is the LM that is shipped beside a shipped denoiser, and none for others.
        allow_judge_as_energy: Judge samples by an LM that had a part in making them; the result says so.
        known_words: Training text (a file or folder), or a list of its words: the share of samples with another word
            stands in for an error rate. "auto" is the list shipped beside a shipped denoiser, and none for others.
        features: MAUVE of the samples against held-out text, by states of this model: folder, hub id, a .gguf file, or
            "package:NAME" of an installed package that holds one; null for no MAUVE. Needs "edlm[mauve]".
    """

    timed_batches: int = 3
    max_seconds: float = 60.0
    batch_size: int = 16
    judged: int = 64
    judged_steps: tuple[int, ...] | None = None
    judged_orders: tuple[Order, ...] | None = None
    judged_methods: tuple[str, ...] | None = None
    judge: str | None = "auto"
    allow_judge_as_energy: bool = False
    known_words: str | None = "auto"
    features: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.judged < 0:
            raise ValueError(f"batch_size must be >= 1 and judged >= 0, got {self.batch_size} and {self.judged}")

    def asks_for(self, setting: Setting) -> bool:
        """Whether samples of the setting are judged."""
        name, sampler = setting.name, setting.sampler
        return (
            self.judged > 0
            and (self.judged_steps is None or sampler.num_steps in self.judged_steps)
            and (self.judged_orders is None or sampler.order in self.judged_orders)
            and (self.judged_methods is None or name in self.judged_methods)
        )


@dataclass(frozen=True)
class FrontierConfig:
    """Curves of judge loss against entropy, over the temperature of the proposal.

    Args:
        temperatures: Of the proposal; null for 0.7, 0.8, 0.9, 1.0, 1.1 where a report is written, else none.
        num_steps: At these numbers of steps; null for the smallest that is at least 4.
        orders: In these reveal orders; null for the last of the table's.
        methods: Beside the base; null for all.
        num_samples: At each temperature; null for as many as are judged.
        sigmas: A point is below the base's curve where it is so by more than so many standard errors, or as rare a
            value of Student's t where samples are few.
    """

    temperatures: tuple[float, ...] | None = None
    num_steps: tuple[int, ...] | None = None
    orders: tuple[Order, ...] | None = None
    methods: tuple[str, ...] | None = None
    num_samples: int | None = None
    sigmas: float = 3.0

    def __post_init__(self) -> None:
        if any(not temperature > 0 for temperature in self.temperatures or ()):
            raise ValueError(f"temperatures must be > 0, got {list(self.temperatures)}")
        if not self.sigmas > 0:
            raise ValueError(f"sigmas must be > 0, got {self.sigmas}")


@dataclass(frozen=True)
class ContinuousConfig:
    """Likelihoods in continuous time, which the literature reports; they do not depend on how is sampled.

    Args:
        num_rows: Blocks, from the first; null for 64 where a report is written, else none.
        num_draws: Noisy versions of each, a denoiser pass each.
        published: Also the formula of arXiv:2410.21357 with energies, which is no bound: to compare with the paper
            only. "normalized": with those whose normaliser is known; "all": also with the others, at the cost of
            ``num_candidates`` of their passes for a noisy version; or "none".
        num_candidates: Draws behind each log Z.
    """

    num_rows: int | None = None
    num_draws: int = 8
    published: Literal["normalized", "all", "none"] = "normalized"
    num_candidates: int = 16

    def __post_init__(self) -> None:
        if (self.num_rows or 0) < 0 or self.num_draws < 1 or self.num_candidates < 2:
            got = f"{self.num_rows}, {self.num_draws} and {self.num_candidates}"
            raise ValueError(f"num_rows must be >= 0, num_draws >= 1 and num_candidates >= 2, got {got}")


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


_HEAD, _SPREAD = "tinystories/head", ("dilated", "bisecting")
DEFAULT_METHODS = (
    MethodConfig("head_exact", _HEAD, orders=_SPREAD),
    MethodConfig("head_exact", "tinystories/head_random", orders=("random",)),
    MethodConfig("head_rounds_of_4", _HEAD, group_size=4, orders=_SPREAD),
    MethodConfig("head_blind_exact", "tinystories/head_blind", orders=_SPREAD),
)


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured on what: every method and the base, at every number of steps, in every order.

    Args:
        denoiser: Folder, hub id or shipped name.
        data: Held-out blocks (a file made by ``edlm prepare corpus``), or text (.txt, .jsonl); the shipped blocks by
            default.
        length: Tokens of a block that text is cut into; null for the longest that the denoiser takes.
        num_rows: Blocks to use, from the first.
        methods: Ways of deciding.
        num_steps: Denoiser passes.
        orders: Reveal orders.
        num_steps_of: Denoiser passes in some of these orders, in place of ``num_steps``.
        seed: Of orders, candidates and samples.
        device: Where all runs: "cpu", "cuda", "mps".
        batch_size: Rows at a time, for the bounds.
        samples: What is drawn to be timed and judged.
        frontier: Judge loss against entropy, over temperatures.
        continuous: Likelihoods in continuous time.
        quick: Few rows, steps and samples, in the last of the orders, to see in half a minute that all works.
        output: Folder for results.json, results.csv, pictures and report.html; or a .json file, for the numbers alone.
            What is there already, of the same denoiser, data, seed and energies, is not measured again.
        time_ratios: Comparisons of time at equal bound; their methods must be timed. null: each method against the base
            in its order at its most steps where a report is written, else none.
        markdown: File to write the whole table to.
        plot: Picture of bounds against seconds to draw (.svg or .png).
        plotted: Methods in it; null for all that were timed.
        plotted_orders: Reveal orders in it; null for all.
        wandb: "off", "offline" (a folder in the output) or "online": the same numbers there.
        wandb_project: The project's name there.
    """

    denoiser: str = "tinystories"
    data: str | None = None
    length: int | None = None
    num_rows: int = 128
    methods: tuple[MethodConfig, ...] = DEFAULT_METHODS
    num_steps: tuple[int, ...] = (2, 4, 8, 16)
    orders: tuple[Order, ...] = field(default=("random", "bisecting"))
    num_steps_of: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    batch_size: int = 32
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    frontier: FrontierConfig = field(default_factory=FrontierConfig)
    continuous: ContinuousConfig = field(default_factory=ContinuousConfig)
    quick: bool = False
    output: str | None = None
    time_ratios: tuple[RatioConfig, ...] | None = None
    markdown: str | None = None
    plot: str | None = None
    plotted: tuple[str, ...] | None = None
    plotted_orders: tuple[Order, ...] | None = None
    wandb: Literal["off", "offline", "online"] = "off"
    wandb_project: str = "edlm"

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError(f"num_rows must be >= 1, got {self.num_rows}")
        if self.folder is not None and self.folder.is_file():
            raise ValueError(f"output must be a folder, or end in .json, got the file {self.output}")
        if unknown := set(self.num_steps_of) - set(self.orders):
            raise ValueError(f"num_steps_of must name some of the orders {list(self.orders)}, got {sorted(unknown)}")

    @property
    def folder(self) -> Path | None:
        """Where the report goes; None where none is written."""
        return None if self.output is None or self.output.endswith(".json") else Path(self.output)

    @property
    def json_path(self) -> Path | None:
        """Where the numbers go."""
        return self.folder / "results.json" if self.folder else Path(self.output) if self.output else None

    def quickened(self) -> EvaluateConfig:
        """The same table, of little of everything."""
        samples, frontier, continuous = self.samples, self.frontier, self.continuous
        samples = replace(
            samples,
            timed_batches=min(samples.timed_batches, 1),
            batch_size=min(samples.batch_size, 8),
            judged=min(samples.judged, 8),
        )
        frontier = replace(
            frontier,
            temperatures=(0.8, 1.0, 1.2) if frontier.temperatures is None else frontier.temperatures[:3],
            methods=frontier.methods or tuple(method.name for method in self.methods[:1]),
        )
        if self.folder is not None and continuous.num_rows is None:
            continuous = replace(continuous, num_rows=8, num_draws=2)
        order = self.orders[-1]
        steps = tuple(sorted(self.num_steps_of.get(order, self.num_steps))[:2])
        return replace(
            self,
            num_rows=min(self.num_rows, 16),
            orders=(order,),
            num_steps=steps,
            num_steps_of={},
            samples=samples,
            frontier=frontier,
            continuous=continuous,
            time_ratios=None if self.time_ratios is None else (),
        )
