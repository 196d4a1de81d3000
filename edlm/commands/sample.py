"""``edlm sample``: text from nothing, from a prompt, or into masks."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Literal, TextIO

import torch
from torch import Tensor

from edlm.config import SamplerConfig
from edlm.denoisers.loading import load_denoiser
from edlm.denoisers.masked_lm import MaskedLMDenoiser
from edlm.energies.pretrained import load_energy
from edlm.sampler.output import SampleOutput


@dataclass(frozen=True)
class SampleConfig:
    """What is written by what.

    Args:
        denoiser: Folder, hub id or shipped name.
        energy: Folder of an energy, or a shipped name; null for the base sampler.
        sampler: How to sample.
        prompt: Text that each sample continues, after a document separator.
        fill: Text with the tokenizer's mask token wherever one token is to be written; instead of a prompt.
        num_samples: How many.
        length: Tokens of each, prompt included.
        batch_size: Sequences at a time.
        seed: Sample i has the seed ``seed + i``.
        format: "text", or "jsonl" with diagnostics of each step.
        output: File to write; the terminal by default.
    """

    denoiser: str = "tinystories"
    energy: str | None = "tinystories"
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(num_candidates=None))
    prompt: str | None = None
    fill: str | None = None
    num_samples: int = 4
    length: int = 128
    batch_size: int = 16
    seed: int = 0
    format: Literal["text", "jsonl"] = "text"
    output: str | None = None


def run(config: SampleConfig) -> None:
    """Load, sample batch by batch, write each batch when it is there."""
    denoiser = load_denoiser(config.denoiser)
    energy = load_energy(config.energy) if config.energy is not None else None
    sampler = config.sampler.build(denoiser, energy)
    x_t = initial_tokens(denoiser, config.length, prompt=config.prompt, fill=config.fill)
    target = open(config.output, "w", encoding="utf-8") if config.output else sys.stdout
    try:
        for start in range(0, config.num_samples, config.batch_size):
            seeds = range(config.seed + start, config.seed + min(start + config.batch_size, config.num_samples))
            output = sampler.fill(x_t.repeat(len(seeds), 1), seeds=seeds)
            _write(target, output, denoiser, config.format)
    finally:
        if config.output:
            target.close()


def initial_tokens(
    denoiser: MaskedLMDenoiser, length: int, *, prompt: str | None = None, fill: str | None = None
) -> Tensor:
    """The sequence to start from: ``x_t`` of shape ``[1, length]``.

    Args:
        denoiser: Its tokenizer reads the text.
        length: Tokens of a sequence (not used by ``fill``).
        prompt: Text at the start, after a separator; masks follow.
        fill: Text with mask tokens in it.

    Raises:
        ValueError: both are given, the prompt leaves no room, or there is nothing to fill.
    """
    tokenizer, mask = denoiser.tokenizer, denoiser.mask_token_id
    if prompt is not None and fill is not None:
        raise ValueError("give a prompt or a text to fill, not both")
    if fill is not None:
        x_t = torch.tensor([tokenizer(fill, add_special_tokens=False)["input_ids"]])
        if not (x_t == mask).any():
            raise ValueError(f"fill must hold {tokenizer.mask_token} where text is to be written, got {fill!r}")
        return x_t
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
    if prompt is not None and tokenizer.eos_token_id is not None:
        start = [tokenizer.eos_token_id, *start]
    if len(start) >= length:
        raise ValueError(f"length must be above the prompt's {len(start)} tokens, got {length}")
    return torch.tensor([start + [mask] * (length - len(start))])


def decode(denoiser: MaskedLMDenoiser, tokens: Tensor) -> str:
    """Text of one sequence; a document separator becomes an empty line."""
    text = denoiser.tokenizer.decode(tokens)
    separator = denoiser.tokenizer.eos_token
    return (text.replace(separator, "\n\n") if separator else text).strip()


def _write(target: TextIO, output: SampleOutput, denoiser: MaskedLMDenoiser, format: str) -> None:
    for row, tokens in enumerate(output.tokens):
        text = decode(denoiser, tokens)
        if format == "text":
            target.write(f"--- seed {output.seeds[row]}\n{text}\n\n")
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
        record = {"seed": output.seeds[row], "text": text, "tokens": tokens.tolist(), "steps": steps}
        target.write(json.dumps(record) + "\n")
    target.flush()
