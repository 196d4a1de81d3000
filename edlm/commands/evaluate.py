"""``edlm evaluate``: bounds of samplers on held-out text, their cost and their samples, and a report of all that."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from edlm.commands.terminal import console
from edlm.denoisers.loading import SHIPPED, load_denoiser
from edlm.evaluation.estimates.units import TextUnits
from edlm.evaluation.experiment.asked import ratios_of, settings_of
from edlm.evaluation.experiment.energies import EnergyLook, look_at_energies
from edlm.evaluation.experiment.held_out import load_held_out
from edlm.evaluation.experiment.plan import EvaluateConfig
from edlm.evaluation.experiment.points import Points
from edlm.evaluation.experiment.run import Evaluation
from edlm.evaluation.experiment.store import Results, curves_of
from edlm.evaluation.experiment.table import as_csv, as_markdown, as_table
from edlm.evaluation.plots.report import bounds_svg, energies_svg, frontier_svg, save
from edlm.evaluation.plots.table import plot_curves
from edlm.evaluation.report.conclusions import conclusions
from edlm.evaluation.report.page import write_report
from edlm.evaluation.report.wandb import check_wandb, log_to_wandb
from edlm.evaluation.samples.frontier import FrontierPoint
from edlm.evaluation.samples.texts import tokens_per_word
from edlm.training.checkpoints import fingerprint


def run(config: EvaluateConfig) -> None:
    """Measure what is not in the output yet, keep each number as soon as it is there, then conclude and show."""
    config = config.quickened() if config.quick else config
    check_wandb(config.wandb)
    evaluation = prepare(config)
    try:
        evaluation.run()
        points = evaluation.measure_frontier()
        looks = _energies(evaluation)
        published = evaluation.measure_continuous()["published"]
        evaluation.results.conclude(**conclusions(evaluation, points, looks, published))
    except KeyboardInterrupt:
        _say_how_to_go_on(evaluation)
        raise
    _show(evaluation)
    if config.folder is not None:
        _write_folder(evaluation, points, looks)
    if config.wandb != "off":
        folder = config.folder or Path(config.output or "edlm-evaluate").parent
        log_to_wandb(evaluation.results.as_json(), mode=config.wandb, project=config.wandb_project, folder=folder)


def prepare(config: EvaluateConfig) -> Evaluation:
    """Load denoiser, data, energies, and what is known already.

    Raises:
        ValueError: the data is corrupt, the output is of another denoiser, data or seed, or what is asked for is not
            there.
    """
    denoiser = load_denoiser(config.denoiser, device=config.device)
    blocks = load_held_out(config.data or SHIPPED / "tinystories" / "valid.safetensors", denoiser, config.length)
    x_0 = blocks.tokens[: config.num_rows].to(config.device)
    settings = settings_of(config)
    ratios_of(config, settings)  # what is wrong with them is said before hours of work
    identity = {"denoiser": asdict(denoiser.identity), "data": fingerprint(x_0), "seed": config.seed}
    results = Results(config.json_path, config, identity, settings)
    kept = config.folder is not None or config.frontier.temperatures
    points = Points(results.beside("samples") if kept else None, identity)
    units = TextUnits(blocks.characters_per_token, tokens_per_word(denoiser, x_0))
    return Evaluation(config, denoiser, x_0, units, settings, results, points)


def _energies(evaluation: Evaluation) -> list[EnergyLook]:
    config = evaluation.config
    if config.folder is None:
        return []
    how = {"num_rows": min(config.samples.batch_size, 16), "seed": config.seed}
    return look_at_energies(evaluation.denoiser, evaluation.settings, evaluation.length, **how)


def _say_how_to_go_on(evaluation: Evaluation) -> None:
    path = evaluation.config.json_path
    known = len(evaluation.results.measured(evaluation.settings))
    count = f"{known} of {len(evaluation.settings)} settings"
    kept = f"{count} are kept in {path}; the same command goes on from there"
    print(f"edlm: interrupted: {kept if path else 'without --output nothing is kept'}", file=sys.stderr)


def _show(evaluation: Evaluation) -> None:
    """Print the table and what follows from it; write the Markdown table and the picture that are asked for."""
    config, results = evaluation.config, evaluation.results
    console().print(as_table(results.of(setting) for setting in evaluation.settings))
    concluded = results.conclusions
    said = [
        "{name} ({order}) reaches the bound of {than} ({than_order}, {than_steps} steps) in {value:.3f} "
        "[{low:.3f}, {high:.3f}] of its time".format(**ratio)
        for ratio in concluded["time_ratios"]  # inf: never; nan: of one row
    ]
    print("\n".join(said))
    print("\n".join([concluded["verdict"], *(f"warning: {warning}" for warning in concluded["warnings"])]))
    if config.markdown:
        table = as_markdown(results.of(setting) for setting in evaluation.settings)
        Path(config.markdown).write_text("\n".join([table, *(f"- {line}" for line in said)]) + "\n")
    if config.plot:
        curves = curves_of(results, evaluation.settings)
        curves = [curve for curve in curves if curve.name in (config.plotted or [curve.name])]
        shown = [curve for curve in curves if curve.order in (config.plotted_orders or [curve.order])]
        title = f"{len(evaluation.x_0)} held-out blocks of {evaluation.length} tokens"
        plot_curves(shown, config.plot, title=title)


def _write_folder(evaluation: Evaluation, points: list[FrontierPoint], looks: list[EnergyLook]) -> None:
    """CSV, pictures and the page, of all that is in the results' file."""
    folder = evaluation.config.folder
    measured = evaluation.results.shown()
    (folder / "results.csv").write_text(as_csv(measured), encoding="utf-8", newline="")
    names = [m.name for m in measured]
    pictures = {"bounds": bounds_svg(measured), "energies": energies_svg(looks, names)}
    cells = list(dict.fromkeys((p.order, p.num_steps) for p in points))
    for i, cell in enumerate(cells):
        name = "frontier" if i == 0 else f"frontier_{i + 1}"
        pictures[name] = frontier_svg([p for p in points if (p.order, p.num_steps) == cell], names)
    pictures = {name: svg for name, svg in pictures.items() if svg is not None}
    for name, svg in pictures.items():
        save(svg, folder / f"{name}.svg")
    write_report(json.loads(evaluation.config.json_path.read_text()), pictures, folder / "report.html")
    print(f"{folder / 'report.html'}")
