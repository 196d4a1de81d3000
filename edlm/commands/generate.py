"""``edlm generate``: rows of text into a file, by any number of processes."""

import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from edlm.commands.json_lines import read_lines
from edlm.commands.terminal import console
from edlm.denoisers.loading import load_denoiser
from edlm.energies.loading import load_energy
from edlm.files import reading
from edlm.jobs.generation import Generation, GenerationOptions, Prompt, generate, identity_of, parts_of
from edlm.jobs.manifest import check_manifest
from edlm.jobs.output import check_output
from edlm.processes import join
from edlm.sampler.kernel import device_of
from edlm.sampler.options import SamplerOptions
from edlm.sampler.sampler import EnergySampler


@dataclass(frozen=True)
class GenerateConfig(GenerationOptions):
    """Models, sampler, prompts and output of ``edlm generate``.

    Args:
        output: File to write: .jsonl or .parquet. Finished rows lie in the folder OUTPUT.parts next to it; the same
            command resumes from there.
        denoiser: Folder, hub id or shipped name.
        energy: Folder of an energy, a shipped name, or a causal LM as "causal:PATH" (the denoiser's tokens) or
            "text:PATH" (any tokens); null for the base sampler.
        sampler: How to sample.
        prompts: .txt file with a prompt on each line; or .jsonl file with objects that have a ``prompt``, or a ``text``
            to complete, whose gaps are <mask>, <mask:12> for 12 tokens, or the tokenizer's mask token. null for rows
            from nothing.
        batch_size: Rows that a process takes and puts on disk together, in whole items; changes no row.
        num_threads: Of a process, on the CPU: rows depend on it as on ``rows_per_item``. More processes use more
            cores.
        device: Device of denoiser and energy: "cpu", "cuda", "mps", or "auto" for the process's own.
    """

    output: str
    denoiser: str = "tinystories"
    energy: str | None = "tinystories"
    sampler: SamplerOptions = field(default_factory=lambda: SamplerOptions(num_steps=8))
    prompts: str | None = None
    batch_size: int = 16
    num_threads: int = field(default=1, metadata={"most": 2**10})
    device: str = "auto"


def run(config: GenerateConfig) -> None:
    """Refuse what can be refused, load, and generate this process's share."""
    check_output(config.output)
    options = GenerationOptions(**{option.name: getattr(config, option.name) for option in fields(GenerationOptions)})
    prompts = [Prompt()] if config.prompts is None else read_prompts(config.prompts)
    check_manifest(parts_of(config.output), identity_of(options, prompts))
    processes = join(in_step=False)
    torch.set_num_threads(config.num_threads)
    denoiser = load_denoiser(config.denoiser, device=processes.device if config.device == "auto" else config.device)
    energy = load_energy(config.energy).to(device_of(denoiser)) if config.energy is not None else None
    sampler = EnergySampler(denoiser, energy, **asdict(config.sampler))
    generation = Generation(sampler, options, prompts)
    started = time.perf_counter()
    new = generate(generation, config.output, batch_size=config.batch_size, title="items")
    seconds = time.perf_counter() - started
    if processes.is_main_process:
        number = processes.num_processes
        rate = f"{new / seconds:.2f} a second by {number} process{'es' if number > 1 else ''}"
        line = f"{generation.num_rows} rows in {config.output}: {new} of them new, {rate}"
        console().print(line, highlight=False, markup=False, soft_wrap=True)


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
