"""Generation as a job: rows from nothing, from prompts or into gaps, each decided by its index alone."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from edlm.diffusion.streams import seed_of
from edlm.energies.card import EnergyCard
from edlm.files import reading
from edlm.jobs.job import Job
from edlm.jobs.output import check_output, write_rows
from edlm.jobs.parts import Key
from edlm.lock import locked
from edlm.packages import versions
from edlm.processes import join, on_main_process
from edlm.rules import Config, check_options
from edlm.sampler.impossible import rows_numbered
from edlm.sampler.passes import CacheName, check_cache
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.text.blocks import views_of
from edlm.sampler.text.generation import run, written
from edlm.sampler.text.options import InfillOptions, TextOptions
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

    length: int | None = None
    """Tokens of a row, prompt included; None for 128, or as many as the denoiser takes. Text with gaps has its own."""

    max_new_tokens: int | None = None
    """Tokens after a prompt; None for what it leaves of ``length``."""

    cache: CacheName = "auto"
    """Keys and values that are kept, see `TextOptions`."""

    seed: int = 0
    """Row i has a seed that is made of this one and of i."""

    rows_per_item: int = 8
    """Consecutive rows that run through the networks together, always the same ones: sums of floating-point numbers,
    and by them a token in some thousands, depend on it. More are faster on a GPU, and take more memory."""


@dataclass(frozen=True)
class Outline:
    """What is known of rows before they are made.

    Attributes:
        identity: All that decides the rows, as JSON values.
        num_rows: Number of rows.
        rows_per_item: Consecutive rows of a work item; the last may have fewer.
    """

    identity: Mapping[str, Any]
    num_rows: int
    rows_per_item: int

    @property
    def keys(self) -> range:
        """Keys of the items."""
        return range(-(-self.num_rows // self.rows_per_item))

    def indices(self, key: int) -> range:
        """Indices of an item's rows."""
        return range(key * self.rows_per_item, min((key + 1) * self.rows_per_item, self.num_rows))


