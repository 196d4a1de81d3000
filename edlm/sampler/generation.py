"""Text from prompts and text with gaps: what a sampler does for people."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from edlm.diffusion.streams import draw_seeds
from edlm.sampler import inputs as checks
from edlm.sampler.text.blocks import check_block_length
from edlm.sampler.text.prompts import Row, rows_of_prompts, rows_of_texts
from edlm.sampler.text.transcript import Transcript
from edlm.sampler.text.writing import GenerationOutput, Partial, run, write

if TYPE_CHECKING:
    from typing_extensions import Self


class TextGeneration:
    """The text side of `EnergySampler`."""

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]] | None,
        max_new_tokens: int,
        *,
        callback: Callable[[Partial], object] | None = None,
        num_return_sequences: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        eos_token_id: int | Sequence[int] | Literal["auto"] | None = "auto",
        stop: str | Sequence[str] | None = None,
        block_length: int | None = None,
        suffix: str | Sequence[str] | None = None,
        seed: int | Sequence[int] | None = None,
    ) -> GenerationOutput:
        """Continue prompts. Each row is the same alone or in any batch.

        Args:
            prompts: Text or texts, which the denoiser's tokenizer reads and its prefix goes before; or lists of token
                ids; None for a text that need not begin at a beginning ("" does).
            max_new_tokens: Tokens to write.
            callback: Called with a `Partial` after each step.
            num_return_sequences: Rows of each prompt, one after the other.
            temperature: Of the proposal, for this call; None keeps the sampler's.
            top_p: Likewise.
            top_k: Likewise.
            eos_token_id: Tokens that end a text, which is cut there; "auto" asks the denoiser and its tokenizer.
            stop: Strings that end a text.
            block_length: Tokens that are written together, in ``num_steps`` passes; blocks follow left to right, also
                beyond the denoiser's ``max_length``, and rows that have come to an end cost no more passes. None:
                the denoiser's ``block_size``, or all at once.
            suffix: Text that stands after what is written, for all prompts or one for each.
            seed: Row r gets ``seed + r``; or one seed a row; None draws them from torch's global generator.

        Returns:
            Texts, tokens and diagnostics.

        Raises:
            ValueError: an option breaks its rule; the text is too long to be written at once; or the energy needs
                complete sequences while later blocks are still masked.
            ImpossibleCandidates: as `fill`.

        Example:
            >>> import edlm
            >>> sampler = edlm.EnergySampler(edlm.load_denoiser("tinystories"), num_steps=4)
            >>> output = sampler.generate(["Once upon a time", "The dog"], 16, seed=0)
            >>> [text.startswith(start) for text, start in zip(output.text, ["Once upon a time", "The dog"])]
            [True, True]
        """
        writing = self.stream(
            prompts,
            max_new_tokens,
            num_return_sequences=num_return_sequences,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            eos_token_id=eos_token_id,
            stop=stop,
            block_length=block_length,
            suffix=suffix,
            seed=seed,
        )
        return run(writing, callback)

    def stream(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]] | None,
        max_new_tokens: int,
        *,
        num_return_sequences: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        eos_token_id: int | Sequence[int] | Literal["auto"] | None = "auto",
        stop: str | Sequence[str] | None = None,
        block_length: int | None = None,
        suffix: str | Sequence[str] | None = None,
        seed: int | Sequence[int] | None = None,
    ) -> Generator[Partial, None, GenerationOutput]:
        """As `generate`, step by step: yields a `Partial` after each, and returns the output at its end.

        Options are checked at once; the text of the last partial is that of the output.
        """
        sampler = self._with_proposal(temperature, top_p, top_k)
        block_length = check_block_length(self.denoiser, block_length)
        transcript = Transcript(self.denoiser, eos_token_id, stop)
        rows = _repeat(rows_of_prompts(self.denoiser, prompts, max_new_tokens, suffix), num_return_sequences)
        return write(sampler, rows, row_seeds(seed, len(rows)), transcript, block_length)

    def infill(
        self,
        texts: str | Sequence[str],
        *,
        mask: str = "<mask>",
        span_length: int = 1,
        callback: Callable[[Partial], object] | None = None,
        num_return_sequences: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | Sequence[int] | None = None,
    ) -> GenerationOutput:
        """Fill the gaps of texts, all of them at once, given the text on both sides.

        A space on the left of a gap belongs to what is written there, where the tokenizer has it so; one on its right
        belongs to the text that follows.

        Args:
            texts: With ``mask``, or the tokenizer's own mask token, where ``span_length`` tokens are to be written;
                ``<mask:12>`` for 12 tokens. Neighbours add up.
            mask: What marks a gap.
            span_length: Tokens of a gap that says no number.
            callback: As for `generate`, like all that follows.
            num_return_sequences: As for `generate`.
            temperature: As for `generate`.
            top_p: As for `generate`.
            top_k: As for `generate`.
            seed: As for `generate`.

        Returns:
            Texts, what was written in each gap, tokens and diagnostics.

        Raises:
            ValueError: an option breaks its rule, or a text is longer than the denoiser's ``max_length``.
            ImpossibleCandidates: as `fill`.

        Note:
            A denoiser that writes in blocks (``block_size``) sees nothing on the right of a block.

        Example:
            >>> import edlm
            >>> sampler = edlm.EnergySampler(edlm.load_denoiser("tinystories"), num_steps=2)
            >>> text = sampler.infill("Once upon <mask:2>, there was a <mask>.", seed=0).text[0]
            >>> text.startswith("Once upon"), ", there was a" in text, text.endswith(".")
            (True, True, True)
        """
        sampler = self._with_proposal(temperature, top_p, top_k)
        rows = _repeat(rows_of_texts(self.denoiser, texts, mask, span_length), num_return_sequences)
        transcript = Transcript(self.denoiser)
        return run(write(sampler, rows, row_seeds(seed, len(rows)), transcript, self.denoiser.block_size), callback)

    def _with_proposal(self, temperature: float | None, top_p: float | None, top_k: int | None) -> Self:
        """This sampler, or a copy that draws otherwise."""
        asked = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        changes = {name: value for name, value in asked.items() if value is not None}
        if not changes:
            return self
        other = copy.copy(self)
        other.proposal = replace(self.proposal, **changes)
        checks.check_options(other)
        return other


def row_seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """A seed for each row.

    Raises:
        ValueError: they are not as many as rows.
    """
    if seed is None:
        return draw_seeds(count, None)
    if isinstance(seed, int):
        return [seed + row for row in range(count)]
    if len(seed) != count:
        raise ValueError(f"seed must be one integer, or one a row ({count}), got {len(seed)}")
    return [int(own) for own in seed]


def _repeat(rows: Sequence[Row], times: int) -> list[Row]:
    if times < 1:
        raise ValueError(f"num_return_sequences must be >= 1, got {times}")
    return [row for row in rows for _ in range(times)]
