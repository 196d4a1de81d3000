"""``edlm evaluate``: bounds of samplers on held-out text, their cost and their samples, and a report of all that."""

import sys
from pathlib import Path

from edlm.commands.terminal import print_table
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import TERMINAL, as_csv, as_markdown
from edlm.evaluation.experiment.run import run as evaluate
from edlm.evaluation.plots.evaluation import bounds_svg, energies_svg, frontier_svg, plot_bounds, save
from edlm.evaluation.report.conclusions import conclusions
from edlm.evaluation.report.page import write_report
from edlm.evaluation.report.wandb import check_wandb, log_to_wandb


def run(config: EvaluateConfig) -> None:
    """Measure what the output lacks, then write and print results and conclusions."""
    config = config.quickened() if config.quick else config
    check_wandb(config.wandb)
    try:
        results = evaluate(config)
    except KeyboardInterrupt:
        path = config.json_path
        kept = f"what was measured is kept next to {path}; the same command resumes"
        print(f"edlm: interrupted: {kept if path else 'without --output nothing is kept'}", file=sys.stderr)
        raise
    concluded = conclusions(results, config)
    content = results.write(**concluded)
    _show(results, config, concluded)
    if config.report:
        _write_folder(results, content, config.folder)
    if config.wandb != "off":
        folder = config.folder or Path(config.output or "edlm-evaluate").parent
        log_to_wandb(content, mode=config.wandb, project=config.wandb_project, folder=folder)


def _show(results: Results, config: EvaluateConfig, concluded: dict) -> None:
    """Print the table and what follows from it; write the Markdown table and the picture that are requested."""
    print_table("likelihood bound of the sampler (upper bound of -log p; low = good)", results.rows, TERMINAL)
    ratios = [
        "{name} ({order}) reaches the bound of {than} ({than_order}, {than_steps} steps) in {value:.3f} "
        "[{low:.3f}, {high:.3f}] of its time".format(**ratio)
        for ratio in concluded["time_ratios"]  # inf: never; nan: of one row
    ]
    print("\n".join([*ratios, concluded["verdict"], *(f"warning: {warning}" for warning in concluded["warnings"])]))
    if config.markdown:
        table = as_markdown(results.rows)
        Path(config.markdown).write_text("\n".join([table, *(f"- {line}" for line in ratios)]) + "\n")
    if config.plot:
        rows = [row for row in results.rows if row.name in (config.plotted or [row.name])]
        rows = [row for row in rows if row.order in (config.plotted_orders or [row.order])]
        data = results.record["data"]
        title = "{rows} held-out blocks of {length} tokens from {documents} documents".format(**data)
        plot_bounds(rows, config.plot, title=title)


def _write_folder(results: Results, result: dict, folder: Path) -> None:
    """CSV, pictures and the page."""
    (folder / "results.csv").write_text(as_csv(results.rows), encoding="utf-8", newline="")
    names = [row.name for row in results.rows]
    spreads = results.record.get("energy_spreads", [])
    looks = [(s["name"], s["order"], centred) for s, centred in zip(spreads, results.centred, strict=True)]
    pictures = {"bounds": bounds_svg(results.rows), "energies": energies_svg(looks, names)}
    for i, cell in enumerate(dict.fromkeys((p.order, p.num_steps) for p in results.points)):
        name = "frontier" if i == 0 else f"frontier_{i + 1}"
        pictures[name] = frontier_svg([p for p in results.points if (p.order, p.num_steps) == cell], names)
    pictures = {name: svg for name, svg in pictures.items() if svg is not None}
    for name, svg in pictures.items():
        save(svg, folder / f"{name}.svg")
    write_report(result, pictures, folder / "report.html")
    print(f"{folder / 'report.html'}")