@dataclass(frozen=True, eq=False)
class Generation:
    """Rows to generate, in work items that depend on nothing but their key.

    Args:
        sampler: Writes the rows.
        options: Which rows.
        prompts: What they begin with.

    Raises:
        ValueError: a prompt cannot be written (names its place).
    """

    sampler: EnergySampler
    options: GenerationOptions
    prompts: Sequence[Prompt] = (Prompt(),)

    def __post_init__(self) -> None:
        check_cache(self.sampler, self.options.cache)
        _ = self._rows  # checks them

    @cached_property
    def outline(self) -> Outline:
        """The rows, whatever makes them."""
        return Outline(self._identity, len(self.prompts) * self.options.num_samples, self.options.rows_per_item)

    def item(self, key: int) -> list[dict[str, Any]]:
        """The rows of an item, JSON values.

        A row has ``index``, ``prompt_index``, ``seed``, ``prompt``, ``text``, ``tokens``; ``passes``, the denoiser
        passes that wrote some of its tokens; and ``marginals``, "exact" or "approximate" (see ``cache``).
        """
        denoiser, indices = self.sampler.denoiser, self.outline.indices(key)
        sources = [index // self.options.num_samples for index in indices]
        seeds = [seed_of(self.options.seed, index) >> 1 for index in indices]  # signed integers of 64 bits hold it
        rows = [self._rows[source] for source in sources]
        options = TextOptions(seeds=seeds, cache=self.options.cache)
        with rows_numbered(indices):
            output = run(written(self.sampler, rows, options, Transcript(denoiser)))
        taken = output.steps.taken.values()
        return [
            {
                **{"index": index, "prompt_index": source, "seed": seed, "prompt": self.prompts[source].text},
                **{"text": decode(denoiser, tokens), "tokens": tokens.tolist()},
                "passes": sum(int(step.num_revealed[r] > 0) for step in taken) * self.sampler.num_particles,
                "marginals": output.marginals,
            }
            for r, (index, source, seed, tokens) in enumerate(zip(indices, sources, seeds, output.tokens, strict=True))
        ]

    @property
    def _identity(self) -> dict[str, Any]:
        denoiser, energy = self.sampler.denoiser, self.sampler.energy
        known = {} if denoiser.identity is None else asdict(denoiser.identity)
        known.pop("name", None)
        return {
            **identity_of(self.options, self.prompts),
            "sampler": self.sampler.options,
            "denoiser": {**_described(denoiser), **known},
            "energy": None if energy is None else {**_described(energy), "revision": EnergyCard.of(energy).fingerprint},
            "machine": {"device": _name_of(self.sampler.device), "threads": torch.get_num_threads()},
        }

    @cached_property
    def _rows(self) -> list[Row]:
        """A row of each prompt, before anything is written."""
        return [self._row(prompt) for prompt in self.prompts]

    def _row(self, prompt: Prompt) -> Row:
        denoiser, options = self.sampler.denoiser, self.options
        try:
            if not prompt.has_gaps:
                new = options.max_new_tokens or num_new_tokens(denoiser, prompt.text, options.length)
                (row,) = rows_of_prompts(denoiser, prompt.text, new)
            else:
                (row,) = rows_of_texts(denoiser, prompt.text, InfillOptions().mask, InfillOptions().span_length)
            views_of(row, denoiser, self.sampler.block_length)
        except ValueError as error:
            raise ValueError(f"{prompt.place}: {error}") from error
        return row


def generate(generation: Generation, output: str | Path, *, batch_size: int = 16, title: str | None = None) -> int:
    """Generate all rows into a file, by all processes that were launched together; the main one writes it at the end.

    Finished rows lie in the folder `parts_of` of the output: an interrupted job resumes, also with other processes.

    Args:
        generation: The rows.
        output: File to write, .jsonl or .parquet.
        batch_size: Rows that a process puts on disk together, in whole items; changes no row.
        title: Of the main process's progress bar; none without.

    Returns:
        Number of rows that were missing.

    Raises:
        LockedError: another job writes to the folder of parts.
        ValueError: the output is of another kind; or the folder of parts is of another job (names what differs).
        ImpossibleCandidates: as `EnergySampler.fill`; rows are numbered by their ``index``.
    """
    at_a_time = -(-batch_size // generation.options.rows_per_item)
    return write(
        generation.outline, output, lambda job: job.run(lambda keys: map(generation.item, keys), at_a_time, title)
    )


def write(outline: Outline, output: str | Path, run: Callable[[Job], list[Key]]) -> int:
    """Have a job make the rows of an outline, by `run`, and merge them; the rest is as in `generate`."""
    check_output(output)
    job = Job(parts_of(output), outline.identity, outline.keys)
    processes = join(in_step=False)
    with on_main_process(locked(job.folder)):
        missing = run(job)
        if processes.is_main_process:
            with reading(job.folder, f"hold each of {outline.num_rows} rows once"):
                write_rows(output, _in_order(job, outline.num_rows))
    return sum(len(outline.indices(key)) for key in missing)


def parts_of(output: str | Path) -> Path:
    """The folder that holds finished rows until, and after, they are merged."""
    return Path(f"{output}.parts")


def identity_of(options: GenerationOptions, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What is known of the identity of `Generation.outline` before a model is loaded."""
    texts = json.dumps([(prompt.text, prompt.has_gaps) for prompt in prompts])
    return {
        "options": asdict(options),
        "prompts": {"number": len(prompts), "sha256": hashlib.sha256(texts.encode()).hexdigest()},
        "versions": versions(),
    }


def _described(module: nn.Module) -> dict[str, Any]:
    return {"class": type(module).__name__, "dtypes": sorted({str(weight.dtype) for weight in module.parameters()})}


def _name_of(device: torch.device) -> str:
    """What decides the order of sums: a GPU's model, a CPU's instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


def _in_order(job: Job, total: int) -> Iterator[dict[str, Any]]:
    rows = (row for item in job.values() for row in item)
    for index, row in zip(range(total), rows, strict=True):
        if row["index"] != index:
            raise ValueError(f"row {row['index']} in place of row {index}")
        yield row
