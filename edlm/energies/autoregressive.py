"""The energy of a causal language model: no training, exact in the limit of many candidates."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from typing_extensions import Self

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Decision
from edlm.energies.candidate_text import at_slots, check_same_tokens, ends_of_text, log_proposal_until, readable
from edlm.energies.causal_lm import load_causal_lm, split_options
from edlm.energies.causal_scoring import TokenScorer
from edlm.energies.prefixes import prefixes_of
from edlm.energies.pretrained import PretrainedEnergy
from edlm.hub import load_tokenizer
from edlm.numerics import distinct_rows
from edlm.rules import check


class AutoregressiveEnergy(PretrainedEnergy):
    """``E = log q'(slots) - log p_AR(x_0 | clean prefix)``, nats, from any causal LM over the denoiser's tokens.

    ``log q'`` is the proposal's, ``log p_theta(slots | x_t)`` unless it is tempered. ``log p_AR`` sums the terms
    ``log p_AR(x^i | x^0 .. x^{i-1})`` of a row from its first slot to the first position that is still masked (the
    end, at sequence scope). Terms before the first slot are equal for all candidates of a row and are left out. With
    every step reranked and many candidates the samples follow ``p_AR``, whatever the number of steps.

    Args:
        model: A causal LM over the denoiser's token ids; put into evaluation mode.
        bos_token_id: Token that goes before each row, so that its first token has a term; not for rows that have
            one themselves. None: a row's own first token, which must be given, serves as one.
        carry_over: "coAR": only the terms at the slots, so ``Z = 1``; right for one step, but blind
            to tokens that are revealed on the right of a slot.
        eos_token_id: Token that ends a text: everything after it in a candidate is left out of both sums and keeps
            the proposal's law (`ends_of_text` defines which EOS is an end). None: all tokens are text.
        tokenizer: Of the LM; `check_denoiser` compares it with the denoiser's. None: not compared.
        scoring: Options of `TokenScorer`: ``max_tokens_per_pass``, ``max_positions``.

    Raises:
        ValueError: an option breaks its rule, or the model takes no ``logits_to_keep``.

    Note:
        Vocabularies may differ in size. ``p_AR`` keeps its own normalisation: mass on tokens that the denoiser cannot
        produce (its mask, padded columns) is lost to all candidates alike at sequence scope, where it cancels; with
        ``carry_over`` or at step scope it makes ``Z < 1``. A token beyond the LM's vocabulary has no mass: a candidate
        with one in a slot is impossible (``+inf``), a prompt with one is an error.

        With ``eos_token_id`` the law of the text up to its end is ``p_AR``'s in one step, and left to right in any
        number of them. In other orders tokens behind an end are revealed before the end itself, and are text from
        then on: nearly, but not exactly ``p_AR``; without ``eos_token_id`` it is exact there too. No gradient is kept.

    References:
        Xu et al. 2025, arXiv:2410.21357 (EDLM-AR and EDLM-coAR).

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> shape = {"vocab_size": 5, "n_embd": 8, "n_layer": 1, "n_head": 2}
        >>> energy = AutoregressiveEnergy(GPT2LMHeadModel(GPT2Config(**shape)), bos_token_id=4)
        >>> energy.log_prob(torch.tensor([[2, 0, 3], [1, 1, 1]])).shape
        torch.Size([2])
    """

    reads = "prefix"
    proposal_share = 1.0

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        bos_token_id: int | None,
        carry_over: bool = False,
        eos_token_id: int | None = None,
        tokenizer: Any = None,
        **scoring: Any,
    ):
        super().__init__()
        vocab_size = model.config.get_text_config().vocab_size
        bos_token_id = check("bos_token_id", bos_token_id, int | None)
        eos_token_id = check("eos_token_id", eos_token_id, int | None)
        for name, token_id in (("bos_token_id", bos_token_id), ("eos_token_id", eos_token_id)):
            if token_id is not None and not 0 <= token_id < vocab_size:
                raise ValueError(f"{name} must lie in 0..{vocab_size - 1} or be None, got {token_id}")
        self.model = model.eval()
        self.bos_token_id = bos_token_id
        self.carry_over = carry_over
        self.eos_token_id = eos_token_id
        self.tokenizer = tokenizer
        self.scoring = scoring
        self._scorer = TokenScorer(model, bos_token_id, **scoring)

    @classmethod
    def from_causal_lm(cls, path: str | Path, *, bos_token_id: int | None | str = "auto", **options: Any) -> Self:
        """Load a transformers causal LM as an energy.

        Args:
            path: Folder, hub id, ``.gguf`` file or ``"package:NAME"``, see `load_causal_lm`.
            bos_token_id: As for the class; ``"auto"`` takes it from the model's configuration, or
                else from its tokenizer, and is None if neither has one.
            options: Those of the class, and of `load_causal_lm` (``gguf_file``, ``dtype`` and so on).

        Raises:
            OSError: no model is found there.
            ValueError: the token found lies outside of the model's vocabulary.
        """
        taken, loading = split_options(options, cls, TokenScorer)
        model, tokenizer, _ = load_causal_lm(path, needs_tokenizer=False, **loading)
        if bos_token_id == "auto":
            bos_token_id = model.config.get_text_config().bos_token_id
            if bos_token_id is None and tokenizer is not None:
                bos_token_id = tokenizer.bos_token_id
        return cls(model, bos_token_id=bos_token_id, tokenizer=tokenizer, **taken)

    def settings(self) -> dict[str, Any]:
        return {
            "config": json.loads(self.model.config.to_json_string(use_diff=False)),
            "bos_token_id": self.bos_token_id,
            "carry_over": self.carry_over,
            "eos_token_id": self.eos_token_id,
            **self.scoring,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        config = AutoConfig.for_model(**settings["config"])
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return cls(model, **{name: v for name, v in settings.items() if name != "config"})

    def check_denoiser(self, denoiser: Denoiser) -> None:
        super().check_denoiser(denoiser)
        advice = "score its text instead: TextEnergy.from_causal_lm"
        check_same_tokens(self.tokenizer, denoiser, "the causal LM", advice)

    @property
    def is_normalized(self) -> bool:
        """True with ``carry_over``: given the other tokens, the terms at the slots alone are a law of their tokens."""
        return self.carry_over

    @torch.no_grad()
    def forward(self, decision: Decision) -> Tensor:
        """Energies ``[batch, k]``; 0 in rows without slots, ``+inf`` with a slot's token beyond the LM's vocabulary.

        Raises:
            ValueError: a position before a slot is masked; position 0 is a slot and there is no BOS;
                a row is too long for the model; a given token lies outside of its vocabulary.
        """
        chosen = at_slots(decision)
        terms = self._terms(decision, chosen)
        ends = ends_of_text(decision, self.eos_token_id)
        energy = log_proposal_until(decision, ends)
        active = decision.slots.counts.nonzero()[:, 0]
        if not len(active):
            return energy
        k = decision.num_candidates
        rows = active.repeat_interleave(k)
        tokens, ends = decision.candidates[active].flatten(0, 1), ends[active].flatten(0, 1)
        is_text = torch.arange(tokens.shape[1], device=tokens.device) <= ends[:, None]
        unknown = (tokens >= self._scorer.vocab_size) & chosen[rows] & is_text
        tokens = tokens.masked_fill(unknown | ~is_text, 0)
        # Identical candidates of a row are scored once.
        first, kind = distinct_rows(torch.cat([rows[:, None], ends[:, None], tokens], 1))
        memory = prefixes_of(self._scorer, decision.step.memory)
        log_p_ar = self._scorer.sum_terms(tokens[first], terms[rows[first]] & is_text[first], rows[first], memory)[kind]
        log_p_ar = torch.where(unknown.any(1), -torch.inf, log_p_ar)
        energy[active] = energy[active] - log_p_ar.view(-1, k).to(energy)
        return energy

    @torch.no_grad()
    def log_prob(self, tokens: Tensor) -> Tensor:
        """``log p_AR`` of whole sequences (up to their first EOS), nats; without BOS: given their first token.

        Args:
            tokens: Shape ``[n, length]``.

        Returns:
            Shape ``[n]``, float64.

        Raises:
            ValueError: a row is too long for the model, or a token outside of its vocabulary.
        """
        terms = torch.ones_like(tokens, dtype=torch.bool)
        if self.bos_token_id is None:
            terms[:, :1] = False
        if self.eos_token_id is not None:
            is_eos = (tokens == self.eos_token_id) & terms
            terms = terms & (is_eos.cumsum(1) - is_eos.long() == 0)
        return self._scorer.sum_terms(tokens, terms, torch.arange(len(tokens), device=tokens.device))

    def _terms(self, decision: Decision, chosen: Tensor) -> Tensor:
        """Positions whose tokens are scored if the text does not end before, bool ``[batch, length]``."""
        seen = readable(decision)
        if self.bos_token_id is None and chosen[:, :1].any():
            raise ValueError(
                "without bos_token_id the LM has no term for position 0, which is a slot: "
                "give a bos_token_id, or let the first token of every row be given"
            )
        return chosen if self.carry_over else seen & (chosen.cumsum(1) > 0)

    def _save_files(self, path: Path) -> None:
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(path)

    def _load_files(self, path: Path) -> None:
        if get_tokenizer_config(path):
            self.tokenizer = load_tokenizer(path)
