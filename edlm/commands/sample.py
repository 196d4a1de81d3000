"""``edlm sample``: text from nothing, from a prompt, or into gaps."""

import json
import logging
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal, TextIO

from edlm.commands.models import ModelOptions
from edlm.denoisers.base import Denoiser
from edlm.files import check_writable, replacing_text
from edlm.sampler.passes import CacheName
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.text.generation import GenerationOutput, Partial
from edlm.sampler.text.prompts import num_new_tokens
from edlm.sampler.text.trace import check_trace
from edlm.sampler.text.transcript import decode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleConfig(ModelOptions):
    """Models, sampler and texts of ``edlm sample``.

    Args:
        prompt: Text that each sample continues, after a document separator.
        fill: Text to complete, in place of a prompt; its gaps are <mask>, <mask:12> for 12 tokens, or the tokenizer's
            mask token.
        num_samples: Number of samples.
        length: Tokens of each, prompt included; null for 128, or as many as the denoiser takes.
        max_new_tokens: Tokens after the prompt; null for what it leaves of ``length``.
        cache: Keys and values that are kept: "auto" where that is exact, "none"; or, approximately and in blocks
            (``sampler.block_length``), "prefix" or "dual".
        batch_size: Sequences at a time.
        seed: Sample i has the seed ``seed + i``.
        format: "text", or "jsonl" with diagnostics of each step.
        stream: Show the first sample of each batch after each step, on the standard error.
        trace: HTML page to write: how the first four samples came about, step by step; or .svg, a picture of the first.
        output: File to write; the terminal by default.
    """

    prompt: str | None = field(default=None, metadata={"least": 0})
    fill: str | None = None
    num_samples: int = 4
    length: int | None = None
    max_new_tokens: int | None = None
    cache: CacheName = "auto"
    batch_size: int = 16
    seed: int = 0
    format: Literal["text", "jsonl"] = "text"
    stream: bool = False
    trace: str | None = None
    output: str | None = None


def run(config: SampleConfig) -> None:
    """Load, sample batch by batch, and write; a file as a whole."""
    if config.trace is not None:
        check_trace(config.trace)
    check_writable(config.output, config.trace)
    sampler = config.load_sampler()
    if config.prompt is not None and config.fill is not None:
        raise ValueError("give a prompt or a text to fill, not both")
    if re.search(r"<mask(:\d+)?>", config.prompt or ""):
        logger.warning("a prompt is text as it is, also %s: gaps are filled by --fill", "<mask>")
    with replacing_text(config.output) if config.output else nullcontext(sys.stdout) as target:
        for start in range(0, config.num_samples, config.batch_size):
            seeds = range(config.seed + start, config.seed + min(start + config.batch_size, config.num_samples))
            output = _draw(sampler, config, seeds)
            _write(target, output, sampler.denoiser, config.format)
            if config.trace and start == 0:
                output.trace().save(config.trace)


def _draw(sampler: EnergySampler, config: SampleConfig, seeds: Sequence[int]) -> GenerationOutput:
    """One batch."""

    def show(partial: Partial) -> None:
        print(f"--- seed {seeds[0]}, step {partial.step}\n{partial.text[0]}\n", file=sys.stderr)

    options = {"num_return_sequences": len(seeds), "seed": seeds, "callback": show if config.stream else None}
    options["cache"] = config.cache
    options["num_likeliest"] = 5 if config.trace and seeds[0] == config.seed else 0
    if config.fill is None:
        new = config.max_new_tokens or num_new_tokens(sampler.denoiser, config.prompt, config.length)
        return sampler.generate(config.prompt, new, eos_token_id=None, **options)
    return sampler.infill(config.fill, **options)


def _write(target: TextIO, output: GenerationOutput, denoiser: Denoiser, format: str) -> None:
    for row, tokens in enumerate(output.tokens):
        text = decode(denoiser, tokens)
        if format == "text":
            about = "" if output.marginals == "exact" else f", {output.marginals} marginals"
            target.write(f"--- seed {output.seeds[row]}{about}\n{text}\n\n")
            continue
        steps = [
            {
                "step": info.step,
                "t": info.t,
                "num_revealed": int(info.num_revealed[row]),
                "denoiser_calls": info.denoiser_calls,
                "ess": info.ess[row].tolist(),
                "energies": info.energies[row].tolist(),
            }
            for info in output.steps
        ]
        record = {"seed": output.seeds[row], "text": text, "tokens": tokens.tolist(), "marginals": output.marginals}
        record["steps"] = steps
        target.write(json.dumps(record) + "\n")
    target.flush()
