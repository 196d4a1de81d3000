"""Text from prompts and text with gaps, written step by step, each row at its own pace."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edlm.diffusion.streams import RowStreams, row_seeds
from edlm.sampler.impossible import rows_numbered
from edlm.sampler.kernel import Kernel
from edlm.sampler.output import Steps
from edlm.sampler.passes import Passes, check_cache
from edlm.sampler.step import idle_step
from edlm.sampler.text.blocks import View, views_of
from edlm.sampler.text.lanes import Desk, Lane, TakenStep, in_order
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
        steps: One entry for each step of each block, in this order, whenever a row took it; a row that is done, or has
            no such block, decides nothing in it. ``steps.taken`` are those in which some row did.
        seeds: The seed of each row, with which it can be written again, alone or in any batch.
        marginals: "exact"; or "approximate", from keys that were not computed anew (``cache`` "prefix" or "dual").
    """

    text: list[str]
    fills: list[tuple[str, ...]]
    tokens: list[Tensor]
    steps: Steps
    seeds: tuple[int, ...]
    marginals: Literal["exact", "approximate"]
    _rows: Sequence[Row] = field(repr=False)
    _views: Sequence[Sequence[View | None]] = field(repr=False)
    _transcript: Transcript = field(repr=False)

    def __repr__(self) -> str:
        about = "" if self.marginals == "exact" else f", {self.marginals}"
        return f"GenerationOutput({len(self.text)} rows, {len(self.steps)} steps{about})"

    def trace(self, max_rows: int = 4, max_candidates: int = 5) -> Trace:
        """How the texts came about, step by step, as a page: ``output.trace().save("trace.html")``.

        Args:
            max_rows: Rows that are shown, from the first on.
            max_candidates: Candidates of a decision that are shown, of the largest weights, and the chosen one. Where
                tokens are decided without candidates, the likeliest ones are shown if ``num_likeliest`` were recorded.

        Raises:
            ValueError: rows had several particles, whose decisions are not recorded.
        """
        if any(step.num_revealed.any() and not step.choices for step in self.steps.taken.values()):
            raise ValueError("a trace needs num_particles=1: of several particles it is not recorded who decided what")
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
        step: Number of steps of the batch before it.
        num_done: Steps of rows that were taken, or that decide nothing and are left out, so far.
        tokens: Of each row, masks at positions not yet written, int64, ``[length]``.
    """

    step: int
    num_done: int
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
    kernel = options.kernel(kernel)
    denoiser, transcript = kernel.denoiser, Transcript(kernel.denoiser, options.eos_token_id, options.stop)
    if max_new_tokens is None:
        room = math.inf
        if kernel.block_length is None and denoiser.max_length is not None:
            given = rows_of_prompts(denoiser, prompts, 1, options.suffix)
            room = denoiser.max_length + 1 - max(len(row.tokens) for row in given)
        max_new_tokens = max(1, min(NEW_TOKENS, room))
    rows = rows_of_prompts(denoiser, prompts, max_new_tokens, options.suffix)
    return written(kernel, rows, options, transcript)


def infillings(kernel: Kernel, texts: str | Sequence[str], options: InfillOptions) -> Writing:
    """Fill the gaps of texts step by step; see `EnergySampler.infill`."""
    rows = rows_of_texts(kernel.denoiser, texts, options.mask, options.span_length)
    return written(options.kernel(kernel), rows, options, Transcript(kernel.denoiser))


def run(writing: Writing, callback: Callable[[Partial], object] | None = None) -> GenerationOutput:
    """Run to the end; ``callback`` sees each step."""
    while True:
        try:
            partial = next(writing)
        except StopIteration as end:
            return end.value
        if callback is not None:
            callback(partial)


def written(kernel: Kernel, rows: Sequence[Row], options: TextOptions, transcript: Transcript) -> Writing:
    """Fill the gaps of rows step by step; mistakes are errors at once. ``options.kernel`` has made the kernel."""
    check_cache(kernel, options.cache)
    rows = [row for row in rows for _ in range(options.num_return_sequences)]
    seeds = row_seeds(len(rows), options.seed if options.seeds is None else options.seeds)
    RowStreams(seeds)  # checks them
    views = [views_of(row, kernel.denoiser, kernel.block_length) for row in rows]
    writing = _write(kernel, rows, views, seeds, options, transcript)
    return _show_progress(writing, kernel.num_steps * sum(map(len, views))) if options.progress else writing


def _show_progress(writing: Writing, num_steps: int) -> Writing:
    """The same, with a bar of the steps of all rows."""
    with tqdm(total=num_steps, desc="steps", leave=False) as bar:
        while True:
            try:
                partial = next(writing)
            except StopIteration as end:
                return end.value
            bar.update(partial.num_done - bar.n)
            yield partial


def _write(
    kernel: Kernel,
    rows: Sequence[Row],
    views: Sequence[Sequence[View]],
    seeds: Sequence[int],
    options: TextOptions,
    transcript: Transcript,
) -> Writing:
    """Each step takes one of each row that is being written, whichever it is; a row that is done makes room for one."""
    desk = Desk(kernel, Passes.of(kernel, options.cache), _padding(kernel, transcript))
    tokens, waiting = [row.tokens for row in rows], deque(r for r, of_row in enumerate(views) if of_row)
    lanes: list[Lane | None] = [None] * min(options.batch_size or len(rows), len(waiting))
    taken: list[TakenStep] = []
    num_done = num_ticks = 0
    while waiting or any(lanes):
        for place, lane in enumerate(lanes):
            if lane is None and waiting:
                r = waiting.popleft()
                lanes[place] = Lane.begin(kernel, r, seeds[r], views[r], tokens[r])
        with rows_numbered([-1 if lane is None else lane.row for lane in lanes]):
            taken.append(desk.take(lanes, options.num_likeliest))
        for place, lane in enumerate(lanes):
            if lane is None:
                continue
            before = lane.num_done
            has_block = lane.advance(kernel)
            if not has_block and transcript.has_stopped(rows[lane.row], lane.tokens[0]):
                lane.abandon(desk.pad)
            elif not has_block:
                has_block = lane.next_block(kernel)
            tokens[lane.row] = lane.tokens[0]
            lanes[place] = lane if has_block else None
            num_done += lane.num_done - before
        yield Partial(num_ticks, num_done, [*tokens], rows, transcript)
        num_ticks += 1
    text, fills = zip(*(transcript.read(row, now) for row, now in zip(rows, tokens, strict=True)), strict=True)
    nothing = torch.zeros(len(rows), 1, dtype=torch.long, device=kernel.device)
    steps = in_order(taken, idle_step(kernel, nothing), kernel.num_steps)
    seen = [[of_row[b] if b < len(of_row) else None for of_row in views] for b in range(steps.num_blocks)]
    about = "approximate" if desk.passes.is_approximate else "exact"
    return GenerationOutput(list(text), list(fills), tokens, steps, tuple(seeds), about, rows, seen, transcript)


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
