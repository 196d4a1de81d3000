"""``edlm evaluate``: bounds of samplers on held-out text, their cost and their samples, and a report of all that."""

import sys
from pathlib import Path

from accelerate import PartialState

from edlm.commands.terminal import print_table
from edlm.evaluation.evaluation import Evaluation
from edlm.evaluation.evaluation import run as evaluate
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.rows import TERMINAL
from edlm.evaluation.report.wandb import log_to_wandb
from edlm.files import check_writable, write_atomically
from edlm.packages import check_wandb


def run(config: EvaluateConfig) -> None:
    """Measure what the output lacks, then write and print results and conclusions, the recommendation last."""
    check_wandb(config.wandb)
    check_writable(config.markdown, config.plot)
    try:
        evaluation = evaluate(config)
    except KeyboardInterrupt:
        path = config.json_path
        kept = f"what was measured is kept next to {path}; the same command resumes"
        print(f"edlm: interrupted: {kept if path else 'without --output nothing is kept'}", file=sys.stderr)
        raise
    if not PartialState().is_main_process:
        return
    content = evaluation.content
    _show(evaluation)
    if config.report:
        evaluation.write_folder(config.folder)
        print(config.folder / "report.html")
    if config.wandb != "off":
        folder = config.folder or Path(config.output or "edlm-evaluate").parent
        log_to_wandb(content, mode=config.wandb, project=config.wandb_project, folder=folder)
    print(content["verdict"])


def _show(evaluation: Evaluation) -> None:
    """Print the table and what follows from it; write the Markdown table and the picture that are requested."""
    config, concluded = evaluation.config, evaluation.conclusions
    print_table("likelihood bound of the sampler (upper bound of -log p; low = good)", evaluation.rows, TERMINAL)
    lines = [line["text"] for line in concluded["by_energy"]]
    if lines:
        lines.insert(0, "Gains over the base in as many passes, nats per token, with 95 % intervals:")
    warnings = (f"warning: {warning}" for warning in concluded["warnings"])
    print("\n".join([*lines, *evaluation.ratios, *warnings]))
    if config.markdown:
        lines = [evaluation.table(), *(f"- {line}" for line in evaluation.ratios)]
        write_atomically(config.markdown, "\n".join(lines) + "\n")
    if config.plot:
        evaluation.plot(config.plot)
