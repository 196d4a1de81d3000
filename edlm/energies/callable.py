"""An energy from any Python function: reward model, classifier, constraint, verifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Decision, Energy
from edlm.energies.candidate_text import TextDecoder
from edlm.rules import check, shown


class CallableEnergy(Energy):
    """An energy from a function of token candidates; `on_text` makes one from a function of text.

    Args:
        f: ``f(candidates[batch, k, length], x_partial[batch, length], log_proposal[batch, k])
            -> energy[batch, k]``, nats, low = plausible, ``+inf`` = impossible. A candidate is ``x_partial``
            with the scope (or group) filled in, other masks kept; ``x_partial`` is ``x_t`` with the step's
            earlier groups written; ``log_proposal`` sums the proposal over the filled positions.
            It always gets all rows of the batch, in order, and exactly k candidates.
        complete: The function needs sequences without masks, so it needs sequence scope.
        includes_log_proposal: The energy has the form ``log q' - log p``: it contains ``log_proposal`` once, so that
            ``correct_proposal`` leaves it as it is (the sampler's table); else it is taken to contain none.

    Example:
        >>> prefer_sevens = CallableEnergy(lambda candidates, x, log_p: -1.0 * (candidates == 7).sum(-1))
        >>> prefer_sevens.reads
        'slots'
    """

    needs_every_row = True

    def __init__(
        self,
        f: Callable[[Tensor, Tensor, Tensor], Tensor],
        complete: bool = False,
        *,
        includes_log_proposal: bool = False,
    ):
        super().__init__()
        self.f = check("f", f, Callable)
        self.reads = "sequence" if complete else "slots"
        self.proposal_share = 1.0 if includes_log_proposal else 0.0

    @staticmethod
    def on_text(f: Callable[[list[str]], Sequence[float]], tokenizer: Any = None, **options: Any) -> TextFunctionEnergy:
        """An energy from a function of text; see `TextFunctionEnergy`."""
        return TextFunctionEnergy(f, tokenizer, **options)

    def forward(self, decision: Decision) -> Tensor:
        """Energies ``[batch, k]``.

        Raises:
            ValueError: the function returned another shape. (NaN and ``-inf`` raise where energies become weights.)
        """
        energies = self.f(decision.candidates, decision.x_partial, decision.log_proposal)
        return as_numbers(energies, decision.log_proposal)


def as_numbers(values: Any, like: Tensor) -> Tensor:
    """Real numbers that a function returned, as a tensor of the shape, type and device of ``like``.

    Raises:
        ValueError: they are something else, or of another shape.
    """
    try:
        if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
            values = np.ascontiguousarray(values, dtype=float)  # torch takes no views from the end, and no other bytes
        found = torch.as_tensor(values, dtype=like.dtype if isinstance(values, list | tuple) else None)
        found = None if found.is_complex() or found.is_sparse else found.to(like)
    except (
        TypeError,
        ValueError,
        OverflowError,
        RuntimeError,
    ):  # NotImplementedError, of a tensor without content, is one
        found = None
    if found is None or found.shape != like.shape:
        got = shown(values) if found is None else tuple(found.shape)
        raise ValueError(f"f must return energies, numbers of shape {tuple(like.shape)}, got {got}")
    return found


class TextFunctionEnergy(Energy):
    """``E = f(text(candidate))``: reward model, regular expression, verifier; candidates keep ``p_theta`` as base law.

    Args:
        f: ``f(texts) -> energies``, one number a text, nats, low = plausible, ``+inf`` = impossible (for a row whose
            candidates are all impossible see the sampler's ``on_impossible``). It gets each distinct text of a
            decision once, of rows that decide something, in no order to rely on.
        tokenizer: Decodes candidates (see `TextDecoder`); by default the denoiser's own.
        eos_token_id: The denoiser's token that ends a text; None: text has no end.
        decode: ``decode(ids) -> text`` in place of the tokenizer's own.
        of_prefixes: The function takes unfinished texts too, up to the first mask. Then step scope will do, left to
            right; else it needs sequence scope.

    Note:
        The prompt is part of the text. A reward ``r`` at temperature ``beta`` is ``f = -r / beta``.

    Example:
        Only JSON, of the 64 strings of ``1``, ``,``, ``[`` and ``]`` that a denoiser of independent characters writes:

        >>> import json
        >>> from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
        >>> def is_json(texts):
        ...     def energy(text):
        ...         try:
        ...             json.loads(text)
        ...         except ValueError:
        ...             return float("inf")
        ...         return 0.0
        ...     return [energy(text) for text in texts]
        >>> characters = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), mask_token_id=4, vocab_size=4)
        >>> spell = lambda ids: "".join("1,[]"[i] for i in ids)
        >>> energy = CallableEnergy.on_text(is_json, decode=spell)
        >>> options = {"num_candidates": 8, "scope": "sequence", "on_impossible": "redraw"}
        >>> tokens = EnergySampler(characters, energy, num_steps=1, **options).sample(20, 3, seeds=range(20)).tokens
        >>> sorted({spell(row) for row in tokens.tolist()})
        ['111', '[1]']
    """

    def __init__(
        self,
        f: Callable[[list[str]], Sequence[float]],
        tokenizer: Any = None,
        *,
        eos_token_id: int | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
        of_prefixes: bool = False,
    ):
        super().__init__()
        self.f = check("f", f, Callable)
        self.reads = "prefix" if of_prefixes else "sequence"
        self._decoder = TextDecoder(tokenizer, eos_token_id, decode)

    def check_denoiser(self, denoiser: Denoiser) -> None:
        super().check_denoiser(denoiser)
        self._decoder.check_denoiser(denoiser)

    def forward(self, decision: Decision) -> Tensor:
        """Energies ``[batch, k]``; 0 in rows without slots.

        Raises:
            ValueError: the function returned another number of energies.
        """
        energy = torch.zeros_like(decision.log_proposal)
        spelled = self._decoder(decision)
        if not len(spelled.active):
            return energy
        values = as_numbers(self.f(spelled.texts), energy.new_empty(len(spelled.texts)))
        energy[spelled.active] = values[spelled.kind]
        return energy
