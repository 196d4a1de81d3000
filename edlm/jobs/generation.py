"""Generation as a job: rows from nothing, from prompts or into gaps, each decided by its index alone."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from edlm.denoisers.base import Denoiser
from edlm.diffusion.streams import seed_of
from edlm.energies.card import EnergyCard
from edlm.files import reading
from edlm.jobs.job import Job
from edlm.jobs.launch import join
from edlm.jobs.output import check_suffix, write_rows
from edlm.packages import versions
from edlm.rules import Config, check_options
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.text import generation
from edlm.sampler.text.blocks import check_block_length, views_of
from edlm.sampler.text.generation import InfillOptions, TextOptions
from edlm.sampler.text.prompts import Row, num_new_tokens, rows_of_prompts, rows_of_texts
from edlm.sampler.text.transcript import Transcript, decode


class Prompt(NamedTuple):
    """What rows are written from.

    Attributes:
        text: Continued after a document separator; None for rows from nothing.
        has_gaps: Whether ``text`` is instead to be completed, in its gaps, see `EnergySampler.infill`.
        place: Where it is, for messages.
    """

    text: str | None = None
    has_gaps: bool = False
    place: str = "prompt"


@check_options
@dataclass(frozen=True, kw_only=True)
class GenerationOptions(Config):
    """What rows are generated; all of it is part of the job's identity."""

    num_samples: int = 1
    """Rows of each prompt, one after the other; or from nothing."""

    length: int = 128
    """Tokens of a row, prompt included; a text with gaps has its own."""

    max_new_tokens: int | None = None
    """Tokens after a prompt; None for what it leaves of ``length``."""

    block_length: int | None = None
    """Tokens written together after a prompt, block after block, each in all steps; None for all at once."""

    seed: int = 0
    """Row i has a seed that is made of this one and of i."""

    rows_per_item: int = 8
    """Consecutive rows that run through the networks together, always the same ones: sums of floating-point numbers,
    and by them a token in some thousands, depend on it. More are faster on a GPU, and take more memory."""


def generate(
    sampler: EnergySampler,
    output: str | Path,
    options: GenerationOptions | None = None,
    prompts: Sequence[Prompt] = (Prompt(),),
    *,
    batch_size: int = 16,
    title: str | None = None,
) -> int:
    """Generate all rows into a file, by all processes that were launched together; the main one writes it at the end.

    Finished rows lie in the folder `parts_of` of the output: an interrupted job resumes, also with other processes.
    Each row has ``index``, ``prompt_index``, ``seed``, ``prompt``, ``text``, ``tokens`` and ``passes``, the denoiser
    passes that wrote some of its tokens.

    Args:
        sampler: Writes the rows.
        output: File to write, .jsonl or .parquet.
        options: Which rows; by default one.
        prompts: What they begin with.
        batch_size: Rows that a process puts on disk together, in whole items; changes no row.
        title: Of the main process's progress bar; none without.

    Returns:
        Number of rows that were missing.

    Raises:
        ValueError: the output is of another kind; a prompt cannot be written (names its place); or the folder of parts
            is of another job (names what differs).
        ImpossibleCandidates: as `EnergySampler.fill`.
    """
    check_suffix(output)
    options = GenerationOptions() if options is None else options
    block_length = check_block_length(sampler.denoiser, options.block_length)
    rows = [_row_of(sampler.denoiser, prompt, options, block_length) for prompt in prompts]
    identity = {**identity_of(options, prompts), **_identity_of_sampler(sampler)}
    total, size = len(prompts) * options.num_samples, options.rows_per_item
    job = Job(parts_of(output), identity, range(-(-total // size)))

    def indices_of(key: int) -> range:
        return range(key * size, min((key + 1) * size, total))

    def item(key: int) -> list[dict[str, Any]]:
        indices = indices_of(key)
        sources = [i // options.num_samples for i in indices]
        seeds = [seed_of(options.seed, i) >> 1 for i in indices]  # signed integers of 64 bits hold it
        wanted, transcript = TextOptions(seeds=seeds), Transcript(sampler.denoiser)
        written = generation.run(
            generation.write_rows(sampler, [rows[p] for p in sources], wanted, transcript, block_length)
        )
        return [
            {
                **{"index": i, "prompt_index": p, "seed": seed, "prompt": prompts[p].text},
                **{"text": decode(sampler.denoiser, tokens), "tokens": tokens.tolist()},
                "passes": sum(int(step.num_revealed[r] > 0) for step in written.steps),
            }
            for r, (i, p, seed, tokens) in enumerate(zip(indices, sources, seeds, written.tokens, strict=True))
        ]

    missing = job.run(lambda keys: map(item, keys), at_a_time=-(-batch_size // size), title=title)
    if join().is_main_process:
        with reading(job.folder, f"hold each of {total} rows once"):
            write_rows(output, _in_order(job, total))
    return sum(len(indices_of(key)) for key in missing)


def parts_of(output: str | Path) -> Path:
    """The folder that holds finished rows until, and after, they are merged."""
    return Path(f"{output}.parts")


def identity_of(options: GenerationOptions, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What decides the rows next to the sampler, as JSON values."""
    texts = json.dumps([(prompt.text, prompt.has_gaps) for prompt in prompts])
    return {
        "options": asdict(options),
        "prompts": {"number": len(prompts), "sha256": hashlib.sha256(texts.encode()).hexdigest()},
        "versions": versions(),
    }


def _identity_of_sampler(sampler: EnergySampler) -> dict[str, Any]:
    denoiser, energy = sampler.denoiser, sampler.energy
    return {
        "sampler": sampler.options,
        "denoiser": {**_described(denoiser), "revision": getattr(denoiser.identity, "revision", None)},
        "energy": None if energy is None else {**_described(energy), "revision": EnergyCard.of(energy).fingerprint},
        "machine": {"device": _name_of(sampler.device), "threads": torch.get_num_threads()},
    }


def _described(module: nn.Module) -> dict[str, Any]:
    return {"class": type(module).__name__, "dtypes": sorted({str(weight.dtype) for weight in module.parameters()})}


def _name_of(device: torch.device) -> str:
    """What decides the order of sums: a GPU's model, a CPU's instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


def _row_of(denoiser: Denoiser, prompt: Prompt, options: GenerationOptions, block_length: int | None) -> Row:
    """A row as it is before anything is written."""
    try:
        if prompt.has_gaps:
            if options.block_length is not None:
                raise ValueError(f"block_length must be null with gaps, which are filled at once, got {block_length}")
            (row,) = rows_of_texts(denoiser, prompt.text, InfillOptions().mask, InfillOptions().span_length)
        else:
            new = options.max_new_tokens or num_new_tokens(denoiser, prompt.text, options.length)
            (row,) = rows_of_prompts(denoiser, prompt.text, new)
        views_of(row, denoiser, block_length)
    except ValueError as error:
        raise ValueError(f"{prompt.place}: {error}") from error
    return row


def _in_order(job: Job, total: int) -> Iterator[dict[str, Any]]:
    rows = (row for item in job.values() for row in item)
    for index, row in zip(range(total), rows, strict=True):
        if row["index"] != index:
            raise ValueError(f"row {row['index']} in place of row {index}")
        yield row
