"""Text from prompts and text with gaps, as functions of a `Kernel`; each option is described once."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edlm.diffusion.streams import draw_seeds
from edlm.sampler.kernel import Kernel
from edlm.sampler.text.blocks import check_block_length
from edlm.sampler.text.prompts import Row, rows_of_prompts, rows_of_texts
from edlm.sampler.text.transcript import Transcript
from edlm.sampler.text.writing import GenerationOutput, Partial, write

Prompts = str | Sequence[str] | Sequence[Sequence[int]] | None


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Options that `EnergySampler.generate` and `EnergySampler.infill` share."""

    num_return_sequences: int = 1
    """Rows of each prompt or text, one after the other."""

    temperature: float | None = None
    """Of the proposal, for this call; None keeps the sampler's."""

    top_p: float | None = None
    """Of the proposal, for this call; None keeps the sampler's."""

    top_k: int | None = None
    """Of the proposal, for this call; None keeps the sampler's."""

    seed: int | Sequence[int] | None = None
    """Row r gets ``seed + r``; or one seed a row; None draws them from torch's global generator."""

    def __post_init__(self) -> None:
        if self.num_return_sequences < 1:
            raise ValueError(f"num_return_sequences must be >= 1, got {self.num_return_sequences}")

    def kernel(self, kernel: Kernel) -> Kernel:
        """The kernel with the proposal of this call."""
        given = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        changes = {name: value for name, value in given.items() if value is not None}
        return replace(kernel, **changes) if changes else kernel

    def repeated(self, rows: Sequence[Row]) -> list[Row]:
        """Each row ``num_return_sequences`` times."""
        return [row for row in rows for _ in range(self.num_return_sequences)]


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(TextOptions):
    """Options of `EnergySampler.generate`."""

    eos_token_id: int | Sequence[int] | Literal["auto"] | None = "auto"
    """Tokens that end a text, which is cut there; "auto" takes those of the denoiser or its tokenizer."""

    stop: str | Sequence[str] | None = None
    """Strings that end a text."""

    block_length: int | None = None
    """Tokens that are written together, in ``num_steps`` passes; blocks follow left to right, also beyond the
    denoiser's ``max_length``, and rows that have come to an end cost no more passes. None: the denoiser's
    ``block_size``, or all at once."""

    suffix: str | Sequence[str] | None = None
    """Text after the written text, for all prompts or one for each."""


@dataclass(frozen=True, kw_only=True)
class InfillOptions(TextOptions):
    """Options of `EnergySampler.infill`."""

    mask: str = "<mask>"
    """Marks a gap."""

    span_length: int = 1
    """Tokens of a gap that has no number of its own."""


def stream(
    kernel: Kernel, prompts: Prompts, max_new_tokens: int, options: GenerateOptions
) -> Generator[Partial, None, GenerationOutput]:
    """Continue prompts step by step; see `EnergySampler.generate`."""
    denoiser, kernel = kernel.denoiser, options.kernel(kernel)
    block_length = check_block_length(denoiser, options.block_length)
    transcript = Transcript(denoiser, options.eos_token_id, options.stop)
    rows = options.repeated(rows_of_prompts(denoiser, prompts, max_new_tokens, options.suffix))
    return write(kernel, rows, row_seeds(options.seed, len(rows)), transcript, block_length)


def infilling(
    kernel: Kernel, texts: str | Sequence[str], options: InfillOptions
) -> Generator[Partial, None, GenerationOutput]:
    """Fill the gaps of texts step by step; see `EnergySampler.infill`."""
    denoiser, kernel = kernel.denoiser, options.kernel(kernel)
    rows = options.repeated(rows_of_texts(denoiser, texts, options.mask, options.span_length))
    return write(kernel, rows, row_seeds(options.seed, len(rows)), Transcript(denoiser), denoiser.block_size)


def row_seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """A seed for each row.

    Raises:
        ValueError: the number of seeds is not that of rows.
    """
    if seed is None:
        return draw_seeds(count, None)
    if isinstance(seed, int):
        return [seed + row for row in range(count)]
    if len(seed) != count:
        raise ValueError(f"seed must be one integer, or one a row ({count}), got {len(seed)}")
    return [int(one) for one in seed]
