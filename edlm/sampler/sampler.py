"""The sampler of the residual energy model, and the likelihood bound of its samples."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.framing import empty_rows
from edlm.diffusion.streams import RowStreams, row_seeds
from edlm.rules import check, check_least
from edlm.sampler.bounds import likelihood_bounds
from edlm.sampler.impossible import rows_numbered
from edlm.sampler.inputs import check_length
from edlm.sampler.kernel import Kernel
from edlm.sampler.output import SampleOutput, concatenate
from edlm.sampler.step import denoised
from edlm.sampler.text import choosing, generation
from edlm.sampler.text.choosing import ChooseOptions, ChooseOutput
from edlm.sampler.text.generation import GenerationOutput, Partial, Writing
from edlm.sampler.text.options import GenerateOptions, InfillOptions
from edlm.sampler.text.prompts import Prompts


class EnergySampler(Kernel):
    """Denoise step by step; at each step draw candidates, score them jointly, keep one by importance weight.

    ``p(x_0 | x_t) = p_theta(x_0 | x_t) exp(-E) / Z``, sampled with ``k`` candidates.

    Args and errors: ``denoiser``, ``energy`` and, by name, the options of `SamplerOptions`; see `Kernel`. Without
    further options an energy is used as it recommends.

    A row depends on its own seed and on nothing else in the batch. Methods on tokens take ``seeds``, one a row; or
    else a ``generator`` that draws them, torch's global one by default.

    Note:
        With many candidates and ``weight_temperature = 1`` a decision follows, but for its ``Z``,

        =================================  ==================================  ================================
        energy                             as it is                            ``correct_proposal``
        =================================  ==================================  ================================
        none, or one candidate             ``q'``                              ``q'``
        ``E`` without ``log q'``           ``q' exp(-E)``                      ``p_theta exp(-E)``
        ``log q' - log p_AR``              ``p_AR``                            ``p_AR``
        normalised, with candidates        ``q' q / p_theta``                  ``q``
        normalised, token by token         ``q``, tempered and cut like q'     (not with a proposal of its own)
        =================================  ==================================  ================================

        where ``q'`` has mass: ``top_k`` and ``top_p`` cut off all others for good.

    References:
        Xu et al. 2025, arXiv:2410.21357, Alg. 1.

    Example:
        >>> from edlm import EnergySampler, FunctionDenoiser
        >>> uniform = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), mask_token_id=4, vocab_size=4)
        >>> output = EnergySampler(uniform, num_steps=2).sample(3, length=6, seeds=[0, 1, 2])
        >>> output.tokens.shape, sum(step.denoiser_calls for step in output.steps)
        (torch.Size([3, 6]), 2)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.energy_matters and self.window != "auto" and not self.energy_is_used:
            raise ValueError(f"window must hold the time of a step, {self.num_steps} in all, got {self.window}")
        if self.energy is None and (self.num_candidates or 1) > 1:
            message = f"num_candidates must be 1 without an energy to weigh them, got {self.num_candidates}: not used"
            warnings.warn(message, UserWarning, stacklevel=4)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        length: int,
        *,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
    ) -> SampleOutput:
        """Sequences from nothing.

        Args:
            num_samples: Number of sequences.
            length: Tokens of each; with those that frame it, where the denoiser's sequences have a frame.
            batch_size: Rows at a time (all by default); changes nothing but memory and speed.
            generator: Draws one seed a row.
            seeds: One a row.

        Returns:
            ``tokens[num_samples, length]`` and diagnostics.
        """
        num_samples, length = check("num_samples", num_samples, int), check("length", length, int)
        batch_size = check("batch_size", batch_size, int | None)
        check_least(0, num_samples=num_samples, length=length)
        check_least(1, batch_size=batch_size)
        check_length(length, self.denoiser.max_length)
        x_t = empty_rows(self.denoiser, num_samples, length)
        seeds = row_seeds(num_samples, seeds, generator)
        size = batch_size or max(1, num_samples)
        starts = range(0, max(1, num_samples), size)
        outputs = []
        for i in starts:
            with rows_numbered(range(i, i + size)):
                outputs.append(self.fill(x_t[i : i + size], seeds=seeds[i : i + size]))
        return concatenate(outputs)

    @torch.no_grad()
    def fill(
        self,
        x_t: Tensor,
        *,
        attention_mask: Tensor | None = None,
        target: Tensor | None = None,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
    ) -> SampleOutput:
        """Fill in the masked positions: a prompt or a text with gaps is just an ``x_t``.

        Args:
            x_t: Tokens, ``mask_token_id`` where unknown, shape ``[batch, length]``; not changed.
            attention_mask: False at padding, which is on the right of the rows and holds any tokens; same shape.
            target: Only these of the masked positions are filled, bool, same shape; the others stay masked.
            generator: Draws one seed a row.
            seeds: One a row.

        Raises:
            ValueError: tokens out of range, a wrong number of seeds, or masks where the energy needs none.
            ImpossibleCandidates: under ``on_impossible="raise"``, or when redraws run out.
        """
        seeds = row_seeds(len(x_t), seeds, generator)
        tokens, steps = denoised(self, x_t, RowStreams(seeds), target=target, attention_mask=attention_mask)
        return SampleOutput(tokens, steps, tuple(seeds))

    @torch.no_grad()
    def likelihood_bound(
        self,
        x_0: Tensor,
        *,
        given: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        inner_draws: int = 1,
    ) -> Tensor:
        """One draw of an upper bound of ``-log P(x_0)`` under this sampler, in nats of the row, low = good.

        It is for the sampler's own ``temperature``, ``top_p`` and ``top_k``, which its repr shows where they are not 1,
        1 and None; those given to a call of `generate` alone are not in it.

        ``-log P <= E [ sum over decisions of -log q'(x_R | x_t) - log k - log softmax_j(-E_j)[data] ]``,
        where ``q'`` is the proposal: ``p_theta``, tempered and cut as the options say.

        Args:
            x_0: Tokens without masks, shape ``[batch, length]``.
            given: True where a token is given and not to be predicted, shape ``[batch, length]``.
            attention_mask: As for `fill`.
            generator: Draws one seed a row.
            seeds: One a row; equal seeds give equal orders whatever k, energy and groups are.
            inner_draws: Draws of other candidates (at least k - 1), and at sequence scope of tokens that complete the
                data, over which each decision is averaged inside of the logarithm: more energy passes, a tighter
                bound. At sequence scope one draw is very loose.

        Returns:
            Shape ``[batch]``, float64; its mean over seeds is the bound. Exact, and the same for all seeds, where
            `bound_is_exact` says so; but only a bound where energies are infinite, and ``inf`` where the denoiser rules
            the data out, or ``top_k`` or ``top_p`` cut it off.

        Raises:
            ValueError: ``x_0`` holds a mask, ``given`` is no bool table of its shape, or ``inner_draws`` is below 1.

        References:
            Equation (*) of the project's method page; Jensen over candidates and orders.
        """
        inner_draws = check("inner_draws", inner_draws, int)
        seeds = row_seeds(len(x_0), seeds, generator)
        options = {"given": given, "attention_mask": attention_mask, "inner_draws": [inner_draws]}
        return likelihood_bounds([self], x_0, seeds, **options)[0]

    def generate(
        self,
        prompts: Prompts,
        max_new_tokens: int | None = None,
        *,
        callback: Callable[[Partial], object] | None = None,
        **options: Any,
    ) -> GenerationOutput:
        """Continue prompts.

        Args:
            prompts: Text or texts, which the denoiser's tokenizer reads and its prefix precedes; or lists of token
                ids; None for a text that need not begin at a beginning ("" does).
            max_new_tokens: Tokens to write; by default 64, or as many as the longest prompt leaves.
            callback: Called with a `Partial` after each step.
            options: Fields of `GenerateOptions`, such as ``stop``, ``block_length``, ``seed``.

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
        return generation.run(self.stream(prompts, max_new_tokens, **options), callback)

    __call__ = generate

    def stream(self, prompts: Prompts, max_new_tokens: int | None = None, **options: Any) -> Writing:
        """As `generate`, step by step: yields a `Partial` after each, and returns the output at its end.

        Options are checked at once; the text of the last partial is that of the output.
        """
        return generation.continuations(self, prompts, max_new_tokens, GenerateOptions(**options))

    def infill(
        self, texts: str | Sequence[str], *, callback: Callable[[Partial], object] | None = None, **options: Any
    ) -> GenerationOutput:
        """Fill the gaps of texts, all of them at once, given the text on both sides.

        A space on the left of a gap belongs to the written text, where the tokenizer has it so; one on its right
        belongs to the text that follows.

        Args:
            texts: With ``mask``, or the tokenizer's own mask token, where ``span_length`` tokens are to be written;
                ``<mask:12>`` for 12 tokens. Neighbours add up.
            callback: Called with a `Partial` after each step.
            options: Fields of `InfillOptions`, such as ``span_length``, ``seed``.

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
        return generation.run(generation.infillings(self, texts, InfillOptions(**options)), callback)

    def choose(self, texts: choosing.Texts, options: choosing.Options, **how: Any) -> ChooseOutput:
        """Probabilities of the options for the gap of each text; see `choose`, and `ChooseOptions` for ``how``.

        Example:
            >>> import edlm
            >>> sampler = edlm.EnergySampler(edlm.load_denoiser("tinystories"), num_steps=4)
            >>> sampler.choose("The <mask> barked.", ["cat", "dog", "little bird"]).text
            ['The dog barked.']
        """
        return choosing.choose(self, texts, options, ChooseOptions(**how))
