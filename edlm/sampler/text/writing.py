"""The writing of texts, block by block and step by step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from edlm.diffusion.streams import RowStreams
from edlm.sampler.kernel import Kernel, device_of
from edlm.sampler.loop import denoise
from edlm.sampler.output import StepInfo
from edlm.sampler.text.blocks import View, gather_views, scatter_views, views_of
from edlm.sampler.text.prompts import Row
from edlm.sampler.text.transcript import Transcript


@dataclass(frozen=True)
class GenerationOutput:
    """Texts and diagnostics of their steps.

    Attributes:
        text: Prompt, written text and suffix; special tokens and frames are left out.
            Empty strings for a denoiser without a tokenizer.
        fills: The written text of each gap of each row.
        tokens: Of each row, with frame and without padding, int64, ``[length]``; they continue after an end of text.
        steps: One entry a step, block after block; rows that are done decide nothing in it.
        seeds: The seed of each row, with which it can be written again, alone or in any batch.
    """

    text: list[str]
    fills: list[tuple[str, ...]]
    tokens: list[Tensor]
    steps: tuple[StepInfo, ...]
    seeds: tuple[int, ...]

    @property
    def completions(self) -> list[str]:
        """The written text of each row; that of several gaps, one after the other."""
        return ["".join(fills) for fills in self.fills]


@dataclass(frozen=True)
class Partial:
    """Texts after a step.

    Attributes:
        step: Number of steps before it, in all blocks.
        block: Index of the block that is written.
        tokens: Of each row, masks at positions not yet written, int64, ``[length]``.
    """

    step: int
    block: int
    tokens: list[Tensor]
    _rows: Sequence[Row] = field(repr=False)
    _transcript: Transcript = field(repr=False)

    @cached_property
    def text(self) -> list[str]:
        """As `GenerationOutput.text`, masks shown as the mask token."""
        return [self._transcript.read(row, now)[0] for row, now in zip(self._rows, self.tokens, strict=True)]


def write(
    kernel: Kernel,
    rows: Sequence[Row],
    seeds: Sequence[int],
    transcript: Transcript,
    block_length: int | None = None,
) -> Generator[Partial, None, GenerationOutput]:
    """Fill the gaps of all rows.

    Block ``b`` of every row is written in the same steps; rows that have come to an end, or have no such block,
    wait. A row's tokens depend on its own seed only.

    Args:
        kernel: The law of the steps of a block.
        rows: Texts with gaps.
        seeds: One a row.
        transcript: Finds where a text ends.
        block_length: As `check_block_length` gives it.

    Yields:
        The texts after each step.

    Returns:
        The texts.

    Raises:
        ValueError: at once, not at the first step: a row is too long.
    """
    views = [views_of(row, kernel.denoiser, block_length) for row in rows]
    RowStreams(seeds)  # so that a bad seed is an error at once
    return _write(kernel, rows, views, tuple(seeds), transcript)


def _write(
    kernel: Kernel,
    rows: Sequence[Row],
    views: list[list[View]],
    seeds: tuple[int, ...],
    transcript: Transcript,
) -> Generator[Partial, None, GenerationOutput]:
    device = device_of(kernel.denoiser)
    tokens, steps, pad = [row.tokens for row in rows], [], _padding(kernel, transcript)
    for block in range(max(map(len, views))):
        now = [of_row[block] if block < len(of_row) else None for of_row in views]
        if not any(now):
            break
        x_t, target, real = (table.to(device) for table in gather_views(tokens, now, pad))
        streams = RowStreams(seeds, block)
        for x_s, info in denoise(kernel, x_t, streams, target=target, attention_mask=real):
            tokens = scatter_views(tokens, now, x_s.cpu())
            yield Partial(len(steps), block, tokens, rows, transcript)
            steps.append(info)
        for r, row in enumerate(rows):
            later = views[r][block + 1 :]
            if later and transcript.has_stopped(row, tokens[r]):
                tokens[r] = tokens[r].index_fill(0, torch.cat([view.index[view.target] for view in later]), pad)
                views[r] = []
    read = [transcript.read(row, now) for row, now in zip(rows, tokens, strict=True)]
    return GenerationOutput([text for text, _ in read], [fills for _, fills in read], tokens, tuple(steps), seeds)


def _padding(kernel: Kernel, transcript: Transcript) -> int:
    """A token for positions that are never read: an end of text where there is one."""
    denoiser = kernel.denoiser
    of_tokenizer = (getattr(denoiser.tokenizer, f"{name}_token_id", None) for name in ("eos", "pad"))
    fitting = [
        token
        for token in (*transcript.eos_token_ids, denoiser.eos_token_id, *of_tokenizer)
        if token is not None and 0 <= token < denoiser.vocab_size and token != denoiser.mask_token_id
    ]
    return fitting[0] if fitting else int(denoiser.mask_token_id == 0)


def run(
    writing: Generator[Partial, None, GenerationOutput], callback: Callable[[Partial], object] | None = None
) -> GenerationOutput:
    """Run to the end; ``callback`` sees each step."""
    while True:
        try:
            partial = next(writing)
        except StopIteration as end:
            return end.value
        if callback is not None:
            callback(partial)
