"""An evaluation that was run: its results, what follows from them, and their table, pictures and page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.lab import Lab
from edlm.evaluation.experiment.orders import line_of_order
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import Row, as_csv, as_markdown
from edlm.evaluation.experiment.run import measure
from edlm.evaluation.plots.evaluation import bounds_svg, energies_svg, frontier_svg, plot_bounds, save
from edlm.evaluation.report.conclusions import conclusions
from edlm.evaluation.report.page import write_report
from edlm.evaluation.report.recommendation import FEW_BATCHES
from edlm.files import write_atomically
from edlm.lock import locked
from edlm.processes import join, on_main_process
from edlm.rules import check_names
from edlm.sampler.options import SamplerOptions


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and what follows from it.

    Attributes:
        results: Everything that was measured.
        config: What was requested.
    """

    results: Results
    config: EvaluateConfig

    def __repr__(self) -> str:
        return f"Evaluation({len(self.rows)} settings of {self.config.denoiser})"

    @property
    def rows(self) -> Sequence[Row]:
        """Settings with their metrics: ``row["bound_nats_per_token"].value`` and so on."""
        return self.results.rows

    @cached_property
    def conclusions(self) -> dict[str, Any]:
        """Gains, time ratios, verdict and warnings, JSON values."""
        return conclusions(self.results, self.config)

    @cached_property
    def content(self) -> dict[str, Any]:
        """Content of ``results.json``, which is written where the config has an output."""
        return self.results.write(**self.conclusions)

    @property
    def ratios(self) -> list[str]:
        """Comparisons of time at equal bound, in words."""
        batches = [len(row.notes["seconds_of_batches"]) for row in self.rows if "seconds_of_batches" in row.notes]
        is_sure = min(batches, default=0) >= FEW_BATCHES
        share = "{value:.3f} [{low:.3f}, {high:.3f}]" if is_sure else "about {value:.2f} (few batches were timed)"
        base = "the bound of {than} ({than_order}, {than_steps} steps)"
        reaches, never = (f"{{name}} ({{order}}) {verb} {base}" for verb in ("reaches", "never reaches"))
        return [
            (never if math.isinf(ratio["value"]) else f"{reaches} in {share} of its time").format(**ratio)
            for ratio in self.conclusions["time_ratios"]
        ]

    def table(self) -> str:
        """All settings as a table in Markdown."""
        return as_markdown(self.rows)

    def plot(self, path: str | Path) -> None:
        """Draw bounds against seconds (.svg or .png) of the methods and orders that the config names.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        config, data = self.config, self.results.record["data"]
        rows = [row for row in self.rows if row.name in (config.plotted or [row.name])]
        lines = config.plotted_orders or [line_of_order(row.order) for row in rows]
        rows = [row for row in rows if line_of_order(row.order) in lines]
        title = "{rows} held-out blocks of {length} tokens from {documents} {clusters}"
        plot_bounds(rows, str(path), title=title.format(**{"clusters": "documents", **data}))

    def report(self, path: str | Path) -> None:
        """Write the page, with its pictures in it."""
        write_report(self.content, self._pictures(), path)

    def write_folder(self, folder: Path) -> None:
        """Write numbers as CSV, the pictures, and the page ``report.html``."""
        write_atomically(folder / "results.csv", as_csv(self.rows))
        for name, svg in self._pictures().items():
            save(svg, folder / f"{name}.svg")
        self.report(folder / "report.html")

    def _pictures(self) -> dict[str, str]:
        results, names = self.results, [row.name for row in self.rows]
        spreads = results.record.get("energy_spreads", [])
        looks = [(s["name"], s["order"], centred) for s, centred in zip(spreads, results.centred, strict=True)]
        pictures = {"bounds": bounds_svg(self.rows), "energies": energies_svg(looks, names)}
        for i, cell in enumerate(dict.fromkeys((p.order, p.num_steps) for p in results.points)):
            name = "frontier" if i == 0 else f"frontier_{i + 1}"
            pictures[name] = frontier_svg([p for p in results.points if (p.order, p.num_steps) == cell], names)
        return {name: svg for name, svg in pictures.items() if svg is not None}


def evaluate(
    denoiser: str | Denoiser = "tinystories",
    energy: str | Energy | Sequence[str | Energy] = (),
    data: str | None = None,
    **options: Any,
) -> Evaluation:
    """Measure a denoiser alone and with energies on held-out text.

    Args:
        denoiser: Folder, hub id, shipped name, or the object.
        energy: The same of energies, one or several; each is used as it recommends, or as ``options`` say.
        data: Held-out text, or blocks that ``edlm prepare corpus`` wrote.
        options: Other fields of `EvaluateConfig`: ``num_rows``, ``num_steps``, ``measure``, ``output`` ...; and of
            `SamplerOptions`, for the energies: ``num_candidates``, ``scope`` ...

    Raises:
        ValueError: an option is unknown; or see `Lab.load`.
    """
    energies = [energy] if isinstance(energy, (str, Energy)) else [*energy]
    models: dict[str, Denoiser | Energy] = {}
    if not isinstance(denoiser, str):
        name = denoiser.identity.name if denoiser.identity is not None else type(denoiser).__name__
        models[name], denoiser = denoiser, name
    for i, given in enumerate(energies):
        if isinstance(given, Energy):
            energies[i] = f"{type(given).__name__}{i or ''}"
            models[energies[i]] = given
    known, of_sampler = ({field.name for field in fields(kind)} for kind in (EvaluateConfig, SamplerOptions))
    of_sampler -= known | {"block_length"}  # which orders name
    check_names("evaluate", options, [*known, *of_sampler])
    how = {name: options.pop(name) for name in of_sampler & options.keys()}
    config = EvaluateConfig(denoiser=denoiser, energy=tuple(energies), data=data, **options)
    return run(replace(config, methods=tuple(replace(method, **how) for method in config.methods)), models)


def run(config: EvaluateConfig, models: dict[str, Denoiser | Energy] | None = None) -> Evaluation:
    """Measure what the output lacks, by all processes that were launched together; the main one writes the output.

    Args:
        config: What is requested.
        models: Objects that the config refers to by these names.

    Raises:
        LockedError: another evaluation writes to the output.
        ValueError: see `Lab.load`.
        KeyboardInterrupt: after the results so far were written.
    """
    config = config.quickened() if config.quick else config
    join(in_step=False)
    path = config.json_path
    with nullcontext() if path is None else on_main_process(locked(path.parent, f".{path.stem}.lock")):
        return Evaluation(measure(Lab.load(config, models)), config)
