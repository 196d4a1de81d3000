"""The sampler of the residual energy model, and the likelihood bound of what it samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.schedule import Schedule, get_schedule
from edlm.diffusion.streams import RowStreams, draw_seeds
from edlm.energies.base import Energy
from edlm.sampler import inputs as checks
from edlm.sampler.bounds import likelihood_bounds
from edlm.sampler.generation import TextGeneration
from edlm.sampler.loop import denoise, device_of
from edlm.sampler.output import SampleOutput, concatenate
from edlm.sampler.proposal import Proposal
from edlm.sampler.window import Window, get_window


class EnergySampler(TextGeneration):
    """Denoise step by step; at each step draw candidates, score them jointly, keep one by importance weight.

    ``p(x_0 | x_t) = p_theta(x_0 | x_t) exp(-E) / Z``, sampled with ``k`` candidates.

    Step ``i = 0..T-1`` goes from ``t = 1 - i/T`` to ``s = 1 - (i+1)/T``.

    Args:
        denoiser: Gives the marginals ``p_theta``; frozen.
        energy: Judges candidates; None for the base sampler.
        num_steps: Denoiser passes ``T``, >= 1.
        num_candidates: ``k``; 1 is the base sampler. None decides token by token, exactly, from an energy
            that is normalised token by token (`TokenwiseEnergy`), or in rounds of ``group_size`` far-apart tokens.
        scope: What a candidate fills: the positions that the ``"step"`` writes, or every masked one
            (``"sequence"``, the paper), of which the step then writes its own.
        group_size: Step scope: the reveal set is decided in groups of at most this many tokens, one after
            the other, from one denoiser pass. None: all at once. Exact decisions: tokens that are drawn at once, far
            apart in the decision order and independently, given the rounds before (None: one).
        order: ``"ancestral"``, ``"random"``, ``"dilated"``, ``"bisecting"``, ``"left_to_right"`` or
            ``"confidence"``; see `plan_reveal`.
        schedule: Masking schedule (for the ancestral order).
        window: Steps that use the energy: times ``low < t <= high``, or a `Window`.
        weight_temperature: Weights are ``exp(-E / weight_temperature)``.
        on_impossible: When all candidates of a row have infinite energy: ``"raise"``; ``"redraw"`` (up to 100
            times, then raise); ``"keep"`` the row's positions masked, due again at the next step.
        temperature: Tokens are drawn from the proposal ``q'``: the marginals at this temperature,
        top_p: cut to their nucleus of this mass,
        top_k: and before that to so many likeliest tokens; see `Proposal`.
        correct_proposal: Weigh candidates as if they came from ``p_theta`` (see the note).

    Raises:
        ValueError: an option breaks its rule, or the energy does not fit the denoiser or the scope.

    Note:
        With many candidates and ``weight_temperature = 1`` a decision follows, but for its ``Z``,

        =================================  ==================================  ================================
        energy                             as it is                            ``correct_proposal``
        =================================  ==================================  ================================
        none, or one candidate             ``q'``                              ``q'``
        ``E`` without ``log q'``           ``q' exp(-E)``                      ``p_theta exp(-E)``
        ``log q' - log p_AR``              ``p_AR``                            ``p_AR``
        normalised, with candidates        ``q' q / p_theta``                  ``q``
        normalised, exact decisions        ``q``, tempered and cut like q'     (not with a proposal of its own)
        =================================  ==================================  ================================

        where ``q'`` has mass: ``top_k`` and ``top_p`` cut off the rest for good.

    References:
        Xu et al. 2025, arXiv:2410.21357, Alg. 1.

    Example:
        >>> from edlm import EnergySampler, FunctionDenoiser
        >>> uniform = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), mask_token_id=4, vocab_size=4)
        >>> output = EnergySampler(uniform, num_steps=2).sample(3, length=6, seeds=[0, 1, 2])
        >>> output.tokens.shape, sum(step.denoiser_calls for step in output.steps)
        (torch.Size([3, 6]), 2)
    """

    def __init__(
        self,
        denoiser: Denoiser,
        energy: Energy | None = None,
        *,
        num_steps: int,
        num_candidates: int | None = 1,
        scope: str = "step",
        group_size: int | None = None,
        order: str = "ancestral",
        schedule: str | Schedule = "log_linear",
        window: Window | Sequence[float] = (0.0, 1.0),
        weight_temperature: float = 1.0,
        on_impossible: str = "raise",
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        correct_proposal: bool = False,
    ):
        self.denoiser = denoiser.eval()
        self.energy = energy.eval() if energy is not None else None
        self.num_steps = num_steps
        self.num_candidates = num_candidates
        self.scope = scope
        self.group_size = group_size
        self.order = order
        self.schedule = get_schedule(schedule)
        self.window = get_window(window)
        self.weight_temperature = weight_temperature
        self.on_impossible = on_impossible
        self.proposal = Proposal(temperature, top_p, top_k)
        self.correct_proposal = correct_proposal
        checks.check_options(self)

    @property
    def exact(self) -> bool:
        """Whether tokens are decided one by one from a normalised energy."""
        return self.energy is not None and self.num_candidates is None

    @property
    def bound_is_exact(self) -> bool:
        """Whether `likelihood_bound` is ``-log P`` itself, for all seeds, where energies are finite."""
        return self.order not in ("ancestral", "random") and self.candidates_weighed == 1

    @property
    def round_size(self) -> int:
        """Tokens of a row that exact decisions draw at once."""
        return self.group_size or 1

    @property
    def candidates_weighed(self) -> int:
        """Number of candidates of a decision; 1 where there are no weights."""
        return 1 if self.energy is None or self.exact else self.num_candidates

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
            num_samples: How many.
            length: Tokens of each.
            batch_size: Rows at a time (all by default); changes nothing but memory and speed.
            generator: Draws one seed a row (torch's global generator by default).
            seeds: The rows' seeds themselves.

        Returns:
            ``tokens[num_samples, length]`` and diagnostics.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        x_t = torch.full((num_samples, length), self.denoiser.mask_token_id, device=device_of(self.denoiser))
        seeds = self._seeds(num_samples, generator, seeds)
        size = batch_size or max(1, num_samples)
        starts = range(0, max(1, num_samples), size)
        return concatenate([self.fill(x_t[i : i + size], seeds=seeds[i : i + size]) for i in starts])

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

        A row's tokens do not depend on the other rows, nor on padding.

        Args:
            x_t: Tokens, ``mask_token_id`` where unknown, shape ``[batch, length]``; not changed.
            attention_mask: False at padding, which is on the right of the rows and holds any tokens; same shape.
            target: Only these of the masked positions are filled, bool, same shape; the others stay masked.
            generator: Draws one seed a row (torch's global generator by default).
            seeds: The rows' seeds themselves.

        Raises:
            ValueError: tokens out of range, a wrong number of seeds, or masks where the energy needs none.
            ImpossibleCandidates: under ``on_impossible="raise"``, or when redraws run out.
        """
        seeds = self._seeds(len(x_t), generator, seeds)
        steps = denoise(self, x_t, RowStreams(seeds), target=target, attention_mask=attention_mask)
        tokens, infos = zip(*steps, strict=True)
        return SampleOutput(tokens[-1], infos, tuple(seeds))

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
        """One draw of an upper bound of ``-log P(x_0)`` under this very sampler, in nats of the row, low = good.

        ``-log P <= E [ sum over decisions of -log q'(x_R | x_t) - log k - log softmax_j(-E_j)[data] ]``,
        where ``q'`` is the proposal: ``p_theta``, or what is made of it.

        Args:
            x_0: Tokens without masks, shape ``[batch, length]``.
            given: True where a token is given and not to be predicted, shape ``[batch, length]``.
            attention_mask: False at padding, on the right of the rows, shape ``[batch, length]``.
            generator: Draws one seed a row (torch's global generator by default).
            seeds: The rows' seeds; equal seeds give equal orders whatever k, energy and groups are.
            inner_draws: Draws of other candidates (at least k - 1), and at sequence scope of what completes the data,
                that each decision is averaged over inside of the logarithm: more energy passes, a tighter bound. At
                sequence scope one draw is very loose.

        Returns:
            Shape ``[batch]``, float64; its mean over seeds is the bound. Exact, and the same for all seeds,
            where the order is deterministic (all but ancestral and random) and k = 1 or decisions are exact
            (`bound_is_exact`); but only a bound where energies are infinite, and ``inf`` where the denoiser rules
            the data out, or ``top_k`` or ``top_p`` cut it off.

        Raises:
            ValueError: ``x_0`` holds a mask, ``given`` is no bool table of its shape, or ``inner_draws`` is below 1.

        References:
            Equation (*) of the project's method page; Jensen over candidates and orders.
        """
        seeds = self._seeds(len(x_0), generator, seeds)
        how = {"given": given, "attention_mask": attention_mask, "inner_draws": [inner_draws]}
        return likelihood_bounds([self], x_0, seeds, **how)[0]

    def _seeds(self, count: int, generator: Any, seeds: Sequence[int] | None) -> list[int]:
        if seeds is None:
            return draw_seeds(count, generator)
        if len(seeds) != count:
            raise ValueError(f"seeds must hold one integer a row ({count}), got {len(seeds)}")
        return [int(seed) for seed in seeds]
