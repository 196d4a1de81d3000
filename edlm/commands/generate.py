"""``edlm generate``: rows of text into a file, by any number of processes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from edlm.commands.json_lines import read_lines
from edlm.commands.models import ModelOptions
from edlm.commands.terminal import console
from edlm.files import reading
from edlm.jobs.generation import Generation, GenerationOptions, Prompt, generate, identity_of, parts_of
from edlm.jobs.manifest import check_manifest
from edlm.jobs.output import check_output
from edlm.jobs.ray_data import RayOptions, generate_by_actors
from edlm.processes import join


@dataclass(frozen=True)
class GenerateConfig(GenerationOptions, ModelOptions):
    """Models, sampler, prompts and output of ``edlm generate``.

    Args:
        output: File to write: .jsonl or .parquet. Finished rows lie in the folder OUTPUT.parts next to it; the same
            command resumes from there.
        prompts: .txt file with a prompt on each line; or .jsonl file with objects that have a ``prompt``, or a ``text``
            to complete, whose gaps are <mask>, <mask:12> for 12 tokens, or the tokenizer's mask token. null for rows
            from nothing.
        batch_size: Rows that a process takes and puts on disk together, in whole items; changes no row.
        num_threads: Of a process, on the CPU: rows depend on it as on ``rows_per_item``. More processes use more
            cores.
        engine: What runs the processes: "accelerate" for those that a launcher started, or this one alone; "ray" for
            actors of Ray, on the machines of a cluster.
        ray: Its actors.
    """

    output: str
    prompts: str | None = None
    batch_size: int = 16
    num_threads: int = field(default=1, metadata={"most": 2**10})
    engine: Literal["accelerate", "ray"] = "accelerate"
    ray: RayOptions = field(default_factory=RayOptions)


def run(config: GenerateConfig) -> None:
    """Refuse what can be refused, load, and generate this process's share."""
    check_output(config.output)
    options = GenerationOptions(**{option.name: getattr(config, option.name) for option in fields(GenerationOptions)})
    prompts = [Prompt()] if config.prompts is None else read_prompts(config.prompts)
    check_manifest(parts_of(config.output), identity_of(options, prompts))
    by = _by_actors if config.engine == "ray" else _by_processes
    num_rows, new, rate = by(config, partial(_load, config, options, prompts))
    if join(in_step=False).is_main_process:
        line = f"{num_rows} rows in {config.output}: {new} of them new, {rate}"
        console().print(line, highlight=False, markup=False, soft_wrap=True)


def _load(config: GenerateConfig, options: GenerationOptions, prompts: Sequence[Prompt]) -> Generation:
    """In the process that makes rows."""
    device = join(in_step=False).device
    torch.set_num_threads(config.num_threads)
    return Generation(config.load_sampler(device), options, prompts)


def _by_processes(config: GenerateConfig, load: Callable[[], Generation]) -> tuple[int, int, str]:
    """Numbers of rows and of new ones, and how fast these were made."""
    generation, started = load(), time.perf_counter()
    new = generate(generation, config.output, batch_size=config.batch_size, title="items")
    return generation.outline.num_rows, new, _rate(new, started, join(in_step=False).num_processes, "process")


def _by_actors(config: GenerateConfig, load: Callable[[], Generation]) -> tuple[int, int, str]:
    started, sizes = time.perf_counter(), {"cpus_per_actor": config.num_threads, "batch_size": config.batch_size}
    num_rows, new, actors = generate_by_actors(load, config.output, config.ray, **sizes, title="items")
    return num_rows, new, _rate(new, started, actors, "actor")


def _rate(new: int, started: float, number: int, worker: str) -> str:
    plural = "" if number == 1 else "es" if worker.endswith("s") else "s"
    return f"{new / (time.perf_counter() - started):.2f} a second by {number} {worker}{plural}"


def read_prompts(path: str | Path) -> list[Prompt]:
    """Prompts, or texts with gaps, of a file; blank lines are left out.

    Raises:
        OSError: there is no such file.
        ValueError: it ends in another suffix, holds no prompt, or a line is not as it should be (names the line).
    """
    suffix = Path(path).suffix
    if suffix == ".jsonl":
        found = [(row.get("prompt", row.get("text")), "text" in row) for row in read_lines(path, _check)]
    elif suffix == ".txt":
        with reading(path, "hold text in UTF-8"):
            lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
        found = [(line, False) for line in (line.removesuffix("\r") for line in lines) if line.strip()]
    else:
        raise ValueError(f"prompts must be a .txt or a .jsonl file, got {path}")
    if not found:
        raise ValueError(f"prompts must hold text, got none in {path}")
    return [Prompt(text, has_gaps, f"{path}, prompt {i}") for i, (text, has_gaps) in enumerate(found, start=1)]


def _check(row: dict[str, Any]) -> None:
    given = [name for name in ("prompt", "text") if name in row]
    if len(given) != 1 or not isinstance(row[given[0]], str):
        raise ValueError(f"a row must hold a prompt, or a text with gaps, got {str(row)[:60]!r}")
