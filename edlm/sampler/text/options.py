"""Options of writing text; each is described once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edlm.rules import check_least, check_options
from edlm.sampler.kernel import Kernel
from edlm.sampler.passes import CacheName


@check_options
@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Options that `EnergySampler.generate` and `EnergySampler.infill` share."""

    num_return_sequences: int = 1
    """Rows of each prompt or text, one after the other."""

    num_steps: int | None = None
    """Denoiser passes of a block, for this call; None keeps the sampler's."""

    temperature: float | None = None
    """Of the proposal, for this call; None keeps the sampler's."""

    top_p: float | None = None
    """Of the proposal, for this call; None keeps the sampler's."""

    top_k: int | None = None
    """Of the proposal, for this call; None keeps the sampler's."""

    num_likeliest: int = 0
    """Likeliest tokens to record where a token is decided without candidates, for `GenerationOutput.trace`."""

    seed: int | Sequence[int] | None = None
    """Row r gets ``seed + r``; or one seed a row; None draws them from torch's global generator."""

    seeds: Sequence[int] | None = None
    """One seed a row: another name of ``seed``, as the methods on tokens have it."""

    batch_size: int | None = None
    """Rows that are written together; None: all of them. One that is done makes room for the next. The texts are the
    same, and memory is bounded."""

    cache: CacheName = "auto"
    """Keys and values that are kept. "auto": of finished blocks, for a denoiser that writes in blocks; exact. "none".
    For one that sees both sides, as they were when a block began: of what precedes the block ("prefix"), or of all
    around it ("dual"); approximate, and the output says so."""

    progress: bool = False
    """Show a progress bar of the steps."""

    def __post_init__(self) -> None:
        check_least(1, num_return_sequences=self.num_return_sequences, batch_size=self.batch_size)
        if self.seed is not None and self.seeds is not None:
            raise ValueError(f"seed and seeds are one option, got {self.seed} and {self.seeds}")
        check_least(0, num_likeliest=self.num_likeliest)

    def kernel(self, kernel: Kernel) -> Kernel:
        """The kernel with the proposal of this call."""
        names = ("num_steps", "temperature", "top_p", "top_k", "block_length")
        given = {name: getattr(self, name, None) for name in names}
        return replace(kernel, **{name: value for name, value in given.items() if value is not None})


@check_options
@dataclass(frozen=True, kw_only=True)
class GenerateOptions(TextOptions):
    """Options of `EnergySampler.generate`."""

    eos_token_id: int | Sequence[int] | Literal["auto"] | None = "auto"
    """Tokens that end a text, which is cut there; "auto" takes those of the denoiser or its tokenizer."""

    stop: str | Sequence[str] | None = None
    """Strings that end a text; special tokens, such as "</s>", among them."""

    block_length: int | None = None
    """Tokens that are written together, for this call; blocks follow left to right, also beyond the denoiser's
    ``max_length``, and rows that have come to an end cost no more passes. None keeps the sampler's."""

    suffix: str | Sequence[str] | None = None
    """Text after the written text, for all prompts or one for each."""


@check_options
@dataclass(frozen=True, kw_only=True)
class InfillOptions(TextOptions):
    """Options of `EnergySampler.infill`."""

    mask: str = "<mask>"
    """Marks a gap; if it ends in a bracket, it may hold a number of tokens: ``<mask:12>``."""

    span_length: int = 1
    """Tokens of a gap that has no number of its own."""
