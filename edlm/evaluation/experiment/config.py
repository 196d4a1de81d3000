"""Options of ``edlm evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from edlm.evaluation.experiment.metrics import Stage
from edlm.evaluation.experiment.orders import options_of_order
from edlm.evaluation.experiment.parts import (
    DEFAULT_METHODS,
    SHIPPED_DENOISER,
    ContinuousConfig,
    FrontierConfig,
    MethodConfig,
    RatioConfig,
    SamplesConfig,
    methods_named,
)
from edlm.rules import Config, suggestion

STAGES: tuple[Stage, ...] = get_args(Stage)
OF_SAMPLES = ("samples", "judge", "mauve", "frontier")
DEFAULT_ORDERS: tuple[str, ...] = ("random", "bisecting")


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """What is measured on what: every method and the base, at every number of steps, in every order.

    Args:
        denoiser: Folder, hub id or shipped name.
        data: Held-out blocks (made by ``edlm prepare corpus``), or text of any kind that it reads; for a shipped
            denoiser, the blocks shipped with it by default.
        length: Tokens of a block that text is cut into; null for the longest that the denoiser takes.
        num_rows: Blocks to use, drawn over all documents by the seed. Errors are clustered by document.
        given: "middle_third": everything but the middle third of each block is given, and the bounds and draws are of
            that third; null: nothing is given.
        energy: Energies that are compared with the base, each used as it recommends: folders, shipped names, or causal
            LMs ("causal:PATH", "text:PATH", "server:URL#MODEL"); one or several.
        methods: More samplers that are compared, with options of their own; null for none, and for the shipped heads if
            neither energies nor another denoiser are given.
        num_steps: Denoiser passes.
        orders: Reveal orders; null for those of the methods, or that their energies were trained for; for random and
            bisecting with the shipped heads, or where that is not known. "ORDER in blocks of N" writes blocks of N
            tokens from left to right, each in ``num_steps`` passes; all options that name orders name it so.
        num_steps_of: Denoiser passes in some of these orders, in place of ``num_steps``.
        seed: Of orders, candidates and samples.
        device: Where all runs: "cpu", "cuda", "mps", or "auto" for the best of these.
        denoiser_tokenizer: Folder or hub id of a tokenizer, for a denoiser whose checkpoint has none.
        denoiser_dtype: Of the denoiser's weights.
        batch_size: Rows at a time, for the bounds.
        samples: What is drawn to be timed and judged.
        frontier: Judge loss against entropy, over temperatures.
        continuous: Likelihoods in continuous time.
        quick: Few rows, steps and samples, in the last of the orders, to see in half a minute that all works.
        max_minutes: Minutes of this call, > 0: what is not begun by then is left out, and the same call measures it;
            null for no limit.
        output: Folder for results.json, results.csv, pictures and report.html; or a .json file, for the numbers alone.
            What it holds of the same denoiser, data, seed and energies is not measured again.
        report: Write the page and the pictures into the folder.
        measure: What is measured; null for everything where a report is written, and otherwise for bounds, time,
            samples and judge, and those of frontier, continuous and mauve that are configured.
        time_ratios: Comparisons of time at equal bound; their methods must be timed. null: each method against the base
            in its order at its most steps where a report is written, else none.
        markdown: File to write the whole table to.
        plot: Picture of bounds against seconds to draw (.svg or .png).
        plotted: Methods in it; null for all that were timed.
        plotted_orders: Reveal orders in it, without thresholds; null for all.
        wandb: "off", "offline" (a folder in the output) or "online": the same numbers there.
        wandb_project: The project's name there.
    """

    denoiser: str = SHIPPED_DENOISER
    data: str | None = None
    length: int | None = None
    num_rows: int = 128
    given: Literal["middle_third"] | None = None
    energy: str | tuple[str, ...] = ()
    methods: tuple[MethodConfig, ...] | None = field(default=None, metadata={"least": 0})
    num_steps: tuple[int, ...] = (2, 4, 8, 16)
    orders: tuple[str, ...] | None = None
    num_steps_of: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    denoiser_tokenizer: str | None = None
    denoiser_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = 32
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    frontier: FrontierConfig = field(default_factory=FrontierConfig)
    continuous: ContinuousConfig = field(default_factory=ContinuousConfig)
    quick: bool = False
    max_minutes: float | None = None
    output: str | None = None
    report: bool = True
    measure: tuple[Stage, ...] | None = None
    time_ratios: tuple[RatioConfig, ...] | None = field(default=None, metadata={"least": 0})
    markdown: str | None = None
    plot: str | None = None
    plotted: tuple[str, ...] | None = None
    plotted_orders: tuple[str, ...] | None = None
    wandb: Literal["off", "offline", "online"] = "off"
    wandb_project: str = "edlm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"max_minutes must be null or > 0, got {self.max_minutes}")
        if self.folder is not None and self.folder.is_file():
            raise ValueError(f"output must be a folder, or end in .json, got the file {self.output}")
        if self.plot is not None and not self.plot.endswith((".svg", ".png")):
            raise ValueError(f"plot must end in .svg or .png, got {self.plot}")
        if self.methods is None and not self.energy and self.denoiser == SHIPPED_DENOISER:
            object.__setattr__(self, "methods", DEFAULT_METHODS)
            object.__setattr__(self, "orders", self.orders or DEFAULT_ORDERS)
        named = methods_named((self.energy,) if isinstance(self.energy, str) else self.energy)
        object.__setattr__(self, "methods", (*(self.methods or ()), *named))
        object.__setattr__(self, "energy", ())  # they are methods now
        for order in self.orders or ():
            try:
                options_of_order(order)
            except ValueError as error:
                raise ValueError(f"orders: {error}") from error
        if self.orders is not None and (unknown := set(self.num_steps_of) - set(self.orders)):
            raise ValueError(f"num_steps_of must name some of the orders {list(self.orders)}, got {sorted(unknown)}")
        object.__setattr__(self, "report", self.report and self.folder is not None)
        if unknown := [stage for stage in self.measure or () if stage not in STAGES]:
            near = suggestion(unknown[0], Stage)
            raise ValueError(f"measure must be some of {', '.join(STAGES)}, got {unknown[0]!r}{near}")
        object.__setattr__(self, "measure", self._resolved_stages())

    def _resolved_stages(self) -> tuple[Stage, ...]:
        """The only place where stages that were not named are chosen, and where those without any sample go."""
        stages = self.measure
        if stages is None and self.given is not None:
            stages = ("bounds",)
        elif stages is None and self.report:
            stages = STAGES
        elif stages is None:
            configured = {
                "frontier": self.frontier != FrontierConfig(),
                "continuous": self.continuous != ContinuousConfig(),
                "mauve": True,
            }
            stages = ("bounds", "time", "samples", "judge", *(stage for stage, is_set in configured.items() if is_set))
        empty = {
            "time": self.samples.timed_batches == 0,
            "mauve": self.samples.features is None,
            "frontier": self.samples.judged < 2 or not self.frontier.temperatures,
            "continuous": self.continuous.num_rows == 0,
        }
        return tuple(s for s in stages if not empty.get(s) and (self.samples.judged > 0 or s not in OF_SAMPLES))

    @property
    def folder(self) -> Path | None:
        """The output folder; None for a .json file and without output."""
        return None if self.output is None or self.output.endswith(".json") else Path(self.output)

    @property
    def json_path(self) -> Path | None:
        """File of the numbers."""
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
        few = (0.8, 1.0, 1.2) if frontier == FrontierConfig() else frontier.temperatures[:3]
        methods = frontier.methods or tuple(method.name for method in self.methods[:1]) or None
        if continuous == ContinuousConfig():
            continuous = replace(continuous, num_rows=8, num_draws=2)
        order = (self.orders or DEFAULT_ORDERS)[-1]
        return replace(
            self,
            num_rows=min(self.num_rows, 16),
            orders=self.orders and (order,) if self.methods else (order,),  # None: those of the energies
            num_steps=tuple(sorted(self.num_steps_of.get(order, self.num_steps))[:2]),
            num_steps_of={},
            samples=samples,
            frontier=replace(frontier, temperatures=few, methods=methods),
            continuous=continuous,
            time_ratios=None if self.time_ratios is None else (),
        )
