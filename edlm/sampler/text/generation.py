"""Text from prompts and text with gaps, written block by block and step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edlm.diffusion.streams import RowStreams, row_seeds
from edlm.sampler.kernel import Kernel, device_of
from edlm.sampler.output import StepInfo, join_steps
from edlm.sampler.step import denoise
from edlm.sampler.text.blocks import View, check_block_length, gather_views, scatter_views, views_of
from edlm.sampler.text.options import GenerateOptions, InfillOptions, TextOptions
from edlm.sampler.text.prompts import NEW_TOKENS, Prompts, Row, rows_of_prompts, rows_of_texts
from edlm.sampler.text.trace import Trace, trace_of
from edlm.sampler.text.transcript import Transcript


@dataclass(frozen=True)
class GenerationOutput:
    """Texts and diagnostics of their steps.

    Attributes:
        text: Prompt, written text and suffix; special tokens, but for the unknown one, and frames are left out.
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
    _rows: Sequence[Row] = field(repr=False)
    _views: Sequence[Sequence[View | None]] = field(repr=False)
    _transcript: Transcript = field(repr=False)
    _traced: GenerationOutput | None = field(default=None, repr=False)  # the first of several batches

    def __repr__(self) -> str:
        return f"GenerationOutput({len(self.text)} rows, {len(self.steps)} steps)"

    def trace(self, max_rows: int = 4, max_candidates: int = 5) -> Trace:
        """How the texts came about, step by step, as a page: ``output.trace().save("trace.html")``.

        Args:
            max_rows: Rows that are shown, from the first on, of the first batch.
            max_candidates: Candidates of a decision that are shown, of the largest weights, and the chosen one. Where
                tokens are decided without candidates, the likeliest ones are shown if ``num_likeliest`` were recorded.
        """
        if self._traced is not None:
            return self._traced.trace(max_rows, max_candidates)
        rows = list(zip(self._rows, self.seeds, strict=True))[:max_rows]
        return trace_of(rows, self._views, self.steps, self._transcript.tokenizer, max_candidates)

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


Writing = Generator[Partial, None, GenerationOutput]
"""The texts after each step, and at its end the output."""


def continuations(kernel: Kernel, prompts: Prompts, max_new_tokens: int | None, options: GenerateOptions) -> Writing:
    """Continue prompts step by step; see `EnergySampler.generate`."""
    denoiser = kernel.denoiser
    block_length = check_block_length(denoiser, options.block_length)
    transcript = Transcript(denoiser, options.eos_token_id, options.stop)
    if max_new_tokens is None:
        room = math.inf
        if block_length is None and denoiser.max_length is not None:
            given = rows_of_prompts(denoiser, prompts, 1, options.suffix)
            room = denoiser.max_length + 1 - max(len(row.tokens) for row in given)
        max_new_tokens = max(1, min(NEW_TOKENS, room))
    rows = rows_of_prompts(denoiser, prompts, max_new_tokens, options.suffix)
    return written(kernel, rows, options, transcript, block_length)


def infillings(kernel: Kernel, texts: str | Sequence[str], options: InfillOptions) -> Writing:
    """Fill the gaps of texts step by step; see `EnergySampler.infill`."""
    denoiser = kernel.denoiser
    rows = rows_of_texts(denoiser, texts, options.mask, options.span_length)
    return written(kernel, rows, options, Transcript(denoiser), denoiser.block_size)


def run(writing: Writing, callback: Callable[[Partial], object] | None = None) -> GenerationOutput:
    """Run to the end; ``callback`` sees each step."""
    while True:
        try:
            partial = next(writing)
        except StopIteration as end:
            return end.value
        if callback is not None:
            callback(partial)


def written(
    kernel: Kernel, rows: Sequence[Row], options: TextOptions, transcript: Transcript, block_length: int | None
) -> Writing:
    """Fill the gaps of rows step by step; mistakes are errors at once. ``block_length`` is checked."""
    kernel = options.kernel(kernel)
    rows = [row for row in rows for _ in range(options.num_return_sequences)]
    seeds = row_seeds(len(rows), options.seed if options.seeds is None else options.seeds)
    RowStreams(seeds)  # checks them
    views = [views_of(row, kernel.denoiser, block_length) for row in rows]
    size = options.batch_size or max(1, len(rows))
    parts = [[table[i : i + size] for table in (rows, views, seeds)] for i in range(0, len(rows), size)]
    batches = [_write_blocks(kernel, *part, transcript, options.num_likeliest) for part in parts]
    writing = batches[0] if len(batches) == 1 else _write_in_turn(batches, rows, transcript)
    num_steps = sum(kernel.num_steps * max(map(len, of_part)) for _, of_part, _ in parts)
    return _show_progress(writing, num_steps) if options.progress else writing


def _write_in_turn(batches: Sequence[Writing], rows: Sequence[Row], transcript: Transcript) -> Writing:
    """Batches of the rows, one after the other; a partial text holds all rows."""
    outputs, tokens, num_steps = [], [row.tokens for row in rows], 0
    for writing in batches:
        first = sum(len(output.text) for output in outputs)
        while True:
            try:
                partial = next(writing)
            except StopIteration as end:
                outputs.append(end.value)
                tokens[first : first + len(end.value.tokens)] = end.value.tokens
                break
            tokens[first : first + len(partial.tokens)] = partial.tokens
            yield replace(partial, step=num_steps, tokens=[*tokens], _rows=rows)
            num_steps += 1
    whole = {name: [x for output in outputs for x in getattr(output, name)] for name in ("text", "fills", "seeds")}
    steps = join_steps([output.steps for output in outputs])
    whole["seeds"] = tuple(whole["seeds"])
    return replace(outputs[0], **whole, tokens=tokens, steps=steps, _traced=outputs[0])


def _show_progress(writing: Writing, num_steps: int) -> Writing:
    """The same, with a bar of its steps."""
    with tqdm(total=num_steps, desc="steps", leave=False) as bar:
        while True:
            try:
                partial = next(writing)
            except StopIteration as end:
                return end.value
            bar.update()
            yield partial


def _write_blocks(
    kernel: Kernel,
    rows: Sequence[Row],
    views: list[list[View]],
    seeds: Sequence[int],
    transcript: Transcript,
    num_likeliest: int,
) -> Writing:
    """Write block ``b`` of every row in the same steps; rows that have come to an end, or have no such block, wait."""
    device = device_of(kernel.denoiser)
    tokens, steps, seen, pad = [row.tokens for row in rows], [], [], _padding(kernel, transcript)
    for block in range(max(map(len, views))):
        now = [of_row[block] if block < len(of_row) else None for of_row in views]
        if not any(now):
            break
        x_t, target, real = (table.to(device) for table in gather_views(tokens, now, pad))
        options = {"target": target, "attention_mask": real, "num_likeliest": num_likeliest}
        for x_s, info in denoise(kernel, x_t, RowStreams(seeds, block), **options):
            tokens = scatter_views(tokens, now, x_s.cpu())
            yield Partial(len(steps), block, tokens, rows, transcript)
            steps.append(info)
            seen.append(now)
        for r, row in enumerate(rows):
            later = views[r][block + 1 :]
            if later and transcript.has_stopped(row, tokens[r]):
                tokens[r] = tokens[r].index_fill(0, torch.cat([view.index[view.target] for view in later]), pad)
                views[r] = []
    text, fills = zip(*(transcript.read(row, now) for row, now in zip(rows, tokens, strict=True)), strict=True)
    return GenerationOutput(list(text), list(fills), tokens, tuple(steps), tuple(seeds), rows, seen, transcript)


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
