"""``edlm languages puzzles``: shares of puzzles that samplers fill without a mistake, with their bounds."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from edlm.commands.languages import RerankerConfig, models_of
from edlm.commands.terminal import print_table
from edlm.corpus.language import Language
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.evaluation.experiment.provenance import in_words, provenance, write_result
from edlm.evaluation.languages.puzzles import Puzzles, measure_puzzles, parallelism_scores
from edlm.files import check_writable, write_atomically
from edlm.rules import Config
from edlm.sampler.sampler import EnergySampler


@dataclass(frozen=True)
class PuzzleConfig(Config):
    """Puzzles, and the samplers that fill them.

    Args:
        name: Name in tables.
        language: The puzzles; any language with a check, with its first tokens as the prompt.
        length: Tokens of a row; null for a puzzle's own.
        num_given: Given tokens of a row; null for the puzzle's own number.
        num_steps: Denoiser passes; null for one token a pass. Those beyond the number of tokens are left out.
        rerankers: Measured in addition to the base.
        denoiser: Folder of a trained denoiser; null for the language's own exact marginals.
        order: Reveal order.
    """

    name: str
    language: LanguageConfig = field(default_factory=lambda: LanguageConfig("sudoku"))
    length: int | None = None
    num_given: int | None = field(default=None, metadata={"least": 0})
    num_steps: tuple[int | None, ...] = (1, 2, 4, 8, None)
    rerankers: tuple[RerankerConfig, ...] = field(
        default=(RerankerConfig("truth, k = 16", "truth", 16),), metadata={"least": 0}
    )
    denoiser: str | None = None
    order: str = "random"


@dataclass(frozen=True)
class PuzzlesConfig(Config):
    """Shares of valid results over denoiser passes, and bounds on the same puzzles.

    Args:
        experiments: One kind of puzzle each.
        num_samples: Puzzles of an experiment, the same ones for all of its samplers.
        num_bound_rows: Puzzles on whose solutions the bounds are measured.
        inner_draws: Draws of candidates over which bounds are averaged inside of the logarithm, where there are any.
        seed: Of puzzles, orders and candidates.
        batch_size: Puzzles at a time.
        output: JSON file to write; none by default.
        markdown: Tables to write; none by default.
    """

    experiments: tuple[PuzzleConfig, ...] = (PuzzleConfig("sudoku"),)
    num_samples: int = 1000
    num_bound_rows: int = 200
    inner_draws: int = 16
    seed: int = 0
    batch_size: int = 250
    output: str | None = None
    markdown: str | None = None


def puzzles(config: PuzzlesConfig) -> None:
    """Measure, print a table for each kind of puzzle, write JSON and Markdown."""
    check_writable(config.output, config.markdown)
    started, results = time.perf_counter(), []
    for experiment in config.experiments:
        results.append(result := measured(experiment, config))
        print_table(result["experiment"], result["rows"], _COLUMNS)
        scores = (f"{name} {cell(score['value'], score['stderr'], 0)}" for name, score in result["aup"].items())
        print("AUP:", "; ".join(scores), flush=True)
    if config.output:
        write_result(config.output, config, seconds=time.perf_counter() - started, results=results)
    if config.markdown:
        write_atomically(config.markdown, "\n".join(markdown(results, config)) + "\n")


def measured(experiment: PuzzleConfig, config: PuzzlesConfig) -> dict[str, Any]:
    """JSON values: the ``rows`` of all samplers, ``aup`` by name, and ``truth``, the puzzles' own nats per token."""
    language = build_language(experiment.language)
    task = Puzzles.draw(language, config.num_samples, experiment.length, experiment.num_given, config.seed)
    samplers = _samplers(experiment, language, task.num_written)
    names = ("num_bound_rows", "inner_draws", "seed", "batch_size")
    cells = measure_puzzles(task, samplers, **{name: getattr(config, name) for name in names})
    rows: list[dict[str, Any]] = []
    solved: dict[str, dict[float, Tensor]] = {}
    for row, flags in tqdm(cells, experiment.name, len(samplers), disable=None, leave=False):
        rows.append(row)
        solved.setdefault(row["name"], {})[row["tokens_per_pass"]] = flags
    scores = parallelism_scores(solved, config.seed)
    truth = task.nats_per_token()
    return {
        "experiment": experiment.name,
        "num_given": int(task.given[0].sum()),
        "num_written": task.num_written,
        "truth": {"nats_per_token": truth.value, "stderr": truth.stderr, "n": truth.n},
        "rows": rows,
        "aup": {name: {"value": score.value, "stderr": score.stderr} for name, score in scores.items()},
    }


def _samplers(experiment: PuzzleConfig, language: Language, num_written: int) -> dict[tuple[str, int], EnergySampler]:
    denoiser, settings = models_of(language, experiment.denoiser, experiment.rerankers)
    passes = dict.fromkeys(steps or num_written for steps in experiment.num_steps)
    return {
        (name, steps): EnergySampler(denoiser, energy, num_steps=steps, order=experiment.order, **options)
        for name, (energy, options) in settings.items()
        for steps in passes
        if steps <= num_written
    }


def cell(value: float, error: float, digits: int, unit: str = "") -> str:
    """A number with its standard error."""
    return f"{value:.{digits}f}{unit} ± {error:.{digits}f}"


def _valid(row: Mapping[str, Any]) -> str:
    return cell(100 * row["valid_rate"], 100 * row["valid_stderr"], 1, "%")


def _bound(row: Mapping[str, Any]) -> str:
    return cell(row["bound_nats_per_token"], row["bound_stderr"], 3)


_COLUMNS = {
    "decided by": lambda r: r["name"],
    "passes": lambda r: str(r["num_steps"]),
    "tokens a pass": lambda r: f"{r['tokens_per_pass']:g}",
    "valid": _valid,
    "nats/token": _bound,
}


def markdown(results: Sequence[Mapping[str, Any]], config: PuzzlesConfig) -> list[str]:
    """Lines: what was measured, and for each kind of puzzle a table of shares and one of bounds."""
    lines = [
        "# Puzzles: shares of valid results over denoiser passes",
        "",
        f"{in_words(provenance())}, seed {config.seed}, {config.num_samples} puzzles a cell, the same ones in all "
        "cells of a table; ± is one standard error. Bounds: upper bounds of `-log p` in nats per written token, low = "
        f"good, on the first {config.num_bound_rows} puzzles; where candidates are weighed, {config.inner_draws} inner "
        "draws. "
        "AUP: area under valid results (%) over tokens a pass (arXiv:2601.07568), with the error of a bootstrap over "
        "puzzles.",
    ]
    for result in results:
        given, written, truth = (result[key] for key in ("num_given", "num_written", "truth"))
        methods = {name: [*rows] for name, rows in groupby(result["rows"], lambda row: row["name"])}
        passes = [row["num_steps"] for row in next(iter(methods.values()))]
        lines += ["", f"## {result['experiment']}", "", f"{given} tokens given, {written} written."]
        for title, show, last in (("valid", _valid, "AUP"), ("nats per token", _bound, "")):
            heads = [f"{title}, passes:", *map(str, passes), *([last] if last else [])]
            lines += ["", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
            for name, rows in methods.items():
                score = result["aup"][name]
                cells = [*map(show, rows), *([cell(score["value"], score["stderr"], 0)] if last else [])]
                lines.append(f"| {name} | {' | '.join(cells)} |")
        lines += ["", f"The truth's own: {cell(truth['nats_per_token'], truth['stderr'], 3)} nats per token."]
    return lines
